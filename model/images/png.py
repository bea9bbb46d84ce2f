"""Walk and decode PNG files."""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from model.images.errors import FrameError
from model.images.exif import read_orientation
from model.images.header import ImageHeader
from model.images.native import decode_with_opencv
from model.images.transparency import BACKGROUND, lay_on_background

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MAX_CHUNKS = 32_768
_MAX_EXIF = 65_536
_PIECE = 65_536
"""Bytes of pixels that are decompressed together while they are counted."""
_STORED_BYTES = 16 * 1024 * 1024
"""Larger images keep their compressed pixels, to save memory."""

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Of the colour types: grey, RGB, palette, grey with alpha, RGB with alpha."""
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""First column, first row, and the steps of both, of the passes of an interlaced image (Adam7)."""
_MAX_FILTER = 4


@dataclass(frozen=True, slots=True)
class _Layout:
    """What IHDR declares."""

    width: int
    height: int
    depth: int
    colour: int
    interlaced: bool

    @property
    def has_alpha(self) -> bool:
        return self.colour in {4, 6}

    def passes(self) -> list[tuple[int, int]]:
        """Return (bytes of a row with its filter byte, rows) of each pass that has pixels."""
        bits = self.depth * _CHANNELS[self.colour]
        found = []
        for left, top, across, down in _PASSES if self.interlaced else ((0, 0, 1, 1),):
            columns, rows = -(-(self.width - left) // across), -(-(self.height - top) // down)
            if columns > 0 and rows > 0:
                found.append((1 + -(-columns * bits // 8), rows))
        return found


@dataclass(slots=True)
class _Chunks:
    """The chunks that decide the pixels."""

    layout: _Layout
    palette: bytes = b""
    transparency: bytes = b""
    exif: bytes = b""
    data: list[bytes] = field(default_factory=list)


def read_header(data: bytes) -> ImageHeader:
    """Read the size without decoding.

    Raises:
        FrameError: `undecodable` for a truncated or damaged header.
    """
    layout = _read_layout(data)
    # The decoder holds two pictures: of 3 bytes, or if transparent of 4 values.
    pixel_bytes = 17 if layout.depth == 16 else 9
    return ImageHeader("png", layout.width, layout.height, pixel_bytes=pixel_bytes)


def decode(data: bytes, _header: ImageHeader) -> tuple[NDArray[np.uint8], int]:
    """Decode to RGB `uint8 [height, width, 3]` as stored, laid on the background, and its EXIF orientation.

    Raises:
        FrameError: `undecodable` if the file is truncated or damaged, `unsupported` if it is animated.
    """
    chunks = _read_chunks(data)
    layout = chunks.layout
    # The decoder allocates the length that a chunk declares, and writes messages about files that differ from their
    # header. It gets a new file of checked chunks.
    pixels = _check_pixels(chunks.data, layout)
    ihdr = struct.pack(">IIBBBBB", layout.width, layout.height, layout.depth, layout.colour, 0, 0, layout.interlaced)
    palette = _chunk(b"PLTE", chunks.palette) if layout.colour == 3 else b""
    key = chunks.transparency
    transparency = _chunk(b"tRNS", key) if key and layout.colour in {2, 3} else b""
    head = SIGNATURE + _chunk(b"IHDR", ihdr) + palette + transparency
    file = b"".join((head, _chunk(b"IDAT", pixels), _chunk(b"IEND", b"")))
    if not (key or layout.has_alpha):
        return decode_with_opencv(file, "PNG"), read_orientation(chunks.exif)
    image = decode_with_opencv(file, "PNG", transparent=True)
    return _blend(image, layout, key), read_orientation(chunks.exif)


def _read_layout(data: bytes) -> _Layout:
    if data[12:16] != b"IHDR":
        raise FrameError("undecodable", "the PNG file does not begin with its header")
    if len(data) < 33:
        raise FrameError("undecodable", "the image header is truncated")
    length, _, width, height, depth, colour, *methods, interlaced, crc = struct.unpack_from(">I4sIIBBBBBI", data, 8)
    if length != 13 or crc != zlib.crc32(data[12:29]) or any(methods) or interlaced > 1:
        raise FrameError("undecodable", "the PNG header is damaged")
    if depth not in _DEPTHS.get(colour, ()):
        raise FrameError(
            "undecodable", f"the PNG header has colour type {colour} with {depth} bits, which do not exist"
        )
    return _Layout(width, height, depth, colour, bool(interlaced))


def _walk(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield (type, start, end) of the chunks after IHDR, up to IEND."""
    at = 33
    for _ in range(_MAX_CHUNKS):
        if at + 12 > len(data):
            raise FrameError("undecodable", "the PNG file is truncated")
        length, kind = struct.unpack_from(">I4s", data, at)
        if at + 12 + length > len(data):
            raise FrameError("undecodable", "the PNG file is truncated, or a chunk is longer than the file")
        if not kind.isalpha():
            raise FrameError("undecodable", "the PNG file has a damaged chunk")
        yield kind, at + 8, at + 8 + length
        if kind == b"IEND":
            return
        at += 12 + length
    raise FrameError("undecodable", f"the PNG file has more than {_MAX_CHUNKS} chunks")


def _read_chunks(data: bytes) -> _Chunks:
    chunks = _Chunks(_read_layout(data))
    colour, ended = chunks.layout.colour, False
    view = memoryview(data)
    for kind, start, end in _walk(data):
        ended = ended or (bool(chunks.data) and kind != b"IDAT")
        if kind == b"fdAT":
            raise FrameError("unsupported", "the PNG file is animated: send each picture as a frame of its own")
        if kind in {b"IDAT", b"PLTE", b"tRNS", b"IEND"}:
            (crc,) = struct.unpack_from(">I", data, end)
            if crc != zlib.crc32(view[start - 4 : end]):
                raise FrameError("undecodable", f"the PNG file is damaged: wrong checksum of the chunk {kind.decode()}")
        elif kind[:1].isupper():
            raise FrameError("undecodable", f"the PNG file has the unknown critical chunk {kind.decode()}")
        body = data[start:end]
        if kind == b"IDAT":
            if ended:
                raise FrameError("undecodable", "the PNG file has other chunks between its pixels")
            chunks.data.append(body)
        elif kind == b"PLTE" and not chunks.data and not chunks.palette:
            chunks.palette = body
        elif kind == b"tRNS" and not chunks.data and not chunks.transparency and colour in {0, 2, 3}:
            chunks.transparency = body
        elif kind == b"eXIf" and not chunks.exif:
            chunks.exif = body[:_MAX_EXIF]
    _check_palette(chunks)
    return chunks


def _check_palette(chunks: _Chunks) -> None:
    palette, key, colour = len(chunks.palette), len(chunks.transparency), chunks.layout.colour
    if colour == 3 and (not palette or palette % 3 or palette > 3 << chunks.layout.depth):
        raise FrameError("undecodable", "the PNG file has no palette, or one of a wrong length")
    if key and (key > palette // 3 if colour == 3 else key != 2 * _CHANNELS[colour]):
        raise FrameError("undecodable", "the PNG file has transparency of a wrong length")


def _check_pixels(pieces: list[bytes], layout: _Layout) -> bytes:
    """Return the compressed pixels in one piece, without what follows them.

    Those of small images are returned as a zlib stream without compression, so that they are decompressed only once.

    Raises:
        FrameError: `undecodable` unless they are exactly the pixels that the header declares.
    """
    inflate, rows, used = zlib.decompressobj(), _Rows(layout.passes()), []
    store = zlib.compressobj(0) if rows.size <= _STORED_BYTES else None
    stored = []
    try:
        for piece in pieces:
            used.append(piece)
            raw = inflate.decompress(piece, _PIECE)
            while raw:
                rows.add(raw)
                if store:
                    stored.append(store.compress(raw))
                raw = b"" if inflate.eof else inflate.decompress(inflate.unconsumed_tail, _PIECE)
            if inflate.eof:
                break
    except zlib.error as error:
        raise FrameError("undecodable", f"the PNG data is damaged: {error}") from None
    if not inflate.eof or not rows.complete:
        raise FrameError("undecodable", "the PNG data is truncated: it ends before the last row")
    if store:
        return b"".join((*stored, store.flush()))
    used[-1] = used[-1][: len(used[-1]) - len(inflate.unused_data)]
    return b"".join(used)


class _Rows:
    """Counts decompressed pixels, and checks the filter byte before each row."""

    def __init__(self, passes: list[tuple[int, int]]) -> None:
        self._passes = [(stride, stride * rows) for stride, rows in reversed(passes)]
        self._at = 0  # in the current pass
        self.size = sum(size for _, size in self._passes)

    @property
    def complete(self) -> bool:
        return not self._passes

    def add(self, raw: bytes) -> None:
        start = 0
        while start < len(raw):
            if not self._passes:
                raise FrameError("undecodable", "the PNG data is damaged: it has more pixels than its header declares")
            stride, size = self._passes[-1]
            end = min(len(raw), start + size - self._at)
            if max(raw[start + -self._at % stride : end : stride], default=0) > _MAX_FILTER:
                raise FrameError("undecodable", "the PNG data is damaged: a row has an unknown filter")
            self._at += end - start
            start = end
            if self._at == size:
                self._passes.pop()
                self._at = 0


def _blend(image: NDArray[np.uint8] | NDArray[np.uint16], layout: _Layout, key: bytes) -> NDArray[np.uint8]:
    """Lay a decoded image on the background; of grey images, the decoder ignores the transparent value `key`."""
    if layout.colour:
        return lay_on_background(image)
    most = (1 << layout.depth) - 1
    value = int.from_bytes(key, "big") & most
    value = value if layout.depth == 16 else value * 255 // most
    grey = (image >> 8 if layout.depth == 16 else image).astype(np.uint8)
    grey[image == value] = BACKGROUND
    return np.repeat(grey[..., None], 3, axis=2)


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(body, zlib.crc32(kind)))
