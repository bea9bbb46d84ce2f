"""Videos that PyAV writes, in whatever codec, pixel format, colours, times and order of fields a test needs."""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.codec.context import Flags
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
TICKS = 1000
"""Time base of the written streams: milliseconds."""


def figure(height: int = 96, width: int = 64, shift: int = 0) -> Picture:
    """Return a smooth figure of saturated colours, moved to the right by `shift` pixels."""
    y, x = np.mgrid[:height, :width].astype(float)
    x -= shift
    frame = np.stack([90 + 60 * np.sin(x / 9), 110 + 50 * np.cos(y / 13), 140 + 40 * np.sin((x + y) / 17)], axis=-1)
    head = (x - width / 2) ** 2 + (y - height / 6) ** 2 < (height / 9) ** 2
    frame[head] = (214, 168, 140)
    frame[(abs(x - width / 2) < width / 5) & (abs(y - height * 0.43) < height / 6)] = (190, 40, 50)
    frame[(abs(x - width / 2) < width / 6) & (abs(y - height * 0.77) < height / 6)] = (40, 60, 150)
    return frame.astype(np.uint8)


@contextmanager
def _usual_priority() -> Iterator[None]:
    """Undo what SVT-AV1 does to a process of root: the highest real-time priority, which all that it starts inherits.

    Two such processes leave no CPU time to any other on a machine with two CPUs.
    """
    policy, priority = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, priority)


@_usual_priority()
def write(
    path: Path,
    pictures: Sequence[Picture],
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    *,
    times: Iterable[int] | None = None,
    rate: int | Fraction | None = None,
    options: dict[str, str] | None = None,
    flags: Flags | None = None,
    format: str | None = None,
    muxer: dict[str, str] | None = None,
    matrix: int | None = None,
    full_range: bool = False,
    transfer: int | None = None,
    rotation: Any = None,
    prepare: Any = None,
) -> Path:
    """Write RGB pictures as a video with `times` in milliseconds, by default one in 100 ms, or with a constant `rate`.

    `matrix` (AVCOL_SPC_*) is written as a tag and used for the conversion if libswscale knows it. `prepare` may change
    each frame before it is encoded.
    """
    height, width = pictures[0].shape[:2]
    base = 1 / Fraction(rate or TICKS)
    if times is None:
        times = range(len(pictures)) if rate else range(0, 100 * len(pictures), 100)
    with av.open(path, "w", format=format, options=muxer or {}) as container:
        stream: Any = container.add_stream(codec, rate=rate or 10, options=options or {})
        stream.width, stream.height, stream.pix_fmt = width, height, pixel_format
        stream.time_base = stream.codec_context.time_base = base
        stream.codec_context.thread_count = 1
        if flags:
            stream.codec_context.flags |= flags
        if matrix is not None:
            stream.codec_context.colorspace = matrix
        if full_range:
            stream.codec_context.color_range = 2
        if transfer is not None:
            stream.codec_context.color_trc = transfer
        if rotation is not None:
            rotation(stream)
        converter = VideoReformatter()
        known = {1: 1, 5: 5, 6: 5, 7: 7, 9: 9}.get(matrix or 5, 5)
        for picture, time in zip(pictures, times, strict=True):
            frame: Any = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            if pixel_format != "rgb24":
                span = 2 if full_range or pixel_format.startswith("yuvj") else 1
                frame = converter.reformat(
                    frame, format=pixel_format, src_color_range=2, dst_color_range=span, dst_colorspace=known
                )
            if matrix is not None:
                frame.colorspace = matrix
            if transfer is not None:
                frame.color_trc = transfer
            frame.pts, frame.time_base = time, base
            if prepare:
                frame = prepare(frame)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def remux(path: Path, target: Path, change: Any = None, *, format: str | None = None, options: Any = None) -> Path:
    """Copy the packets of a video into another container; `change` may replace the bytes of a packet by its number."""
    with av.open(path) as source, av.open(target, "w", format=format, options=options or {}) as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(p for p in source.demux(video=0) if p.size):
            copied: Any = packet
            if change and (data := change(number, bytes(packet))) is not None:
                copied = av.Packet(data)
                copied.pts, copied.dts, copied.time_base = packet.pts, packet.dts, packet.time_base
                copied.duration, copied.is_keyframe = packet.duration, packet.is_keyframe
            copied.stream = stream
            container.mux(copied)
    return target


def repeat_png(path: Path, side: int, count: int) -> Path:
    """Write a small file whose `count` grey frames of `side` x `side` pixels take long to decode."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    row = bytes(1 + side)
    data = b"".join([packer.compress(row) for _ in range(side)] + [packer.flush()])
    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    with av.open(path, "w", format="mov") as container:
        stream: Any = container.add_stream("png", rate=10)
        stream.width, stream.height, stream.pix_fmt = side, side, "gray"
        for index in range(count):
            packet: Any = av.Packet(png)
            packet.pts = packet.dts = 100 * index
            packet.time_base, packet.stream, packet.is_keyframe = Fraction(1, 1000), stream, True
            container.mux(packet)
    return path
