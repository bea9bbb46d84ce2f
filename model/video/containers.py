"""Video files from outside: which container a file is, and whether it is complete. Nothing is decoded."""

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final, Literal

from model.video.limits import VideoError

Container = Literal["mp4", "matroska", "avi", "mpegts"]

_EBML = b"\x1a\x45\xdf\xa3"
_SEGMENT = b"\x18\x53\x80\x67"
_QUICKTIME: Final = frozenset({b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"})
"""First atoms of QuickTime files that have no `ftyp`."""
_TS_PACKET: Final = 188
_MAX_ATOMS = 10_000
"""Limit for the top level of an MP4 file; fragmented recordings have about two atoms per second."""


def check_video(source: Path | BinaryIO) -> None:
    """Check the structure of a file without decoding it.

    Raises:
        VideoError: `unsupported` for another kind of file, `unusable` for a truncated one.
    """
    with open_source(source) as file:
        if not _is_complete(file, require_container(file)):
            raise VideoError("unusable", "the file is truncated")


@contextmanager
def open_source(source: Path | BinaryIO) -> Iterator[BinaryIO]:
    """Open a path, or use an open file.

    Raises:
        VideoError: the path is not a file.
    """
    if not isinstance(source, Path):
        yield source
        return
    if not source.is_file():  # opening a named pipe would wait
        raise VideoError("unusable", "the file does not exist")
    with source.open("rb") as file:
        yield file


def find_container(source: Path | BinaryIO) -> Container | None:
    """Return the container of a video file by its first bytes; None if it is none of those that are read.

    MP4 and QuickTime (mp4, mov), Matroska (mkv, webm), AVI, or an MPEG transport stream (ts, m2ts).
    """
    with open_source(source) as file:
        file.seek(0)
        head = file.read(4 * _TS_PACKET)
    # First, because a stream may begin in the middle of a text, such as the "skip" in the settings of an encoder.
    # Blu-ray and camcorders put a time of four bytes before each packet.
    for start, size in ((0, _TS_PACKET), (4, _TS_PACKET + 4)):
        if len(head) > start + 2 * size and all(head[at] == 0x47 for at in range(start, len(head), size)):
            return "mpegts"
    if head[4:8] == b"ftyp" or head[4:8] in _QUICKTIME:
        return "mp4"
    if head[:4] == _EBML:
        return "matroska"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "avi"
    return None


def require_container(file: BinaryIO) -> Container:
    """Return the container of an open file.

    Raises:
        VideoError: `unsupported` for any other content.
    """
    container = find_container(file)
    if container is None:
        raise VideoError("unsupported", "the content is neither MP4, QuickTime, Matroska, AVI nor an MPEG stream")
    return container


def _is_complete(file: BinaryIO, container: Container) -> bool:
    """Return whether the file is as long as its outermost elements say.

    An element that declares no length counts as complete.
    """
    if container == "mpegts":  # it has no length
        return True
    length = file.seek(0, os.SEEK_END)
    walk = {"mp4": _mp4_ends, "matroska": _matroska_ends, "avi": _avi_ends}[container]
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
        if kind == b"\0\0\0\0":  # padding that some cameras write
            return
    raise struct.error("the file has too many atoms")


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
