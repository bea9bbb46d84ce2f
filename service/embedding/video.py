"""Videos: only the frames that are needed leave the decoder, one at a time; memory does not grow with the video.

What is damaged inside an otherwise whole file is not detected: the decoder conceals it with what it has of the frames
before, and reports such frames as good ones. Its option `err_detect` makes no difference through OpenCV.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from model.containers import find_container, is_complete
from model.frames import FrameError, check_size
from service.http.problems import Problem
from service.settings import Settings

# OpenCV reads this whenever it opens a file. The container was looked at before; this holds for what it refers to too.
os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = (
    "protocol_whitelist;file|format_whitelist;mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi"
)
# The decoder writes what it thinks of a damaged file to standard error, past the service's log.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")


class VideoEnd(Exception):
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


def count_frames(path: Path, settings: Settings) -> int:
    """Count a video's frames in a pass of its own that takes no picture out of the decoder.

    What the file declares is a guess in some containers and the client's word in all, so nothing is chosen by it.

    Raises:
        Problem: as `read_frames` of all frames.
    """
    with _open(path, settings) as reader:
        return reader.count()


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
    with _open(path, settings) as reader:
        yield from reader.read_all() if wanted is None else reader.read_wanted(wanted)


@contextmanager
def _open(path: Path, settings: Settings) -> Iterator["_Reader"]:
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    try:
        if not capture.isOpened():
            raise Problem.of_field("video", "no video stream in it can be decoded", "unusable-frames")
        yield _Reader(capture, settings)
    finally:
        capture.release()


class _Reader:
    """One pass over an opened video. What the file declares is held against the limits before anything is decoded."""

    def __init__(self, capture: cv2.VideoCapture, settings: Settings) -> None:
        self._capture, self._settings = capture, settings
        self._declared = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        width, height = capture.get(cv2.CAP_PROP_FRAME_WIDTH), capture.get(cv2.CAP_PROP_FRAME_HEIGHT)
        self._check_size(width, height)
        self._affordable = settings.max_request_pixels // max(1, int(width * height))
        self._at = 0  # frames behind us

    def read_all(self) -> Iterator[NDArray[np.uint8]]:
        self._check_declared()
        while (frame := self._next()) is not None:
            self._check_passed()
            yield frame
        self._check_end()

    def count(self) -> int:
        self._check_declared()
        while self._capture.grab():
            self._at += 1
            self._check_passed()
        self._check_end()
        return self._at

    def read_wanted(self, wanted: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
        if wanted[-1] >= self._affordable:
            reason = f"frame {wanted[-1]}: only the first {self._affordable} frames of this size are read"
            raise Problem.of_field("video", reason, "too-large")
        for index in wanted:
            while self._at < index and self._capture.grab():
                self._at += 1
            frame = self._next() if self._at == index else None
            if frame is None:
                raise VideoEnd(self._at, damaged=index < self._declared)
            yield frame

    @property
    def _limit(self) -> int:
        return min(self._settings.max_frames, self._affordable)

    def _check_declared(self) -> None:
        if self._declared > self._limit:
            reason = f"{self._declared} frames, at most {self._limit} of this size"
            raise Problem.of_field("video", reason, "too-large")

    def _check_passed(self) -> None:
        if self._at > self._limit:
            raise Problem.of_field("video", f"over {self._limit} frames", "too-large")

    def _check_end(self) -> None:
        if not self._at:
            raise Problem.of_field("video", "no frame of it can be decoded", "unusable-frames")

    def _next(self) -> NDArray[np.uint8] | None:
        """The next frame, or None at the end. A stream may change its size on the way, so that each is checked."""
        found, frame = self._capture.read()
        if not found:
            return None
        self._at += 1
        height, width = frame.shape[:2]
        self._check_size(width, height)
        return np.asarray(frame, dtype=np.uint8)

    def _check_size(self, width: float, height: float) -> None:
        try:
            check_size(int(width), int(height), self._settings.frame_limits)
        except FrameError as error:
            kind = "too-large" if error.status == "too_large" else "unusable-frames"
            raise Problem.of_field("video", error.reason, kind) from None
