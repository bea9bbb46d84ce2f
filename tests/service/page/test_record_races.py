"""Dialogs and lists that outlive a change of the address or a slow service."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, Route, expect

from tests.service.live import wait_for
from tests.service.page.conftest import PEOPLE, Site
from tests.service.page.test_interruptions import hold
from tests.service.page.test_search import full_frame, ids, open_search, open_start, tiles

Put = Callable[..., None]


def ids_of(site: Site, camera: str) -> list[str]:
    items = site.live.client.get("/gallery", params={"camera_id": camera}).json()["items"]
    return [each["id"] for each in items]


def continue_all(held: list[Route], count: int = 1) -> None:
    """Continue the held requests when there are `count`."""
    wait_for(lambda: len(held) >= count)
    for route in held:
        route.continue_()
    held.clear()


def test_back_does_not_widen_an_erasure(page: Page, site: Site, put: Put) -> None:
    for name, zone in (("wide-1", "a"), ("wide-2", "b"), ("wide-3", "b")):
        put(name, camera_id="wide", metadata={"zone": zone})
    page.goto("/#/records?camera=wide")
    expect(tiles(page)).to_have_count(3)
    page.goto("/#/records?camera=wide&meta=zone%3Da")
    expect(tiles(page)).to_have_count(1)
    page.get_by_role("button", name="Erase these records").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("Dry run: 1 record passes the filter: the camera wide and the metadata zone=a.")
    page.go_back()
    expect(tiles(page)).to_have_count(3)
    expect(dialog).to_contain_text("the camera wide and the metadata zone=a.")
    page.get_by_label("To erase, type the number of records").fill("1")
    page.get_by_role("button", name="Erase 1 record").click()
    expect(dialog).to_contain_text("1 record erased")
    dialog.get_by_role("button", name="Close").last.click()
    expect(tiles(page)).to_have_count(2)
    assert ids_of(site, "wide") == ["wide-2", "wide-3"]


def open_second_record(page: Page, camera: str) -> None:
    """Open the records `CAMERA-1` and `CAMERA-2`, so Back returns to the first one."""
    for name in (f"{camera}-1", f"{camera}-2"):
        page.goto(f"/#/records?camera={camera}&record={name}")
        expect(page.locator("#record-title")).to_have_text(name)
        expect(page.get_by_role("button", name="Find similar").last).to_be_visible()


def test_back_does_not_change_which_record_is_erased(page: Page, site: Site, put: Put) -> None:
    put("pair-1", camera_id="pair")
    put("pair-2", camera_id="pair")
    open_second_record(page, "pair")
    page.locator(".record").get_by_role("button", name="Erase", exact=True).click()
    page.go_back()
    expect(page.locator("#record-title")).to_have_text("pair-1")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("1 record will be erased: pair-2")
    dialog.get_by_role("button", name="Erase 1 record").click()
    expect(dialog).to_contain_text("Receipt")
    assert ids_of(site, "pair") == ["pair-1"]


def test_back_does_not_change_which_record_is_edited_or_watched(page: Page, site: Site, put: Put) -> None:
    put("edit-1", camera_id="edit", metadata={"zone": "first"})
    put("edit-2", camera_id="edit")
    open_second_record(page, "edit")
    page.get_by_role("button", name="Watch for this person").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Name").fill("typed")
    page.go_back()
    expect(page.locator("#record-title")).to_have_text("edit-1")
    expect(dialog.get_by_label("Name")).to_have_value("typed")
    page.keyboard.press("Escape")
    page.go_forward()
    expect(page.locator("#record-title")).to_have_text("edit-2")
    page.get_by_role("button", name="Change", exact=True).click()
    dialog.get_by_label("Metadata").fill('{"zone": "typed"}')
    page.go_back()
    expect(page.locator("#record-title")).to_have_text("edit-1")
    expect(dialog.get_by_label("Metadata")).to_have_value('{"zone": "typed"}')
    dialog.get_by_role("button", name="Save").click()
    expect(dialog).to_have_count(0)
    expect(page.locator(".record").get_by_text("first")).to_be_visible()
    for name, zone in (("edit-1", "first"), ("edit-2", "typed")):
        assert site.live.client.get(f"/gallery/{name}").json()["metadata"] == {"zone": zone}


def test_records_that_came_after_the_dry_run_stop_the_erasure(page: Page, site: Site, put: Put) -> None:
    put("late-1", camera_id="late")
    page.goto("/#/records?camera=late")
    page.get_by_role("button", name="Erase these records").click()
    dialog = page.get_by_role("dialog")
    page.get_by_label("To erase, type the number of records").fill("1")
    put("late-2", camera_id="late")
    dialog.get_by_role("button", name="Erase 1 record").click()
    expect(dialog.get_by_role("alert")).to_contain_text("2 records pass the filter now, not 1")
    assert ids_of(site, "late") == ["late-1", "late-2"]


def ask_to_erase(page: Page, which: str) -> Locator:
    """Open the dialog about the open record or about the one record that is listed, ready for its last button."""
    if which == "one":
        page.locator(".record").get_by_role("button", name="Erase", exact=True).click()
    else:
        page.get_by_role("button", name="Erase these records").click()
        page.get_by_label("To erase, type the number of records").fill("1")
    return page.get_by_role("dialog")


@pytest.mark.parametrize("which", ["one", "many"])
def test_a_running_erasure_ends_with_its_receipt(page: Page, site: Site, put: Put, which: str) -> None:
    put("run-1", camera_id="run")
    page.goto("/#/records")
    expect(tiles(page).first).to_be_visible()
    page.goto("/#/records?camera=run&record=run-1")
    dialog = ask_to_erase(page, which)
    held = hold(page, "**/gallery/run-1" if which == "one" else "**/gallery/erase")
    erase = dialog.get_by_role("button", name="Erase 1 record")
    erase.click()
    expect(dialog.get_by_role("button", name=re.compile("^Keep"))).to_be_disabled()
    expect(erase).to_be_disabled()
    expect(dialog.get_by_role("status")).to_have_text("Erasing.")
    expect(dialog.get_by_role("button", name="Close")).to_have_count(0)
    for _ in range(3):
        page.keyboard.press("Escape")
    page.keyboard.press("Enter")
    page.go_back()  # to a view without the filter and the record
    expect(page.locator(".record")).to_have_count(0)
    expect(dialog).to_be_visible()
    assert len(held) == 1
    continue_all(held)
    expect(dialog).to_contain_text("Receipt")
    expect(dialog.get_by_role("button", name="Close").last).to_be_focused()
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    assert ids_of(site, "run") == []


@pytest.mark.parametrize("which", ["one", "many"])
def test_a_failed_erasure_can_be_left(page: Page, site: Site, put: Put, which: str) -> None:
    put("fail-1", camera_id="fail")
    page.goto("/#/records?camera=fail&record=fail-1")
    dialog = ask_to_erase(page, which)
    page.route("**/gallery/fail-1" if which == "one" else "**/gallery/erase", lambda route: route.abort())
    dialog.get_by_role("button", name="Erase 1 record").click()
    expect(dialog.get_by_role("alert")).to_contain_text("The service does not answer.")
    expect(dialog.locator(":focus")).to_have_count(1)
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    assert ids_of(site, "fail") == ["fail-1"]


def test_a_change_that_is_being_saved_cannot_be_left(page: Page, site: Site, put: Put) -> None:
    put("save-1", camera_id="save")
    page.goto("/#/records?camera=save&record=save-1")
    page.get_by_role("button", name="Change", exact=True).click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Metadata").fill('{"zone": "east"}')
    held = hold(page, "**/gallery/save-1")
    dialog.get_by_role("button", name="Save").click()
    expect(dialog.get_by_role("button", name="Keep it as it is")).to_be_disabled()
    expect(dialog.get_by_role("button", name="Close")).to_have_count(0)
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    expect(dialog).to_be_visible()
    continue_all(held)
    expect(dialog).to_have_count(0)
    expect(page.locator(".record").get_by_text("east")).to_be_visible()


def test_records_of_another_filter_are_not_shown_while_loading_nor_after_an_error(page: Page) -> None:
    page.goto("/#/records?camera=gate")
    expect(tiles(page)).to_have_count(PEOPLE)
    held = hold(page, "**/gallery?*")
    page.goto("/#/records?camera=hall")
    status = page.locator(".title-row [role=status]")
    expect(status).to_have_text("Loading the records.")
    expect(tiles(page)).to_have_count(0)
    expect(page.get_by_text("No record passes these filters.")).to_have_count(0)
    continue_all(held)
    expect(tiles(page)).to_have_count(PEOPLE)
    assert ids(page)[0].startswith("hall-")
    page.unroute("**/gallery?*")
    page.route("**/gallery?*", lambda route: route.abort())
    page.goto("/#/records?camera=door")
    expect(page.get_by_role("alert")).to_contain_text("The service does not answer.")
    expect(tiles(page)).to_have_count(0)
    expect(status).to_have_text("")
    page.unroute("**/gallery?*")
    page.get_by_role("button", name="Try again").click()
    expect(tiles(page)).to_have_count(PEOPLE)


def test_a_record_is_never_shown_under_the_id_of_another(page: Page, put: Put) -> None:
    put("under-1", camera_id="under", metadata={"zone": "first"})
    put("under-2", camera_id="under")
    page.goto("/#/records?camera=under&record=under-1")
    expect(page.locator(".record").get_by_text("first")).to_be_visible()
    hold(page, "**/gallery/under-2")
    # The page draws before its effects run: look at the first drawing with the other id.
    page.evaluate(
        """() => {
            window.seen = [];
            new MutationObserver(() => {
                const text = document.querySelector(".record").textContent;
                if (text.startsWith("under-2")) window.seen.push(text.includes("first"));
            }).observe(document.querySelector(".record"), { childList: true, subtree: true, characterData: true });
            location.hash = "#/records?camera=under&record=under-2";
        }"""
    )
    expect(page.locator(".record").get_by_text("first")).to_have_count(0)
    seen = page.evaluate("window.seen")
    assert seen
    assert not any(seen)


METADATA = {
    "meta-number": {"n": 5},
    "meta-text": {"n": "5"},
    "meta-long": {"n": "12345678901234567890"},
    "meta-list": {"n": "[1]"},
}


@pytest.mark.parametrize(
    ("value", "expected"),
    [("5", "meta-number"), ("%225%22", "meta-text"), ("12345678901234567890", "meta-long"), ("%5B1%5D", "meta-list")],
)
def test_records_and_erasure_and_search_agree_on_metadata(
    page: Page, site: Site, put: Put, value: str, expected: str
) -> None:
    for name, metadata in METADATA.items():
        put(name, camera_id="meta", metadata=metadata)
    page.goto(f"/#/records?camera=meta&meta=n%3D{value}")
    expect(tiles(page)).to_have_count(1)
    assert ids(page) == [expected]
    page.goto(f"/#/search?like=gate-1&camera=meta&meta=n%3D{value}")
    expect(tiles(page)).to_have_count(1)
    assert ids(page) == [expected]
    page.go_back()
    page.get_by_role("button", name="Erase these records").click()
    page.get_by_label("To erase, type the number of records").fill("1")
    page.get_by_role("button", name="Erase 1 record").click()
    expect(page.get_by_text("1 record erased")).to_be_visible()
    assert sorted(ids_of(site, "meta")) == sorted(METADATA.keys() - {expected})


@pytest.mark.parametrize("width", [360, 800])
@pytest.mark.parametrize("view", ["records", "search"])
def test_panels_of_filters_fit_a_narrow_page(page: Page, view: str, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    page.goto(f"/#/{view}?like=gate-1&meta=zone%3Dnorth")
    expect(tiles(page).first).to_be_visible()
    chips = page.locator(".filters details")
    for number in range(chips.count()):
        chip = chips.nth(number)
        chip.locator("summary").click()
        panel, area, summary = (
            each.bounding_box() for each in (chip.locator(".panel"), page.locator(".filters"), chip.locator("summary"))
        )
        assert panel
        assert area
        assert summary
        assert panel["x"] >= area["x"]
        assert panel["x"] + panel["width"] <= area["x"] + area["width"]
        assert 0 <= panel["y"] - summary["y"] - summary["height"] < 16
        assert chip.locator(".panel").evaluate("each => each.scrollWidth <= each.clientWidth")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.keyboard.press("Escape")


def test_the_fields_of_a_time_of_day_follow_the_address(page: Page) -> None:
    open_search(page)
    page.goto("/#/search?like=gate-1&from=10%3A00&to=12%3A00")
    chip = page.locator(".chip", has_text="Time of day")
    chip.locator("summary").click()
    for name, value in (("From", "10:00"), ("Until", "12:00")):
        expect(chip.get_by_label(name)).to_have_value(value)
    page.go_back()
    for name in ("From", "Until"):
        expect(chip.get_by_label(name)).to_have_value("")
    chip.get_by_label("From").fill("08:00")  # half of a filter waits for the other half
    chip.get_by_label("Until").fill("09:00")
    expect(page).to_have_url(re.compile("from=08%3A00&to=09%3A00"))


DROP = """() => ["dragover", "drop"].map((name) => {
    const files = new DataTransfer();
    files.items.add(new File(["x"], "x.png", { type: "image/png" }));
    const event = new DragEvent(name, { dataTransfer: files, bubbles: true, cancelable: true });
    return document.querySelector("main").dispatchEvent(event);
})"""
"""Drop a file, and return for each event whether the browser would handle it: it would open the file."""


@pytest.mark.parametrize("view", ["records", "cases", "alerts"])
def test_a_dropped_file_does_not_replace_the_page(page: Page, view: str) -> None:
    page.goto(f"/#/{view}")
    expect(page.locator("main h1")).to_be_visible()
    assert page.evaluate(DROP) == [False, False]


def test_the_focus_stays_near_the_boxes(page: Page, site: Site, tmp_path: Path) -> None:
    open_start(page)
    page.get_by_label("Picture or video", exact=True).set_input_files(full_frame(site, tmp_path))
    dialog = page.get_by_role("dialog", name="Where is the person?")
    add = dialog.get_by_role("button", name="Add a box")
    add.press("Enter")
    expect(dialog.get_by_role("button", name=re.compile("^Box 1 of 1"))).to_be_focused()
    page.keyboard.press("Delete")
    expect(add).to_be_focused()
    add.press("Enter")
    dialog.get_by_role("button", name="Remove the box").press("Enter")
    expect(add).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Draw a box")).to_be_focused()


def test_back_takes_the_box_dialog_away_with_its_picture(page: Page, site: Site, tmp_path: Path) -> None:
    open_start(page)
    page.get_by_label("Picture or video", exact=True).set_input_files(full_frame(site, tmp_path))
    dialog = page.get_by_role("dialog", name="Where is the person?")
    expect(dialog).to_be_visible()
    page.go_back()
    expect(page.locator(".tray .item")).to_have_count(0)
    expect(dialog).to_have_count(0)
    expect(page.get_by_label("Id of a record")).to_be_focused()
    page.go_forward()
    expect(page.get_by_role("button", name="Draw a box")).to_be_visible()
