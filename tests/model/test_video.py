from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.stream import Disposition

from model.frames import FrameLimits
from model.video import (
    UNLIMITED,
    Container,
    VideoEnd,
    VideoError,
    VideoFrame,
    VideoLimits,
    check_video,
    find_container,
    open_video,
)
from tests.service.pictures import draw, encode, write_video
from tests.videos import figure, write

KINDS: list[tuple[str, str, Container]] = [
    ("v.mp4", "mp4v", "mp4"),
    ("v.mkv", "mp4v", "matroska"),
    ("v.avi", "MJPG", "avi"),
]


def grey(level: int, height: int = 64, width: int = 64) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.full((height, width, 3), level, np.uint8)


@pytest.fixture
def steps(tmp_path: Path) -> Path:
    """Ten frames, each 20 levels brighter than the one before."""
    write_video(tmp_path / "steps.avi", [grey(20 * level) for level in range(10)], "MJPG")
    return tmp_path / "steps.avi"


def limits(max_pixels: int = 10**9, max_frames: int = 10**6, max_frame_pixels: int = 10**6) -> VideoLimits:
    return VideoLimits(FrameLimits(max_pixels=max_frame_pixels), max_frames, max_pixels)


def levels(path: Path, wanted: list[int] | None, limits: VideoLimits = UNLIMITED) -> list[int]:
    with open_video(path, limits) as video:
        frames = video.read_all() if wanted is None else video.read(wanted)
        return [round(float(pixels(frame).mean()) / 20) for frame in frames]


def pixels(frame: VideoFrame) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    assert isinstance(frame.pixels, np.ndarray), frame.pixels
    return frame.pixels


def truncated(path: Path) -> bool:
    """Whether `check_video` refuses the file as truncated; any other error is raised."""
    try:
        check_video(path)
    except VideoError as error:
        if error.reason != "the file is truncated":
            raise
        return error.kind == "unusable"
    return False


def test_all_frames_come_in_order(steps: Path) -> None:
    assert levels(steps, None) == list(range(10))


def test_only_the_wanted_frames_come(steps: Path) -> None:
    assert levels(steps, [0, 3, 4, 9]) == [0, 3, 4, 9]


def test_frames_are_counted(steps: Path) -> None:
    with open_video(steps, threads=1) as video:
        assert (video.count(), video.declared_frames, video.frame_rate) == (10, 10, 10)


def test_frames_are_rgb(tmp_path: Path) -> None:
    frame = grey(0)
    frame[..., 0] = 200
    write_video(tmp_path / "red.avi", [frame], "MJPG")
    with open_video(tmp_path / "red.avi") as video:
        (found,) = video.read_all()
    np.testing.assert_allclose(pixels(found).mean(axis=(0, 1)), (200, 0, 0), atol=6)


def test_wanted_frame_after_the_end_is_an_error(steps: Path) -> None:
    with open_video(steps) as video:
        frames = video.read([9, 10])
        assert pixels(next(frames)).mean() == pytest.approx(180, abs=3)
        with pytest.raises(VideoEnd) as end:
            next(frames)
    assert (end.value.frames, end.value.wanted) == (10, 10)
    assert not end.value.damaged


@pytest.mark.parametrize("too_small", [limits(max_frames=9), limits(max_frame_pixels=64 * 64 - 1)])
def test_too_many_or_too_large_frames_are_refused_before_the_first(steps: Path, too_small: VideoLimits) -> None:
    with pytest.raises(VideoError) as error, open_video(steps, too_small) as video:
        next(video.read_all())
    assert error.value.kind == "too_large"


def test_too_many_frames_are_refused_before_counting(steps: Path) -> None:
    with pytest.raises(VideoError, match="10 frames, at most 9") as error, open_video(steps, limits(max_frames=9)) as v:
        v.count()
    assert error.value.kind == "too_large"


