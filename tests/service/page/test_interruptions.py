"""What an operator sees when something is in the way: an ended session, a cut answer, a reload."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from service.cases.archive import verify_archive
from tests.service.live import Live, run_service, wait_for
from tests.service.page.conftest import KEY, TIMEOUT, Site, Watch
from tests.service.page.test_search import OTHERS, ids, open_search, open_start, tiles

SECOND_KEY = "another-key-of-the-page-tests"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A service of vectors with two keys, in which a verdict counts when two people gave it."""
    with run_service(
        None,
        tmp_path_factory.mktemp("data"),
        space="pairs",
        dimension=2,
        confirmations=2,
        api_keys=f"{KEY},{SECOND_KEY}",
        root_path="/reid",
    ) as live:
        live.client.headers["X-API-Key"] = KEY
        for number in range(4):
            body = {"embedding": [1, 0.1 * number], "camera_id": "gate"}
            live.client.put(f"/reid/gallery/r{number}", json=body).raise_for_status()
        yield live


@pytest.fixture
def shared_page(browser: Browser, shared: Live) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1440, "height": 900}, locale="en-GB")
    context.set_default_timeout(TIMEOUT)
    watch = Watch(shared.url)
    context.on("page", watch.follow)
    yield context.new_page()
    context.close()
    assert watch.faults == []


def sign_in(page: Page, key: str = KEY) -> None:
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Sign in").click()


def hold(page: Page, pattern: str) -> list[Route]:
    """Keep the requests of a pattern until the caller continues them."""
    held: list[Route] = []

    def keep(route: Route) -> None:
        held.append(route)

    page.route(pattern, keep)
    return held


def test_an_ended_session_loses_nothing_that_was_typed(shared: Live, shared_page: Page) -> None:
    page = shared_page
    page.goto(f"{shared.url}/reid/#/search?like=r0")
    expect(page.get_by_label("API key")).to_be_focused()
    sign_in(page)
    expect(tiles(page)).to_have_count(3)
    page.get_by_text("Start a case").click()
    page.locator(".case").get_by_label("Name").fill("Typed before the session ended")
    page.locator(".case").get_by_label("Purpose").fill("incident 7")
    page.context.clear_cookies()
    page.get_by_role("button", name="Start the case").click()
    dialog = page.get_by_role("dialog", name="Sign in again")
    expect(dialog).to_be_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    expect(dialog.get_by_label("API key")).to_be_focused()
    sign_in(page, "wrong")
    expect(dialog.get_by_role("alert")).to_contain_text("Check the key, or ask for a new one.")
    sign_in(page)
    expect(dialog).to_have_count(0)
    expect(page.locator(".case").get_by_text("Typed before the session ended")).to_be_visible()
    names = [each["name"] for each in shared.client.get("/reid/cases").json()["items"]]
    assert names.count("Typed before the session ended") == 1


def test_an_export_signs_in_again_and_says_who_exports(shared: Live, shared_page: Page) -> None:
    page = shared_page
    case = shared.client.post("/reid/cases", json={"name": "exported", "purpose": "test", "query": {"id": "r0"}}).json()
    page.goto(f"{shared.url}/reid/#/search?like=r0&case={case['id']}")
    sign_in(page)
    page.get_by_label("Operator").fill("Zo\u00eb")
    page.keyboard.press("Tab")
    page.context.clear_cookies()
    with page.expect_download() as download:
        page.get_by_role("button", name="Export").evaluate("each => each.click()")  # another call may have asked before
        sign_in(page)
    assert verify_archive(download.value.path())[0] == case["id"]
    entry = shared.client.get("/reid/audit", params={"kind": "export"}).json()["entries"][0]
    assert entry["operator"] == "Zo\u00eb"


