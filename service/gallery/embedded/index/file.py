"""The format of the saved index, a file beside the database. It is used only if it is intact and of this database.

Layout: magic, header length (uint32), header (JSON), row numbers (int64), the bytes of the vectors' `serialise`, and
the BLAKE2b digest of all of these. Numbers are little-endian. A row number is never used twice, so the vectors in a
file from an earlier state of this database stay right. The reader removes and adds the rows that changed after it.
"""

import hashlib
import json
import os
import sqlite3
import struct
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from service.gallery.embedded.database import Stamp, owner_only
from service.gallery.embedded.index.flat import FlatVectors, Vectors
from service.gallery.embedded.index.ivf import IvfVectors

FILE_NAME = "index.faiss"
_MAGIC = b"not3d-index-2\n"
_KINDS: dict[str, type[Vectors]] = {FlatVectors.kind: FlatVectors, IvfVectors.kind: IvfVectors}
_DIGEST_SIZE = 32
_CHUNK = 1 << 22


class IndexFileError(Exception):
    """Why the saved index cannot be used, as the end of a sentence: "it is damaged"."""


@dataclass(frozen=True, slots=True)
class Header:
    """What the file was saved from. The names of the fields are part of the format.

    `token` is random; the database has the tokens of the files that it accepts. `kind` and `facts` are the `kind` and
    the `parameters` of the vectors.
    """

    token: str
    embedding_space: str
    dimension: int
    rows: int
    kind: str = FlatVectors.kind
    facts: dict[str, Any] = field(default_factory=dict)


def save(directory: Path, header: Header, numbers: NDArray[np.int64], vectors: Iterable[bytes]) -> None:
    """Write the file: row numbers `[N]`, ascending, and what `Vectors.serialise` yields for them.

    After a crash either the old or the new file is there. Raises `OSError`; then the old one is still there.
    """
    temporary = directory / f"{FILE_NAME}.part"
    try:
        with open(temporary, "wb", opener=owner_only) as file:
            digest = hashlib.blake2b(digest_size=_DIGEST_SIZE)
            text = json.dumps(asdict(header)).encode()
            head = (_MAGIC, struct.pack("<I", len(text)), text, numbers.astype("<i8").tobytes())
            for part in chain(head, vectors):
                digest.update(part)
                file.write(part)
            file.write(digest.digest())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(directory / FILE_NAME)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def accepted_tokens(connection: sqlite3.Connection) -> list[str]:
    """Return the tokens of the files that a database accepts; none if no index was ever saved."""
    found = connection.execute("SELECT index_token, next_index_token FROM gallery").fetchone()
    return [token for token in found if token]


def load(directory: Path, tokens: Collection[str], stamp: Stamp) -> tuple[Vectors, NDArray[np.int64], str]:
    """Read the file, which must have one of these tokens. FAISS parses no byte before the checksum is verified.

    Returns:
        The vectors, the numbers of their rows `[N]`, ascending, and the file's token.

    Raises:
        FileNotFoundError: there is no file.
        IndexFileError: the file cannot be used.
    """
    with _open_checked(directory, tokens, stamp) as (file, header, end):
        numbers = _read_numbers(file, header)
        return _read_vectors(file, header, end), numbers, header.token


def load_numbers(directory: Path, tokens: Collection[str], stamp: Stamp) -> NDArray[np.int64]:
    """Read only the row numbers, with the arguments, the checks and the errors of `load`."""
    with _open_checked(directory, tokens, stamp) as (file, header, _):
        return _read_numbers(file, header)


def remove(directory: Path) -> None:
    """Remove the file and an unfinished newer one. Raises `OSError`."""
    (directory / FILE_NAME).unlink(missing_ok=True)
    remove_unfinished(directory)


def remove_unfinished(directory: Path) -> None:
    """Remove what a killed process had written of a newer file. Raises `OSError`."""
    (directory / f"{FILE_NAME}.part").unlink(missing_ok=True)


@contextmanager
def _open_checked(directory: Path, tokens: Collection[str], stamp: Stamp) -> Iterator[tuple[BinaryIO, Header, int]]:
    """Check the file, then yield it (at the end of its header), the header and the end of its content."""
    try:
        with (directory / FILE_NAME).open("rb") as file:
            end = _check_digest(file)
            header = _read_header(file)
            if (header.embedding_space, header.dimension) != (stamp.embedding_space, stamp.dimension):
                raise IndexFileError(
                    f"it holds embeddings of space {header.embedding_space}, dimension {header.dimension}"
                )
            if header.token not in tokens:
                raise IndexFileError("it is not the last one saved from this database")
            yield file, header, end
    except FileNotFoundError:
        raise
    except OSError as error:
        raise IndexFileError(f"it cannot be read: {error.strerror or error}") from error


def _read_numbers(file: BinaryIO, header: Header) -> NDArray[np.int64]:
    return np.frombuffer(file.read(8 * header.rows), "<i8").astype(np.int64)


def _check_digest(file: BinaryIO) -> int:
    """Return where the content ends, and leave the file at the header's length."""
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
            raise ValueError("its number of rows does not match its vectors")
        return file.read(size)

    if header.kind not in _KINDS:
        raise IndexFileError(f"it holds vectors of the kind {header.kind!r}, which this version cannot read")
    try:
        vectors = _KINDS[header.kind].deserialise(read, header.facts, header.dimension, header.rows)
    except (KeyError, TypeError, ValueError) as error:
        raise IndexFileError(str(error)) from error
    if file.tell() != end:
        raise IndexFileError("its number of rows does not match its vectors")
    return vectors
