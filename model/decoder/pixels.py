"""Frames become RGB in shared memory."""

import mmap
import os
import struct
from fractions import Fraction
from typing import Any, Final

from av.error import FFmpegError
from av.filter import Graph
from av.video.reformatter import Interpolation, VideoReformatter

from model.decoder.channel import Channel, Refused
from model.decoder.video_file import VideoFile

NO_FIELD_FLAG: Final = frozenset({
    "rawvideo", "v210", "huffyuv", "ffvhuff", "utvideo", "magicyuv", "r210", "ffv1", "qtrle", "jpeg2000", "png",
})  # fmt: skip
"""Codecs whose frames do not say that they are interlaced; the container may."""
INTERLACED_ORDERS: Final = range(2, 6)
"""AVFieldOrder: two fields, in any of the four orders."""

UNSPECIFIED: Final = 2  # AVCOL_SPC_UNSPECIFIED
MATRICES: Final = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9, 10: 9}
"""AVCOL_SPC_* to the matrix of libswscale: BT.709, FCC, BT.601 (two names), SMPTE 240M, BT.2020 (two names)."""
MATRIX_NAMES: Final = {
    0: "RGB", 8: "YCgCo", 11: "SMPTE 2085", 12: "derived from the primaries", 13: "derived, constant luminance",
    14: "ICtCp", 15: "IPT-C2", 16: "YCgCo-Re", 17: "YCgCo-Ro",
}  # fmt: skip
MAX_SD_HEIGHT: Final = 576
"""Frames up to this height without a tag are BT.601, higher ones BT.709, as players assume."""
LIMITED, FULL = 1, 2
TRANSFERS: Final = {16: "pq", 18: "hlg"}
TURNS: Final = {0: [1, 0, 0, 1], 90: [0, -1, 1, 0], 180: [-1, 0, 0, -1], 270: [0, 1, -1, 0]}
"""Degrees counterclockwise to the signs of a display matrix."""


class FrameSender:
    """Converts frames to RGB and hands them over in shared memory, which the other process makes as large as needed."""

    def __init__(self, channel: Channel, video: VideoFile) -> None:
        self._channel, self._video = channel, video
        self._memory = mmap.mmap(-1, 1)
        self._size = 0  # bytes of one slot
        self._slots = 0
        self._free: list[int] = []
        self._converter = VideoReformatter()
        self._field: tuple[tuple[int, int, str], Graph] | None = None

    def send(self, index: int, seconds: float, frame: Any) -> None:
        """Send one frame.

        Raises:
            Refused: its size, pixel format or colours are not supported.
        """
        width, height = frame.width, frame.height
        rotation = _orientation(frame)
        transfer = TRANSFERS.get(int(frame.color_trc))
        plane = self._convert(frame).planes[0]
        slot = self._take_slot(plane.line_size * height)
        start = slot * self._size
        self._memory[start : start + plane.line_size * height] = memoryview(plane)[: plane.line_size * height]
        self._channel.send(kind="frame", index=index, time=seconds, slot=slot, width=width, height=height,
                           stride=plane.line_size, orientation=rotation, transfer=transfer)  # fmt: skip

    def _convert(self, frame: Any) -> Any:
        name, width, height = frame.format.name, frame.width, frame.height
        grey = name.startswith(("gray", "mono", "ya"))
        rgb = frame.format.is_rgb or frame.format.has_palette or frame.format.is_bayer
        matrix = int(frame.colorspace)
        if rgb or matrix in {UNSPECIFIED, 3}:
            source = 5 if height <= MAX_SD_HEIGHT else 1
        elif matrix in MATRICES:
            source = MATRICES[matrix]
        elif grey:
            source = 5
        else:
            label = MATRIX_NAMES.get(matrix, str(matrix))
            raise Refused(
                "unsupported", f"the colour matrix of the video ({label}) is not supported; send BT.709 video"
            )
        span = int(frame.color_range)
        if rgb or grey or name.startswith("yuvj"):
            span = FULL
        elif span not in {LIMITED, FULL}:
            span = LIMITED
        if self._is_interlaced(frame):
            frame = self._take_field(frame)
        try:
            return self._converter.reformat(
                frame, width, height, "rgb24", src_colorspace=source, src_color_range=span, dst_color_range=FULL,
                interpolation=Interpolation.BICUBIC, threads=1,
            )  # fmt: skip
        except (FFmpegError, ValueError) as error:
            if isinstance(error, MemoryError):
                raise
            raise Refused("unsupported", f"the pixel format {name} of the video cannot be converted") from error

    def _is_interlaced(self, frame: Any) -> bool:
        if frame.height < 2:
            return False
        context = self._video.context
        declared = self._video.codec in NO_FIELD_FLAG and int(context.field_order or 0) in INTERLACED_ORDERS
        return bool(frame.interlaced_frame) or declared

    def _take_field(self, frame: Any) -> Any:
        """Return the upper field, half as high; the lower one was filmed at another moment."""
        key = (frame.width, frame.height, frame.format.name)
        if self._field is None or self._field[0] != key:
            graph = Graph()
            source = graph.add_buffer(width=key[0], height=key[1], format=frame.format, time_base=Fraction(1, 1000))
            field, sink = graph.add("field", "top"), graph.add("buffersink")
            graph.link_nodes(source, field, sink).configure()
            self._field = (key, graph)
        graph = self._field[1]
        graph.push(frame)
        return graph.pull()

    def _take_slot(self, size: int) -> int:
        """Return a slot that the other process has released, in memory that is large enough."""
        if size > self._size:
            # The other process copies each frame before it reads the next message, so the old slots are all read then.
            self._channel.send(kind="grow", size=size)
            message, files = self._channel.receive()
            while message["kind"] != "memory":
                message, files = self._channel.receive()
            self._size, self._slots = message["size"], message["slots"]
            self._memory.close()
            self._memory = mmap.mmap(files[0], self._size * self._slots)
            os.close(files[0])
            self._free = list(range(self._slots))
        while not self._free:
            self._wait()
        return self._free.pop(0)

    def _wait(self) -> None:
        message, _ = self._channel.receive()
        self._free.extend(message["slots"])


def _orientation(frame: Any) -> list[int]:
    """Return the signs of the display matrix's linear part [a, b, c, d]; [1, 0, 0, 1] if it is no quarter turn."""
    try:
        data = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # the frame has side data of a kind that PyAV does not know, and then none can be read
        return TURNS.get(round(frame.rotation) % 360, TURNS[0])
    if data is None:
        return TURNS[0]
    values = struct.unpack("=9i", bytes(data)[:36])
    linear = [values[0], values[1], values[3], values[4]]
    largest = max(map(abs, linear)) or 1
    signs = [round(value / largest) for value in linear]
    if signs[0] * signs[3] - signs[1] * signs[2] in {1, -1} and sum(map(abs, signs)) == 2:
        return signs
    return TURNS[0]