def test_an_export_that_fails_says_so(shared: Live, shared_page: Page) -> None:
    page = shared_page
    page.goto(f"{shared.url}/reid/#/cases")
    shared.client.post("/reid/cases", json={"name": "not exported", "purpose": "test"}).raise_for_status()
    sign_in(page)
    page.route("**/export", lambda route: route.abort())
    page.get_by_role("button", name="Export not exported").click()
    expect(page.get_by_role("alert")).to_contain_text("The service does not answer.")
    page.unroute("**/export")
    with page.expect_download():
        page.get_by_role("button", name="Export not exported").click()
    expect(page.get_by_role("alert")).to_have_count(0)


def test_a_case_is_begun_once_though_a_verdict_failed(shared: Live, shared_page: Page) -> None:
    page = shared_page
    page.goto(f"{shared.url}/reid/#/search?like=r0&same=r1&different=r2")
    sign_in(page)
    page.get_by_text("Start a case").click()
    page.locator(".case").get_by_label("Name").fill("First name")
    page.locator(".case").get_by_label("Purpose").fill("incident 9")
    page.route("**/verdicts/r2", lambda route: route.abort())
    page.get_by_role("button", name="Start the case").click()
    expect(page.locator(".case").get_by_role("alert")).to_contain_text("The service does not answer.")
    page.unroute("**/verdicts/r2")
    page.locator(".case").get_by_label("Name").fill("Begun once")
    page.get_by_role("button", name="Start the case").click()
    expect(page.get_by_role("button", name="Close the case")).to_be_visible()
    cases = {each["name"]: each["id"] for each in shared.client.get("/reid/cases").json()["items"]}
    assert "First name" not in cases
    verdicts = shared.client.get(f"/reid/cases/{cases['Begun once']}").json()["verdicts"]
    assert {each["id"]: each["verdict"] for each in verdicts} == {"r1": "same", "r2": "different"}


def test_another_key_begins_with_a_new_page_and_no_operator(shared: Live, shared_page: Page) -> None:
    page = shared_page
    page.goto(f"{shared.url}/reid/#/search?like=r0")
    sign_in(page)
    page.get_by_label("Operator").fill("Zo\u00eb")
    page.keyboard.press("Enter")
    page.context.clear_cookies()
    page.goto(f"{shared.url}/reid/#/records")
    sign_in(page, SECOND_KEY)
    expect(page.get_by_role("heading", name="Records")).to_be_visible()
    page.get_by_role("link", name="Search").click()
    expect(page.get_by_label("Operator")).to_have_value("")


def test_the_second_operator_confirms_a_verdict(shared: Live, shared_page: Page) -> None:
    body = {"name": "pair", "purpose": "test", "query": {"id": "r0"}}
    case = shared.client.post("/reid/cases", json=body).json()["id"]
    path = f"/reid/cases/{case}"
    shared.client.put(f"{path}/verdicts/r1", json={"verdict": "same"}).raise_for_status()
    page = shared_page
    page.goto(f"{shared.url}/reid/#/search?like=r0&case={case}")
    sign_in(page, SECOND_KEY)
    tile = page.locator('.grid [data-id="r1"]')
    expect(tile.locator(".face")).to_have_attribute("aria-label", re.compile("verdict: same, 1 of 2 operators"))
    tile.locator(".face").focus()
    page.keyboard.press("1")
    expect(tile.locator(".face")).not_to_have_attribute("aria-label", re.compile("1 of 2"))
    assert shared.client.get(path).json()["decided"]["same"] == ["r1"]
    tile.locator(".face").focus()
    page.keyboard.press("1")  # takes the own one back, not the colleague's
    expect(tile.locator(".face")).to_have_attribute("aria-label", re.compile("1 of 2"))
    assert len(shared.client.get(path).json()["verdicts"]) == 1


def test_a_failed_sign_out_says_that_the_session_goes_on(shared: Live, shared_page: Page) -> None:
    page = shared_page
    page.goto(f"{shared.url}/reid/")
    sign_in(page)
    leave = page.get_by_role("button", name="Sign out")
    expect(leave).to_be_visible()
    page.route("**/session", lambda route: route.abort())
    leave.click()
    dialog = page.get_by_role("dialog", name="You are still signed in")
    expect(dialog).to_contain_text("The service does not answer.")
    page.unroute("**/session")
    dialog.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()


