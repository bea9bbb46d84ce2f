"""Alerts and watchlists while answers are slow: no verdict goes astray, and no watchlist is replaced by accident."""

import re
from typing import Any

from playwright.sync_api import Browser, Locator, Page, Route, expect

from tests.service.live import wait_for
from tests.service.page.conftest import Site
from tests.service.page.test_alerts import NAME, appear, open_alerts, watched
from tests.service.page.test_interruptions import hold

__all__ = ["watched"]

WAITING = re.compile("Show [0-9]+ new alerts?")


def verdicts(site: Site) -> dict[str, Any]:
    """The verdict on each record that raised an alert."""
    return {each["record_id"]: each["verdict"] for each in site.live.client.get("/alerts").json()["items"]}


def row_of(page: Page, record: str) -> Locator:
    return page.locator(".alert").filter(has_text=record)


def pressed(page: Page, record: str, verdict: str) -> None:
    """Expect that the only verdict shown on a record is this one."""
    expect(row_of(page, record).locator("[aria-pressed=true]")).to_have_text(re.compile(verdict))


def await_held(page: Page, held: list[Route], count: int) -> None:
    """Wait until so many requests are held."""

    def arrived() -> bool:
        page.evaluate("0")  # lets Playwright handle its events
        return len(held) >= count

    wait_for(arrived)


def test_an_alert_that_arrives_moves_no_row_below_the_pointer(page: Page, watched: Site) -> None:
    appear(watched, "aimed-1")
    open_alerts(page)
    same = row_of(page, "aimed-1").get_by_role("button", name="same")
    same.hover()
    place = same.bounding_box()
    appear(watched, "aimed-2")
    appear(watched, "aimed-3")
    expect(page.get_by_role("button", name="Show 2 new alerts")).to_be_visible()
    assert same.bounding_box() == place
    page.mouse.down()
    page.mouse.up()
    pressed(page, "aimed-1", "same")
    wait_for(lambda: verdicts(watched) == {"aimed-1": "same", "aimed-2": None, "aimed-3": None})
    page.get_by_role("button", name=WAITING).click()
    rows = page.locator(".alert")
    expect(rows).to_have_count(3)
    expect(rows.first).to_contain_text("aimed-3")
    expect(rows.first.locator(".face")).to_be_focused()
    expect(page.get_by_text("3 alerts, 2 new")).to_be_visible()
    expect(page.get_by_role("button", name=WAITING)).to_have_count(0)


def test_an_alert_that_arrives_moves_no_row_with_the_focus(page: Page, watched: Site) -> None:
    appear(watched, "focused-1")
    open_alerts(page)
    row_of(page, "focused-1").locator(".face").focus()
    appear(watched, "focused-2")
    expect(page.get_by_role("button", name="Show 1 new alert")).to_be_visible()
    page.keyboard.press("ArrowUp")  # to the first row
    page.keyboard.press("1")
    pressed(page, "focused-1", "same")
    page.mouse.move(0, 0)
    page.locator("#main").focus()
    appear(watched, "focused-3")  # waits too: the button must not go while the pointer moves to it
    page.get_by_role("button", name="Show 2 new alerts").press("Enter")
    expect(page.locator(".alert")).to_have_count(3)


def test_an_alert_that_arrives_moves_no_watchlist_below_the_pointer(page: Page, watched: Site) -> None:
    open_alerts(page)
    delete = page.get_by_role("button", name=f"Delete {NAME}")
    delete.hover()
    place = delete.bounding_box()
    appear(watched, "below-1")
    expect(page.get_by_role("button", name="Show 1 new alert")).to_be_visible()
    assert delete.bounding_box() == place


def test_alerts_wait_on_a_device_without_a_pointer(browser: Browser, watched: Site) -> None:
    with browser.new_context(base_url=watched.live.url, is_mobile=True, has_touch=True) as context:
        page = context.new_page()
        appear(watched, "touched-1")
        open_alerts(page)
        expect(page.locator(".alert")).to_have_count(1)
        appear(watched, "touched-2")
        expect(page.get_by_role("button", name="Show 1 new alert")).to_be_visible()
        expect(page.locator(".alert")).to_have_count(1)


