"""Read a video: its frames in the order in which they are shown, each with its index and its time."""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from model.frames import FrameError
from model.video.colour import tone_map
from model.video.containers import open_source, require_container
from model.video.limits import UNLIMITED, VideoEnd, VideoError, VideoErrorKind, VideoLimits
from model.video.process import STARTER, Connection, DecoderEnded, Event, SharedMemory

MAX_REASON: Final = 300
REFUSALS: Final[dict[str, VideoErrorKind]] = {"unsupported": "unsupported", "too_large": "too_large"}


@dataclass(frozen=True, eq=False)
class VideoFrame:
    """One frame of a video.

    Attributes:
        index: its place among all frames in the order in which they are shown, from 0; frames that damage has cost
            count too.
        time: seconds since the first shown frame, by the timestamps of the file.
        pixels: RGB `uint8 [height, width, 3]`, or why the frame cannot be used.
    """

    index: int
    time: float
    pixels: NDArray[np.uint8] | FrameError


@contextmanager
def open_video(
    source: Path | BinaryIO,
    limits: VideoLimits = UNLIMITED,
    *,
    threads: int | None = None,
    cancelled: Event | None = None,
) -> Iterator["Video"]:
    """Open a video for one pass, in a process of its own.

    Args:
        source: a path or an open file; its content decides what it is, not its name.
        limits: applied to what the file declares before anything is decoded, and to what is really decoded.
        threads: number of decoder threads, by default one for each CPU.
        cancelled: reading ends within a fraction of a second after this event is set.

    Raises:
        VideoError: not a supported container or codec, no video stream, over a limit, or `cancelled`.
        MissingExtra: PyAV is not installed.
    """
    with open_source(source) as file:
        container = require_container(file)
        with closing(STARTER.fork(cancelled)) as worker:
            frame = limits.frame
            job = {"container": container, "threads": 0 if threads is None else threads, "memory": limits.memory}
            job |= {"seconds": limits.cpu_seconds, "max_pixels": frame.max_pixels, "max_side": frame.max_side}
            job |= {"max_frames": limits.max_frames, "max_decoded_pixels": limits.max_pixels}
            with closing(Video(worker.connection, limits)) as video:
                video.open(job, file.fileno())
                yield video