@pytest.mark.parametrize("suffix", ["mkv", "ts"])
def test_a_duration_that_implies_too_many_frames_is_compared_with_the_file(suffix: str, tmp_path: Path) -> None:
    times = [*range(0, 40, 2), *range(1000, 11_000, 1000)]  # the first ones promise 500 frames per second
    figures = [figure(shift=index) for index in range(len(times))]
    path = write(tmp_path / f"v.{suffix}", figures, times=times, options={"bf": "0"})
    pause = write(tmp_path / f"pause.{suffix}", figures[:6], times=[0, 10, 20, 30, 40, 3_600_000], options={"bf": "0"})
    for each, frames in ((path, 30), (pause, 6)):
        with open_video(each, limits(max_frames=30)) as video:
            assert video.count() == frames
        with open_video(each, limits(max_frames=30)) as video:
            assert len(list(video.read_all())) == frames
    with open_video(path, limits(max_frames=29)) as video, pytest.raises(VideoError, match="30 frames, at most 29"):
        video.count()


def test_pixels_of_all_frames_are_limited(steps: Path) -> None:
    five = limits(max_pixels=5 * 64 * 64)
    assert levels(steps, [0, 4], five) == [0, 4]
    for wanted in (None, [5]):
        with pytest.raises(VideoError) as error:
            levels(steps, wanted, five)
        assert error.value.kind == "too_large"


def test_playlist_is_not_followed(tmp_path: Path, steps: Path) -> None:
    playlist = tmp_path / "list.mp4"
    playlist.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{steps}\n#EXT-X-ENDLIST\n")
    with pytest.raises(VideoError) as error:
        check_video(playlist)
    assert error.value.kind == "unsupported"
    with pytest.raises(VideoError) as error:
        levels(playlist, None)
    assert error.value.kind == "unsupported"


def test_container_without_a_video_stream_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "empty.mp4"
    path.write_bytes(b"\0\0\0\x10ftypisom\0\0\0\0\0\0\0\x10mdat" + b"\0" * 8)
    check_video(path)
    with pytest.raises(VideoError) as error:
        levels(path, None)
    assert error.value.kind == "unusable"


@pytest.mark.parametrize(("name", "codec", "container"), KINDS)
def test_real_videos_are_known_and_complete(name: str, codec: str, container: Container, tmp_path: Path) -> None:
    write_video(tmp_path / name, [draw(1, seed) for seed in range(10)], codec)
    assert find_container(tmp_path / name) == container
    assert not truncated(tmp_path / name)


@pytest.mark.parametrize(("name", "codec", "container"), KINDS)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.99])
def test_truncated_video_is_refused(name: str, codec: str, container: Container, share: float, tmp_path: Path) -> None:
    data = write_video(tmp_path / name, [draw(1, seed) for seed in range(10)], codec)
    (tmp_path / name).write_bytes(data[: int(len(data) * share)])
    assert find_container(tmp_path / name) == container
    assert truncated(tmp_path / name)


def test_transport_stream_that_begins_inside_a_text_is_no_quicktime(tmp_path: Path) -> None:
    path = tmp_path / "video.ts"
    path.write_bytes((b"\x47\1\0\x12skip=1 chroma_me=1").ljust(188, b" ") + (b"\x47" + bytes(187)) * 5)
    assert find_container(path) == "mpegts"


