"""Reading the numeric arrays of a MATLAB 5.0 .mat file.

MARS ships its lists this way. Reading them takes so few lines that neither the demo nor a training machine needs
scipy for it. Format: MathWorks, "MAT-File Format", chapter "Level 5 MAT-File Format"; version 7.3 is HDF5 and refused.
"""

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_HEADER_BYTES = 128
_MATRIX, _COMPRESSED = 14, 15
_FIRST_NUMERIC_CLASS, _LAST_NUMERIC_CLASS = 6, 15
_COMPLEX_FLAG = 0x08
# How the values are stored, the "mi" types of the format.
_STORED_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
Array = NDArray[Any]


class MatFileError(ValueError):
    """The file is not a MATLAB 5.0 file, or is damaged."""


def read_mat(path: Path) -> dict[str, Array]:
    """Read the real numeric arrays of the file by name; variables of other types are passed over.

    MATLAB stores whole numbers in the narrowest type that holds them, whatever the array's class; they come as stored.

    Raises:
        MatFileError: the file is damaged or of another format.
        OSError: the file cannot be read.
    """
    data = path.read_bytes()
    mark = data[126:128]
    if mark not in {b"IM", b"MI"} or not data.startswith(b"MATLAB 5.0 MAT-file"):
        raise MatFileError(f"{path} is not a MATLAB 5.0 .mat file")
    order = "<" if mark == b"IM" else ">"
    try:
        arrays = (_matrix(body, order) for body in _matrices(data[_HEADER_BYTES:], order))
        return dict(array for array in arrays if array is not None)
    except (struct.error, zlib.error, ValueError, KeyError) as error:
        raise MatFileError(f"{path} is damaged: {error}") from error


def _elements(data: bytes, order: str) -> list[tuple[int, bytes]]:
    """Split into (type, content); a content of at most four bytes may share the eight bytes of its tag."""
    elements = []
    at = 0
    while at < len(data):
        kind, size = struct.unpack_from(order + "II", data, at)
        if kind >> 16:
            start, size, kind = at + 4, kind >> 16, kind & 0xFFFF
            at += 8
        else:
            start = at + 8
            # Everything is padded to eight bytes but a compressed element.
            at = start + size + (0 if kind == _COMPRESSED else -size % 8)
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
    # MATLAB stores columns first.
    return name.decode("ascii"), array.reshape(np.frombuffer(shape, dtype=order + "i4"), order="F")
