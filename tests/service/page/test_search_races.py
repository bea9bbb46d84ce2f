"""Keys, clicks and answers that come at an inconvenient moment: each acts on what the operator meant."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests.service.live import Live, wait_for
from tests.service.page.conftest import TIMEOUT, Site, Watch
from tests.service.page.test_interruptions import SECOND_KEY, hold, shared, sign_in  # noqa: F401 - a fixture
from tests.service.page.test_search import ids, open_search, scroll_to_the_end, tiles
from tests.service.pictures import form


def tile_of(page: Page, name: str) -> Any:
    return page.locator(f'.grid [data-id="{name}"]')


def new_case(site: Site, name: str) -> str:
    body = {"name": name, "purpose": "test", "query": {"id": "gate-1"}}
    case: str = site.live.client.post("/cases", json=body).json()["id"]
    return case


def verdicts_of(site: Site, case: str) -> dict[str, str]:
    found = site.live.client.get(f"/cases/{case}").json()["verdicts"]
    return {each["id"]: each["verdict"] for each in found}


def continue_all(page: Page, held: list[Route]) -> None:
    """Let held requests go on; the browser's messages are only handled while Playwright is waiting."""
    wait_until(page, lambda: bool(held))
    while held:
        held.pop(0).continue_()


def wait_until(page: Page, condition: Callable[[], bool]) -> None:
    for _ in range(TIMEOUT // 10):
        if condition():
            return
        page.wait_for_timeout(10)
    raise AssertionError("waited too long")


class TestKeys:
    def test_a_key_that_is_held_judges_one_result(self, page: Page) -> None:
        open_search(page)
        first, second = ids(page)[:2]
        page.keyboard.press("g")
        page.keyboard.down("1")
        for _ in range(3):
            page.keyboard.down("1")  # as a keyboard repeats it
        page.keyboard.up("1")
        expect(tile_of(page, first)).to_have_class(re.compile("same"))
        expect(tile_of(page, second)).not_to_have_class(re.compile("same"))
        page.keyboard.press("1")
        expect(tile_of(page, second)).to_have_class(re.compile("same"))

    def test_undo_goes_back_to_the_result_so_that_it_can_be_judged_again(self, page: Page) -> None:
        open_search(page)
        first, second = ids(page)[:2]
        page.keyboard.press("g")
        for key in "1u2":
            page.keyboard.press(key)
        expect(tile_of(page, first)).to_have_class(re.compile("different"))
        expect(tile_of(page, second)).not_to_have_class(re.compile("different"))

    def test_a_second_key_at_the_last_result_does_not_take_the_verdict_back(self, page: Page) -> None:
        open_search(page, "like=gate-1&camera=door")
        last = ids(page)[-1]
        page.keyboard.press("g")
        page.keyboard.press("End")
        page.keyboard.press("1")
        page.keyboard.press("1")
        expect(tile_of(page, last)).to_have_class(re.compile("same"))
        page.keyboard.press("u")
        expect(tile_of(page, last)).not_to_have_class(re.compile("same"))
        page.keyboard.press("1")
        expect(tile_of(page, last)).to_have_class(re.compile("same"))
        tile_of(page, last).get_by_role("button", name="same").click()
        expect(tile_of(page, last)).not_to_have_class(re.compile("same"))

    def test_results_that_come_late_do_not_take_the_keys_from_a_field(self, page: Page) -> None:
        open_search(page)
        page.keyboard.press("g")
        held = hold(page, "**/search")
        page.keyboard.press("s")
        wait_until(page, lambda: bool(held))
        field = page.get_by_label("Operator")
        field.click()
        field.press_sequentially("badge 1")
        continue_all(page, held)
        expect(tiles(page).first).to_be_visible()
        field.press_sequentially("23")
        expect(field).to_have_value("badge 123")
        expect(page.locator(".tile.same, .tile.different, .tile.unsure")).to_have_count(0)

    def test_search_again_without_verdicts_does_not_move_the_focus_later(self, page: Page) -> None:
        open_search(page)
        page.keyboard.press("g")
        page.keyboard.press("r")
        page.get_by_label("Operator").focus()
        page.evaluate("() => { location.hash = '#/search?like=gate-1&camera=door'; }")
        expect(tile_of(page, "crowd-000")).to_have_count(0)
        expect(tiles(page).first).to_be_visible()
        expect(page.get_by_label("Operator")).to_be_focused()


class TestCases:
    def fill(self, page: Page, name: str) -> None:
        page.get_by_text("Start a case").click()
        form = page.locator("details.case")
        form.get_by_label("Name").fill(name)
        form.get_by_label("Purpose").fill("test")

    def test_verdicts_that_are_given_while_a_case_is_started_are_in_it(self, page: Page, site: Site) -> None:
        open_search(page)
        first, second = ids(page)[:2]
        page.keyboard.press("g")
        page.keyboard.press("1")
        self.fill(page, "meanwhile")
        held = hold(page, "**/cases")
        page.get_by_role("button", name="Start the case").click()
        expect(page.get_by_role("button", name="Start the case")).to_be_disabled()
        page.keyboard.press("g")
        page.keyboard.press("u")
        page.keyboard.press("3")
        page.keyboard.press("2")
        continue_all(page, held)
        expect(page.get_by_text("0 same, 1 different, 1 unsure")).to_be_visible()
        case = page.url.rpartition("case=")[2]
        assert verdicts_of(site, case) == {first: "unsure", second: "different"}

    def test_a_case_is_started_once_by_two_clicks(self, page: Page, site: Site) -> None:
        open_search(page)
        self.fill(page, "twice")
        held = hold(page, "**/cases")
        page.locator("details.case form").evaluate("form => { form.requestSubmit(); form.requestSubmit(); }")
        continue_all(page, held)
        expect(page.locator("section.case")).to_be_visible()
        names = [case["name"] for case in site.live.client.get("/cases").json()["items"]]
        assert names.count("twice") == 1

    def test_a_case_that_was_left_while_it_was_started_does_not_come_back(self, page: Page, site: Site) -> None:
        open_search(page)
        self.fill(page, "left")
        held = hold(page, "**/cases")
        page.get_by_role("button", name="Start the case").click()
        wait_until(page, lambda: bool(held))
        page.get_by_role("link", name="Records").click()
        with page.expect_response("**/cases"):
            continue_all(page, held)
        expect(tiles(page).first).to_be_visible()
        page.wait_for_timeout(100)
        assert page.url.endswith("#/records")

    def test_a_verdict_that_was_not_stored_is_listed_until_it_is_sent_again(self, page: Page, site: Site) -> None:
        case = new_case(site, "lost")
        open_search(page, f"like=gate-1&case={case}")
        first, second = ids(page)[:2]
        page.route(f"**/verdicts/{first}", lambda route: route.abort())
        page.keyboard.press("g")
        page.keyboard.press("1")
        note = page.locator(".results").get_by_role("alert")
        expect(note).to_contain_text("1 verdict not stored.")
        page.keyboard.press("1")
        expect(tile_of(page, second)).to_have_class(re.compile("same"))
        expect(note).to_contain_text(first)
        page.unroute(f"**/verdicts/{first}")
        note.get_by_role("button", name="Send again").click()
        expect(note).to_have_count(0)
        wait_for(lambda: verdicts_of(site, case) == {first: "same", second: "same"})

    def test_a_verdict_on_a_closed_case_says_how_to_reopen_it(self, page: Page, site: Site) -> None:
        case = new_case(site, "closed")
        site.live.client.patch(f"/cases/{case}", json={"status": "closed"}).raise_for_status()
        open_search(page, f"like=gate-1&case={case}")
        page.keyboard.press("g")
        page.keyboard.press("1")
        note = page.locator(".results").get_by_role("alert")
        expect(note).to_contain_text("The case is closed. Reopen it to change its verdicts.")
        page.get_by_role("button", name="Reopen the case").click()
        expect(page.get_by_role("button", name="Close the case")).to_be_visible()
        note.get_by_role("button", name="Send again").click()
        expect(page.get_by_text("1 same, 0 different, 0 unsure")).to_be_visible()

    def test_a_late_answer_about_another_case_is_ignored(self, page: Page, site: Site) -> None:
        slow, open_case = new_case(site, "slow"), new_case(site, "open")
        held = hold(page, f"**/cases/{slow}")
        page.goto(f"/#/search?like=gate-1&case={slow}")
        wait_until(page, lambda: bool(held))
        page.evaluate("hash => { location.hash = hash; }", f"#/search?like=gate-1&case={open_case}")
        expect(page.locator("section.case")).to_contain_text("open")
        with page.expect_response(f"**/cases/{slow}"):
            continue_all(page, held)
        page.wait_for_timeout(100)
        expect(page.locator("section.case")).to_contain_text("open")
        expect(tiles(page).first).to_be_visible()


class TestNetwork:
    def test_results_stay_if_more_of_them_cannot_be_loaded(self, page: Page) -> None:
        open_search(page)
        page.route("**/search", lambda route: route.abort())
        note = page.locator(".results").get_by_role("alert")
        while not note.count():
            scroll_to_the_end(page)
            page.wait_for_timeout(20)
        count = tiles(page).count()
        assert count >= 100
        page.unroute("**/search")
        note.get_by_role("button", name="Try again").click()
        expect(note).to_have_count(0)
        wait_until(page, lambda: tiles(page).count() >= count)

    def test_a_picture_is_loaded_when_the_network_is_back(self, page: Page) -> None:
        lost = []

        def lose(route: Route) -> None:
            lost.append(route.request.url)
            route.abort()

        page.route("**/thumbnail*", lose)
        open_search(page)
        name = ids(page)[0]
        wait_until(page, lambda: any(f"/{name}/" in url for url in lost))
        page.unroute("**/thumbnail*")
        expect(tile_of(page, name).locator(".frame")).to_have_attribute("data-state", "shown")

    def test_an_erased_record_leaves_the_results(self, page: Page, site: Site) -> None:
        frames = [path.read_bytes() for path in site.frames]
        site.live.client.post("/embed", data={"id": "soon-erased"}, files=form(frames)).raise_for_status()
        open_search(page)
        tile_of(page, "soon-erased").get_by_role("button", name="same").click()
        tile_of(page, "soon-erased").get_by_role("button", name="Open the record").click()
        page.get_by_role("button", name="Erase", exact=True).click()
        page.get_by_role("button", name="Erase 1 record").click()
        expect(page.get_by_text("Receipt")).to_be_visible()
        page.get_by_role("button", name="Close", exact=True).last.click()
        expect(tile_of(page, "soon-erased")).to_have_count(0)
        assert "soon-erased" not in page.url


@pytest.fixture
def two_tabs(browser: Browser, shared: Live) -> Iterator[tuple[Page, Page]]:  # noqa: F811
    context = browser.new_context(viewport={"width": 1440, "height": 900}, locale="en-GB")
    context.set_default_timeout(TIMEOUT)
    watch = Watch(shared.url)
    context.on("page", watch.follow)
    yield context.new_page(), context.new_page()
    context.close()
    assert watch.faults == []


def test_another_person_who_signs_in_in_a_second_tab_is_not_the_first_tabs_operator(
    two_tabs: tuple[Page, Page],
    shared: Live,  # noqa: F811
) -> None:
    first, second = two_tabs
    address = f"{shared.url}/reid/#/search?like=r0"
    first.goto(address)
    sign_in(first)
    first.get_by_label("Operator").fill("Zoe")
    first.get_by_label("Operator").press("Tab")
    second.goto(address)
    second.get_by_role("button", name="Sign out").click()
    sign_in(second, SECOND_KEY)
    expect(tiles(second).first).to_be_visible()
    name = second.locator(".caller").text_content()
    # The sign-out asks the first tab for a key again; then the second person's session is everyone's.
    expect(first.get_by_label("Operator").or_(first.get_by_label("API key")).first).to_be_visible()
    first.reload()
    expect(first.locator(".caller")).to_have_text(str(name))
    expect(first.get_by_label("Operator")).to_have_value("")
