"""A reader of numeric arrays in MATLAB 5.0 .mat files, in which MARS and iLIDS-VID ship their lists.

Format: MathWorks, "MAT-File Format", chapter "Level 5 MAT-File Format". Version 7.3 is HDF5 and is refused.
"""

# Why not scipy.io.loadmat: when single bytes of a small file were changed at random, scipy 1.17 ended the process with
# a segmentation fault within 400 changes, in three of three series. It accepted 28% of the changed files if they were
# compressed (this reader 1%). `not3d datasets check` has to report such files. scipy would also add 112 MB to the
# environment that serves and enrols, which reads MARS's lists too.

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.datasets.tracklet import DatasetError

_HEADER_BYTES = 128
_MATRIX, _COMPRESSED = 14, 15
_FIRST_NUMERIC_CLASS, _LAST_NUMERIC_CLASS = 6, 15
_COMPLEX_FLAG = 0x08
# How values are stored: the "mi" types of the format.
_STORED_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
Array = NDArray[Any]


def read_integers(path: Path, name: str, dataset: str) -> NDArray[np.int64]:
    """Read one array of whole numbers.

    The result is signed: in a narrow unsigned type of the file, 0 - 1 would be 65,535.

    Args:
        path: the .mat file
        name: of the array
        dataset: whose file it is, for messages

    Raises:
        DatasetError: the file is damaged, or has no such array of whole numbers.
    """
    arrays = read_mat(path)
    if name not in arrays:
        raise DatasetError(f"{path} is not {dataset}'s file: it contains {', '.join(arrays) or 'nothing'}, not {name}")
    integers = arrays[name].astype(np.int64)
    if not np.array_equal(integers, arrays[name]):
        raise DatasetError(f"{path} is not {dataset}'s file: {name} contains fractions, expected whole numbers")
    return integers


def read_mat(path: Path) -> dict[str, Array]:
    """Read the real numeric arrays of a file by name, in the type in which they are stored; skip other variables.

    Raises:
        DatasetError: the file is damaged or has another format.
        OSError: the file cannot be read.
    """
    data = path.read_bytes()
    byte_order = data[126:128]
    if byte_order not in {b"IM", b"MI"} or not data.startswith(b"MATLAB 5.0 MAT-file"):
        raise DatasetError(f"{path} is not a MATLAB 5.0 .mat file")
    order = "<" if byte_order == b"IM" else ">"
    try:
        arrays = (_matrix(body, order) for body in _matrices(data[_HEADER_BYTES:], order))
        return dict(array for array in arrays if array is not None)
    except (struct.error, zlib.error, ValueError, KeyError) as error:
        raise DatasetError(f"{path} is damaged: {error}") from error


def _elements(data: bytes, order: str) -> list[tuple[int, bytes]]:
    """Split into (type, content); content of at most four bytes may be inside the eight bytes of its tag."""
    elements = []
    offset = 0
    while offset < len(data):
        kind, size = struct.unpack_from(order + "II", data, offset)
        if kind >> 16:
            start, size, kind = offset + 4, kind >> 16, kind & 0xFFFF
            offset += 8
        else:
            start = offset + 8
            # All elements are padded to eight bytes, except compressed ones.
            offset = start + size + (0 if kind == _COMPRESSED else -size % 8)
        if start + size > len(data):
            raise ValueError("cut short")
        elements.append((kind, data[start : start + size]))
    return elements


def _matrices(data: bytes, order: str) -> list[bytes]:
    bodies = []
    for kind, content in _elements(data, order):
        if kind == _COMPRESSED:
            bodies += _matrices(zlib.decompress(content), order)
        elif kind == _MATRIX:
            bodies.append(content)
        else:
            raise ValueError(f"unexpected element of type {kind}")
    return bodies


def _matrix(body: bytes, order: str) -> tuple[str, Array] | None:
    (_, flags), *rest = _elements(body, order)
    (flag_word,) = struct.unpack_from(order + "I", flags)
    array_class = flag_word & 0xFF
    if not _FIRST_NUMERIC_CLASS <= array_class <= _LAST_NUMERIC_CLASS or (flag_word >> 8) & _COMPLEX_FLAG:
        return None
    (_, shape), (_, name), (stored, values) = rest
    array = np.frombuffer(values, dtype=order + _STORED_TYPES[stored])
    # MATLAB stores arrays column by column.
    return name.decode("ascii"), array.reshape(np.frombuffer(shape, dtype=order + "i4"), order="F")
