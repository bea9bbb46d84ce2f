"""Frames of recordings by camera and time: names, videos, pictures, and what is not there."""

import contextlib
import os
import shutil
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from model.frames import decode_frame
from model.video import open_video
from model.video.reading import Video
from not3d.bridges import recordings
from not3d.bridges.recordings import Recordings, RecordingsError, WantedCrop, start_of
from not3d.bridges.tracklet import RelativeBox
from tests.videos import write

START = datetime(2026, 5, 4, 9, 30, tzinfo=UTC)
LEFT = RelativeBox(0, 0, 0.5, 1)
NAME = "2026-05-04T09-30-00Z"


def shades(count: int, first: int = 0) -> list[np.ndarray]:
    """Return frames whose left half is brighter from frame to frame."""
    frames = []
    for number in range(first, first + count):
        frame = np.zeros((64, 96, 3), np.uint8)
        frame[:, :48] = 20 + 8 * number
        frames.append(frame)
    return frames


def at(seconds: float, box: RelativeBox = LEFT) -> WantedCrop:
    return WantedCrop(START + timedelta(seconds=seconds), box)


def numbers(crops: list[bytes | None]) -> list[int | None]:
    """Return which frames the crops were cut out of."""
    return [None if crop is None else round((decode_frame(crop).mean() - 20) / 8) for crop in crops]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two recordings of one camera, one of them with times that vary, and pictures of another camera."""
    folder = tmp_path_factory.mktemp("site")
    for name in ("gate", "yard"):
        (folder / name).mkdir()
    write(folder / "gate" / f"{NAME}.mp4", shades(20), rate=10)
    write(folder / "gate" / "2026-05-04T09-30-02Z.mkv", shades(6), times=[0, 40, 80, 1000, 1040, 2000])
    for number, frame in enumerate(shades(3)):
        path = folder / "yard" / f"{START.timestamp() + number / 2:.3f}.png"
        path.write_bytes(cv2.imencode(".png", frame)[1].tobytes())
    (folder / "gate" / "2026-05-04T09-31-00Z.mp4").write_bytes(b"still being written")
    (folder / "gate" / "notes.txt").write_text("2026-05-04T09-30-00Z")
    return folder


@pytest.mark.parametrize(
    "name",
    [
        "2026-05-04T09-30-00Z.mp4",
        "20260504_093000.mkv",
        "20260504T093000Z.ts",
        "front_2026-05-04_09-30-00.mp4",
        "2026-05-04/09-30-00.mp4",
        "2026-05-04/2026-05-04_09-30-00.mp4",
        "20260504/20260504093000.mp4",
        "2026-05-04/1777887000.jpg",
        "2026-05-04T11:30:00+02:00.mp4",
        "2026-05-04T11-30-00+0200.mp4",
        "2026-05-04T11-30-00+02-00.mp4",
        "2026-05-04T11-30-00_+02.mp4",
        "2026-05-04 11-30-00 +0200.mp4",
        "2026-05-04T05-30-00-0400.mp4",
        "2026-05-04T15-15-00.000+0545.mp4",
        "20260504093000-20260504093100.mp4",
        "2026-05-04_09-30-00-2026-05-04_09-31-00.mp4",
        "2026-05-04_09-30-00-09-45-00.mp4",
        "20260504_093000-100000.mp4",
        "20260504_093000-0001.mp4",
        "20260504_093000-01.mp4",
        "2026-05-04 09.30.00.000.mp4",
        "1777887000.jpg",
        "1777887000.0.jpg",
    ],
)
def test_names_say_when_a_recording_began(name):
    assert start_of(name) == START


def test_a_fraction_of_more_than_six_digits_is_cut():
    assert start_of("2026-05-04T11-30-00.123456789+0200.mp4") == START + timedelta(microseconds=123456)


@pytest.mark.parametrize("name", ["lobby.mp4", "20261304_093000.mp4", "12345678901234.jpg", "2026-05-04.mp4", ""])
def test_other_names_say_nothing(name):
    assert start_of(name) is None


def test_crops_are_cut_out_of_the_frames_of_their_times(site):
    crops = Recordings(site).cut("gate", [at(1.52), at(0), at(0.68)])
    assert numbers(crops) == [15, 0, 7]
    assert decode_frame(crops[0] or b"").shape == (64, 48, 3)


def test_frames_that_do_not_come_at_a_constant_rate_are_found_by_their_times(site):
    assert numbers(Recordings(site).cut("gate", [at(2.08), at(3.0), at(3.5), at(4.0)])) == [2, 3, None, 5]


def test_pictures_are_found_by_their_times(site):
    assert numbers(Recordings(site).cut("yard", [at(0.05), at(0.5), at(0.75), at(1.0)])) == [0, 1, None, 2]


def test_what_is_not_there_is_none(site):
    recordings = Recordings(site)
    assert recordings.cut("gate", [at(-5), at(61), at(900)]) == [None] * 3
    assert recordings.cut("roof", [at(0)]) == [None]
    assert recordings.cut("..", [at(0)]) == [None]


def test_a_box_beside_the_frame_is_none(site):
    nothing = RelativeBox(0.9999, 0, 3, 1)
    assert Recordings(site).cut("gate", [at(0, nothing)]) == [None]


def test_clocks_that_differ_are_lined_up(site):
    assert numbers(Recordings(site, offset=-0.5).cut("gate", [at(1.5)])) == [10]


def test_one_recording_is_every_camera(site, tmp_path):
    path = shutil.copy(site / "gate" / f"{NAME}.mp4", tmp_path / f"any {NAME}.mp4")
    assert numbers(Recordings(Path(path)).cut("whatever", [at(0.3)])) == [3]


def test_footage_that_cannot_be_used_is_refused_with_the_cure(tmp_path):
    with pytest.raises(RecordingsError, match="does not exist"):
        Recordings(tmp_path / "none")
    (tmp_path / "lobby.mp4").touch()
    with pytest.raises(RecordingsError, match="rename it, such as"):
        Recordings(tmp_path / "lobby.mp4")


@pytest.mark.parametrize(
    ("camera", "seconds", "says"),
    [
        ("roof", 0, "roof is missing"),
        ("..", 0, "is missing"),
        ("empty", 0, "has no videos or pictures"),
        ("unnamed", 0, "2026-05-04T09-30-00Z.mp4 (found lobby.mp4)"),
        ("gate", -5, f"the first one begins at 2026-05-04T09:30:00+00:00 ({NAME}.mp4)"),
        ("gate", 59, "the last one before begins at 2026-05-04T09:30:02+00:00 (2026-05-04T09-30-02Z.mkv)"),
    ],
)
def test_what_is_missing_is_explained(site, camera, seconds, says):
    for folder in ("empty", "unnamed"):
        (site / folder).mkdir(exist_ok=True)
    (site / "unnamed" / "lobby.mp4").touch()
    assert says in Recordings(site).explain(camera, START + timedelta(seconds=seconds))


def test_a_time_without_a_frame_in_the_one_recording_is_explained(site, tmp_path):
    path = Path(shutil.copy(site / "gate" / f"{NAME}.mp4", tmp_path / f"{NAME}.mp4"))
    assert path.name in Recordings(path).explain("whatever", START + timedelta(seconds=50))


class Listing(contextlib.AbstractContextManager):
    """What `os.scandir` returns, read before."""

    def __init__(self, entries):
        self._entries = iter(entries)

    def __exit__(self, *_):
        pass

    def __iter__(self):
        return self

    def __next__(self):
        return next(self._entries)


def test_a_folder_that_is_removed_while_it_is_searched_is_left_out(tmp_path, monkeypatch):
    """Recorders remove old folders at any time."""
    old, new = tmp_path / "gate" / "2026-05-03", tmp_path / "gate" / "2026-05-04"
    for folder in (old, new):
        folder.mkdir(parents=True)
    (new / "09-30-00.png").write_bytes(cv2.imencode(".png", shades(1)[0])[1].tobytes())
    scan = os.scandir

    def remove_first(path):
        if os.fspath(path) == os.fspath(tmp_path / "gate"):
            with scan(path) as found:
                entries = list(found)
            old.rmdir()
            return Listing(entries)
        return scan(path)

    monkeypatch.setattr(os, "scandir", remove_first)
    assert numbers(Recordings(tmp_path).cut("gate", [at(0)])) == [0]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the recordings that are opened from now on, once for each pass."""
    names: list[str] = []

    def note(path: Path, **options: Any):
        names.append(path.name)
        return open_video(path, **options)

    monkeypatch.setattr(recordings, "open_video", note)
    return names


