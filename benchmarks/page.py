"""How soon the search page paints, how much it weighs, and how smoothly many results scroll, in Debian's Chromium.

    python -m benchmarks.page [--bundle DIRECTORY] [--visits 10] [--tiles 500]

First paint: each visit is a new browser profile, so nothing is cached; the times are those of the browser's
`PerformancePaintTiming`, from the start of the navigation. The same of a few bytes of JSON says what of it is the
browser on this machine. Weight: the bytes of the body of each file, as sent and decompressed. Scrolling: the page shows
the results of a search with kept pictures, moves by 100 pixels for each frame, and the time between frames is taken.
Chromium draws without a GPU here.
"""

import argparse
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import httpx
import numpy as np
from playwright.sync_api import Browser, sync_playwright

from benchmarks.process import Server, running
from benchmarks.report import Report, describe_machine
from model.bundle import BUNDLED

PAINT_MS, WEIGHT_BYTES = 200, 200_000
"""Targets: milliseconds until the first paint, bytes of all files without compression."""

_FRAME_TIMES = """async (tiles) => {
    const area = document.querySelector(".results");
    const scrolls = [area, document.scrollingElement].find((each) => each.scrollHeight > each.clientHeight + 10);
    const seconds = [];
    let last = await new Promise(requestAnimationFrame);
    while (document.querySelectorAll(".grid .tile:not(.skeleton)").length < tiles
           || scrolls.scrollTop + scrolls.clientHeight < scrolls.scrollHeight - 5) {
        scrolls.scrollTop += 100;
        const now = await new Promise(requestAnimationFrame);
        seconds.push(now - last);
        last = now;
        if (seconds.length > 3000) break;
    }
    return [seconds, document.querySelectorAll(".grid .tile:not(.skeleton)").length];
}"""


@dataclass(frozen=True)
class Visit:
    """Milliseconds until the first paint and the first text or picture, and bytes of all files as sent and as read."""

    first_paint: float
    first_content: float
    sent: int
    decoded: int


def visit(browser: Browser, url: str) -> Visit:
    """Open the page in a new profile."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    page = context.new_page()
    page.goto(url)
    page.wait_for_load_state("networkidle")
    paint: dict[str, float] = page.evaluate(
        "Object.fromEntries(performance.getEntriesByType('paint').map((each) => [each.name, each.startTime]))"
    )
    files: list[list[int]] = page.evaluate(
        """[...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')]
           .filter((each) => each.entryType === 'navigation' || each.name.includes('/page/'))
           .map((each) => [each.encodedBodySize, each.decodedBodySize])"""
    )
    context.close()
    sent, decoded = (sum(sizes) for sizes in zip(*files, strict=True))
    return Visit(paint["first-paint"], paint["first-contentful-paint"], sent, decoded)


def enroll(server: Server, records: int) -> None:
    """Enrol pictures of one drawn person in different light."""
    chance = np.random.default_rng(1)
    crop = cv2.resize(chance.integers(0, 256, (8, 4, 3), np.uint8), (64, 128), interpolation=cv2.INTER_NEAREST)
    with httpx.Client(base_url=server.url, timeout=60) as client:
        for number in range(records):
            light = np.clip(crop * chance.uniform(0.6, 1.3, 3), 0, 255).astype(np.uint8)
            data = cv2.imencode(".jpg", light)[1].tobytes()
            fields = {
                "id": f"r{number}",
                "camera_id": f"camera-{number % 8}",
                "start_time": f"2026-05-04T{number // 60 % 24:02}:{number % 60:02}:00Z",
            }
            answer = client.post("/embed", data=fields, files=[("frames", ("a.jpg", data, "image/jpeg"))])
            answer.raise_for_status()


def scroll(browser: Browser, url: str, tiles: int) -> tuple[list[float], int]:
    """Return the milliseconds between frames while all results come into view, and how many there are at the end."""
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.goto(f"{url}/#/search?like=r0")
    page.locator(".grid .tile:not(.skeleton)").first.wait_for()
    found: Any = page.evaluate(_FRAME_TIMES, tiles)
    page.close()
    return found[0], found[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=BUNDLED)
    parser.add_argument("--visits", type=int, default=10)
    parser.add_argument("--tiles", type=int, default=500)
    options = parser.parse_args()
    path = shutil.which("chromium")
    if path is None:
        raise SystemExit("chromium is not installed: apt-get install chromium")
    report = Report()
    report.say(describe_machine())
    with (
        tempfile.TemporaryDirectory() as folder,
        sync_playwright() as playwright,
        running(
            ["not3d", "serve", "--bundle", str(options.bundle), "--data-dir", folder, "--log-level", "warning"],
            ready="/readyz",
            log=Path(folder, "service.log"),
            variables={"NOT3D_THUMBNAILS": "1"},
        ) as server,
    ):
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        report.say(f"Chromium {browser.version}.")
        visit(browser, server.url)
        pairs = [(visit(browser, server.url), visit(browser, f"{server.url}/livez")) for _ in range(options.visits)]
        visits, smallest = zip(*pairs, strict=True)
        report.head("ms", "median", "least", "most")
        for name, times in {
            "first paint": [each.first_paint for each in visits],
            "first text or picture": [each.first_content for each in visits],
            "first paint of `/livez`, a few bytes of JSON": [each.first_paint for each in smallest],
        }.items():
            report.row(name, f"{median(times):.0f}", f"{min(times):.0f}", f"{max(times):.0f}")
        report.end_table()
        sent, decoded = visits[0].sent, visits[0].decoded
        report.say(f"Weight: {decoded / 1000:.0f} kB, sent with gzip as {sent / 1000:.0f} kB.")
        first = median(each.first_paint for each in visits)
        report.target(f"first paint within {PAINT_MS} ms", f"{first:.0f} ms", met=first <= PAINT_MS)
        report.target("at most 200 kB", f"{decoded / 1000:.0f} kB", met=decoded <= WEIGHT_BYTES)
        if options.tiles:
            enroll(server, options.tiles + 1)
            times, count = scroll(browser, server.url, options.tiles)
            over = sum(time > 34 for time in times) / len(times)
            report.say(
                f"Scrolling through {count} results: median {median(times):.0f} ms between frames, 95 % within "
                f"{np.percentile(times, 95):.0f} ms, {over:.1%} over two frames of 60 Hz, longest {max(times):.0f} ms."
            )
        browser.close()
    report.conclude()


if __name__ == "__main__":
    main()
