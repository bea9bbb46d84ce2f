"""The vectors as the database keeps them, read a part at a time."""

import json
import sqlite3

import numpy as np
from numpy.typing import NDArray

from service.gallery.embedded.rows import ROWS_LACK_VECTORS
from service.gallery.records import GalleryError

Rows = tuple[NDArray[np.int64], NDArray[np.float32]]


def read_after(connection: sqlite3.Connection, number: int, limit: int, dimension: int) -> Rows:
    """The first `limit` rows behind a number: their numbers `[n]`, ascending, and vectors `[n, D]`.

    Raises `GalleryError` where a row is without a vector of this dimension.
    """
    found = connection.execute(
        "SELECT t.number, e.vector FROM tracklets t LEFT JOIN embeddings e USING (number) WHERE t.number > ? "
        "ORDER BY t.number LIMIT ?",
        (number, limit),
    ).fetchall()
    return _decode(found, dimension)


def read_some(connection: sqlite3.Connection, numbers: NDArray[np.int64], dimension: int) -> Rows:
    """Those of the rows that are there, in ascending order of their numbers.

    Raises `GalleryError` where one is without a vector of this dimension.
    """
    found = connection.execute(
        "SELECT number, vector FROM embeddings WHERE number IN (SELECT value FROM json_each(?)) ORDER BY number",
        (json.dumps(numbers.tolist()),),
    ).fetchall()
    return _decode(found, dimension)


def _decode(found: list[tuple[int, bytes | None]], dimension: int) -> Rows:
    if any(vector is None or len(vector) != 4 * dimension for _, vector in found):
        raise GalleryError(ROWS_LACK_VECTORS)
    vectors = np.frombuffer(b"".join(vector for _, vector in found if vector), "<f4").astype(np.float32)
    return np.array([number for number, _ in found], np.int64), vectors.reshape(-1, dimension)
