"""Videos: only the frames that are needed leave the decoder, one at a time; memory does not grow with the video."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from model.frames import FrameError, check_size
from service.containers import find_container, is_complete
from service.problems import Problem
from service.settings import Settings

__all__ = ["VideoEnd", "check_video", "read_frames"]

# OpenCV reads this whenever it opens a file. The container was looked at before; this holds for what it refers to too.
os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = (
    "protocol_whitelist;file|format_whitelist;mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi"
)
# The decoder writes what it thinks of a damaged file to standard error, past the service's log.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")


class VideoEnd(Exception):  # noqa: N818 - not an error by itself
    """The video ended after `frames` frames, before all the wanted ones; `damaged` says that there should be more."""

    def __init__(self, frames: int, *, damaged: bool) -> None:
        super().__init__(f"the video has {frames} frames")
        self.frames = frames
        self.damaged = damaged


def check_video(path: Path) -> None:
    """Look at the file's structure without decoding anything.

    Raises:
        Problem: 415 for another kind of file, 422 for one that is cut short.
    """
    container = find_container(path)
    if container is None:
        raise Problem.of_field("video", "the content is neither MP4, Matroska nor AVI", "unsupported-content")
    if not is_complete(path, container):
        raise Problem.of_field("video", "the file is truncated", "unusable-frames")


def read_frames(path: Path, wanted: Sequence[int] | None, settings: Settings) -> Iterator[NDArray[np.uint8]]:
    """Decode a video in one pass and yield its frames, BGR `uint8 [height, width, 3]`.

    Args:
        path: a file that passed `check_video`.
        wanted: 0-based indices in rising order, one frame is yielded for each; `None` yields every frame.
        settings: the limits.

    Raises:
        Problem: 413 for frames that are too many or too large, 422 for a video that cannot be decoded.
        VideoEnd: a wanted frame lies behind the end.
    """
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    try:
        if not capture.isOpened():
            raise Problem.of_field("video", "no video stream in it can be decoded", "unusable-frames")
        # Both are what the file declares: nothing has been decoded for the caller yet.
        _check_frame_size(capture.get(cv2.CAP_PROP_FRAME_WIDTH), capture.get(cv2.CAP_PROP_FRAME_HEIGHT), settings)
        declared = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        if wanted is None:
            yield from _read_all(capture, declared, settings)
        else:
            yield from _read_wanted(capture, declared, wanted, settings)
    finally:
        capture.release()


def _read_all(capture: cv2.VideoCapture, declared: int, settings: Settings) -> Iterator[NDArray[np.uint8]]:
    limit = settings.max_frames
    if declared > limit:
        raise Problem.of_field("video", f"{declared} frames, at most {limit} are allowed", "too-large")
    count = 0
    while (frame := _next(capture, settings)) is not None:
        count += 1
        if count > limit:
            raise Problem.of_field("video", f"over {limit} frames", "too-large")
        yield frame
    if not count:
        raise Problem.of_field("video", "no frame of it can be decoded", "unusable-frames")


def _read_wanted(
    capture: cv2.VideoCapture, declared: int, wanted: Sequence[int], settings: Settings
) -> Iterator[NDArray[np.uint8]]:
    at = 0  # frames behind us
    for index in wanted:
        while at < index:
            if not capture.grab():
                raise VideoEnd(at, damaged=index < declared)
            at += 1
        frame = _next(capture, settings)
        if frame is None:
            raise VideoEnd(at, damaged=index < declared)
        at += 1
        yield frame


def _next(capture: cv2.VideoCapture, settings: Settings) -> NDArray[np.uint8] | None:
    """The next frame, or None at the end. A stream may change its size on the way, so that each frame is checked."""
    found, frame = capture.read()
    if not found:
        return None
    height, width = frame.shape[:2]
    _check_frame_size(width, height, settings)
    return np.asarray(frame, dtype=np.uint8)


def _check_frame_size(width: float, height: float, settings: Settings) -> None:
    try:
        check_size(int(width), int(height), settings.frame_limits)
    except FrameError as error:
        kind = "too-large" if error.status == "too_large" else "unusable-frames"
        raise Problem.of_field("video", error.reason, kind) from None
