"""The probable path on the page, and the page of a service of vectors only."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.service.live import Live, run_service
from tests.service.page.conftest import TIMEOUT, Watch

CAMERAS = ("gate", "hall", "door")
START = datetime(2026, 5, 4, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """Three appearances that look more and more different, without a calibration."""
    with run_service(None, tmp_path_factory.mktemp("data"), space="paths", dimension=2) as live:
        yield live


@pytest.fixture
def vectors_page(live: Live, browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1440, "height": 900}, locale="en-GB", base_url=live.url)
    context.set_default_timeout(TIMEOUT)
    watch = Watch(live.url)
    context.on("page", watch.follow)
    yield context.new_page()
    context.close()
    assert watch.faults == []


def fill(live: Live) -> None:
    for number, camera in enumerate(CAMERAS):
        begin = START + timedelta(minutes=number)
        times = {"start_time": begin.isoformat(), "end_time": (begin + timedelta(seconds=20)).isoformat()}
        body = {"embedding": [1, 0.3 * number], "camera_id": camera, **times}
        live.client.put(f"/gallery/r{number}", json=body).raise_for_status()


def test_a_page_without_a_model_offers_records_and_no_pictures(live: Live, vectors_page: Page, tmp_path: Path) -> None:
    page = vectors_page
    page.goto("/")
    expect(page.get_by_text("not3d vectors FILE.jsonl")).to_be_visible()
    fill(live)
    page.reload()
    expect(page.get_by_text("Vectors of another system, in the space")).to_be_visible()
    expect(page.get_by_text("it cannot search with pictures")).to_be_visible()
    assert page.get_by_role("button", name="Add a picture or video").count() == 0
    page.get_by_label("Id of a record").fill("r0")
    page.get_by_role("button", name="Search", exact=True).click()
    expect(page.locator(".grid .tile:not(.skeleton)")).to_have_count(2)
    expect(page.get_by_text("Vectors come without pictures")).to_be_visible()


def test_a_path_is_a_line_over_the_lanes_and_a_list(live: Live, vectors_page: Page) -> None:
    fill(live)
    page = vectors_page
    page.goto("/#/search?like=r1&record=r1")
    page.get_by_role("button", name="Probable path").click()
    # Without a calibration there is no default threshold.
    path = page.get_by_role("region", name="Probable path")
    expect(path.get_by_text("Without a calibration, a path needs a threshold")).to_be_visible()
    page.goto("/#/search?like=r1&path=r1&min=0.9")
    steps = path.get_by_role("listitem")
    expect(steps).to_have_count(3)
    expect(steps.nth(0)).to_contain_text("gate")
    expect(steps.nth(1)).to_contain_text("the path begins here, 40 s after the one before")
    expect(steps.nth(2)).to_contain_text("score 0.97, 40 s after the one before")
    expect(path.get_by_text("not a path taken")).to_be_visible()
    assert page.locator(".path-line .seen").count() == 3
    assert page.locator(".path-line .gap").count() == 2
    steps.nth(2).get_by_role("button").click()
    expect(page.locator(".record h2")).to_have_text("r2")
    page.get_by_role("button", name="Close the probable path").click()
    expect(path).to_have_count(0)
    assert "path=" not in page.url
