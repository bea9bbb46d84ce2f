"""Records and vectors as rows of the database, and filters as SQL.

In all functions `at` is a time in microseconds since 1970; a record that has expired at this time is not enrolled. With
`cameras`, only rows of these cameras are found, by the index over camera and id: others are not read.
"""

import json
import sqlite3
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.gallery.checks import (
    DAY,
    Row,
    check_text,
    choose_thumbnail,
    created_of,
    daily_window,
    interval_of,
    term_choices,
)
from service.gallery.clock import to_datetime
from service.gallery.records import Filter, GalleryBroken, GalleryError, Record, StoredJson

_ROWS_LACK_VECTORS = "the database is damaged: some rows lack their vector. Restore it from a backup"

_VECTOR = np.dtype("<f4")
_VALUES = (
    "t.id, e.vector, t.camera_id, t.start_time, t.end_time, t.metadata, t.frames, t.clips, t.created_at, "
    "t.expires_at, (SELECT count(*) FROM thumbnails h WHERE h.number = t.number)"
)
_COLUMNS = f"{_VALUES} FROM tracklets t JOIN embeddings e USING (number)"
_FIELDS = ("id", "camera_id", "start_time", "end_time", "metadata", "frames", "clips", "created_at", "expires_at")
"""The attributes of a `Row` that are columns of `tracklets`."""
_ENROLLED = "(t.expires_at IS NULL OR t.expires_at > ?)"


@dataclass(frozen=True, slots=True)
class StoredId:
    """The row of an id; if its record has `expired`, the id is free."""

    number: int
    expired: bool


def insert(connection: sqlite3.Connection, rows: Sequence[Row], embedding_space: str) -> list[int]:
    """Write rows whose ids are free, and return their numbers, ascending."""
    # The numbers are chosen here, because an INSERT of many rows does not return them.
    found = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'tracklets'").fetchone()
    first = 1 if found is None else int(found[0]) + 1
    numbers = list(range(first, first + len(rows)))
    values_of = attrgetter(*_FIELDS)
    connection.executemany(
        f"INSERT INTO tracklets (number, embedding_space, {', '.join(_FIELDS)}) "  # noqa: S608
        f"VALUES (?, ?{', ?' * len(_FIELDS)})",
        ((number, embedding_space, *values_of(row)) for number, row in zip(numbers, rows, strict=True)),
    )
    connection.executemany(
        "INSERT INTO embeddings (number, vector) VALUES (?, ?)",
        ((number, row.vector.astype(_VECTOR).tobytes()) for number, row in zip(numbers, rows, strict=True)),
    )
    connection.executemany(
        "INSERT INTO metadata_terms (digest, number) VALUES (?, ?)",
        ((term, number) for number, row in zip(numbers, rows, strict=True) for term in row.terms),
    )
    connection.executemany(
        "INSERT INTO thumbnails (number, frame, jpeg) VALUES (?, ?, ?)",
        (
            (number, frame, jpeg)
            for number, row in zip(numbers, rows, strict=True)
            for frame, jpeg in enumerate(row.thumbnails)
        ),
    )
    return numbers


def delete(connection: sqlite3.Connection, numbers: Sequence[int]) -> None:
    """Remove rows and everything that belongs to them."""
    connection.executemany("DELETE FROM tracklets WHERE number = ?", [(number,) for number in numbers])


def version_of(connection: sqlite3.Connection) -> int:
    """Return how many transactions have changed the gallery."""
    return int(connection.execute("SELECT version FROM gallery").fetchone()[0])


def find_ids(
    connection: sqlite3.Connection, ids: Sequence[str], at: int, cameras: frozenset[str] | None = None
) -> dict[str, StoredId]:
    """Find the rows of ids; an id without a row is not in the result."""
    source, values = _source(cameras)
    found = connection.execute(
        f"SELECT t.id, t.number, t.expires_at FROM {source} t.id IN (SELECT value FROM json_each(?))",  # noqa: S608
        (*values, json.dumps(ids)),
    )
    return {id_: StoredId(number, expires is not None and expires <= at) for id_, number, expires in found}