def test_stream_whose_headers_are_missing_says_so(tmp_path: Path) -> None:
    path = write(tmp_path / "v.ts", [figure(shift=index) for index in range(12)], options={"g": "100"})
    data = path.read_bytes()
    path.write_bytes(data[len(data) // 188 // 2 * 188 :])
    with pytest.raises(VideoError, match="the start of the video is missing") as error, open_video(path):
        pass
    assert error.value.kind == "unusable"


@pytest.mark.parametrize("data", [b"", b"\x00", b"#EXTM3U\n", b"ffconcat version 1.0\n", b"RIFF\0\0\0\0WAVEfmt "])
def test_other_files_are_not_videos(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    path.write_bytes(data)
    assert find_container(path) is None
    with pytest.raises(VideoError, match="neither MP4, QuickTime, Matroska") as error:
        check_video(path)
    assert error.value.kind == "unsupported"


@pytest.mark.parametrize(
    "data",
    [
        b"\0\0\0\x08ftyp\0\0\0",  # a header of which one byte is missing
        b"\0\0\0\x10ftypisom\0\0\0\0" + b"\0\0\0\x01mdat" + b"\xff" * 8,
        b"\x1a\x45\xdf\xa3",
    ],
)
def test_damaged_structure_is_truncated(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "video"
    path.write_bytes(data)
    assert truncated(path)


@pytest.mark.parametrize(
    "data",
    [
        b"\0\0\0\x10ftypisom\0\0\0\0" + b"\0\0\0\0mdat" + b"x" * 100,
        b"\x1a\x45\xdf\xa3\x80" + b"\x18\x53\x80\x67\x01" + b"\xff" * 7 + b"x" * 100,
    ],
)
def test_part_without_a_declared_length_counts_as_complete(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "video"
    path.write_bytes(data)
    assert not truncated(path)


def write_cover(path: Path, *, moving: bool, audio: bool = False) -> Path:
    """Write a file with a cover picture; it may also have a video of two frames and a sound."""
    with av.open(path, "w") as container:
        if path.suffix == ".mkv":
            container.add_attachment("cover.jpg", "image/jpeg", encode(grey(20, 32, 32), ".jpg"))
            cover: Any = None
        else:
            cover = container.add_stream("mjpeg", rate=1)
            cover.width, cover.height, cover.pix_fmt = 32, 32, "yuvj420p"
            cover.disposition = Disposition.attached_pic
        film: Any = container.add_stream("libx264", rate=10) if moving else None
        if film:
            film.width, film.height, film.pix_fmt = 64, 64, "yuv420p"
        sound: Any = container.add_stream("aac", rate=48_000, layout="mono") if audio else None
        if cover:
            container.mux(cover.encode(av.VideoFrame.from_ndarray(grey(20, 32, 32), format="rgb24")))
            container.mux(cover.encode(None))
        if film:
            for level in (100, 200):
                container.mux(film.encode(av.VideoFrame.from_ndarray(grey(level), format="rgb24")))
            container.mux(film.encode(None))
        if sound:
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            silence.sample_rate = 48_000
            container.mux(sound.encode(silence))
            container.mux(sound.encode(None))
    return path


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv"])
@pytest.mark.parametrize("audio", [False, True])
def test_cover_picture_is_not_the_video(suffix: str, audio: bool, tmp_path: Path) -> None:
    assert levels(write_cover(tmp_path / f"v.{suffix}", moving=True, audio=audio), None) == [5, 10]


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_sound_with_a_cover_picture_is_refused(suffix: str, tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="only a still picture") as error:
        levels(write_cover(tmp_path / f"v.{suffix}", moving=False, audio=True), None)
    assert error.value.kind == "unusable"


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi", "ts"])
def test_sound_alone_is_refused_by_name(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"v.{suffix}"
    with av.open(path, "w") as container:
        sound: Any = container.add_stream("mp2" if suffix == "ts" else "aac", rate=48_000, layout="mono")
        for _ in range(8):
            wave = np.zeros((1, sound.codec_context.frame_size or 1024), np.float32)
            silence = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
            silence.sample_rate = 48_000
            container.mux(sound.encode(silence))
        container.mux(sound.encode(None))
    with pytest.raises(VideoError, match="sound and no video") as error:
        levels(path, None)
    assert error.value.kind == "unusable"


@pytest.mark.parametrize("marked", [0, 1])
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_of_several_videos_the_one_that_players_show_is_read(suffix: str, marked: int, tmp_path: Path) -> None:
    path = tmp_path / f"v.{suffix}"
    with av.open(path, "w") as container:
        films: list[Any] = [container.add_stream("libx264", rate=10) for _ in range(2)]
        for number, film in enumerate(films):
            film.width, film.height, film.pix_fmt = 64, 64, "yuv420p"
            film.disposition = Disposition.default if number == marked else Disposition(0)
        for level, film in zip((100, 200), films, strict=True):
            container.mux(film.encode(av.VideoFrame.from_ndarray(grey(level), format="rgb24")))
            container.mux(film.encode(None))
    assert levels(path, None) == [10 if marked else 5]
