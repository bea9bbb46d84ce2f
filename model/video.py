"""Read video files: find the container, count the frames, and decode them one at a time.

Memory does not grow with the length of the video. Damage inside a complete file is not detected: the decoder fills the
missing parts from earlier frames and reports no error. Its option `err_detect` has no effect when OpenCV calls it.
"""

import os
import struct
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from model.errors import Not3dError
from model.frames import FrameError, FrameLimits, check_size

# FFmpeg also opens playlists, which name other files and addresses. This variable, which OpenCV reads whenever it opens
# a file, forbids such formats, inside a video too.
os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = (
    "protocol_whitelist;file|format_whitelist;mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi"
)
# Otherwise the decoder writes messages about damaged files to standard error instead of the service's log.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

Container = Literal["mp4", "matroska", "avi"]
VideoErrorKind = Literal["unsupported", "unusable", "too_large"]

_EBML = b"\x1a\x45\xdf\xa3"
_SEGMENT = b"\x18\x53\x80\x67"
_MAX_ATOMS = 10_000
"""Limit for the top level of an MP4 file; fragmented recordings have about two atoms per second."""


class VideoError(Not3dError):
    """A video that cannot be used: `kind` for programs, `reason` for people."""

    def __init__(self, kind: VideoErrorKind, reason: str) -> None:
        super().__init__(reason)
        self.kind: Final[VideoErrorKind] = kind
        self.reason = reason


class VideoEnd(VideoError):
    """The video ended after `frames` frames, before the frame `wanted` (0-based).

    `damaged` is true if the frame is missing although the file declares it.
    """

    def __init__(self, frames: int, wanted: int, *, damaged: bool) -> None:
        super().__init__("unusable", f"the video ends after {frames} frames, before frame {wanted} (counted from 0)")
        self.frames = frames
        self.wanted = wanted
        self.damaged = damaged


@dataclass(frozen=True)
class VideoLimits:
    """Limits for one video.

    `frame` applies to each frame, `max_frames` when all frames are read or counted, and `max_pixels` to all frames that
    are decoded together (frames x width x height).
    """

    frame: FrameLimits
    max_frames: int
    max_pixels: int


UNLIMITED = VideoLimits(FrameLimits(max_pixels=sys.maxsize, max_side=sys.maxsize, min_side=0), sys.maxsize, sys.maxsize)
"""For files that the user of the command line chose."""


def check_video(path: Path) -> None:
    """Check the structure of a file without decoding it.

    Raises:
        VideoError: `unsupported` for another kind of file, `unusable` for a truncated one.
    """
    if not _is_complete(path, _require_container(path)):
        raise VideoError("unusable", "the file is truncated")


@contextmanager
def open_video(path: Path, limits: VideoLimits = UNLIMITED, *, threads: int | None = None) -> Iterator["Video"]:
    """Open a video for one pass.

    Args:
        path: the file; its content decides what it is, not its name.
        limits: applied to what the file declares before anything is decoded, and to what is really decoded.
        threads: number of decoder threads, by default one for each CPU.

    Raises:
        VideoError: not a supported container, no video stream, or over a limit.
    """
    _require_container(path)
    parameters = [] if threads is None else [cv2.CAP_PROP_N_THREADS, threads]
    # An absolute path is never taken for a URL.
    capture = cv2.VideoCapture(str(path.resolve()), cv2.CAP_FFMPEG, parameters)
    try:
        if not capture.isOpened():
            raise VideoError("unusable", "the file has no video stream that can be decoded")
        yield Video(capture, limits)
    finally:
        capture.release()


