"""Video files by their own bytes: which container it is, and whether the file has its end.

The decoder is only given what passes here. It would also open playlists and lists of files, which name other files.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Literal

Container = Literal["mp4", "matroska", "avi"]

_EBML = b"\x1a\x45\xdf\xa3"
_SEGMENT = b"\x18\x53\x80\x67"
_MAX_ATOMS = 10_000
"""At the top level of an MP4 file; fragmented recordings have two a second or so."""


def find_container(path: Path) -> Container | None:
    """The container of the video file `path`: MP4, Matroska (mkv, webm) or AVI; None for anything else."""
    with path.open("rb") as file:
        head = file.read(12)
    if head[4:8] == b"ftyp":
        return "mp4"
    if head[:4] == _EBML:
        return "matroska"
    return "avi" if head[:4] == b"RIFF" and head[8:] == b"AVI " else None


def is_complete(path: Path, container: Container) -> bool:
    """Whether the file is as long as its outermost elements say. A part that declares no length is taken as it is."""
    length = path.stat().st_size
    walk = {"mp4": _mp4_ends, "matroska": _matroska_ends, "avi": _avi_ends}[container]
    with path.open("rb") as file:
        try:
            return all(end <= length for end in walk(file, length))
        except struct.error:
            return False


def _mp4_ends(file: BinaryIO, length: int) -> Iterator[int]:
    at = 0
    for _ in range(_MAX_ATOMS):
        if at >= length:
            return
        file.seek(at)
        size, kind = struct.unpack(">I4s", file.read(8))
        if size == 0:  # up to the end of the file
            return
        if size == 1:
            (size,) = struct.unpack(">Q", file.read(8))
        at += max(size, 8)
        yield at
        if kind == b"\0\0\0\0":  # padding that some cameras leave behind
            return
    raise struct.error("more atoms than any camera writes")


def _avi_ends(file: BinaryIO, length: int) -> Iterator[int]:
    at = 0
    while at + 8 <= length:  # OpenDML files have several RIFF chunks one after the other
        file.seek(at)
        kind, size = struct.unpack("<4sI", file.read(8))
        if kind != b"RIFF" or size == 0:
            return
        at += 8 + size + size % 2
        yield at - size % 2


def _matroska_ends(file: BinaryIO, length: int) -> Iterator[int]:
    at = 0
    while at < length:
        file.seek(at)
        head = file.read(4 + 8)
        if len(head) < 5:
            raise struct.error("the element is cut short")
        width = 9 - head[4].bit_length()
        value = int.from_bytes(head[4 : 4 + width], "big") & ((1 << 7 * width) - 1)
        if head[:4] not in {_EBML, _SEGMENT} or width > 8 or value == (1 << 7 * width) - 1:  # the last: unknown size
            return
        at += 4 + width + value
        yield at
