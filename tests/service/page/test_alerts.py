"""The view of alerts: live, by keyboard, with watchlists made and deleted; words, accessibility, hostile texts."""

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.service.page.conftest import HOSTILE, RTL_CAMERA, Site
from tests.service.page.test_records import FORBIDDEN

NAME = "page-tests"


@pytest.fixture
def watched(site: Site) -> Iterator[Site]:
    """A watchlist with `gate-1` as its example, and no alerts of earlier tests."""
    headers = {"X-Operator": quote(HOSTILE)}
    body = {"ids": ["gate-1"], "min_probability": 0.5, "prior": 0.5, "cooldown": 0}
    site.live.client.put(f"/watchlists/{NAME}", json=body, headers=headers).raise_for_status()
    yield site
    site.live.client.delete(f"/watchlists/{NAME}")
    for alert in site.live.client.get("/alerts").json()["items"]:
        site.live.client.delete(f"/gallery/{alert['record_id']}")


def vector_of(site: Site, id: str) -> Any:
    return site.live.client.get(f"/gallery/{id}", params={"include_embedding": "true"}).json()["embedding"]


def appear(site: Site, id: str, camera: str = "yard") -> None:
    """Enrol the person of the watchlist again."""
    body = {"embedding": vector_of(site, "gate-1"), "camera_id": camera, "start_time": "2026-05-04T12:00:00Z"}
    site.live.client.put(f"/gallery/{id}", json=body).raise_for_status()


def open_alerts(page: Page, query: str = "") -> None:
    page.goto(f"/#/alerts{query}")
    expect(page.get_by_text("Live", exact=True)).to_be_visible()


def test_an_alert_appears_live_and_is_judged_by_key(page: Page, watched: Site) -> None:
    appear(watched, "seen-1")
    open_alerts(page, f"?watchlist={NAME}")
    rows = page.locator(".alert")
    expect(rows).to_have_count(1)
    appear(watched, "seen-2")
    expect(rows).to_have_count(2)
    expect(page.get_by_text("1 new")).to_be_visible()
    first = rows.first
    for text in ("Probable appearance", "> 99 %", NAME, "yard", "4 May 2026, 14:00:00", "seen-2"):
        expect(first.get_by_text(text).first).to_be_visible()
    expect(first.locator("figure")).to_have_count(2)
    first.locator("[tabindex='0']").first.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("2")
    expect(rows.nth(1).get_by_role("button", name="different")).to_have_attribute("aria-pressed", "true")
    expect(rows.nth(1).get_by_text("different (")).to_be_visible()  # the service has answered
    (alert,) = [each for each in watched.live.client.get("/alerts").json()["items"] if each["record_id"] == "seen-1"]
    assert alert["verdict"] == "different"
    page.keyboard.press("2")  # takes it back
    expect(rows.nth(1).get_by_role("button", name="different")).to_have_attribute("aria-pressed", "false")
    page.keyboard.press("Enter")
    expect(page.get_by_role("complementary").get_by_role("heading", level=2)).to_have_text("seen-1")


def test_other_views_count_alerts_that_were_not_seen(page: Page, watched: Site) -> None:
    page.clock.install()
    page.goto("/#/records")
    expect(page.get_by_role("link", name="Alerts")).to_be_visible()
    appear(watched, "unseen-1")
    page.clock.fast_forward(31_000)
    expect(page.get_by_role("link", name="Alerts 1 new")).to_be_visible()


def test_a_watchlist_is_made_from_a_record_changed_and_deleted(page: Page, site: Site) -> None:
    page.goto("/#/records?camera=gate&record=gate-3")
    page.get_by_role("button", name="Watch for this person").click()
    page.get_by_role("dialog").get_by_label("Name", exact=True).fill("from-the-page")
    page.get_by_role("dialog").get_by_label("Threshold by").select_option("score")
    page.get_by_label("Minimum score").fill("0.8")
    page.get_by_role("button", name="Watch", exact=True).click()
    expect(page).to_have_url(re.compile("alerts.*watchlist=from-the-page"))
    row = page.get_by_role("row", name=re.compile("from-the-page"))
    expect(row.get_by_text("score 0.80")).to_be_visible()
    page.get_by_role("button", name="Change from-the-page").click()
    page.get_by_label("Minimum score").fill("0.75")
    page.get_by_role("button", name="Save").click()
    expect(row.get_by_text("score 0.75")).to_be_visible()
    made = site.live.client.get("/watchlists/from-the-page").json()
    assert [each["id"] for each in made["examples"]] == ["gate-3"]
    page.get_by_role("button", name="Delete from-the-page").click()
    page.get_by_role("button", name="Delete it").click()
    expect(row).to_have_count(0)
    assert site.live.client.get("/watchlists/from-the-page").status_code == 404


def test_a_probability_that_cannot_be_reached_is_explained(page: Page) -> None:
    page.goto("/#/records?camera=gate&record=gate-3")
    page.get_by_role("button", name="Watch for this person").click()
    page.get_by_role("dialog").get_by_label("Name", exact=True).fill("too-certain")
    page.get_by_label("Minimum probability").fill("0.99")
    page.get_by_label("Prior").fill("0.001")
    page.get_by_role("button", name="Watch", exact=True).click()
    expect(page.get_by_text("larger prior")).to_be_visible()


def test_a_case_is_watched(page: Page, site: Site) -> None:
    case = site.live.client.post(
        "/cases", json={"name": "watched", "purpose": "test", "query": {"id": "hall-4"}}
    ).json()
    page.goto(f"/#/search?case={case['id']}&like=hall-4")
    page.locator(".case").get_by_role("button", name="Watch for this person").click()
    page.get_by_role("dialog").get_by_label("Name", exact=True).fill("from-a-case")
    page.get_by_role("dialog").get_by_label("Threshold by").select_option("score")
    page.get_by_role("button", name="Watch", exact=True).click()
    expect(page.get_by_role("row", name=re.compile("from-a-case"))).to_be_visible()
    site.live.client.delete("/watchlists/from-a-case").raise_for_status()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_view_breaks_no_rule_and_shows_hostile_texts_as_text(page: Page, watched: Site, scheme: Any) -> None:
    page.emulate_media(color_scheme=scheme)
    appear(watched, "hostile-1", HOSTILE)
    appear(watched, "hostile-2", RTL_CAMERA)
    open_alerts(page)
    expect(page.locator(".alert")).to_have_count(2)
    expect(page.locator(".alert").get_by_text(HOSTILE)).to_be_visible()
    expect(page.get_by_role("cell", name=HOSTILE)).to_be_visible()  # who made the watchlist
    page.get_by_role("button", name="same").first.click()
    found = [
        f"{violation['id']}: {violation['help']}: {[node['html'][:200] for node in violation['nodes'][:3]]}"
        for violation in Axe().run(page).response["violations"]
    ]
    assert found == []
    text = page.locator("body").inner_text()
    assert not FORBIDDEN.search(text), FORBIDDEN.search(text)
    page.get_by_role("button", name=f"Change {NAME}").click()
    assert Axe().run(page).response["violations"] == []
    page.keyboard.press("Escape")
    page.set_viewport_size({"width": 390, "height": 844})
    expect(page.locator(".alert").first).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_without_watchlists_the_view_teaches_how_to_begin(page: Page) -> None:
    open_alerts(page)
    expect(page.get_by_text("No watchlist yet")).to_be_visible()
    expect(page.get_by_text("not3d watchlist put")).to_be_visible()