def test_watchlists_that_arrive_late_move_no_alert(page: Page, watched: Site) -> None:
    held = hold(page, "**/watchlists")
    appear(watched, "late-1")
    open_alerts(page)
    place = row_of(page, "late-1").bounding_box()
    await_held(page, held, 1)
    held[0].continue_()
    expect(page.get_by_role("heading", name="Watchlists")).to_be_visible()
    assert row_of(page, "late-1").bounding_box() == place


def test_a_verdict_that_fails_moves_no_alert(page: Page, watched: Site) -> None:
    appear(watched, "failed-1")
    open_alerts(page)
    same = row_of(page, "failed-1").get_by_role("button", name="same")
    place = same.bounding_box()
    page.route("**/verdict", lambda route: route.abort())
    same.click()
    expect(page.get_by_role("alert")).to_contain_text("The service does not answer.")
    expect(page.get_by_role("alert")).to_be_in_viewport()
    expect(row_of(page, "failed-1").locator("[aria-pressed=true]")).to_have_count(0)
    assert same.bounding_box() == place
    page.unroute("**/verdict")
    same.click()
    pressed(page, "failed-1", "same")
    expect(page.get_by_role("alert")).to_have_count(0)


def test_the_last_verdict_on_an_alert_counts_though_the_first_is_slow(page: Page, watched: Site) -> None:
    appear(watched, "slow-1")
    open_alerts(page)
    held = hold(page, "**/verdict")
    row_of(page, "slow-1").locator(".face").focus()
    page.keyboard.press("1")
    pressed(page, "slow-1", "same")  # before the answer
    page.keyboard.press("2")
    pressed(page, "slow-1", "different")
    await_held(page, held, 1)
    assert [each.request.post_data_json for each in held] == [{"verdict": "same"}]  # the second is sent after the first
    held[0].continue_()
    await_held(page, held, 2)
    pressed(page, "slow-1", "different")
    held[1].continue_()
    wait_for(lambda: verdicts(watched) == {"slow-1": "different"})
    expect(row_of(page, "slow-1").get_by_text("different (")).to_be_visible()
    pressed(page, "slow-1", "different")


def test_the_same_verdict_twice_takes_it_back_before_the_first_is_answered(page: Page, watched: Site) -> None:
    appear(watched, "twice-1")
    open_alerts(page)
    held = hold(page, "**/verdict")
    row_of(page, "twice-1").locator(".face").focus()
    page.keyboard.press("1")
    page.keyboard.press("1")
    await_held(page, held, 1)
    held[0].continue_()
    await_held(page, held, 2)
    assert held[1].request.method == "DELETE"
    held[1].continue_()
    expect(row_of(page, "twice-1").locator("[aria-pressed=true]")).to_have_count(0)
    wait_for(lambda: verdicts(watched) == {"twice-1": None})


def test_a_slow_verdict_does_not_delay_that_on_another_alert(page: Page, watched: Site) -> None:
    appear(watched, "first-1")
    appear(watched, "second-1")
    open_alerts(page)
    held = hold(page, "**/verdict")
    row_of(page, "first-1").get_by_role("button", name="same").click()
    row_of(page, "second-1").get_by_role("button", name="different").click()
    await_held(page, held, 2)
    for route in reversed(held):
        route.continue_()
    wait_for(lambda: verdicts(watched) == {"first-1": "same", "second-1": "different"})


def test_an_undo_takes_back_the_last_verdict_on_an_alert(page: Page, watched: Site) -> None:
    appear(watched, "undone-1")
    appear(watched, "undone-2")
    open_alerts(page)
    row_of(page, "undone-1").locator(".face").focus()
    page.keyboard.press("1")
    page.keyboard.press("2")
    row_of(page, "undone-2").locator(".face").focus()
    page.keyboard.press("3")
    page.locator("#main").focus()  # as in a search, the key is not bound to the list
    for expected in (
        {"undone-1": "different", "undone-2": None},
        {"undone-1": "same", "undone-2": None},
        {"undone-1": None, "undone-2": None},
    ):
        page.keyboard.press("u")
        wait_for(lambda expected=expected: verdicts(watched) == expected)
    page.keyboard.press("u")  # nothing is left
    expect(page.locator("[aria-pressed=true]")).to_have_count(0)