def test_a_time_long_after_the_last_recording_decodes_nothing(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Boxes wait for the next recording, and are looked for again and again."""
    monkeypatch.setattr(Video, "_frames", None)  # what reads
    assert Recordings(site).cut("gate", [at(50), at(59)]) == [None, None]


@pytest.mark.parametrize("recording", [f"{NAME}.mp4", "2026-05-04T09-30-00Z.mkv"])
def test_a_recording_that_was_read_to_its_end_is_not_read_for_later_times(
    tmp_path: Path, opened: list[str], recording: str
) -> None:
    path = tmp_path / "gate" / recording
    path.parent.mkdir()
    times = {"times": [0, 40, 80, 1000, 1040, 2000]} if path.suffix == ".mkv" else {"rate": 10}
    write(path, shades(6), **times)
    end = 2.0 if path.suffix == ".mkv" else 0.5
    site = Recordings(tmp_path)
    assert site.cut("gate", [at(end + 0.4)]) == [None]
    passes = len(opened)
    assert passes >= 1
    assert site.cut("gate", [at(end + 0.4)]) == site.cut("gate", [at(end + 0.2)]) == [None]
    assert len(opened) == passes
    assert numbers(site.cut("gate", [at(end), at(end + 0.4)])) == [5, None]
    write(path, shades(20), rate=10)  # it has grown
    assert numbers(site.cut("gate", [at(0.9)])) == [9]


def test_the_ends_of_recordings_are_remembered_of_the_latest_only(
    tmp_path: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recordings, "MAX_ENDS", 2)
    (tmp_path / "gate").mkdir()
    for second in (0, 10, 20):
        write(tmp_path / "gate" / f"2026-05-04T09-30-{second:02}Z.mp4", shades(5), rate=10)
    site = Recordings(tmp_path)
    for second in (0, 10, 20):
        assert site.cut("gate", [at(second + 0.8)]) == [None]
    passes = len(opened)
    assert site.cut("gate", [at(10.8), at(20.8)]) == [None, None]
    assert len(opened) == passes
    assert site.cut("gate", [at(0.8)]) == [None]
    assert len(opened) > passes


def test_nothing_more_is_read_after_the_end(site: Path) -> None:
    ended = threading.Event()
    assert numbers(Recordings(site).cut("gate", [at(0), at(2)], ended)) == [0, 0]
    ended.set()
    assert Recordings(site).cut("gate", [at(0), at(2)], ended) == [None, None]
