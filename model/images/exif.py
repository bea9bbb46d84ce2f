"""The orientation in EXIF data, and the index of a file of several pictures: both are TIFF directories."""

import struct
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

_ORIENTATION = 0x0112
_MAX_ENTRIES = 256


def read_orientation(tiff: bytes) -> int:
    """Return the EXIF orientation, 1 to 8; 1 if the data is damaged or has none, as viewers do.

    Args:
        tiff: EXIF data, from its TIFF header on.
    """
    for tag, kind, count, value in read_directory(tiff):
        if tag == _ORIENTATION and kind == 3 and count == 1:
            (orientation,) = struct.unpack_from(_order(tiff) + "H", value)
            return orientation if 1 <= orientation <= 8 else 1
    return 1


def read_directory(tiff: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Yield (tag, type, count, value or offset as 4 bytes) of the first TIFF directory; nothing if it is damaged."""
    try:
        order = _order(tiff)
        (start,) = struct.unpack_from(order + "I", tiff, 4)
        (count,) = struct.unpack_from(order + "H", tiff, start)
        for index in range(min(count, _MAX_ENTRIES)):
            tag, kind, number, value = struct.unpack_from(order + "HHI4s", tiff, start + 2 + 12 * index)
            yield tag, kind, number, value
    except struct.error:
        return


def apply_orientation(image: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Turn and mirror an image `[H, W, C]` so that it is upright."""
    if orientation in {5, 6, 7, 8}:
        image = image.transpose(1, 0, 2)
    if orientation in {3, 4, 7, 8}:
        image = image[::-1]
    if orientation in {2, 3, 6, 7}:
        image = image[:, ::-1]
    return np.ascontiguousarray(image)


def _order(tiff: bytes) -> str:
    """Return the byte order of a TIFF header, for `struct`."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(bytes(tiff[:4]))
    if order is None:
        raise struct.error("no TIFF header")
    return order
