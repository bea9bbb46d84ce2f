"""Searching on the page, in a browser as an operator does."""

import json
import re
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from playwright.sync_api import Locator, Page, expect

from tests import videos
from tests.service.page.conftest import CAMERAS, CROWD, PEOPLE, Site

OTHERS = PEOPLE * len(CAMERAS) + CROWD + 1


def tiles(page: Page) -> Locator:
    return page.locator(".grid .tile:not(.skeleton)")


def ids(page: Page) -> list[str]:
    return tiles(page).evaluate_all("tiles => tiles.map(tile => tile.dataset.id)")


def open_start(page: Page) -> None:
    """Open the page without a query, and wait until it knows the gallery: by then it listens to keys."""
    page.goto("/")
    expect(page.get_by_text(f"{OTHERS} records in the gallery")).to_be_visible()


def open_search(page: Page, query: str = "like=gate-1") -> None:
    page.goto(f"/#/search?{query}")
    expect(tiles(page).first).to_be_visible()


def full_frame(site: Site, folder: Path) -> Path:
    """Write a picture of a place with a person in it: at x 300, y 100, as large as the crop."""
    crop = cv2.imread(str(site.frames[1]))
    scene = np.full((480, 800, 3), (120, 130, 120), np.uint8)
    scene[100 : 100 + crop.shape[0], 300 : 300 + crop.shape[1]] = crop
    path = folder / "scene.png"
    cv2.imwrite(str(path), scene)
    return path


RECORD_FORMS = """
const append = FormData.prototype.append;
window.sent = [];
FormData.prototype.append = function (name, value, ...rest) {
    window.sent.push([name, typeof value === "string" ? value : null]);
    return append.call(this, name, value, ...rest);
};
"""