def test_a_case_that_is_gone_can_be_left(page: Page) -> None:
    page.goto("/#/search?like=gate-1&case=missing")
    expect(page.locator(".case").get_by_role("alert")).to_contain_text("This case does not exist")
    page.get_by_role("button", name="Leave the case").click()
    expect(tiles(page).first).to_be_visible()


def test_a_verdict_is_shown_before_a_slow_service_answers(page: Page, site: Site) -> None:
    body = {"name": "slow", "purpose": "test", "query": {"id": "gate-1"}}
    case = site.live.client.post("/cases", json=body).json()["id"]
    open_search(page, f"like=gate-1&case={case}")
    held = hold(page, "**/verdicts/**")
    names = ids(page)[:2]
    page.keyboard.press("g")
    page.keyboard.press("1")
    page.keyboard.press("2")
    for name, verdict in zip(names, ("same", "different"), strict=True):
        expect(page.locator(f'.grid [data-id="{name}"]')).to_have_class(re.compile(verdict))
    assert len(held) == 1  # the second is sent after the first
    held[0].continue_()
    for _ in range(1000):
        if len(held) == 2:
            break
        page.wait_for_timeout(10)
    held[1].continue_()
    expect(page.get_by_text("1 same, 1 different, 0 unsure")).to_be_visible()


def test_the_next_verdict_is_for_the_next_result_before_the_page_is_painted(page: Page) -> None:
    open_search(page)
    first, second = ids(page)[:2]
    page.keyboard.press("g")
    page.evaluate("() => { window.requestAnimationFrame = () => 0; }")
    page.keyboard.press("1")
    page.keyboard.press("2")
    for name, verdict in ((first, "same"), (second, "different")):
        expect(page.locator(f'.grid [data-id="{name}"]')).to_have_class(re.compile(verdict))


def test_an_answer_that_is_cut_off_is_explained(page: Page) -> None:
    page.route(
        "**/search", lambda route: route.fulfill(status=200, body='{"results": [', content_type="application/json")
    )
    page.goto("/#/search?like=gate-1")
    expect(page.get_by_role("alert")).to_contain_text("The connection ended before the answer was complete. Try again.")
    page.unroute("**/search")
    page.get_by_role("button", name="Try again").click()
    expect(tiles(page).first).to_be_visible()


def test_back_after_a_reload_finds_no_pictures_that_were_added_later(page: Page, site: Site) -> None:
    page.goto("/")
    picker = page.get_by_label("Picture or video", exact=True)
    picker.set_input_files(site.frames[0])
    expect(tiles(page).first).to_be_visible()
    page.reload()
    expect(page.get_by_text("Pictures are never part of the address: add it again.")).to_be_visible()
    picker.set_input_files(site.frames[1])
    expect(tiles(page).first).to_be_visible()
    page.go_back()
    expect(page.get_by_text("Pictures are never part of the address: add it again.")).to_be_visible()
    expect(tiles(page)).to_have_count(0)


def test_undo_leaves_the_verdicts_of_another_search_alone(page: Page) -> None:
    open_search(page)
    first = ids(page)[0]
    page.keyboard.press("g")
    page.keyboard.press("1")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("2")
    expect(page).to_have_url(re.compile(f"different={first}"))
    page.goto("/#/search?like=door-4")  # within the page, as a link does
    expect(page.get_by_role("button", name="Remove door-4")).to_be_visible()
    page.keyboard.press("u")
    page.keyboard.press("?")  # handled after it
    expect(page.get_by_role("dialog", name="Keys")).to_be_visible()
    assert "same=" not in page.url


