"""The index saved beside the database, trusted only where it is whole and provably of this database's past.

Layout: magic, header length (uint32), header (JSON), row numbers (int64), the vectors as their class writes them, and
the BLAKE2b digest of all before; numbers are little-endian. Row numbers are never given twice, so the vectors of a file
that belongs to this database's past stay right; rows that came and went since then are for the reader to make up for.
"""

import hashlib
import json
import os
import struct
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from service.gallery.embedded.database import owner_only
from service.gallery.embedded.index.flat import FlatVectors, Vectors
from service.gallery.embedded.index.ivf import IvfVectors

FILE_NAME = "index.faiss"
_MAGIC = b"not3d-index-2\n"
_KINDS: dict[str, type[Vectors]] = {FlatVectors.kind: FlatVectors, IvfVectors.kind: IvfVectors}
_DIGEST_SIZE = 32
_CHUNK = 1 << 22


class IndexFileError(Exception):
    """Why the saved index cannot be used."""


@dataclass(frozen=True, slots=True)
class Header:
    """What the file was saved from. `token` is random, and the database knows which ones to expect.

    `kind` and `facts` are those of the vectors' class.
    """

    token: str
    embedding_space: str
    dimension: int
    rows: int
    kind: str = FlatVectors.kind
    facts: dict[str, Any] = field(default_factory=dict)


def save(directory: Path, header: Header, numbers: NDArray[np.int64], vectors: Iterable[bytes]) -> None:
    """Write the file so that a crash leaves the old one or the new one; `vectors` come in pieces. Raises `OSError`."""
    temporary = directory / f"{FILE_NAME}.part"
    try:
        with open(temporary, "wb", opener=owner_only) as file:
            _write(file, header, numbers, vectors)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(directory / FILE_NAME)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def load(
    directory: Path, tokens: Collection[str], embedding_space: str, dimension: int
) -> tuple[Vectors, NDArray[np.int64], str]:
    """The saved vectors, their row numbers `[N]`, ascending, and which of the expected `tokens` the file has.

    Raises `FileNotFoundError`, and `IndexFileError` saying what is wrong with the file; FAISS never parses a byte that
    was not checked.
    """
    with _trusted(directory, tokens, embedding_space, dimension) as (file, header, end):
        numbers = _read_numbers(file, header)
        return _read_vectors(file, header, end), numbers, header.token


def load_numbers(directory: Path, tokens: Collection[str], embedding_space: str, dimension: int) -> NDArray[np.int64]:
    """Only the row numbers of what `load` would give, after the same checks; takes no memory for the vectors."""
    with _trusted(directory, tokens, embedding_space, dimension) as (file, header, _):
        return _read_numbers(file, header)


def remove(directory: Path) -> None:
    """Remove the file and what a crash left of a newer one. Raises `OSError`."""
    (directory / FILE_NAME).unlink(missing_ok=True)
    remove_part(directory)


def remove_part(directory: Path) -> None:
    """Remove what a crash left of a newer one. Raises `OSError`."""
    (directory / f"{FILE_NAME}.part").unlink(missing_ok=True)


def _write(file: BinaryIO, header: Header, numbers: NDArray[np.int64], vectors: Iterable[bytes]) -> None:
    digest = hashlib.blake2b(digest_size=_DIGEST_SIZE)
    text = json.dumps(asdict(header)).encode()
    head = (_MAGIC, struct.pack("<I", len(text)), text, numbers.astype("<i8").tobytes())
    for part in chain(head, vectors):
        digest.update(part)
        file.write(part)
    file.write(digest.digest())


@contextmanager
def _trusted(
    directory: Path, tokens: Collection[str], embedding_space: str, dimension: int
) -> Iterator[tuple[BinaryIO, Header, int]]:
    """The file behind its header, the header, and where the content ends, once all of it is known to be right."""
    try:
        with (directory / FILE_NAME).open("rb") as file:
            end = _check_digest(file)
            header = _read_header(file)
            if (header.embedding_space, header.dimension) != (embedding_space, dimension):
                raise IndexFileError(
                    f"it holds embeddings of space {header.embedding_space}, dimension {header.dimension}"
                )
            if header.token not in tokens:
                raise IndexFileError("it was not the last one saved from this database")
            yield file, header, end
    except FileNotFoundError:
        raise
    except OSError as error:
        raise IndexFileError(f"it cannot be read: {error.strerror or error}") from error


def _read_numbers(file: BinaryIO, header: Header) -> NDArray[np.int64]:
    return np.frombuffer(file.read(8 * header.rows), "<i8").astype(np.int64)


def _check_digest(file: BinaryIO) -> int:
    """Where the content ends; the file is left at the header's length."""
    end = os.fstat(file.fileno()).st_size - _DIGEST_SIZE
    if file.read(len(_MAGIC)) != _MAGIC or end < len(_MAGIC) + 4:
        raise IndexFileError("it is not an index file of this version")
    digest = hashlib.blake2b(_MAGIC, digest_size=_DIGEST_SIZE)
    left = end - len(_MAGIC)
    while left:
        chunk = file.read(min(_CHUNK, left))
        if not chunk:
            raise IndexFileError("it is truncated")
        digest.update(chunk)
        left -= len(chunk)
    if file.read() != digest.digest():
        raise IndexFileError("it is damaged or truncated: its checksum is wrong")
    file.seek(len(_MAGIC))
    return end


def _read_header(file: BinaryIO) -> Header:
    (length,) = struct.unpack("<I", file.read(4))
    try:
        return Header(**json.loads(file.read(length)))
    except (ValueError, TypeError) as error:
        raise IndexFileError("its header is of another version") from error


def _read_vectors(file: BinaryIO, header: Header, end: int) -> Vectors:
    def read(size: int) -> bytes:
        if size > end - file.tell():
            raise ValueError("its rows and its vectors do not fit")
        return file.read(size)

    if header.kind not in _KINDS:
        raise IndexFileError(f"it holds vectors of a kind {header.kind!r}, which this version does not know")
    try:
        vectors = _KINDS[header.kind].read(read, header.facts, header.dimension, header.rows)
    except (KeyError, TypeError, ValueError) as error:
        raise IndexFileError(str(error)) from error
    if file.tell() != end:
        raise IndexFileError("its rows and its vectors do not fit")
    return vectors