class Video:
    """One pass over an opened video. Frames are RGB `uint8 [height, width, 3]`.

    `frame_rate` is in frames per second, 0 if unknown. `declared_frames` is what the file says, which may be wrong.
    """

    def __init__(self, capture: cv2.VideoCapture, limits: VideoLimits) -> None:
        self._capture, self._limits = capture, limits
        self.frame_rate: Final[float] = capture.get(cv2.CAP_PROP_FPS)
        self.declared_frames: Final = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        width, height = int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
        self._check_size(width, height)
        self._max_decoded = limits.max_pixels // max(1, width * height)
        self._passed = 0

    def count(self) -> int:
        """Count the frames. They pass through the decoder but are not converted to pictures.

        Raises:
            VideoError: as `read_all`.
        """
        self._check_declared()
        while self._capture.grab():
            self._passed += 1
            self._check_passed()
        self._check_not_empty()
        return self._passed

    def read_all(self) -> Iterator[NDArray[np.uint8]]:
        """Decode every frame.

        Raises:
            VideoError: `too_large` for too many or too large frames, `unusable` if no frame can be decoded.
        """
        self._check_declared()
        while (frame := self._read()) is not None:
            self._check_passed()
            yield frame
        self._check_not_empty()

    def read(self, wanted: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
        """Decode some frames. Seeking is not exact in every container, so the decoder reads all frames before them too.

        Args:
            wanted: 0-based indices in rising order; one frame is yielded for each.

        Raises:
            VideoEnd: a wanted frame is after the end, or cannot be decoded.
            VideoError: `too_large`.
        """
        if wanted and wanted[-1] >= self._max_decoded:
            reason = f"frame {wanted[-1]}: only the first {self._max_decoded} frames of this size are read"
            raise VideoError("too_large", reason)
        for index in wanted:
            while self._passed < index and self._capture.grab():
                self._passed += 1
            frame = self._read() if self._passed == index else None
            if frame is None:
                raise VideoEnd(self._passed, index, damaged=index < self.declared_frames)
            yield frame

    @property
    def _max_frames(self) -> int:
        return min(self._limits.max_frames, self._max_decoded)

    def _check_declared(self) -> None:
        if self.declared_frames > self._max_frames:
            reason = f"{self.declared_frames} frames, at most {self._max_frames} of this size are allowed"
            raise VideoError("too_large", reason)

    def _check_passed(self) -> None:
        if self._passed > self._max_frames:
            raise VideoError("too_large", f"more than {self._max_frames} frames")

    def _check_not_empty(self) -> None:
        if not self._passed:
            raise VideoError("unusable", "no frame can be decoded")

    def _read(self) -> NDArray[np.uint8] | None:
        """Return the next frame, or None at the end. A stream may change its size, so each frame is checked."""
        found, frame = self._capture.read()
        if not found:
            return None
        self._passed += 1
        height, width = frame.shape[:2]
        self._check_size(width, height)
        return np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), dtype=np.uint8)

    def _check_size(self, width: int, height: int) -> None:
        try:
            check_size(width, height, self._limits.frame)
        except FrameError as error:
            raise VideoError("too_large" if error.status == "too_large" else "unusable", error.reason) from None


def find_container(path: Path) -> Container | None:
    """Return the container of a video file by its first bytes: MP4, Matroska (mkv, webm) or AVI; otherwise None."""
    with path.open("rb") as file:
        head = file.read(12)
    if head[4:8] == b"ftyp":
        return "mp4"
    if head[:4] == _EBML:
        return "matroska"
    return "avi" if head[:4] == b"RIFF" and head[8:] == b"AVI " else None


def _require_container(path: Path) -> Container:
    if not path.is_file():  # opening a named pipe would wait
        raise VideoError("unusable", "the file does not exist")
    container = find_container(path)
    if container is None:
        raise VideoError("unsupported", "the content is neither MP4, Matroska nor AVI")
    return container


def _is_complete(path: Path, container: Container) -> bool:
    """Return whether the file is as long as its outermost elements say.

    An element that declares no length counts as complete.
    """
    length = path.stat().st_size
    walk = {"mp4": _mp4_ends, "matroska": _matroska_ends, "avi": _avi_ends}[container]
    with path.open("rb") as file:
        try:
            return all(end <= length for end in walk(file, length))
        except struct.error:
            return False


def _mp4_ends(file: BinaryIO, length: int) -> Iterator[int]:
    at = 0
    for _ in range(_MAX_ATOMS):
        if at >= length:
            return
        file.seek(at)
        size, kind = struct.unpack(">I4s", file.read(8))
        if size == 0:  # up to the end of the file
            return
        if size == 1:
            (size,) = struct.unpack(">Q", file.read(8))
        at += max(size, 8)
        yield at
        if kind == b"\0\0\0\0":  # padding that some cameras write
            return
    raise struct.error("the file has too many atoms")


def _avi_ends(file: BinaryIO, length: int) -> Iterator[int]:
    at = 0
    while at + 8 <= length:  # OpenDML files have several RIFF chunks one after the other
        file.seek(at)
        kind, size = struct.unpack("<4sI", file.read(8))
        if kind != b"RIFF" or size == 0:
            return
        at += 8 + size + size % 2
        yield at - size % 2


def _matroska_ends(file: BinaryIO, length: int) -> Iterator[int]:
    at = 0
    while at < length:
        file.seek(at)
        head = file.read(4 + 8)
        if len(head) < 5:
            raise struct.error("the element is cut short")
        width = 9 - head[4].bit_length()
        value = int.from_bytes(head[4 : 4 + width], "big") & ((1 << 7 * width) - 1)
        if head[:4] not in {_EBML, _SEGMENT} or width > 8 or value == (1 << 7 * width) - 1:  # the last: unknown size
            return
        at += 4 + width + value
        yield at