def test_an_undo_leaves_the_verdicts_under_another_filter_alone(page: Page, watched: Site) -> None:
    appear(watched, "kept-1")
    open_alerts(page)
    row_of(page, "kept-1").get_by_role("button", name="same").click()
    wait_for(lambda: verdicts(watched) == {"kept-1": "same"})
    page.locator(".watch-filter select").select_option(NAME)
    expect(page).to_have_url(re.compile(f"watchlist={NAME}"))
    pressed(page, "kept-1", "same")
    held = hold(page, "**/verdict")
    page.locator("#main").focus()
    page.keyboard.press("u")
    page.keyboard.press("?")  # handled after it
    expect(page.get_by_role("dialog", name="Keys")).to_be_visible()
    assert held == []


def test_a_late_answer_for_another_watchlist_is_dropped(page: Page, watched: Site) -> None:
    appear(watched, "other-1")
    open_alerts(page)
    expect(row_of(page, "other-1")).to_be_visible()
    held = hold(page, f"**/alerts?*watchlist={NAME}*")
    page.goto(f"/#/alerts?watchlist={NAME}")
    await_held(page, held, 1)
    expect(page.locator(".alert")).to_have_count(0)  # not those of the former filter
    page.goto("/#/alerts?watchlist=unknown")
    expect(page.get_by_text("No alert yet.")).to_be_visible()
    with page.expect_response(lambda response: f"watchlist={NAME}" in response.url):
        held[0].continue_()
    expect(page.get_by_text("Live", exact=True)).to_be_visible()
    expect(page.get_by_text("No alert yet.")).to_be_visible()
    expect(page.locator(".alert")).to_have_count(0)


def test_a_filter_that_fails_shows_no_alert_of_the_former_one(page: Page, watched: Site) -> None:
    appear(watched, "former-1")
    open_alerts(page)
    expect(row_of(page, "former-1")).to_be_visible()
    page.route("**/alerts?*watchlist=unknown*", lambda route: route.abort())
    page.goto("/#/alerts?watchlist=unknown")
    expect(page.get_by_role("alert")).to_contain_text("The service does not answer.")
    expect(page.locator(".alert")).to_have_count(0)
    expect(page.get_by_text("Not connected")).to_be_visible()


def test_a_late_list_of_watchlists_does_not_replace_a_newer_one(page: Page, watched: Site) -> None:
    appear(watched, "listed-1")
    open_alerts(page)
    cell = page.get_by_role("row", name=re.compile(NAME)).get_by_text("2 examples")
    held = hold(page, "**/watchlists")
    row_of(page, "listed-1").get_by_role("button", name="same").click()
    await_held(page, held, 1)
    old = held[0].fetch()
    watched.live.client.put(
        f"/watchlists/{NAME}", json={"ids": ["gate-1", "hall-1", "door-1"], "min_score": 0.5}
    ).raise_for_status()
    row_of(page, "listed-1").get_by_role("button", name="same").click()
    await_held(page, held, 2)
    held[1].continue_()
    expect(page.get_by_role("row", name=re.compile(NAME)).get_by_text("3 examples")).to_be_visible()
    with page.expect_response("**/watchlists"):
        held[0].fulfill(response=old)
    expect(page.get_by_role("row", name=re.compile(NAME)).get_by_text("3 examples")).to_be_visible()
    expect(cell).to_have_count(0)


def test_older_alerts_are_added_once(page: Page, watched: Site) -> None:
    for number in range(3):
        appear(watched, f"older-{number}")

    def limit(route: Route) -> None:
        route.continue_(url=route.request.url.replace("limit=50", "limit=2"))

    page.route("**/alerts?limit=50*", limit)
    open_alerts(page)
    expect(page.locator(".alert")).to_have_count(2)
    page.unroute("**/alerts?limit=50*")
    held = hold(page, "**/alerts?limit=50&before=*")
    older = page.get_by_role("button", name="Show older alerts")
    older.click()
    older.click()
    await_held(page, held, 2)
    for route in held:
        with page.expect_response(route.request.url):
            route.continue_()
    expect(older).to_have_count(0)
    expect(page.locator(".alert")).to_have_count(3)