def test_the_focus_stays_when_its_element_goes(page: Page) -> None:
    open_search(page, "like=gate-1&like=hall-1&camera=hall&camera=door&record=gate-1")
    page.get_by_role("button", name="Close the record").click()
    expect(page.locator("#main")).to_be_focused()
    page.locator(".tray .item .name").first.press("Enter")
    expect(page.locator(".record h2")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator(".tray .item .name").first).to_be_focused()
    page.get_by_role("button", name="Remove hall-1").press("Enter")
    expect(page.get_by_role("button", name="Remove gate-1")).to_be_focused()
    page.get_by_role("button", name="Remove the filter Cameras").press("Enter")
    expect(page.locator(".chip summary").first).to_be_focused()
    expect(page.locator(".count")).to_contain_text(f"of {OTHERS - 1} records pass")  # the results without the filter
    page.keyboard.press("g")
    page.keyboard.press("s")
    expect(page).not_to_have_url(re.compile("like=gate-1"))
    expect(tiles(page).first.locator(".face")).to_be_focused()


def test_times_name_their_zone(page: Page) -> None:
    open_search(page, "like=gate-1&record=gate-1")
    expect(page.locator(".record").get_by_text("4 May 2026, 11:13:00 CEST")).to_be_visible()
    expect(page.get_by_title("Times of Europe/Berlin")).to_have_text("Berlin")


def test_times_of_other_years_name_the_year(page: Page, put: Any) -> None:
    put("last-decade", camera_id="archive", start_time="2016-05-04T10:00:00Z")
    page.goto("/#/records?camera=archive")
    line = tiles(page).first.get_by_title("4 May 2016, 12:00:00 CEST")
    expect(line).to_have_text("04/05/16 12:00")
    assert line.evaluate("each => each.scrollWidth <= each.clientWidth")


def test_a_number_is_typed_with_or_without_separators(page: Page) -> None:
    answer = '{"matched": 1234, "erased": 0, "without_time": 0, "dry_run": true, "receipt_id": null}'
    page.route(
        "**/gallery/erase", lambda route: route.fulfill(status=200, body=answer, content_type="application/json")
    )
    page.goto("/#/records?camera=gate")
    page.get_by_role("button", name="Erase these records").click()
    erase = page.get_by_role("button", name="Erase 1,234 records")
    for text, expected in {"1234": True, "123": False, "1,234": True}.items():
        page.get_by_label("To erase, type the number of records").fill(text)
        expect(erase).to_be_enabled() if expected else expect(erase).to_be_disabled()


def test_the_modules_load_after_the_first_paint(page: Page) -> None:
    open_start(page)
    times: dict[str, list[float]] = page.evaluate(
        """Object.fromEntries(performance.getEntriesByType('resource')
           .map((each) => [each.name.split('/').at(-1), [each.startTime, each.responseEnd]]))"""
    )
    style = times["page.css"][1]
    assert times["start.js"][0] < style  # found in the page itself
    assert [name for name, (start, _) in times.items() if name.endswith(".js") and start < style] == ["start.js"]


def test_long_names_and_narrow_columns_cut_no_control(page: Page, put: Any) -> None:
    name = "n" * 128
    put(name, camera_id="c" * 128)
    open_search(page, f"like=gate-1&like={name}&same=hall-1&different=door-3")
    again = page.get_by_role("button", name="Search again with 2 verdicts")
    assert again.evaluate("each => each.scrollHeight <= each.clientHeight")
    item = page.locator(".tray .item").nth(1).bounding_box()
    assert item
    assert item["height"] < 140


def test_a_page_whose_modules_do_not_arrive_says_so(browser: Browser, site: Site) -> None:
    page = browser.new_page()
    page.route("**/tray.js", lambda route: route.abort())
    page.goto(site.url)
    expect(page.get_by_role("alert")).to_contain_text("load the page again")
    page.close()


def test_the_first_paint_does_not_wait_for_the_style_sheet(page: Page) -> None:
    held = hold(page, "**/page.css")
    page.goto("/", wait_until="commit")
    # Not `wait_for_function`: when it has to wait, it evaluates text in the page, which the page's policy forbids.
    wait_for(lambda: page.evaluate("performance.getEntriesByName('first-contentful-paint').length") == 1)
    for route in held:
        route.continue_()
    expect(page.locator(".welcome")).to_be_visible()
