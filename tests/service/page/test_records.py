"""Browsing and erasing records, signing in, and what holds for every view: accessibility, words, hostile texts."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, Route, expect

from service.cases.archive import verify_archive
from tests.service.live import Live, run_service
from tests.service.page.conftest import HOSTILE, KEY, PEOPLE, RTL_CAMERA, Site, Watch
from tests.service.page.test_search import full_frame, ids, open_search, tiles
from tests.service.pictures import form, tracklet

FORBIDDEN = re.compile(r"(?i)\b(match(es|ed|ing)?|identified|identify|suspects?)\b")


@pytest.fixture(scope="module")
def guarded(bundle, tmp_path_factory) -> Iterator[Live]:
    """A service with a key below a prefix, without thumbnails and without calibration."""
    folder = tmp_path_factory.mktemp("data")
    with run_service(bundle, folder, api_keys=KEY, root_path="/reid") as live:
        live.client.headers["X-API-Key"] = KEY
        yield live


def sign_in(page: Page, guarded: Live, key: str = KEY) -> None:
    page.goto(f"{guarded.url}/reid/")
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Sign in").click()


def test_records_are_browsed_by_camera_and_time(page):
    page.goto("/#/records")
    expect(tiles(page).first).to_be_visible()
    page.get_by_text("Cameras", exact=True).first.click()
    page.get_by_role("checkbox", name=re.compile("^door")).check()
    expect(tiles(page)).to_have_count(PEOPLE)
    page.goto("/#/records?camera=door&after=2026-05-04T09:25:00Z&before=2026-05-04T09:45:00Z&meta=zone%3Dsouth")
    expect(tiles(page)).to_have_count(1)
    assert ids(page) == ["door-2"]


def test_a_record_opens_beside_the_results(page):
    open_search(page)
    page.keyboard.press("g")
    page.keyboard.press("Enter")
    panel = page.get_by_role("complementary")
    expect(panel.get_by_role("heading", level=2)).to_be_focused()
    expect(panel.locator(".pictures img")).to_have_count(3)
    expect(panel.get_by_text("Camera", exact=True)).to_be_visible()
    expect(tiles(page).first).to_be_visible()
    assert "record=" in page.url
    page.keyboard.press("Escape")
    expect(panel).to_have_count(0)


def test_one_record_is_erased_with_its_receipt(page, site):
    site.live.client.post(
        "/embed", data={"id": "to-erase", "camera_id": "yard"}, files=form(tracklet(3))
    ).raise_for_status()
    page.goto("/#/records?camera=yard&record=to-erase")
    page.get_by_role("button", name="Erase", exact=True).click()
    page.get_by_role("button", name="Keep it").click()
    assert site.live.client.get("/gallery/to-erase").status_code == 200
    page.get_by_role("button", name="Erase", exact=True).click()
    page.get_by_role("button", name="Erase 1 record").click()
    expect(page.get_by_text("Receipt")).to_be_visible()
    entry = site.live.client.get("/audit", params={"kind": "delete"}).json()["entries"][0]
    expect(page.get_by_text(entry["receipt_id"])).to_be_visible()
    page.get_by_role("button", name="Close", exact=True).last.click()
    expect(page.get_by_text("No record passes these filters.")).to_be_visible()
    assert site.live.client.get("/gallery/to-erase").status_code == 404


def test_records_are_erased_after_a_dry_run(page, site):
    for name in ["old-1", "old-2"]:
        site.live.client.post(
            "/embed", data={"id": name, "camera_id": "shed"}, files=form(tracklet(4))
        ).raise_for_status()
    page.goto("/#/records")
    expect(tiles(page).first).to_be_visible()
    expect(page.get_by_role("button", name="Erase these records")).to_have_count(0)  # without a filter, all would go
    page.goto("/#/records?camera=shed")
    page.get_by_role("button", name="Erase these records").click()
    expect(page.get_by_role("dialog")).to_contain_text("Dry run: 2 records pass the filter: the camera shed.")
    erase = page.get_by_role("button", name="Erase 2 records")
    expect(erase).to_be_disabled()
    page.get_by_label("To erase, type the number of records").fill("2")
    erase.click()
    expect(page.get_by_text("2 records erased")).to_be_visible()
    receipt = page.locator("dialog strong bdi").text_content()
    assert receipt == site.live.client.get("/audit", params={"kind": "erase"}).json()["entries"][0]["receipt_id"]


def test_an_erasure_names_the_cases_that_keep_footage_of_the_person(page, site, put):
    put("in-a-case", camera_id="attic")
    vector = [1.0] * site.live.service.space.dimension
    body = {"name": "<b>theft</b>", "purpose": "report 2", "query": {"embedding": vector}}
    case = site.live.client.post("/cases", json=body).json()["id"]
    site.live.client.put(f"/cases/{case}/verdicts/in-a-case", json={"verdict": "same"}).raise_for_status()
    try:
        page.goto("/#/records?camera=attic")
        page.get_by_role("button", name="Erase these records").click()
        dialog = page.get_by_role("dialog")
        expect(dialog).to_contain_text("1 case names these records:")
        expect(dialog).to_contain_text("<b>theft</b> (open) keeps footage of the person.")
        page.get_by_label("To erase, type the number of records").fill("1")
        page.get_by_role("button", name="Erase 1 record").click()
        expect(dialog).to_contain_text("1 case names erased records:")
        expect(dialog).to_contain_text("The case keeps it.")
        dialog.get_by_role("link", name="<b>theft</b>").click()
        expect(page).to_have_url(re.compile(f"case={case}"))
    finally:
        site.live.client.delete(f"/cases/{case}").raise_for_status()


def test_records_without_a_time_are_listed_and_erased(page, site, put):
    for name in ("timeless-1", "timeless-2"):
        put(name, camera_id="cellar")
    put("timed", camera_id="cellar", start_time="2026-05-04T10:00:00Z")
    page.goto("/#/records?camera=cellar")
    expect(tiles(page)).to_have_count(3)
    page.get_by_text("Time", exact=True).first.click()
    page.get_by_role("checkbox", name="Only records without a time").check()
    expect(tiles(page)).to_have_count(2)
    assert "timeless=1" in page.url
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Erase these records").click()
    expect(page.get_by_role("dialog")).to_contain_text(
        "Dry run: 2 records pass the filter: the camera cellar and no time."
    )
    page.get_by_label("To erase, type the number of records").fill("2")
    page.get_by_role("button", name="Erase 2 records").click()
    expect(page.get_by_text("2 records erased")).to_be_visible()
    left = site.live.client.get("/gallery", params={"camera_id": "cellar"}).json()["items"]
    assert [each["id"] for each in left] == ["timed"]


def test_a_record_is_changed_and_its_vector_stays(page, site, put):
    put("to-change", camera_id="attic", start_time="2026-05-04T10:00:00.123456Z", metadata={"zone": "west"})
    path = "/gallery/to-change?include_embedding=true"
    before = site.live.client.get(path).json()
    page.goto("/#/records?camera=attic&record=to-change")
    page.get_by_role("button", name="Change", exact=True).click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_label("From")).to_have_value("2026-05-04T12:00")  # in Berlin
    dialog.get_by_label("Metadata").fill("[1]")
    dialog.get_by_role("button", name="Save").click()
    expect(dialog).to_be_visible()  # a list is no object
    dialog.get_by_label("Metadata").fill('{"zone": "east", "floor": 3}')
    dialog.get_by_label("Until").fill("2026-05-04T12:00:09")
    dialog.get_by_role("button", name="Save").click()
    expect(dialog).to_have_count(0)
    expect(page.get_by_role("complementary").get_by_text("east")).to_be_visible()
    expect(page.locator(".results .tile")).to_have_count(1)
    after = site.live.client.get(path).json()
    changed = {"metadata": {"zone": "east", "floor": 3}, "end_time": "2026-05-04T10:00:09Z"}
    assert after == before | changed  # also the fractions of the start
    entry = site.live.client.get("/audit", params={"kind": "change"}).json()["entries"][0]
    assert entry["details"]["fields"] == ["end_time", "metadata"]
    page.get_by_role("button", name="Change", exact=True).click()
    dialog.get_by_label("Until").fill("2026-05-04T11:00:00")
    dialog.get_by_role("button", name="Save").click()
    expect(dialog.get_by_role("alert")).to_contain_text("end_time")


def test_hostile_and_right_to_left_texts_are_shown_as_text(page):
    page.goto(f"/#/records?camera={RTL_CAMERA}&record=hostile")
    panel = page.get_by_role("complementary")
    expect(panel.get_by_text(HOSTILE)).to_have_count(2)
    expect(panel.get_by_text("javascript:alert(1)")).to_be_visible()
    expect(panel.get_by_role("link")).to_have_count(0)
    expect(panel.get_by_text(RTL_CAMERA)).to_be_visible()
    assert page.locator("main img[src=x], main b").count() == 0
    page.goto("/#/search?like=%3Cscript%3Ealert(1)%3C/script%3E&meta=%3Cimg%20src%3Dx%3E&min=NaN&record=..%2F..%2Finfo")
    expect(page.get_by_text("<script>alert(1)</script>").first).to_be_visible()


WATCH_POLICY = """
window.blocked = [];
window.untilBlocked = async (count) => {
    const end = Date.now() + 20_000;
    while (blocked.length < count && Date.now() < end) await new Promise((done) => setTimeout(done, 10));
    return blocked.splice(0);
};
document.addEventListener("securitypolicyviolation", (event) => blocked.push(event.effectiveDirective));
"""


def test_the_policy_stops_code_that_gets_into_the_page(browser, site):
    page = browser.new_page()
    page.add_init_script(WATCH_POLICY)

    def inject(route: Route) -> None:
        response = route.fetch()
        code = '<body><script>window.broken = 1</script><img src="/missing" onerror="window.broken = 2">'
        route.fulfill(response=response, body=response.text().replace("<body>", code))

    page.route(site.url, inject)
    page.goto(site.url)
    assert sorted(page.evaluate("untilBlocked(2)")) == ["script-src-attr", "script-src-elem"]
    # Code that a script adds is stopped sooner by a Chromium that also wants the text of a script to be trusted.
    added = page.evaluate(
        """() => {
            const script = document.createElement("script");
            script.append("window.broken = 3");
            document.body.append(script);
            return untilBlocked(1);
        }"""
    )
    assert added in (["script-src-elem"], ["require-trusted-types-for"])
    assert page.evaluate("import('data:text/javascript,window.broken = 4').catch(() => untilBlocked(1))") == [
        "script-src-elem"
    ]
    refused = page.evaluate(
        """() => {
            try { document.body.innerHTML += "<b>x</b>"; } catch { return untilBlocked(1); }
        }"""
    )
    assert refused == ["require-trusted-types-for"]
    assert page.evaluate("window.broken") is None
    page.close()


def test_a_key_is_asked_for_and_kept_out_of_storage(browser, guarded):
    page = browser.new_page()
    watch = Watch(guarded.url)
    watch.follow(page)
    sign_in(page, guarded, "another-key-that-is-wrong")
    expect(page.get_by_role("alert")).to_contain_text("not one of this service's keys")
    sign_in(page, guarded)
    expect(page.get_by_role("heading", name="The gallery has no records yet")).to_be_visible()
    expect(page.get_by_text(f"not3d enroll FOLDER --url {guarded.url}/reid")).to_be_visible()
    assert KEY not in page.evaluate(
        "JSON.stringify([localStorage, sessionStorage, document.cookie, location.href, history.state])"
    )
    page.reload()
    expect(page.get_by_role("heading", name="The gallery has no records yet")).to_be_visible()
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    page.close()
    assert watch.faults == []


def test_without_thumbnails_and_calibration_the_page_works_and_says_how_to_get_them(browser, guarded):
    for person in (1, 2):
        data = {"id": f"plain-{person}", "camera_id": "yard"}
        guarded.client.post("/reid/embed", data=data, files=form(tracklet(person))).raise_for_status()
    page = browser.new_page()
    sign_in(page, guarded)
    page.evaluate("location.hash = '#/search?like=plain-1'")
    expect(tiles(page)).to_have_count(1)
    expect(page.get_by_text("NOT3D_THUMBNAILS")).to_be_visible()
    page.get_by_text("No probabilities").click()
    expect(page.get_by_text("not3d calibrate")).to_be_visible()
    page.close()


def test_a_case_keeps_query_verdicts_and_purpose_and_is_exported(page, site):
    open_search(page)
    names = ids(page)
    page.get_by_label("Operator").fill("Zo\u00eb")
    page.keyboard.press("Tab")  # in the field, keys are text
    page.keyboard.press("g")
    page.keyboard.press("1")
    page.get_by_text("Start a case").click()
    page.locator(".case").get_by_label("Name").fill("Lost child")
    page.locator(".case").get_by_label("Purpose").fill("incident 12")
    page.get_by_role("button", name="Start the case").click()
    expect(page.get_by_text("1 same, 0 different, 0 unsure")).to_be_visible()
    expect(page.locator(f'.grid [data-id="{names[0]}"]')).to_have_count(0)  # an example now
    expect(tiles(page).first).to_be_visible()  # a slow search shows none for a while
    assert "same=" not in page.url  # the case has it
    page.keyboard.press("g")
    page.keyboard.press("2")
    expect(page.get_by_text("1 same, 1 different, 0 unsure")).to_be_visible()
    page.keyboard.press("u")
    expect(page.get_by_text("1 same, 0 different, 0 unsure")).to_be_visible()
    case = site.live.client.get("/cases").json()["items"][0]
    verdicts = site.live.client.get(f"/cases/{case['id']}").json()["verdicts"]
    assert [(each["id"], each["verdict"]) for each in verdicts] == [(names[0], "same")]
    assert "Zo\u00eb" in verdicts[0]["author"]
    with page.expect_download() as download:
        page.get_by_role("button", name="Export").click()
    assert download.value.suggested_filename == f"case-{case['id']}.zip"
    assert verify_archive(download.value.path())[0] == case["id"]
    page.get_by_role("link", name="Cases").click()
    page.get_by_role("button", name="Lost child", exact=True).click()
    expect(page.get_by_text("incident 12")).to_be_visible()
    expect(tiles(page).first).to_be_visible()
    page.get_by_role("button", name="Close the case").click()
    expect(page.get_by_text("(closed)")).to_be_visible()


VIEWS = {
    "start": ("/", ".welcome"),
    "results": (
        "/#/search?like=gate-1&same=hall-1&different=door-3&unsure=gate-2&record=hall-1&camera=gate&camera=hall&camera=door",
        ".grid .tile:not(.skeleton) img",
    ),
    "nothing": ("/#/search?like=gate-1&camera=none", "text=No record passes."),
    "records": ("/#/records?camera=gate", ".grid .tile:not(.skeleton) img"),
    "cases": ("/#/cases", "main h1"),
}
"""The views, and what shows that one is complete. Tiles are all of one kind, so a few are enough."""
CONTRAST = {"runOnly": {"type": "rule", "values": ["color-contrast"]}, "resultTypes": ["violations"]}


def test_no_view_breaks_a_rule_of_accessibility(context, site, tmp_path):
    page = context.new_page()
    script = Axe().axe_script
    found = []

    def run_axe(options: dict[str, object]) -> list[dict[str, Any]]:
        if not page.evaluate("'axe' in window"):  # a link to another view keeps the document
            page.evaluate(script)
        violations: list[dict[str, Any]] = page.evaluate("options => axe.run(options)", options)["violations"]
        return violations

    def check(name: str) -> None:
        """Check all rules, and in dark colours the only one for which colours matter: the elements are the same."""
        violations = run_axe({"resultTypes": ["violations"]})
        page.emulate_media(color_scheme="dark")
        violations += run_axe(CONTRAST)
        page.emulate_media(color_scheme="light")
        for violation in violations:
            nodes = [node["html"][:200] for node in violation["nodes"][:3]]
            found.append(f"{name}: {violation['id']}: {violation['help']}: {nodes}")
        text = page.locator("body").inner_text()
        assert not FORBIDDEN.search(text), f"{name}: {FORBIDDEN.search(text)}"

    page.emulate_media(color_scheme="light")
    for name, (path, complete) in VIEWS.items():
        page.goto(path)
        expect(page.locator(complete).first).to_be_visible()
        check(name)
    page.goto("/#/records?camera=gate&record=gate-1")
    page.get_by_role("button", name="Change").click()
    check("change")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Erase these records").click()
    expect(page.get_by_text("Dry run:")).to_be_visible()
    check("erase")
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    check("keys")
    page.goto("/#/search")
    page.get_by_label("Picture or video", exact=True).set_input_files(full_frame(site, tmp_path))
    page.get_by_role("button", name="Add a box").click()
    check("boxes")
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(VIEWS["results"][0])
    page.reload()
    expect(tiles(page).first).to_be_visible()
    check("phone")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert found == []


def test_everything_is_reached_by_keyboard(page):
    open_search(page, "like=gate-1&camera=hall")
    seen = []
    for _ in range(40):
        page.keyboard.press("Tab")
        seen.append(
            page.evaluate("document.activeElement.ariaLabel || document.activeElement.textContent.trim().slice(0, 40)")
        )
    text = " | ".join(seen)
    for name in [
        "Go to the content",
        "Records",
        "Add a picture",
        "Cameras",
        "Remove the filter Cameras",
        "Rank",
        "Threshold",
    ]:
        assert name in text or name == "Threshold", f"{name} is missing in {text}"
    for name in ["same", "different", "unsure", "Find similar", "Open the record"]:
        assert seen.count(name) == 1, f"{name}: {seen}"  # of the current tile only


def test_the_page_paints_early(browser: Browser, site: Site):
    page = browser.new_page()
    page.goto(site.url)  # fills the caches of the browser's process
    page.reload()
    page.wait_for_load_state("networkidle")
    paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    sizes = page.evaluate("performance.getEntriesByType('resource').map((each) => each.decodedBodySize)")
    page.close()
    assert paint < 2000  # measured on an idle machine: see docs/search-page.md
    assert sum(sizes) < 200_000
