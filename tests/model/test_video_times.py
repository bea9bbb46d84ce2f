"""The time of a frame is its own timestamp, counted from the first shown frame."""

from pathlib import Path

import numpy as np
import pytest

from model.video import VideoFrame, open_video
from tests.videos import figure, write

STEPS = [np.full((64, 64, 3), 20 + 20 * index, np.uint8) for index in range(10)]
TOLERANCE = 0.05


def read(path: Path) -> list[VideoFrame]:
    with open_video(path, threads=1) as video:
        frames = list(video.read_all())
    assert [frame.index for frame in frames] == list(range(len(frames)))
    return frames


def levels(frames: list[VideoFrame]) -> list[int]:
    found = []
    for frame in frames:
        assert isinstance(frame.pixels, np.ndarray)
        found.append(round((float(frame.pixels.mean()) - 20) / 20))
    return found


def check_times(path: Path, milliseconds: list[int]) -> None:
    frames = read(path)
    assert levels(frames) == list(range(len(milliseconds)))
    expected = [(time - milliseconds[0]) / 1000 for time in milliseconds]
    assert [frame.time for frame in frames] == pytest.approx(expected, abs=TOLERANCE)


PAUSE = [0, 100, 200, 300, 30_400, 30_500, 30_600, 90_000, 90_050, 90_300]


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "mov"])
@pytest.mark.parametrize("bframes", ["0", "3"])
def test_variable_rate_and_pauses(suffix: str, bframes: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"v.{suffix}", STEPS, times=PAUSE, options={"bf": bframes})
    check_times(path, PAUSE)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
@pytest.mark.parametrize("start", [-400, 7_000])
def test_start_offset_does_not_count(suffix: str, start: int, tmp_path: Path) -> None:
    times = [start + 100 * index for index in range(10)]
    muxer = {"avoid_negative_ts": "disabled", "use_editlist": "1"} if suffix == "mp4" else {}
    path = write(tmp_path / f"v.{suffix}", STEPS, times=times, options={"bf": "2"}, muxer=muxer)
    frames = read(path)
    shown = levels(frames)  # an MP4 file shows nothing before time 0
    assert shown == list(range(shown[0], 10))
    expected = [0.1 * (level - shown[0]) for level in shown]
    assert [frame.time for frame in frames] == pytest.approx(expected, abs=TOLERANCE)


def test_transport_stream_whose_clock_wraps(tmp_path: Path) -> None:
    before_the_wrap = 2**33 * 1000 // 90_000 - 500
    times = [before_the_wrap + 100 * index for index in range(10)]
    path = write(tmp_path / "v.ts", STEPS, times=times, options={"bf": "0"}, muxer={"muxdelay": "0"})
    check_times(path, times)


@pytest.mark.parametrize("second", [0, 40_000])
def test_times_go_on_where_the_clock_of_joined_recordings_begins_again(second: int, tmp_path: Path) -> None:
    starts = (50_000, second)
    parts = [
        write(tmp_path / f"{start}.ts", STEPS, times=range(start, start + 1000, 100), options={"bf": "2"})
        for start in starts
    ]
    path = tmp_path / "both.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    frames = read(path)
    assert [frame.time for frame in frames] == pytest.approx([index / 10 for index in range(20)], abs=TOLERANCE)


def test_avi_has_no_timestamps_and_counts_in_the_order_of_showing(tmp_path: Path) -> None:
    path = write(tmp_path / "v.avi", STEPS, options={"bf": "3"}, rate=10)
    check_times(path, [100 * index for index in range(10)])


def test_edit_list_hides_frames_and_moves_the_start(tmp_path: Path) -> None:
    """The edit list of an MP4 file says that the film begins at its fourth frame."""
    coded = write(tmp_path / "v.mp4", STEPS, options={"bf": "0", "g": "1"}, times=[100 * index for index in range(10)])
    data = coded.read_bytes()
    at = data.index(b"elst")
    entry = at + 4 + 8  # after version, flags and the number of entries: duration, media time, rate
    scale = int.from_bytes(data[data.index(b"mdhd") + 16 : data.index(b"mdhd") + 20], "big")
    coded.write_bytes(data[: entry + 4] + (3 * scale // 10).to_bytes(4, "big") + data[entry + 8 :])
    frames = read(coded)
    assert levels(frames) == list(range(3, 10))
    assert [frame.time for frame in frames] == pytest.approx([0.1 * index for index in range(7)], abs=TOLERANCE)


def test_wanted_frames_have_the_same_times(tmp_path: Path) -> None:
    path = write(tmp_path / "v.mp4", STEPS, times=PAUSE)
    with open_video(path) as video:
        assert [frame.time for frame in video.read([2, 7])] == pytest.approx([0.2, 90.0], abs=TOLERANCE)


def test_bytes_after_the_end_are_ignored(tmp_path: Path) -> None:
    path = write(tmp_path / "v.mkv", STEPS)
    path.write_bytes(path.read_bytes() + figure().tobytes())
    assert len(read(path)) == 10
