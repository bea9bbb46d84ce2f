"""The demo of a site in a small form: recordings, broker, bridge, watchlist and alert, and nothing left at the end."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pytest

from model.frames import decode_frame
from not3d.client import Client
from not3d.demo_site import CAMERAS, PASSES, SiteSize, find_mosquitto, read_site, write_site
from training.datasets.synthetic.site import FRAMES_PER_SECOND, plan_site

ROOT = Path(__file__).parents[2]
MARK = "TEST_OF_THE_DEMO_SITE"
SMALL = SiteSize(people=3, cameras=2, passes=2)
BEGAN = datetime(2026, 5, 4, 9, 30, tzinfo=UTC)
SECONDS = 150
"""For the whole demo on a busy machine."""


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    write_site(folder, SMALL)
    return folder


def test_each_person_passes_several_cameras_one_after_the_other() -> None:
    site = plan_site(people=6, cameras=4, passes=3, seed=1)
    for person in range(6):
        walks = [walk for walk in site.walks if walk.person == person]
        assert len({walk.camera for walk in walks}) == 3
        assert all(one.start + one.seconds < two.start for one, two in pairwise(walks))
    assert max(walk.start + walk.seconds for walk in site.walks) < site.seconds


def test_recordings_and_tracks_fit_together(recordings: Path) -> None:
    tracks = read_site(recordings, SMALL, BEGAN)
    walks = json.loads((recordings / "site.json").read_text())["walks"]
    assert {track.camera for track in tracks} == set(CAMERAS[:2])
    assert {track.person for track in tracks} == {"0001", "0002", "0003"}
    assert [track.end_time for track in tracks] == sorted(track.end_time for track in tracks if track.end_time)
    for track in tracks:
        assert track.start_time is not None
        began = (track.start_time - BEGAN).total_seconds()
        walk = walks[track.origin["track"]]
        assert 0 <= began - walk["start"] < 3
        assert (began * FRAMES_PER_SECOND) % 1 < 1e-6
        for frame in track.frames:
            assert isinstance(frame, bytes)
            height, width = decode_frame(frame).shape[:2]
            assert 120 < height < 300
            assert 1.5 < height / width < 5


def test_what_was_drawn_is_not_drawn_again(recordings: Path) -> None:
    drawn: list[int] = []
    write_site(recordings, SMALL, drawn.append)
    assert drawn == []
    assert SMALL.folder_name != SiteSize().folder_name
    assert SiteSize().passes == PASSES


def processes_of_the_demo() -> list[str]:
    """Return the command lines of the demo and of all that it started."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if MARK.encode() in (folder / "environ").read_bytes():
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:  # it has ended
            continue
    return found


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")
@pytest.mark.parametrize("broker", [True, False], ids=["broker", "direct"])
def test_the_demo_ends_with_an_alert_and_ctrl_c_leaves_nothing(recordings: Path, tmp_path: Path, broker: bool) -> None:
    """Takes seconds: it starts the real service with the bundled model, and a broker and a bridge."""
    if broker and not find_mosquitto():
        if os.environ.get("REQUIRE_MOSQUITTO"):
            pytest.fail("mosquitto is not installed, and REQUIRE_MOSQUITTO is set")
        pytest.skip("needs mosquitto: apt-get install mosquitto")
    command = [sys.executable, "-m", "not3d", "demo-site", "--no-browser", "--port", "0", "--people", "3"]
    command += ["--cameras", "2", "--folder", str(recordings), *([] if broker else ["--no-broker"])]
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(scratch), MARK: "1", "PYTHONUNBUFFERED": "1"}
    output = tmp_path / "output.txt"
    with output.open("wb") as file:
        demo = subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=file, stderr=file)
    try:
        until = time.monotonic() + SECONDS
        while not (address := re.search(r"http://[\d.]+:\d+/#/search\?like=\S+", output.read_text())):
            assert demo.poll() is None, output.read_text()
            assert time.monotonic() < until, output.read_text()
            time.sleep(0.05)
        expected = {"service": "serve", "bridge": "bridge mqtt", "broker": "mosquitto"}
        running = processes_of_the_demo()
        assert all(any(name in each for each in running) for name in expected.values()) is broker
        with Client(address[0].partition("/#")[0]) as client:
            alerts = client.alerts().items
            records = list(client.records())
            assert len(alerts) == 1
            assert len(records) == len(read_site(recordings, SMALL, BEGAN))
            assert client.thumbnail(records[0].id)
            last = max(records, key=lambda record: record.end_time or BEGAN)
            assert alerts[0].record_id == last.id
    finally:
        demo.send_signal(signal.SIGINT)
        code = demo.wait(120)
    assert code == 0, output.read_text()
    assert "Alert of the watchlist demo" in output.read_text()
    assert processes_of_the_demo() == []
    assert list(scratch.iterdir()) == []
