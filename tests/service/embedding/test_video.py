from pathlib import Path

import cv2
import numpy as np
import pytest

from service.embedding.video import VideoEnd, check_video, read_frames
from service.http.problems import Problem
from service.settings import Settings
from tests.service.pictures import write_video

SETTINGS = Settings()


def grey(level: int, height: int = 64, width: int = 64) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.full((height, width, 3), level, np.uint8)


@pytest.fixture
def steps(tmp_path: Path) -> Path:
    """Ten frames, each 20 levels brighter than the one before."""
    write_video(tmp_path / "steps.avi", [grey(20 * level) for level in range(10)], "MJPG")
    return tmp_path / "steps.avi"


def levels(path: Path, wanted: list[int] | None, settings: Settings = SETTINGS) -> list[int]:
    return [round(float(frame.mean()) / 20) for frame in read_frames(path, wanted, settings)]


def test_all_frames_come_in_order(steps: Path) -> None:
    assert levels(steps, None) == list(range(10))


def test_only_the_wanted_frames_come(steps: Path) -> None:
    assert levels(steps, [0, 3, 4, 9]) == [0, 3, 4, 9]


def test_a_wanted_frame_behind_the_end(steps: Path) -> None:
    frames = read_frames(steps, [9, 10], SETTINGS)
    assert next(frames).mean() == pytest.approx(180, abs=3)
    with pytest.raises(VideoEnd) as end:
        next(frames)
    assert end.value.frames == 10
    assert not end.value.damaged


def test_too_many_frames_are_refused_before_the_first(steps: Path) -> None:
    with pytest.raises(Problem) as problem:
        next(read_frames(steps, None, Settings(max_frames=9)))
    assert problem.value.status == 413


def test_too_many_pixels_are_refused_before_the_first(steps: Path) -> None:
    with pytest.raises(Problem) as problem:
        next(read_frames(steps, None, Settings(max_pixels=64 * 64 - 1)))
    assert problem.value.status == 413
    assert problem.value.errors[0].field == "video"


def test_pixels_of_all_frames_are_bounded(steps: Path) -> None:
    settings = Settings(max_request_pixels=5 * 64 * 64)
    assert levels(steps, [0, 4], settings) == [0, 4]
    for wanted in (None, [5]):
        with pytest.raises(Problem) as problem:
            next(read_frames(steps, wanted, settings))
        assert problem.value.status == 413


def test_a_playlist_is_not_followed(tmp_path: Path, steps: Path) -> None:
    playlist = tmp_path / "list.mp4"
    playlist.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{steps}\n#EXT-X-ENDLIST\n")
    with pytest.raises(Problem) as problem:
        check_video(playlist)
    assert problem.value.status == 415
    # And the decoder itself would not follow it either, were it ever asked.
    assert not cv2.VideoCapture(str(playlist), cv2.CAP_FFMPEG).isOpened()
    with pytest.raises(Problem) as problem:
        next(read_frames(playlist, None, SETTINGS))
    assert problem.value.status == 422


def test_a_truncated_video_is_refused(tmp_path: Path, steps: Path) -> None:
    cut = tmp_path / "cut.avi"
    cut.write_bytes(steps.read_bytes()[:-1000])
    with pytest.raises(Problem) as problem:
        check_video(cut)
    assert problem.value.status == 422
    assert "truncated" in problem.value.detail


def test_a_container_without_a_video_stream(tmp_path: Path) -> None:
    path = tmp_path / "empty.mp4"
    path.write_bytes(b"\0\0\0\x10ftypisom\0\0\0\0\0\0\0\x10mdat" + b"\0" * 8)
    check_video(path)
    with pytest.raises(Problem) as problem:
        next(read_frames(path, None, SETTINGS))
    assert problem.value.status == 422