def expired(connection: sqlite3.Connection, at: int, limit: int) -> list[int]:
    """Return the numbers of at most `limit` expired rows, the earliest expiry first."""
    found = connection.execute(
        "SELECT number FROM tracklets WHERE expires_at <= ? ORDER BY expires_at LIMIT ?", (at, limit)
    )
    return [number for (number,) in found]


def by_id(connection: sqlite3.Connection, id: str, at: int, cameras: frozenset[str] | None = None) -> Record | None:
    """Return the record of an id if it is enrolled."""
    source, values = _source(cameras, "JOIN embeddings e USING (number)")
    found = connection.execute(
        f"SELECT {_VALUES} FROM {source} t.id = ? AND {_ENROLLED}",  # noqa: S608
        (*values, id, at),
    ).fetchone()
    return None if found is None else _decode(found)


def by_ids(
    connection: sqlite3.Connection, ids: Sequence[str], at: int, cameras: frozenset[str] | None = None
) -> dict[str, Record]:
    """Return the records of those ids that are enrolled."""
    source, values = _source(cameras, "JOIN embeddings e USING (number)")
    found = connection.execute(
        f"SELECT {_VALUES} FROM {source} t.id IN (SELECT value FROM json_each(?)) AND {_ENROLLED}",  # noqa: S608
        (*values, _texts(ids, "ids"), at),
    )
    return {record.id: record for record in map(_decode, found)}


def ids_where(
    connection: sqlite3.Connection, ids: Sequence[str], filter: Filter, at: int, cameras: frozenset[str] | None = None
) -> set[str]:
    """Return those of these ids whose records are enrolled and pass."""
    source, values = _source(cameras)
    condition, conditions = where(filter, at)
    found = connection.execute(
        f"SELECT t.id FROM {source} t.id IN (SELECT value FROM json_each(?)) AND {condition}",  # noqa: S608
        (*values, _texts(ids, "ids"), *conditions),
    )
    return {id_ for (id_,) in found}


def thumbnail_of(connection: sqlite3.Connection, id: str, frame: int | None, at: int) -> bytes | None:
    """Return a JPEG of an enrolled record, as `Gallery.thumbnail`, or `None` if it has none."""
    found = connection.execute(
        "SELECT t.number, (SELECT count(*) FROM thumbnails h WHERE h.number = t.number) FROM tracklets t "  # noqa: S608
        f"WHERE t.id = ? AND {_ENROLLED}",
        (id, at),
    ).fetchone()
    index = None if found is None else choose_thumbnail(found[1], frame)
    if index is None:
        return None
    jpeg = connection.execute("SELECT jpeg FROM thumbnails WHERE number = ? AND frame = ?", (found[0], index))
    return bytes(jpeg.fetchone()[0])


def thumbnails_by_number(connection: sqlite3.Connection, numbers: Sequence[int]) -> dict[int, tuple[bytes, ...]]:
    """Return the JPEGs of these numbers in time order; a number without any is left out."""
    found: dict[int, tuple[bytes, ...]] = {}
    for number, jpeg in connection.execute(
        "SELECT number, jpeg FROM thumbnails WHERE number IN (SELECT value FROM json_each(?)) ORDER BY number, frame",
        (json.dumps(list(numbers)),),
    ):
        found[number] = (*found.get(number, ()), jpeg)
    return found


def by_number(connection: sqlite3.Connection, numbers: Sequence[int]) -> list[Record]:
    """Return the records of these numbers, in their order. Raises `error_of_missing` if one is missing."""
    found = connection.execute(
        f"SELECT t.number, {_COLUMNS} WHERE t.number IN (SELECT value FROM json_each(?))",  # noqa: S608
        (json.dumps(list(numbers)),),
    )
    records = {number: _decode(columns) for number, *columns in found}
    missing = [number for number in numbers if number not in records]
    if missing:
        raise error_of_missing(connection, missing)
    return [records[number] for number in numbers]


def error_of_missing(connection: sqlite3.Connection, numbers: Collection[int]) -> GalleryError:
    """Return the error for rows that are in the index but not complete in the database."""
    if len(ids_of(connection, list(numbers))) == len(numbers):
        return GalleryError(_ROWS_LACK_VECTORS)
    return GalleryBroken(f"the index has {len(numbers)} rows that the database does not have: restart the service")