def drag(page: Page, area: Locator, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Drag from one share of the width and height of an element to another."""
    box = area.bounding_box()
    assert box
    for index, (x, y) in enumerate([start, end]):
        page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=3)
        page.mouse.up() if index else page.mouse.down()


def test_an_empty_page_teaches_how_to_begin(page):
    open_start(page)
    expect(page.get_by_role("heading", name="Where else did this person probably appear?")).to_be_visible()
    assert page.title() == "Search \u00b7 not3d"


def test_similar_records_are_shown_with_probability_camera_time_and_id(page):
    open_search(page)
    first = tiles(page).first
    expect(first).to_contain_text("%")
    expect(first.locator("img")).to_be_visible()
    label = first.locator(".face").get_attribute("aria-label")
    assert re.search(
        r"Result 1, probability .+ %, score 0\.\d\d, (hall|door|gate), 4 May 2026, \d\d:\d\d:\d\d CEST, \w+-\d", label
    )
    assert "gate-1" not in ids(page)
    expect(page.locator(".mark")).to_have_count(1)  # the query, on the timeline


def test_find_similar_starts_again_from_a_result_and_back_returns(page):
    open_search(page)
    before = ids(page)
    page.get_by_role("button", name="Find similar").first.click()
    expect(page).to_have_url(re.compile(f"like={before[0]}$"))
    expect(tiles(page).and_(page.locator('[data-id="gate-1"]'))).to_be_visible()
    page.go_back()
    expect(page).to_have_url(re.compile("like=gate-1$"))
    expect(tiles(page).first).to_have_attribute("data-id", before[0])
    page.go_forward()
    expect(page).to_have_url(re.compile(f"like={before[0]}$"))


def test_an_id_is_searched_and_a_missing_one_is_named(page):
    open_start(page)
    page.keyboard.press("/")
    expect(page.get_by_label("Id of a record")).to_be_focused()
    page.keyboard.type("hall-2")
    page.keyboard.press("Enter")
    expect(tiles(page).first).to_be_visible()
    page.goto("/#/search?like=nobody")
    expect(page.get_by_role("alert")).to_contain_text("nobody is not in the gallery")
    expect(page.get_by_text("not in the gallery", exact=True)).to_be_visible()


def test_crops_are_picked_and_searched_as_frames_of_one_person(page, site):
    page.add_init_script(RECORD_FORMS)  # a browser does not show the bodies of forms with files
    page.goto("/")
    page.get_by_label("Picture or video", exact=True).set_input_files(site.frames[:3])
    expect(tiles(page).first).to_have_attribute("data-id", "gate-1")
    assert [name for name, _ in page.evaluate("sent")] == ["top_k", "paged", "frames", "frames", "frames"]
    assert "upload=1" in page.url  # nothing else of them is in the address
    page.reload()
    expect(page.get_by_text("Pictures are never part of the address: add it again.")).to_be_visible()


@pytest.mark.parametrize("how", ["drop", "paste"])
def test_a_crop_is_dropped_or_pasted(page, site, how):
    open_start(page)
    page.evaluate(
        """([bytes, how]) => {
            const files = new DataTransfer();
            files.items.add(new File([new Uint8Array(bytes)], "crop.jpg", { type: "image/jpeg" }));
            const event = how === "drop"
                ? new DragEvent("drop", { dataTransfer: files, bubbles: true, cancelable: true })
                : new ClipboardEvent("paste", { clipboardData: files, bubbles: true, cancelable: true });
            document.body.dispatchEvent(event);
        }""",
        [list(site.frames[0].read_bytes()), how],
    )
    expect(tiles(page).first).to_have_attribute("data-id", "gate-1")


def test_back_and_forward_find_added_pictures_again(page, site):
    page.goto("/")
    page.get_by_label("Picture or video", exact=True).set_input_files(site.frames[0])
    expect(tiles(page).first).to_have_attribute("data-id", "gate-1")
    page.get_by_role("button", name="Find similar").nth(1).click()
    expect(page.locator(".tray .item")).to_have_count(1)
    expect(page.locator(".tray .item img[src^=blob]")).to_be_visible()
    page.go_back()
    expect(tiles(page).first).to_have_attribute("data-id", "gate-1")
    expect(page.get_by_text("frame_0001.jpg")).to_be_visible()


def test_a_full_frame_asks_for_a_box_which_the_mouse_draws(page, site, tmp_path):
    page.add_init_script(RECORD_FORMS)
    page.goto("/")
    page.get_by_label("Picture or video", exact=True).set_input_files(full_frame(site, tmp_path))
    dialog = page.get_by_role("dialog", name="Where is the person?")
    expect(dialog).to_be_visible()
    expect(page.get_by_text("Draw a box around the person.").first).to_be_visible()
    stage = dialog.locator(".stage")
    drag(page, stage, (300 / 800, 100 / 480), (428 / 800, 356 / 480))
    drag(page, stage, (0.1, 0.1), (0.2, 0.5))
    expect(dialog.get_by_role("button", name=re.compile("^Box 2 of 2"))).to_be_focused()
    page.keyboard.press("Delete")
    dialog.get_by_role("button", name="Search with this box").click()
    expect(tiles(page).first).to_have_attribute("data-id", "gate-1")
    boxes = json.loads(dict(page.evaluate("sent"))["boxes"])
    assert len(boxes) == 1
    assert np.allclose(boxes[0], [0, 300, 100, 128, 256], atol=4)


def test_a_box_is_drawn_moved_and_sized_by_keyboard_alone(page, site, tmp_path):
    page.goto("/")
    page.get_by_label("Picture or video", exact=True).set_input_files(full_frame(site, tmp_path))
    dialog = page.get_by_role("dialog", name="Where is the person?")
    dialog.get_by_role("button", name="Add a box").press("Enter")
    box = dialog.get_by_role("button", name=re.compile("^Box 1 of 1"))
    expect(box).to_be_focused()
    before = box.get_attribute("aria-label")
    for key in ["ArrowLeft", "ArrowUp", "Shift+ArrowRight", "Shift+ArrowDown"]:
        page.keyboard.press(key)
    first, second = (
        [int(number) for number in re.findall(r"\d+", label)[2:]] for label in (before, box.get_attribute("aria-label"))
    )
    assert np.array_equal(np.subtract(second, first), [8, 5, -8, -5])  # 1 % of the picture each
    dialog.get_by_role("button", name="Search with this box").press("Enter")
    expect(tiles(page).first).to_be_visible()


def test_a_box_is_drawn_with_a_finger(browser, site, tmp_path):
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page = context.new_page()
    page.goto(site.url)
    page.get_by_label("Picture or video", exact=True).set_input_files(full_frame(site, tmp_path))
    stage = page.locator(".stage")
    area = stage.bounding_box()
    client = context.new_cdp_session(page)
    for kind, x, y in [
        ("touchStart", 0.37, 0.2),
        ("touchMove", 0.45, 0.5),
        ("touchMove", 0.53, 0.75),
        ("touchEnd", 0, 0),
    ]:
        point = {"x": area["x"] + x * area["width"], "y": area["y"] + y * area["height"]}
        client.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [] if kind == "touchEnd" else [point]})
    expect(page.get_by_role("button", name="Search with this box")).to_be_enabled()
    context.close()


def test_a_video_is_searched_as_a_whole_or_by_a_chosen_frame(page, site, tmp_path):
    frames = [cv2.imread(str(path))[:, :, ::-1] for path in site.frames]
    path = videos.write(tmp_path / "walk.mp4", frames)
    page.add_init_script(RECORD_FORMS)
    page.goto("/")
    page.get_by_label("Picture or video", exact=True).set_input_files(path)
    expect(tiles(page).first).to_have_attribute("data-id", "gate-1")
    assert [name for name, _ in page.evaluate("sent")] == ["top_k", "paged", "video"]
    page.get_by_role("button", name="Choose a frame").click()
    page.get_by_role("button", name=re.compile("^Take the frame")).click()
    expect(page.get_by_text("crop", exact=True)).to_be_visible()
    expect(tiles(page).first).to_have_attribute("data-id", "gate-1")
    assert [name for name, _ in page.evaluate("sent")][3:] == ["top_k", "paged", "frames"]


def test_a_file_that_is_no_picture_is_refused_with_a_reason(page, tmp_path):
    (tmp_path / "notes.jpg").write_text("no picture")
    page.goto("/")
    page.get_by_label("Picture or video", exact=True).set_input_files(tmp_path / "notes.jpg")
    expect(page.get_by_role("alert")).to_contain_text("notes.jpg is not a picture")


def test_the_threshold_shows_how_many_pass(page):
    open_search(page)
    expect(page.locator(".count")).to_contain_text(f"of {OTHERS - 1} records pass")
    scores = [float(text) for text in page.locator(".tile .first .quiet").all_text_contents()[:12]]
    slider = page.get_by_role("slider", name="Threshold")
    _, border = max((one - next_one, (one + next_one) / 2) for one, next_one in pairwise(scores[1:]))
    slider.fill(f"{border:.2f}")
    count = sum(score >= float(slider.input_value()) for score in scores)
    expect(page.locator(".count")).to_have_text(f"{count} of {OTHERS - 1} records pass")
    expect(tiles(page)).to_have_count(count)
    assert "min=" in page.url
    page.reload()
    expect(tiles(page)).to_have_count(count)


def test_filters_are_chips_that_the_service_applies(page):
    open_search(page)
    page.get_by_text("Cameras", exact=True).first.click()
    page.get_by_role("checkbox", name=re.compile("^hall")).check()
    expect(tiles(page)).to_have_count(PEOPLE)
    assert all(name.startswith("hall-") for name in ids(page))
    page.keyboard.press("Escape")
    page.get_by_text("metadata", exact=True).click()
    page.get_by_placeholder("zone").fill("zone")
    page.get_by_placeholder("platform").fill("north")
    page.get_by_role("button", name="Add the filter").click()
    expect(tiles(page)).to_have_count(PEOPLE // 2)
    page.get_by_role("button", name="Remove the filter zone=north").click()
    page.get_by_role("button", name="Remove the filter Cameras").click()
    page.get_by_text("Time", exact=True).first.click()
    page.get_by_label("Until").first.fill("2026-05-04T11:20:00")  # in Berlin
    expect(tiles(page)).to_have_count(2)
    assert sorted(ids(page)) == ["door-1", "hall-1"]  # the others are later, or have no time
    assert "before=2026-05-04T09%3A20%3A00.000Z" in page.url


def test_results_are_sorted_by_time_and_found_on_the_timeline(page):
    open_search(page, "like=gate-1&sort=time&camera=hall&camera=door")
    people = [name.split("-")[1] for name in ids(page)]
    assert people == sorted(people)
    expect(page.locator(".lane-name").filter(has_text="hall")).to_be_visible()
    page.locator('[data-dot="door-4"]').click()
    expect(page.locator('[data-id="door-4"] .face')).to_be_focused()
    page.locator('[data-dot="door-4"]').focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator('[data-dot="hall-5"]')).to_be_focused()


def test_records_without_a_time_are_named_not_hidden(page):
    open_search(page)
    expect(page.get_by_text("without a time are not on the timeline.")).to_be_visible()


def scroll_to_the_end(page):
    page.evaluate("document.querySelector('.sentinel')?.scrollIntoView()")  # it goes when there are no more


def test_more_results_come_on_scrolling(page):
    open_search(page)
    expect(page.locator(".count")).to_contain_text("at least 200")
    with page.expect_request("**/search") as sent:
        while tiles(page).count() < 200:
            scroll_to_the_end(page)
            page.wait_for_timeout(20)
        scroll_to_the_end(page)
    expect(page.locator(".count")).to_contain_text(f"{OTHERS - 1} of")
    assert sent.value.post_data_json.keys() == {"cursor", "top_k"}  # the query is not sent again


def test_more_results_come_also_after_the_service_has_forgotten_the_search(page):
    forgotten = []

    def forget(route):
        if "cursor" not in route.request.post_data_json:
            route.continue_()
            return
        forgotten.append(route.request)
        route.fulfill(status=404, json={"title": "Not found", "detail": "cursor: search again"})

    page.route("**/search", forget)
    open_search(page)
    expect(page.locator(".count")).to_contain_text("at least 200")
    while not forgotten:
        scroll_to_the_end(page)
        page.wait_for_timeout(20)
    expect(page.locator(".count")).to_contain_text(f"{OTHERS - 1} of")


def test_verdicts_by_key_lead_the_next_search(page):
    open_search(page)
    names = ids(page)
    page.keyboard.press("g")
    page.keyboard.press("1")
    page.keyboard.press("2")  # the focus moved on
    page.keyboard.press("3")
    expect(tiles(page).nth(0)).to_have_class(re.compile("same"))
    expect(tiles(page).nth(1)).to_have_class(re.compile("different"))
    expect(tiles(page).nth(2)).to_have_class(re.compile("unsure"))
    page.keyboard.press("u")
    expect(tiles(page).nth(2)).not_to_have_class(re.compile("unsure"))
    expect(tiles(page).nth(2).locator(".face")).to_be_focused()
    page.keyboard.press("ArrowLeft")
    expect(tiles(page).nth(1).locator(".face")).to_be_focused()
    assert f"same={names[0]}" in page.url
    with page.expect_request("**/search") as sent:
        page.keyboard.press("r")
    body = sent.value.post_data_json
    assert (body["id"], body["ids"], body["reject_ids"]) == ("gate-1", [names[0]], [names[1]])
    expect(page.locator(f'.grid [data-id="{names[0]}"]')).to_have_count(0)
    expect(tiles(page).first).to_be_visible()
    assert names[1] not in ids(page)
    page.go_back()
    expect(tiles(page).first).to_have_attribute("data-id", names[0])


def test_tracklets_play_their_pictures_unless_motion_is_reduced(page):
    open_search(page)
    picture = tiles(page).first.locator("img")
    shown = picture.get_attribute("src")
    tiles(page).first.hover()
    expect(picture).not_to_have_attribute("src", shown)
    page.mouse.move(5, 5)
    page.emulate_media(reduced_motion="reduce")
    expect(picture).to_have_attribute("src", shown)
    tiles(page).first.hover()
    page.wait_for_timeout(600)
    expect(picture).to_have_attribute("src", shown)


def test_nothing_of_a_search_is_sent_in_an_address(page, site):
    urls: list[str] = []
    page.on("request", lambda request: urls.append(request.url))
    open_search(page, "like=gate-1&camera=hall&meta=zone%3Dnorth")
    page.reload()
    expect(tiles(page).first).to_be_visible()
    assert not [url for url in urls if "north" in url.split("#")[0] or "camera=" in url.split("#")[0]]
