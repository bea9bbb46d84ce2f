"""The worker: one video, within limits that the kernel enforces."""

import mmap
import os
import resource
import sys
from contextlib import suppress
from typing import Any, Final

from model.decoder.channel import Channel, Gone, Refused
from model.decoder.order import ShownFrames
from model.decoder.pixels import FrameSender
from model.decoder.video_file import VideoFile

NICE: Final = 5
"""A video never slows down the service's own threads."""


def run_worker(channel: Channel) -> None:
    """Read one video: one `open` message, one `read` message, then frames until the end."""
    try:
        job, files = channel.receive()
        apply_limits(job)
        video = VideoFile(files[0], job)
        channel.send(kind="opened", rate=video.rate, frames=video.declared_frames, codec=video.codec,
                     width=video.width, height=video.height)  # fmt: skip
        request, _ = channel.receive()
        Reader(video, channel, request).run()
    except Refused as refusal:
        channel.send(kind="refused", error=refusal.kind, reason=refusal.reason)
    except MemoryError:
        channel.send(kind="refused", error="too_large", reason="decoding the video needs more memory than is allowed")
    except (Gone, OSError):
        return
    except Exception as error:  # noqa: BLE001 - a bug, which the other process reports
        with suppress(OSError):
            channel.send(kind="refused", error="unusable", reason=f"the decoder failed: {type(error).__name__}")
    with suppress(Gone, OSError):  # a socket that is closed with unread messages loses those on their way, too
        while True:
            channel.receive()


def apply_limits(job: dict[str, Any]) -> None:
    """Let the kernel enforce the limits, before anything of the video is read."""
    if sys.platform == "linux":
        with open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123
            file.write("1000")  # if memory runs out, this process ends first and the service lives
        with open("/proc/self/statm") as file:  # noqa: PTH123
            mapped = int(file.read().split()[0]) * mmap.PAGESIZE
        if job["memory"]:
            _set_limit(resource.RLIMIT_AS, mapped + job["memory"])
    _set_limit(resource.RLIMIT_NOFILE, 64)
    _set_limit(resource.RLIMIT_FSIZE, 0)
    _set_limit(resource.RLIMIT_CORE, 0)
    if job["seconds"]:
        _set_limit(resource.RLIMIT_CPU, job["seconds"])
    os.nice(NICE)


def _set_limit(which: int, value: int) -> None:
    hard = resource.getrlimit(which)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(which, (value, value))


class Reader:
    """Decodes the frames that were asked for and sends them, each with its index and its time."""

    def __init__(self, video: VideoFile, channel: Channel, request: dict[str, Any]) -> None:
        self._video, self._channel = video, channel
        self._wanted: list[int] | None = request["wanted"]
        self._pixels = request["pixels"]
        self._sink = FrameSender(channel, video)
        self._index = 0
        self._next = 0  # place in `wanted`
        self._first_time: float | None = None

    def run(self) -> None:
        """Send all of them, and the number of frames that were seen."""
        for time_, frame, reason in ShownFrames(self._video).frames():
            if self._first_time is None:
                self._first_time = time_
            self._handle(time_ - self._first_time, frame, reason)
            self._index += 1
            if self._wanted is not None and self._next >= len(self._wanted):
                break
        self._channel.send(kind="end", frames=self._index)

    def _handle(self, seconds: float, frame: Any, reason: str | None) -> None:
        if self._wanted is not None:
            if self._wanted[self._next] != self._index:
                return
            self._next += 1
        if frame is None:
            self._channel.send(kind="missing", index=self._index, time=seconds, reason=reason)
        elif self._pixels:
            self._sink.send(self._index, seconds, frame)
        else:
            self._channel.send(kind="counted", index=self._index, time=seconds)