def ids_of(connection: sqlite3.Connection, numbers: Sequence[int]) -> dict[int, str]:
    """Return the ids of these numbers."""
    return dict(
        connection.execute(
            "SELECT number, id FROM tracklets WHERE number IN (SELECT value FROM json_each(?))",
            (json.dumps(list(numbers)),),
        )
    )


def by_page(connection: sqlite3.Connection, filter: Filter, after_id: str, limit: int, at: int) -> list[Record]:
    """Return at most `limit` records that pass and whose id is greater than `after_id`, in order of their ids."""
    condition, values = where(filter, at)
    found = connection.execute(
        f"SELECT {_COLUMNS} WHERE t.id > ? AND {condition} ORDER BY t.id LIMIT ?",
        (after_id, *values, limit),
    )
    return [_decode(columns) for columns in found]


def numbers_of(connection: sqlite3.Connection, ids: Sequence[str]) -> NDArray[np.int64]:
    """Return the numbers of these ids `[n]`, in any order; an id without a row is left out."""
    found = connection.execute(
        "SELECT number FROM tracklets WHERE id IN (SELECT value FROM json_each(?))", (_texts(ids, "exclude_ids"),)
    ).fetchall()
    return np.array(found, dtype=np.int64).reshape(-1)


def numbers_where(connection: sqlite3.Connection, filter: Filter, at: int) -> tuple[list[int], list[int]]:
    """Return the numbers of all rows that pass, ascending: first the enrolled ones, then the expired ones."""
    condition, values = where(filter)
    found = connection.execute(
        f"SELECT t.number, {_ENROLLED} FROM tracklets t WHERE {condition} ORDER BY t.number",  # noqa: S608
        (at, *values),
    ).fetchall()
    return [number for number, enrolled in found if enrolled], [number for number, enrolled in found if not enrolled]


def count_without_time(connection: sqlite3.Connection, filter: Filter, at: int) -> int:
    """Count the records that only conditions on time leave out, because they have no time."""
    if not filter.needs_time:
        return 0
    condition, values = where(filter.of_records_without_time(), at)
    found = connection.execute(f"SELECT count(*) FROM tracklets t WHERE {condition}", values)  # noqa: S608
    return int(found.fetchone()[0])


def where(filter: Filter, at: int | None = None) -> tuple[str, list[object]]:
    """Return a filter as a condition on `tracklets t`, with the values of its parameters.

    Without `at`, expired records pass too.

    Raises:
        InvalidArgument: a time has no zone, the interval ends before it begins, or metadata is not JSON.
    """
    conditions = [] if at is None else [_ENROLLED]
    values: list[object] = [] if at is None else [at]
    if filter.camera_ids is not None and len(filter.camera_ids) == 1:
        # With "=", SQLite reads a page directly from the index over camera and id.
        check_text(filter.camera_ids[0], "camera_ids")
        conditions.append("t.camera_id = ?")
        values.append(filter.camera_ids[0])
    elif filter.camera_ids is not None:
        conditions.append("t.camera_id IN (SELECT value FROM json_each(?))")
        values.append(_texts(filter.camera_ids, "camera_ids"))
    if filter.exclude_camera_ids:
        conditions.append("(t.camera_id IS NULL OR t.camera_id NOT IN (SELECT value FROM json_each(?)))")
        values.append(_texts(filter.exclude_camera_ids, "exclude_camera_ids"))
    after, before = interval_of(filter)
    if after is not None:
        conditions.append("coalesce(t.end_time, t.start_time) >= ?")
        values.append(after)
    if before is not None:
        conditions.append("coalesce(t.start_time, t.end_time) <= ?")
        values.append(before)
    if (window := daily_window(filter)) is not None:
        # SQLite's remainder has the sign of the dividend, so a day is added. A record that lasts into the next day
        # passes if it reaches the window of that day.
        since = f"((coalesce(t.start_time, t.end_time) - ?) % {DAY} + {DAY}) % {DAY}"
        lasts = "coalesce(t.end_time, t.start_time) - coalesce(t.start_time, t.end_time)"
        conditions.append(f"({since} <= ? OR {since} + {lasts} >= {DAY})")
        values += [window.start, window.length, window.start]
    if filter.without_time:
        conditions.append("t.start_time IS NULL AND t.end_time IS NULL")
    created_after, created_before = created_of(filter)
    if created_after is not None:
        conditions.append("t.created_at >= ?")
        values.append(created_after)
    if created_before is not None:
        conditions.append("t.created_at <= ?")
        values.append(created_before)
    for terms in term_choices(filter):
        given = ", ".join("?" * len(terms))
        conditions.append(f"t.number IN (SELECT number FROM metadata_terms WHERE digest IN ({given}))")  # noqa: S608
        values += terms
    if filter.exclude_ids:
        conditions.append("t.id NOT IN (SELECT value FROM json_each(?))")
        values.append(_texts(filter.exclude_ids, "exclude_ids"))
    return " AND ".join(conditions) or "1", values


