"""What is unusual: phones, large pictures, folders, cases of many verdicts, keys with few scopes, edited addresses."""

import io
import shutil
import zipfile
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import cv2
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from tests.service.http.test_scopes import add_key
from tests.service.live import Live, run_service
from tests.service.page.conftest import TIMEOUT, Site, Watch
from tests.service.page.test_search import open_search, open_start, tiles

PHONE = {"width": 360, "height": 740}
DESK, GATE = "secret-of-the-desk", "secret-of-the-gate"


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A service of vectors with a key that searches, whose name is long, and one that only enrols."""
    data = tmp_path_factory.mktemp("data")
    add_key(data / "keys.json", "desk-of-the-night-shift-at-the-northern-gate", DESK)
    add_key(data / "keys.json", "gate", GATE, scopes=("enroll",))
    with run_service(None, data, space="vectors", dimension=2) as live:
        yield live


@pytest.fixture
def desk_page(browser: Browser, desk: Live) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1440, "height": 900}, locale="en-GB", base_url=desk.url)
    context.set_default_timeout(TIMEOUT)
    watch = Watch(desk.url)
    context.on("page", watch.follow)
    yield context.new_page()
    context.close()
    assert watch.faults == []


def sign_in(page: Page, key: str) -> None:
    page.goto("/")
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Sign in").click()


def test_the_header_fits_a_phone_with_the_name_of_the_key(desk_page: Page) -> None:
    page = desk_page
    page.set_viewport_size(PHONE)
    sign_in(page, DESK)
    leave = page.get_by_role("button", name="Sign out")
    expect(leave).to_be_visible()
    expect(page.get_by_role("link", name="Alerts")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    place, name = leave.bounding_box(), page.locator(".top .caller").bounding_box()
    assert place
    assert place["x"] + place["width"] <= PHONE["width"]
    assert place["height"] < 40  # one line
    assert name
    assert name["width"] > 100


@pytest.mark.parametrize("width", [360, 800])
def test_the_times_of_the_timeline_do_not_overlap(page: Page, put: Callable[..., None], width: int) -> None:
    for day in (4, 7):
        put(f"far-{day}", camera_id="far", start_time=f"2026-05-{day:02d}T10:00:00Z")
    page.set_viewport_size({"width": width, "height": 740})
    open_search(page, "like=gate-1&camera=far")
    places = page.locator(".tick-text:visible").evaluate_all(
        "all => all.map((each) => each.getBoundingClientRect()).map((box) => [box.left, box.right])"
    )
    assert len(places) > 1
    assert all(one[1] < other[0] for one, other in pairwise(places)), places


def test_a_key_that_may_not_search_is_told_so(desk_page: Page) -> None:
    page = desk_page
    sign_in(page, GATE)
    expect(page.get_by_role("heading", name="This key may not search")).to_be_visible()
    expect(page.get_by_text("not3d keys create NAME --scope search")).to_be_visible()
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()


def test_nobody_has_to_sign_in_to_sign_out(desk_page: Page) -> None:
    page = desk_page
    sign_in(page, DESK)
    leave = page.get_by_role("button", name="Sign out")
    expect(leave).to_be_visible()
    page.context.clear_cookies()
    with page.expect_navigation():
        leave.click()
    expect(page.get_by_role("heading", name="Sign in", exact=True)).to_be_visible()


def test_a_picture_with_more_pixels_than_the_service_reads_is_made_smaller(
    page: Page, site: Site, tmp_path: Path
) -> None:
    limit = site.live.client.get("/info").json()["limits"]["max_pixels"]
    crop = cv2.imread(str(site.frames[0]))
    large = cv2.resize(crop, (3600, 7200), interpolation=cv2.INTER_LINEAR)
    assert limit < large.shape[0] * large.shape[1]
    cv2.imwrite(str(tmp_path / "large.jpg"), large, [cv2.IMWRITE_JPEG_QUALITY, 80])
    open_start(page)
    page.get_by_label("Picture or video", exact=True).set_input_files(tmp_path / "large.jpg")
    expect(tiles(page).first).to_have_attribute("data-id", "gate-1")
    expect(page.locator(".tray .item")).to_contain_text("large.jpg")


def test_a_folder_of_crops_is_dropped(page: Page, site: Site, tmp_path: Path) -> None:
    folder = tmp_path / "tracklet"
    (folder / "more").mkdir(parents=True)
    for path in site.frames:
        shutil.copy(path, folder / "more" / path.name)
    for number in range(5):
        (folder / f"{number}.txt").write_text("no picture")
    open_start(page)
    session = page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(folder)], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        session.send("Input.dispatchDragEvent", {"type": kind, "x": 700, "y": 500, "data": data})
    expect(page.locator(".tray .item")).to_have_count(len(site.frames))
    expect(tiles(page).first).to_have_attribute("data-id", "gate-1")
    expect(page.locator(".tray .note.error")).to_have_count(4)
    expect(page.locator(".tray .note.error").last).to_have_text("2 more files cannot be used.")


def test_a_case_with_many_verdicts_reads_only_the_records_that_are_shown(page: Page, site: Site) -> None:
    body = {"name": "long", "purpose": "test", "query": {"id": "gate-1"}}
    case = site.live.client.post("/cases", json=body).json()["id"]
    for number in range(70):
        path = f"/cases/{case}/verdicts/crowd-{number:03d}"
        site.live.client.put(path, json={"verdict": "unsure"}).raise_for_status()
    read: list[str] = []
    page.on("request", lambda request: "/gallery/crowd-" in request.url and read.append(request.url))
    page.goto(f"/#/search?case={case}&like=gate-1")
    unsure = page.get_by_role("group", name="Unsure")
    expect(unsure).to_contain_text("Unsure (70)")
    expect(tiles(page).first).to_be_visible()
    expect(unsure.get_by_role("listitem")).to_have_count(30)
    assert len(read) <= 30
    unsure.get_by_role("button", name="Show 30 older").click()
    unsure.get_by_role("button", name="Show 10 older").click()
    expect(unsure.get_by_role("listitem")).to_have_count(70)
    expect(unsure.get_by_role("button", name="older")).to_have_count(0)


def test_times_of_an_edited_address_are_read_as_people_mean_them(page: Page) -> None:
    open_search(page, "like=gate-1&after=2026-05-04&before=2026-05-04T12:00")
    expect(page.locator(".chip", has_text="Time").first).to_contain_text("4 May, 00:00:00 to 4 May, 12:00:00")
    open_search(page, "like=gate-1&after=-271821-04-20T00:00:00Z&before=nonsense")
    expect(page.locator(".chip", has_text="Time").first).to_contain_text("any")


@pytest.mark.parametrize("field", ["record", "path", "case"])
def test_an_id_of_dots_in_the_address_is_left_out(page: Page, field: str) -> None:
    open_search(page, f"like=gate-1&{field}=..")
    expect(page.locator(".record, .path, #case-title")).to_have_count(0)
    expect(page.get_by_role("alert")).to_have_count(0)


@pytest.mark.parametrize(
    ("now", "time"), [("2026-01-15", "2026-05-04T09:13:00Z"), ("2026-07-15", "2026-01-12T10:13:00Z")]
)
def test_a_time_of_day_counts_by_the_clocks_of_the_chosen_time(
    page: Page, put: Callable[..., None], now: str, time: str
) -> None:
    """In Berlin, 11:13 is 9:13 UTC in summer and 10:13 UTC in winter, whatever the season in which one asks."""
    put("seasonal", camera_id="seasons", start_time=time)
    page.clock.set_fixed_time(now)
    day = time[:10]
    open_search(page, f"like=gate-1&camera=seasons&after={day}&before={day}T23:00&from=11:00&to=11:30")
    expect(tiles(page)).to_have_attribute("data-id", "seasonal")
    expect(page.locator(".grid")).to_contain_text("11:13")
    chip = page.locator(".chip", has_text="Time of day")
    chip.locator("summary").click()
    expect(chip.get_by_text("Every day, times of Europe/Berlin.")).to_be_visible()
    expect(chip.get_by_text("The clocks change")).to_have_count(0)


def test_a_time_of_day_over_both_seasons_says_what_it_leaves_out(page: Page) -> None:
    open_search(page, "like=gate-1&after=2026-05-01&before=2026-11-01&from=11:00&to=12:00")
    chip = page.locator(".chip", has_text="Time of day")
    chip.locator("summary").click()
    expect(chip.locator(".note")).to_contain_text("The clocks change between these times, and UTC+02:00 counts for all")


def test_what_is_chosen_is_seen_in_forced_colours(page: Page) -> None:
    page.emulate_media(forced_colors="active")
    open_search(page, "like=gate-1&same=hall-1")

    def colour(name: str, of: str) -> str:
        value: str = page.locator(name).first.evaluate(f"each => getComputedStyle(each).{of}")
        return value

    pressed, other = ".sort [aria-pressed=true]", ".sort [aria-pressed=false]"
    assert colour(pressed, "backgroundColor") != colour(other, "backgroundColor")
    current, link = ".top nav [aria-current]", ".top nav a:not([aria-current])"
    assert colour(current, "borderBottomColor") != colour(link, "borderBottomColor")
    assert colour(".dot.same", "backgroundColor") != colour(".dot:not(.same)", "backgroundColor")


def test_an_exported_case_opens_offline_on_a_phone(
    browser: Browser, site: Site, put: Callable[..., None], tmp_path: Path
) -> None:
    client = site.live.client
    put("long", camera_id="c" * 60, metadata={"key-" * 20: "<img src=x onerror=alert(1)>", "\u05e9" * 60: "n" * 200})
    body = {"name": "<img src=x onerror=alert(1)>" + "w" * 60, "purpose": "p" * 200, "query": {"id": "gate-1"}}
    case = client.post("/cases", json=body).json()["id"]
    for record in ("long", "hall-1"):
        client.put(f"/cases/{case}/verdicts/{record}", json={"verdict": "same", "note": "x" * 200}).raise_for_status()
    with zipfile.ZipFile(io.BytesIO(client.get(f"/cases/{case}/export").content)) as archive:
        archive.extractall(tmp_path)
    page = browser.new_page(viewport=PHONE)
    watch = Watch(tmp_path.as_uri())
    watch.follow(page)
    page.goto((tmp_path / "index.html").as_uri())
    pictures = page.locator("img")
    expect(pictures).not_to_have_count(0)
    assert all(pictures.evaluate_all("all => all.map((each) => each.naturalWidth)"))
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    page.evaluate(Axe().axe_script)
    assert page.evaluate("axe.run({ resultTypes: ['violations'] })")["violations"] == []
    page.close()
    assert watch.faults == []


def test_error_rates_are_offered_only_for_the_scores_that_were_calibrated(page: Page) -> None:
    choice = page.get_by_label("Threshold by error rate")
    open_search(page, "like=gate-1")
    expect(choice).to_be_visible()
    open_search(page, "like=gate-1&like=hall-1&min=0.6")  # combined scores
    expect(page.get_by_text("No probabilities")).to_be_visible()
    expect(choice).to_have_count(0)
    expect(page.get_by_text("of other people pass")).to_have_count(0)
