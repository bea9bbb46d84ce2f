"""Read uncompressed BMP files."""

import struct

import numpy as np
from numpy.typing import NDArray

from model.images.errors import FrameError
from model.images.header import ImageHeader
from model.images.transparency import lay_on_background

_FILE_HEADER = 14
_SIZES = frozenset({40, 52, 56, 108, 124})
"""Of the second header: the versions since Windows 3."""
_PLAIN, _MASKS = 0, 3
_BGRX = (0xFF0000, 0xFF00, 0xFF)
_ALPHA = 0xFF000000


def read_header(data: bytes) -> ImageHeader:
    """Read the size without decoding.

    Raises:
        FrameError: `undecodable` for a truncated or damaged header, `unsupported` for a kind that is not read.
    """
    width, height, _, _ = _read(data)
    return ImageHeader("bmp", width, abs(height), pixel_bytes=4)


def decode(data: bytes, header: ImageHeader) -> tuple[NDArray[np.uint8], int]:
    """Return RGB `uint8 [height, width, 3]`, laid on the background, and the orientation 1.

    Raises:
        FrameError: `undecodable` if the file is truncated or damaged.
    """
    width, height, bits, transparent = _read(data)
    (start,) = struct.unpack_from("<I", data, 10)
    stride = -(-width * bits // 32) * 4
    if start < _FILE_HEADER + 40 or start + stride * header.height > len(data):
        raise FrameError("undecodable", "the BMP file is truncated")
    rows = np.frombuffer(data, np.uint8, stride * header.height, start).reshape(header.height, stride)
    rows = rows if height < 0 else rows[::-1]  # a positive height means that the last row comes first
    if bits == 8:
        return np.ascontiguousarray(_palette(data)[rows[:, :width]]), 1
    pixels = rows[:, : width * bits // 8].reshape(header.height, width, bits // 8)
    return lay_on_background(pixels) if transparent else np.ascontiguousarray(pixels[..., 2::-1]), 1


def _read(data: bytes) -> tuple[int, int, int, bool]:
    """Return width, height (negative if the first row comes first), bits of a pixel, and whether it has alpha."""
    if len(data) < _FILE_HEADER + 40:
        raise FrameError("undecodable", "the image header is truncated")
    size, width, height, planes, bits, compression = struct.unpack_from("<IiiHHI", data, _FILE_HEADER)
    if size not in _SIZES or planes != 1 or width < 0 or len(data) < _FILE_HEADER + size + 12:
        raise FrameError("undecodable", "the BMP header is damaged")
    masks = struct.unpack_from("<III", data, _FILE_HEADER + 40) if compression == _MASKS else _BGRX
    known = compression in {_PLAIN, _MASKS} and bits in {8, 24, 32} and masks == _BGRX
    if not known or (compression == _MASKS and bits != 32):
        kind = f"a BMP file of {bits} bits" + ("" if compression == _PLAIN else f" and compression {compression}")
        raise FrameError("unsupported", f"{kind} is not read: send one of 8, 24 or 32 bits without compression")
    # Without masks, the fourth byte of a pixel has no meaning.
    transparent = compression == _MASKS and size >= 56
    return width, height, bits, transparent and struct.unpack_from("<I", data, _FILE_HEADER + 52)[0] == _ALPHA


def _palette(data: bytes) -> NDArray[np.uint8]:
    """Return the colours RGB `[256, 3]`. Colours that the file does not have are black."""
    (size,) = struct.unpack_from("<I", data, _FILE_HEADER)
    (start,) = struct.unpack_from("<I", data, 10)
    (used,) = struct.unpack_from("<I", data, _FILE_HEADER + 32)
    first = _FILE_HEADER + size
    count = min(used or 256, 256, max(0, min(start, len(data)) - first) // 4)
    colours = np.zeros((256, 3), np.uint8)
    colours[:count] = np.frombuffer(data, np.uint8, 4 * count, first).reshape(count, 4)[:, 2::-1]
    return colours