def vectors_after(
    connection: sqlite3.Connection, number: int, limit: int, dimension: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Read the first `limit` rows whose numbers are greater than `number`.

    Returns:
        Their numbers `[n]`, ascending, and vectors `[n, D]`.

    Raises:
        GalleryError: a row has no vector of this dimension.
    """
    found = connection.execute(
        "SELECT t.number, e.vector FROM tracklets t LEFT JOIN embeddings e USING (number) WHERE t.number > ? "
        "ORDER BY t.number LIMIT ?",
        (number, limit),
    ).fetchall()
    return _decode_vectors(found, dimension)


def vectors_of(
    connection: sqlite3.Connection, numbers: NDArray[np.int64], dimension: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Read the vectors of these numbers; a number without a vector is left out.

    Returns:
        The numbers `[n]`, ascending, and vectors `[n, D]`.

    Raises:
        GalleryError: a vector is not of this dimension.
    """
    found = connection.execute(
        "SELECT number, vector FROM embeddings WHERE number IN (SELECT value FROM json_each(?)) ORDER BY number",
        (json.dumps(numbers.tolist()),),
    ).fetchall()
    return _decode_vectors(found, dimension)


def vectors_by_camera(
    connection: sqlite3.Connection, numbers: Sequence[int], dimension: int
) -> tuple[list[str | None], NDArray[np.float32]]:
    """Read the cameras and the vectors `[n, D]` of these numbers, in any order. Raises as `vectors_of`."""
    found = connection.execute(
        "SELECT t.camera_id, e.vector FROM tracklets t JOIN embeddings e USING (number) "
        "WHERE t.number IN (SELECT value FROM json_each(?))",
        (json.dumps(list(numbers)),),
    ).fetchall()
    _, vectors = _decode_vectors([(0, vector) for _, vector in found], dimension)
    return [camera_id for camera_id, _ in found], vectors


def _source(cameras: frozenset[str] | None, join: str = "") -> tuple[str, list[object]]:
    """Return what stands between FROM and further conditions to find rows by id, with the values of its parameters."""
    if cameras is None:
        return f"tracklets t {join} WHERE", []
    # Rows of other cameras must not be read, or the time of an answer would tell about them.
    condition = "t.camera_id IN (SELECT value FROM json_each(?))"
    source = f"tracklets t INDEXED BY tracklets_of_camera {join} WHERE {condition} AND"
    return source, [_texts(sorted(cameras), "cameras")]


def _decode_vectors(
    found: list[tuple[int, bytes | None]], dimension: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    if any(vector is None or len(vector) != 4 * dimension for _, vector in found):
        raise GalleryError(_ROWS_LACK_VECTORS)
    vectors = np.frombuffer(b"".join(vector for _, vector in found if vector), _VECTOR).astype(np.float32)
    return np.array([number for number, _ in found], np.int64), vectors.reshape(-1, dimension)


def _decode(columns: Sequence[Any]) -> Record:
    id_, vector, camera_id, start, end, metadata, frames, clips, created, expires, thumbnails = columns
    return Record(
        id=id_,
        embedding=np.frombuffer(vector, _VECTOR).astype(np.float32),
        camera_id=camera_id,
        start_time=None if start is None else to_datetime(start),
        end_time=None if end is None else to_datetime(end),
        metadata=StoredJson(metadata),
        frames=frames,
        clips=clips,
        created_at=to_datetime(created),
        expires_at=None if expires is None else to_datetime(expires),
        thumbnail_count=thumbnails,
    )


def _texts(texts: Sequence[str], name: str) -> str:
    for text in texts:
        check_text(text, name)
    return json.dumps(list(texts))
