"""One service with drawn people, and one browser, for all tests of the search page."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from model.bundle import BUNDLED
from tests.service.live import Live, run_service
from tests.service.pictures import form
from training.datasets.synthetic.dataset import write_synthetic

# A busy machine is slow, and a test that passes does not wait.
TIMEOUT = 60_000
expect.set_options(timeout=TIMEOUT)

CAMERAS = ("gate", "hall", "door")
START = datetime(2026, 5, 4, 9, tzinfo=UTC)
PEOPLE, CROWD = 6, 240
KEY = "a-key-of-the-page-tests"
HOSTILE = "<img src=x onerror=alert(1)>"
RTL_CAMERA = "\u05e9\u05e2\u05e8 <b>1</b>"  # in Hebrew: gate


def find_chromium() -> str:
    """Return the path of Debian's Chromium; skip the test if it is not installed, or fail it if it must be."""
    path = shutil.which("chromium")
    if path:
        return path
    if os.environ.get("REQUIRE_CHROMIUM"):
        pytest.fail("chromium is not installed")
    pytest.skip("chromium is not installed (Debian's package of that name has it)")


@dataclass(frozen=True)
class Site:
    """A service with people in its gallery, and the frames of people who are not in it."""

    live: Live
    frames: list[Path]

    @property
    def url(self) -> str:
        """The address of the page."""
        return f"{self.live.url}/"


@pytest.fixture(scope="package")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("people")
    write_synthetic(folder, people=PEOPLE, cameras=len(CAMERAS), frames=4, seed=7)
    with run_service(BUNDLED, tmp_path_factory.mktemp("data"), thumbnails=3) as live:
        _enroll(live, folder)
        yield Site(live, sorted((folder / "0001" / "c1" / "t1").glob("*.jpg")))


def _enroll(live: Live, folder: Path) -> None:
    for person in range(1, PEOPLE + 1):
        for number, camera in enumerate(CAMERAS, 1):
            frames = [path.read_bytes() for path in sorted((folder / f"{person:04d}" / f"c{number}").glob("t1/*.jpg"))]
            start = START + timedelta(minutes=10 * person + 3 * number)
            data = {
                "id": f"{camera}-{person}",
                "camera_id": camera,
                "start_time": start.isoformat(),
                "end_time": (start + timedelta(seconds=5)).isoformat(),
                "metadata": json.dumps({"zone": "north" if person % 2 else "south"}),
            }
            live.client.post("/embed", data=data, files=form(frames)).raise_for_status()
    # People far from all others, without pictures and times: enough for several pages.
    vectors = np.random.default_rng(1).standard_normal((CROWD + 1, live.service.space.dimension))
    with ThreadPoolExecutor(4) as pool:
        bodies = [{"embedding": vector.tolist(), "camera_id": "crowd"} for vector in vectors]
        bodies[-1] |= {"camera_id": RTL_CAMERA, "metadata": {HOSTILE: HOSTILE, "url": "javascript:alert(1)"}}
        names = [*(f"crowd-{number:03d}" for number in range(CROWD)), "hostile"]
        for done in pool.map(lambda name, body: live.client.put(f"/gallery/{name}", json=body), names, bodies):
            done.raise_for_status()


@pytest.fixture
def put(site: Site) -> Iterator[Callable[..., None]]:
    """A function that enrols a record without pictures; it is erased after the test, which may fail."""
    names: list[str] = []

    def enrol(name: str, **fields: Any) -> None:
        names.append(name)
        vector = [1.0] + [0.0] * (site.live.service.space.dimension - 1)
        site.live.client.put(f"/gallery/{name}", json={"embedding": vector, **fields}).raise_for_status()

    yield enrol
    for name in names:
        site.live.client.delete(f"/gallery/{name}").raise_for_status()


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    path = find_chromium()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@dataclass
class Watch:
    """What must not happen on any page: errors, blocked code, dialogs, requests to others."""

    origin: str
    faults: list[str] = field(default_factory=list)

    def follow(self, page: Page) -> None:
        """Collect the faults of a page."""
        page.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        page.on("console", lambda message: message.type == "error" and self._on_console(message.text))
        page.on("dialog", lambda dialog: self.faults.append(f"dialog: {dialog.message}"))
        page.on("request", lambda request: self._on_request(request.url))

    def _on_console(self, text: str) -> None:
        if "Failed to load resource" not in text:  # an answer that is no success; the tests look at those themselves
            self.faults.append(f"console: {text}")

    def _on_request(self, url: str) -> None:
        if not url.startswith((self.origin, f"blob:{self.origin}")):
            self.faults.append(f"request: {url}")


@pytest.fixture
def context(site: Site, browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context(
        viewport={"width": 1440, "height": 900}, locale="en-GB", timezone_id="Europe/Berlin", base_url=site.live.url
    )
    context.set_default_timeout(TIMEOUT)
    watch = Watch(site.live.url)
    context.on("page", watch.follow)
    yield context
    context.close()
    assert watch.faults == []


@pytest.fixture
def page(context: BrowserContext) -> Page:
    return context.new_page()