def open_watch(page: Page, record: str, name: str) -> Locator:
    page.goto(f"/#/records?camera=hall&record={record}")
    page.get_by_role("button", name="Watch for this person").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Name", exact=True).fill(name)
    return dialog


def examples(site: Site, name: str) -> list[str]:
    return [each["id"] for each in site.live.client.get(f"/watchlists/{name}").json()["examples"]]


def test_a_watchlist_is_replaced_only_by_a_second_choice(page: Page, watched: Site) -> None:
    dialog = open_watch(page, "hall-3", NAME)
    dialog.get_by_label("Threshold by").select_option("score")
    dialog.get_by_role("button", name="Watch", exact=True).click()
    expect(dialog.get_by_role("alert")).to_contain_text(f"The watchlist {NAME} exists, with 1 example and 0 rejects.")
    expect(dialog.get_by_role("button", name="Watch", exact=True)).to_be_disabled()
    dialog.get_by_label("Name", exact=True).press("Enter")  # an impatient second try
    assert examples(watched, NAME) == ["gate-1"]
    dialog.get_by_label("Name", exact=True).fill(f"{NAME}-2")
    expect(dialog.get_by_role("button", name="Replace it")).to_have_count(0)
    dialog.get_by_role("button", name="Watch", exact=True).click()
    expect(page).to_have_url(re.compile(f"alerts.*watchlist={NAME}-2"))
    assert examples(watched, NAME) == ["gate-1"]
    watched.live.client.delete(f"/watchlists/{NAME}-2").raise_for_status()
    dialog = open_watch(page, "hall-3", NAME)
    dialog.get_by_label("Threshold by").select_option("score")
    dialog.get_by_role("button", name="Watch", exact=True).click()
    dialog.get_by_role("button", name="Replace it").click()
    expect(page).to_have_url(re.compile(f"alerts.*watchlist={NAME}"))
    assert examples(watched, NAME) == ["hall-3"]


def test_a_watchlist_that_another_operator_made_meanwhile_is_not_replaced(page: Page, watched: Site) -> None:
    dialog = open_watch(page, "hall-3", f"{NAME}-2")
    dialog.get_by_label("Threshold by").select_option("score")
    held: list[Route] = []
    page.route(
        f"**/watchlists/{NAME}-2",
        lambda route: held.append(route) if route.request.method == "PUT" else route.continue_(),
    )
    dialog.get_by_role("button", name="Watch", exact=True).click()
    await_held(page, held, 1)
    watched.live.client.put(f"/watchlists/{NAME}-2", json={"ids": ["gate-1"], "min_score": 0.9}).raise_for_status()
    held.pop().continue_()
    expect(dialog.get_by_role("alert")).to_contain_text("exists, with 1 example")
    assert examples(watched, f"{NAME}-2") == ["gate-1"]
    page.unroute(f"**/watchlists/{NAME}-2")
    dialog.get_by_role("button", name="Replace it").click()
    expect(page).to_have_url(re.compile(f"alerts.*watchlist={NAME}-2"))
    assert examples(watched, f"{NAME}-2") == ["hall-3"]
    watched.live.client.delete(f"/watchlists/{NAME}-2").raise_for_status()


def test_a_change_by_another_operator_is_not_overwritten(page: Page, watched: Site) -> None:
    path = f"/watchlists/{NAME}"
    open_alerts(page)
    page.get_by_role("button", name=f"Change {NAME}").click()
    dialog = page.get_by_role("dialog")
    watched.live.client.put(path, json={"min_score": 0.93}).raise_for_status()
    dialog.get_by_role("button", name="Save").click()
    expect(dialog.get_by_role("alert")).to_contain_text("was changed meanwhile")
    assert watched.live.client.get(path).json()["min_score"] == 0.93
    dialog.get_by_role("button", name="Cancel").click()
    dialog = open_watch(page, "hall-3", NAME)
    dialog.get_by_label("Threshold by").select_option("score")
    dialog.get_by_role("button", name="Watch", exact=True).click()
    expect(dialog.get_by_role("alert")).to_contain_text("exists, with 1 example")
    watched.live.client.put(path, json={"ids": ["gate-2", "gate-3"], "min_score": 0.95}).raise_for_status()
    dialog.get_by_role("button", name="Replace it").click()
    expect(dialog.get_by_role("alert")).to_contain_text("exists, with 2 examples")
    assert examples(watched, NAME) == ["gate-2", "gate-3"]


