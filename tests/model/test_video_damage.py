"""Damage costs the frames that it touches; all others keep their index, their time and their pixels."""

import random
from pathlib import Path

import av
import numpy as np
import pytest

from model.frames import FrameError
from model.video import VideoFrame, open_video
from tests.videos import Picture, figure, remux, write

GROUP = 10
COUNT = 40
PICTURES = [figure(144, 176, shift=2 * index) for index in range(COUNT)]


def read(path: Path) -> list[VideoFrame]:
    with open_video(path, threads=1) as video:
        return list(video.read_all())


def noise(count: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(count)


def check(path: Path, damaged: range, clean: list[VideoFrame]) -> None:
    """Only frames in `damaged` may be missing, and at least one of them is."""
    found = read(path)
    assert [frame.index for frame in found] == list(range(COUNT))
    assert [frame.time for frame in found] == pytest.approx([frame.time for frame in clean], abs=0.01)
    missing = [frame.index for frame in found if isinstance(frame.pixels, FrameError)]
    assert missing
    assert set(missing) <= set(damaged)
    for frame, whole in zip(found, clean, strict=True):
        if not isinstance(frame.pixels, FrameError):
            assert difference(frame.pixels, whole.pixels) < 2, frame.index


def difference(one: object, other: object) -> float:
    assert isinstance(one, np.ndarray)
    assert isinstance(other, np.ndarray)
    return float(np.abs(one.astype(float) - other).mean())


H264 = {"g": str(GROUP), "sc_threshold": "0", "preset": "veryfast", "x264-params": "open-gop=0"}
KINDS = [
    ("libx264", "mp4", {**H264, "bf": "0"}),
    ("libx264", "mkv", {**H264, "bf": "3"}),
    ("libx264", "ts", {**H264, "bf": "3"}),
    ("libx264", "avi", {**H264, "bf": "2"}),
    ("mpeg4", "avi", {"g": str(GROUP), "b": "2M"}),
]


def make(codec: str, suffix: str, options: dict[str, str], folder: Path) -> Path:
    return write(folder / f"whole.{suffix}", PICTURES, codec, options=options, rate=25)


@pytest.mark.parametrize("place", [0.2, 0.6])
@pytest.mark.parametrize(("codec", "suffix", "options"), KINDS)
def test_damaged_packets_cost_only_their_group_of_pictures(
    codec: str, suffix: str, options: dict[str, str], place: float, tmp_path: Path
) -> None:
    whole = make(codec, suffix, options, tmp_path)
    clean = read(whole)
    assert len(clean) == COUNT
    hit = int(COUNT * place) + 3

    def spoil(number: int, data: bytes) -> bytes | None:
        return data[:12] + noise(len(data) - 12) if number == hit else None

    broken = remux(whole, tmp_path / f"broken.{suffix}", spoil)
    group = hit // GROUP * GROUP
    check(broken, range(group, group + GROUP), clean)


def test_packets_that_the_container_has_lost_do_not_shift_later_frames(tmp_path: Path) -> None:
    whole = make("libx264", "ts", {**H264, "bf": "0"}, tmp_path)
    clean = read(whole)
    data = bytearray(whole.read_bytes())
    packets = len(data) // 188
    start = packets // 3 * 188
    del data[start : start + 188 * (packets // 6)]  # a sixth of the file, as on a lossy link
    broken = tmp_path / "broken.ts"
    broken.write_bytes(data)
    found = read(broken)
    assert [frame.index for frame in found] == list(range(COUNT))
    for frame, other in zip(found, clean, strict=True):
        assert frame.time == pytest.approx(other.time, abs=0.01)
        if not isinstance(frame.pixels, FrameError):
            assert difference(frame.pixels, other.pixels) < 2
    assert any(isinstance(frame.pixels, FrameError) for frame in found)
    assert not isinstance(found[-1].pixels, FrameError)


def test_recording_that_begins_between_key_frames_begins_with_the_first_of_them(tmp_path: Path) -> None:
    """FFmpeg and OpenCV show nothing before it, so trackers count from there."""
    whole = make("libx264", "ts", {**H264, "bf": "2"}, tmp_path)
    data = whole.read_bytes()
    path = tmp_path / "cut.ts"
    path.write_bytes(data[len(data) // 188 // 3 * 188 :])
    check_cut(read(path), read(whole)[-2 * GROUP :])


def test_frames_that_a_decoder_predicts_from_nothing_are_refused(tmp_path: Path) -> None:
    """FFmpeg and OpenCV show them, so they count."""
    whole = make("mpeg4", "ts", {"g": str(GROUP), "b": "2M"}, tmp_path)
    path = copy_from(whole, GROUP + 3, tmp_path / "cut.ts")
    found, clean = read(path), read(whole)[GROUP + 3 :]
    assert [frame.index for frame in found] == list(range(len(clean)))
    assert [isinstance(frame.pixels, FrameError) for frame in found] == [
        index < GROUP - 3 for index in range(len(clean))
    ]
    for frame, other in list(zip(found, clean, strict=True))[GROUP - 3 :]:
        assert difference(frame.pixels, other.pixels) < 2


@pytest.mark.parametrize("suffix", ["mkv", "mp4", "ts"])
@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_pictures_that_are_predicted_from_before_the_cut_cost_no_later_one(
    codec: str, suffix: str, tmp_path: Path
) -> None:
    x264 = {"bf": "2", "x264-params": "open-gop=1:scenecut=0:b-adapt=0:keyint=6:min-keyint=6:repeat-headers=1"}
    x265 = {"x265-params": "open-gop=1:keyint=6:min-keyint=6:scenecut=0:bframes=2:b-adapt=0:log-level=none"}
    options = x264 if codec == "libx264" else x265
    whole = write(tmp_path / "whole.mkv", PICTURES[:24], codec, options=options, rate=25)
    clean = read(whole)
    with av.open(whole) as source:
        packets = [(packet.pts, packet.is_keyframe) for packet in source.demux(video=0) if packet.size]
    second = [number for number, (_, is_key) in enumerate(packets) if is_key][1]
    shown = sum(time < packets[second][0] for time, _ in packets)
    assert shown > second  # the second group shows pictures before its key frame
    path = copy_from(whole, second, tmp_path / f"cut.{suffix}")
    check_cut(read(path), clean[shown:])


def copy_from(whole: Path, first: int, path: Path) -> Path:
    """Copy the packets of a video from this one on."""
    with av.open(whole) as source, av.open(path, "w") as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        for packet in [packet for packet in source.demux(video=0) if packet.size][first:]:
            packet.stream = stream
            container.mux(packet)
    return path


def check_cut(found: list[VideoFrame], expected: list[VideoFrame]) -> None:
    """All these frames are there, counted and timed from the first of them."""
    assert [frame.index for frame in found] == list(range(len(expected)))
    times = [frame.time - expected[0].time for frame in expected]
    assert [frame.time for frame in found] == pytest.approx(times, abs=0.01)
    for frame, whole in zip(found, expected, strict=True):
        assert difference(frame.pixels, whole.pixels) < 2


def test_damaged_picture_of_a_film_of_pictures_costs_one_frame(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.avi", PICTURES, "mjpeg", "yuvj420p", rate=25)
    clean = read(whole)
    broken = remux(whole, tmp_path / "broken.avi", lambda number, data: data[: len(data) // 3] if number == 7 else None)
    check(broken, range(7, 8), clean)


def test_missing_frame_says_why(tmp_path: Path) -> None:
    whole = make("libx264", "mp4", {**H264, "bf": "0"}, tmp_path)
    broken = remux(whole, tmp_path / "b.mp4", lambda number, data: noise(len(data)) if number == 15 else None)
    with open_video(broken) as video:
        frames = list(video.read([3, 15, 25]))
    first, middle, last = (frame.pixels for frame in frames)
    assert isinstance(middle, FrameError)
    assert middle.reason == "frame 15 of the video cannot be decoded: the video is damaged here"
    assert _is_picture(first)
    assert _is_picture(last)


def _is_picture(found: Picture | FrameError) -> bool:
    return isinstance(found, np.ndarray)
