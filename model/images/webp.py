"""Walk and decode WebP files."""

import struct

import numpy as np
from numpy.typing import NDArray

from model.images.errors import FrameError
from model.images.exif import read_orientation
from model.images.header import ImageHeader
from model.images.native import decode_with_opencv
from model.images.transparency import lay_on_background

_MAX_CHUNKS = 1024
_MAX_EXIF = 65_536
_ANIMATED, _ALPHA = 0x02, 0x10
"""Flags of the VP8X chunk."""
_LOSSLESS_ALPHA = 0x10
"""In the fifth byte of a lossless image."""
_KINDS = frozenset({b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"EXIF"})


def read_header(data: bytes) -> ImageHeader:
    """Read the size without decoding.

    Raises:
        FrameError: `undecodable` for a truncated or damaged header.
    """
    kind, body = data[12:16], data[20:30]
    if kind == b"VP8X" and len(body) == 10:
        width, height = _canvas_size(body)
    elif kind in {b"VP8 ", b"VP8L"} and len(body) == 10:
        width, height = _lossy_size(body) if kind == b"VP8 " else _lossless_size(body)
    elif len(data) < 30:
        raise FrameError("undecodable", "the image header is truncated")
    else:
        raise FrameError("undecodable", "the WebP file has an unknown first chunk")
    return ImageHeader("webp", width, height, pixel_bytes=9)  # the decoder holds two pictures, with alpha


def decode(data: bytes, header: ImageHeader) -> tuple[NDArray[np.uint8], int]:
    """Decode to RGB `uint8 [height, width, 3]` as stored, laid on the background, and return its EXIF orientation too.

    Raises:
        FrameError: `undecodable` if the file is truncated or damaged, `unsupported` if it is animated.
    """
    chunks = _read_chunks(data)
    pixels = chunks.get(b"VP8L") or chunks.get(b"VP8 ", b"")
    lossless = b"VP8L" in chunks
    if len(pixels) < 10 or (pixels[:1] != b"\x2f" if lossless else pixels[3:6] != b"\x9d\x01\x2a"):
        raise FrameError("undecodable", "the WebP file has no image, or a damaged one")
    if (_lossless_size(pixels) if lossless else _lossy_size(pixels)) != (header.width, header.height):
        raise FrameError("undecodable", "the size of the WebP image differs from its header")
    transparent = bool(pixels[4] & _LOSSLESS_ALPHA) if lossless else b"ALPH" in chunks
    body = _chunk(b"VP8L" if lossless else b"VP8 ", pixels)
    if transparent and not lossless:
        canvas = struct.pack("<I", _ALPHA) + _canvas(header)
        body = _chunk(b"VP8X", canvas) + _chunk(b"ALPH", chunks[b"ALPH"]) + body
    file = b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body
    image = decode_with_opencv(file, "WebP", transparent=transparent)
    orientation = read_orientation(chunks.get(b"EXIF", b"").removeprefix(b"Exif\0\0"))
    return lay_on_background(image) if transparent else image, orientation


def _read_chunks(data: bytes) -> dict[bytes, bytes]:
    """Return the first chunk of each type that matters."""
    (length,) = struct.unpack_from("<I", data, 4)
    end = 8 + length
    if end > len(data):
        raise FrameError("undecodable", "the WebP file is truncated")
    chunks: dict[bytes, bytes] = {}
    at = 12
    for _ in range(_MAX_CHUNKS):
        if at + 8 > end:
            return chunks
        kind, size = struct.unpack_from("<4sI", data, at)
        if at + 8 + size > end:
            raise FrameError("undecodable", "the WebP file is truncated, or a chunk is longer than the file")
        if kind in {b"ANIM", b"ANMF"} or (kind == b"VP8X" and data[at + 8] & _ANIMATED):
            raise FrameError("unsupported", "the WebP file is animated: send each picture as a frame of its own")
        if kind in _KINDS and kind not in chunks:
            most = _MAX_EXIF if kind == b"EXIF" else size
            chunks[kind] = data[at + 8 : at + 8 + min(size, most)]
        at += 8 + size + size % 2
    raise FrameError("undecodable", f"the WebP file has more than {_MAX_CHUNKS} chunks")


def _chunk(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)


def _canvas(header: ImageHeader) -> bytes:
    return (header.width - 1).to_bytes(3, "little") + (header.height - 1).to_bytes(3, "little")


def _canvas_size(body: bytes) -> tuple[int, int]:
    return 1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little")


def _lossless_size(body: bytes) -> tuple[int, int]:
    (bits,) = struct.unpack_from("<I", body, 1)
    return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)


def _lossy_size(body: bytes) -> tuple[int, int]:
    width, height = struct.unpack_from("<HH", body, 6)
    return width & 0x3FFF, height & 0x3FFF