def test_no_watchlist_is_replaced_that_cannot_be_shown(page: Page, watched: Site) -> None:
    dialog = open_watch(page, "hall-3", NAME)
    dialog.get_by_label("Threshold by").select_option("score")
    page.route(
        f"**/watchlists/{NAME}",
        lambda route: route.abort() if route.request.method == "GET" else route.continue_(),
    )
    dialog.get_by_role("button", name="Watch", exact=True).click()
    expect(dialog.get_by_role("alert")).to_contain_text("The service does not answer.")
    assert examples(watched, NAME) == ["gate-1"]


def test_the_prior_of_a_watchlist_is_asked_for_and_kept(page: Page, site: Site) -> None:
    dialog = open_watch(page, "hall-3", "with-a-prior")
    prior = dialog.get_by_label("Prior")
    expect(prior).to_have_value("")
    dialog.get_by_role("button", name="Watch", exact=True).click()
    expect(prior).to_be_focused()  # the browser asks for it
    prior.fill("0.0000001")
    dialog.get_by_role("button", name="Watch", exact=True).click()
    expect(dialog.get_by_text("a larger prior")).to_be_visible()
    prior.fill("0.5")
    dialog.get_by_role("button", name="Watch", exact=True).click()
    expect(page).to_have_url(re.compile("alerts.*watchlist=with-a-prior"))
    path = "/watchlists/with-a-prior"
    assert site.live.client.get(path).json()["prior"] == 0.5
    page.get_by_role("button", name="Change with-a-prior").click()
    expect(prior).to_have_value("0.5")
    dialog.get_by_label("Threshold by").select_option("score")
    dialog.get_by_role("button", name="Save").click()
    expect(dialog).to_have_count(0)
    made = site.live.client.get(path).json()
    assert (made["min_score"], made["prior"]) == (0.7, 0.5)
    site.live.client.delete(path).raise_for_status()


def test_what_other_programs_set_can_be_saved_unchanged(page: Page, watched: Site) -> None:
    body = {"min_probability": 0.995, "prior": 0.5, "cooldown": 0.5, "expires_at": "2099-05-04T12:00:30Z"}
    watched.live.client.put(f"/watchlists/{NAME}", json=body).raise_for_status()
    before = watched.live.client.get(f"/watchlists/{NAME}").json()
    open_alerts(page)
    page.get_by_role("button", name=f"Change {NAME}").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Save").click()
    expect(dialog).to_have_count(0)
    after = watched.live.client.get(f"/watchlists/{NAME}").json()
    assert after.pop("updated_at") > before.pop("updated_at")
    assert after == before


def test_a_dialog_stays_until_its_change_is_answered(page: Page, watched: Site) -> None:
    open_alerts(page)
    dialog = page.get_by_role("dialog")
    held = hold(page, f"**/watchlists/{NAME}")
    for begin, confirm, cancel in (("Change", "Save", "Cancel"), ("Delete", "Delete it", "Keep it")):
        page.get_by_role("button", name=f"{begin} {NAME}").click()
        dialog.get_by_role("button", name=confirm, exact=True).click()
        await_held(page, held, 1)
        expect(dialog.get_by_role("button", name=cancel)).to_be_disabled()
        dialog.press("Escape")
        dialog.get_by_role("button", name="Close").click()
        expect(dialog).to_be_visible()
        held.pop().continue_()
        expect(dialog).to_have_count(0)
    expect(page.get_by_role("row", name=re.compile(NAME))).to_have_count(0)