class Video:
    """One pass over an opened video.

    Attributes:
        frame_rate: average frames per second, 0 if unknown. Use the times of the frames instead.
        declared_frames: number of frames as the file says, or as its duration implies, which may be wrong; 0 if
            unknown. If the duration implies more than the limits allow, it is the number of packets.
        codec: name of the codec.
    """

    def __init__(self, connection: Connection, limits: VideoLimits) -> None:
        self._connection, self._limits = connection, limits
        self.frame_rate = 0.0
        self.declared_frames = 0
        self.codec = ""
        self._max_decoded = 0
        self._memory: SharedMemory | None = None
        self._free: list[int] = []  # slots that were read, for one message

    def open(self, job: dict[str, Any], file: int) -> None:
        """Hand the file to the decoder; `open_video` calls this."""
        try:
            self._connection.send((file,), kind="open", **job)
            message = self._receive()
            self.frame_rate, self.declared_frames = float(message["rate"]), int(message["frames"])
            self.codec = str(message["codec"])[:40]
            width, height = int(message["width"]), int(message["height"])
        except (KeyError, TypeError, ValueError, DecoderEnded):
            raise self._ended() from None
        self._limits.check_frame(width, height)
        self._max_decoded = self._limits.max_pixels // max(1, width * height)

    def close(self) -> None:
        """Release the shared memory."""
        if self._memory is not None:
            self._memory.close()

    def count(self) -> int:
        """Count the frames, also those that damage has cost. They are decoded but not converted to pictures.

        Raises:
            VideoError: as `read_all`.
        """
        self._check_declared()
        frames = 0
        for _ in self._frames(None, pixels=False):
            frames += 1
            self._check_passed(frames)
        return self._check_not_empty(frames)

    def read_all(self) -> Iterator[VideoFrame]:
        """Decode every frame.

        Raises:
            VideoError: `too_large` for too many or too large frames, `unusable` if no frame can be decoded.
        """
        self._check_declared()
        frames = 0
        for frame in self._frames(None):
            frames += 1
            self._check_passed(frames)
            yield frame
        self._check_not_empty(frames)

    def read(self, wanted: Sequence[int]) -> Iterator[VideoFrame]:
        """Decode some frames. Seeking is not exact in every container, so the decoder reads all frames before them too.

        Args:
            wanted: 0-based indices in rising order; one frame is yielded for each.

        Raises:
            VideoEnd: a wanted frame is after the end.
            VideoError: `too_large`.
        """
        if not wanted:
            return
        if wanted[-1] >= self._max_decoded:
            reason = f"frame {wanted[-1]}: only the first {self._max_decoded} frames of this size are read"
            raise VideoError("too_large", reason)
        done = 0
        for frame in self._frames(list(wanted)):
            if done >= len(wanted) or frame.index != wanted[done]:
                raise self._ended()
            done += 1
            yield frame
        if done < len(wanted):
            raise VideoEnd(self._total, wanted[done], damaged=wanted[done] < self.declared_frames)

    def _frames(self, wanted: list[int] | None, *, pixels: bool = True) -> Iterator[VideoFrame]:
        try:
            self._connection.send(kind="read", wanted=wanted, pixels=pixels)
            while True:
                message = self._receive()
                kind = message["kind"]
                if kind == "grow":
                    self._grow(int(message["size"]))
                    continue
                if kind == "end":
                    self._total = int(message["frames"])
                    return
                yield self._frame(kind, message)
        except (KeyError, TypeError, ValueError, IndexError, DecoderEnded):
            raise self._ended() from None

    def _frame(self, kind: str, message: dict[str, Any]) -> VideoFrame:
        index, time = int(message["index"]), float(message["time"])
        if kind == "frame":
            return VideoFrame(index, time, self._pixels(message))
        reason = f"frame {index} of the video cannot be decoded: {str(message.get('reason'))[:MAX_REASON]}"
        return VideoFrame(index, time, FrameError("undecodable", reason))

    def _pixels(self, message: dict[str, Any]) -> NDArray[np.uint8]:
        """Copy a frame out of the shared memory. A stream may change its size, so each frame is checked."""
        width, height, stride, slot = (int(message[name]) for name in ("width", "height", "stride", "slot"))
        self._limits.check_frame(width, height)
        memory = self._memory
        if memory is None or min(width, height) < 1 or stride < 3 * width or stride * height > memory.size:
            raise self._ended()
        if not 0 <= slot < memory.slots:
            raise self._ended()
        shape, strides = (height, width, 3), (stride, 3, 1)
        view = np.ndarray(shape, np.uint8, memory.map, slot * memory.size, strides)
        transfer = message["transfer"]
        # Copied first: the decoder may change the shared memory at any time.
        frame = _turn(view.copy(), message["orientation"])
        self._free.append(slot)
        if 2 * len(self._free) >= memory.slots:
            with suppress(DecoderEnded):  # it may have ended after its last frame; the next message tells
                self._connection.send(kind="free", slots=self._free)
            self._free = []
        return tone_map(frame, transfer) if transfer in {"pq", "hlg"} else frame

    def _grow(self, size: int) -> None:
        limit = self._limits.frame.max_pixels
        if not 0 < size <= 4 * (limit + self._limits.frame.max_side + 2**16):  # rows are padded
            raise self._ended()
        if self._memory is not None:
            self._memory.close()
        self._memory = SharedMemory(size)
        self._free = []
        self._connection.send((self._memory.file,), kind="memory", size=self._memory.size, slots=self._memory.slots)

    def _receive(self) -> dict[str, Any]:
        message = self._connection.receive()
        if message["kind"] == "refused":
            raise VideoError(REFUSALS.get(str(message["error"]), "unusable"), str(message["reason"])[:MAX_REASON])
        return message

    def _ended(self) -> VideoError:
        return VideoError("unusable", "the video cannot be decoded within the limits of memory and CPU time")

    @property
    def _max_frames(self) -> int:
        return min(self._limits.max_frames, self._max_decoded)

    def _check_declared(self) -> None:
        if self.declared_frames > self._max_frames:
            reason = f"{self.declared_frames} frames, at most {self._max_frames} of this size are allowed"
            raise VideoError("too_large", reason)

    def _check_passed(self, frames: int) -> None:
        if frames > self._max_frames:
            raise VideoError("too_large", f"more than {self._max_frames} frames")

    def _check_not_empty(self, frames: int) -> int:
        if not frames:
            raise VideoError("unusable", "no frame can be decoded")
        return frames


def _turn(frame: NDArray[np.uint8], orientation: object) -> NDArray[np.uint8]:
    """Apply a quarter turn or a mirroring, given as the signs [a, b, c, d] of a display matrix.

    The pixel at (x, y) is shown at (a x + c y, b x + d y), as in the QuickTime file format.
    """
    if not isinstance(orientation, list) or orientation == [1, 0, 0, 1]:
        return frame
    a, b, c, d = orientation
    if a == 0:  # x becomes y
        frame = frame.transpose(1, 0, 2)
        a, d = c, b
    return np.ascontiguousarray(frame[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])
