"""Records as rows of the database, and filters as SQL."""

import json
import sqlite3
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.gallery.checks import Row, check_text, interval_of, terms_of
from service.gallery.clock import to_datetime
from service.gallery.records import Filter, GalleryBroken, GalleryError, Record

ROWS_LACK_VECTORS = "the database is damaged: some rows lack their vector. Restore it from a backup"

_VECTOR = np.dtype("<f4")
_COLUMNS = (
    "t.id, e.vector, t.camera_id, t.start_time, t.end_time, t.metadata, t.frames, t.clips, t.created_at, "
    "t.expires_at, EXISTS (SELECT 1 FROM thumbnails h WHERE h.number = t.number) "
    "FROM tracklets t JOIN embeddings e USING (number)"
)
# With the present moment, of which a method takes one and stays with it.
_ENROLLED = "(t.expires_at IS NULL OR t.expires_at > ?)"


@dataclass(frozen=True, slots=True)
class RequestSlot:
    """Where an id is kept: its number, and whether the record there has expired, so that the id is free."""

    number: int
    expired: bool


def insert(connection: sqlite3.Connection, rows: Sequence[Row], embedding_space: str) -> list[int]:
    """Write rows and return their numbers, ascending. The caller has seen that the ids are free."""
    # Given out here, because an INSERT of many tells the number of none.
    found = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'tracklets'").fetchone()
    first = 1 if found is None else int(found[0]) + 1
    numbers = list(range(first, first + len(rows)))
    connection.executemany(
        "INSERT INTO tracklets (number, id, embedding_space, camera_id, start_time, end_time, metadata, frames, clips, "
        "created_at, expires_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            (
                number,
                row.id,
                embedding_space,
                row.camera_id,
                row.start_time,
                row.end_time,
                row.metadata,
                row.frames,
                row.clips,
                row.created_at,
                row.expires_at,
            )
            for number, row in zip(numbers, rows, strict=True)
        ),
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
        "INSERT INTO thumbnails (number, jpeg) VALUES (?, ?)",
        ((number, row.thumbnail) for number, row in zip(numbers, rows, strict=True) if row.thumbnail is not None),
    )
    return numbers


def version_of(connection: sqlite3.Connection) -> int:
    """How many transactions changed the gallery so far."""
    return int(connection.execute("SELECT version FROM gallery").fetchone()[0])


def places_of(connection: sqlite3.Connection, ids: Sequence[str], at: int) -> dict[str, RequestSlot]:
    """Where those of these ids are that have a row, expired at the moment `at` or not."""
    found = connection.execute(
        "SELECT id, number, expires_at FROM tracklets WHERE id IN (SELECT value FROM json_each(?))", (json.dumps(ids),)
    )
    return {id_: RequestSlot(number, expires is not None and expires <= at) for id_, number, expires in found}


def expired(connection: sqlite3.Connection, at: int, limit: int) -> list[int]:
    """The numbers of at most `limit` rows that have expired, the longest expired first."""
    found = connection.execute(
        "SELECT number FROM tracklets WHERE expires_at <= ? ORDER BY expires_at LIMIT ?", (at, limit)
    )
    return [number for (number,) in found]


def delete(connection: sqlite3.Connection, numbers: Sequence[int]) -> None:
    """Remove rows with all that belongs to them."""
    connection.executemany("DELETE FROM tracklets WHERE number = ?", [(number,) for number in numbers])


def by_id(connection: sqlite3.Connection, id: str, at: int) -> Record | None:
    """The record of an id, unless it has expired."""
    found = connection.execute(f"SELECT {_COLUMNS} WHERE t.id = ? AND {_ENROLLED}", (id, at)).fetchone()
    return None if found is None else _decode(found)


def thumbnail_of(connection: sqlite3.Connection, id: str, at: int) -> bytes | None:
    """The picture kept with a record, unless that has expired."""
    found = connection.execute(
        f"SELECT h.jpeg FROM thumbnails h JOIN tracklets t USING (number) WHERE t.id = ? AND {_ENROLLED}",  # noqa: S608
        (id, at),
    ).fetchone()
    return None if found is None else bytes(found[0])


def by_number(connection: sqlite3.Connection, numbers: Sequence[int]) -> list[Record]:
    """The records of these numbers, in their order. Raises `error_of_missing` where one is missing."""
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
    """What it means that these rows, which the index knows, could not be read whole: a damaged database or index."""
    if len(ids_of(connection, list(numbers))) == len(numbers):
        return GalleryError(ROWS_LACK_VECTORS)
    return GalleryBroken(f"the index knows {len(numbers)} rows that the database does not: restart the service")


def ids_of(connection: sqlite3.Connection, numbers: Sequence[int]) -> dict[int, str]:
    """The ids of these numbers."""
    return dict(
        connection.execute(
            "SELECT number, id FROM tracklets WHERE number IN (SELECT value FROM json_each(?))",
            (json.dumps(list(numbers)),),
        )
    )


def by_page(
    connection: sqlite3.Connection,
    filter: Filter,
    after_id: str,
    limit: int,
    at: int,
) -> list[Record]:
    """At most `limit` matching records whose id is greater than `after_id`, in order of their ids."""
    condition, values = where(filter, at)
    found = connection.execute(
        f"SELECT {_COLUMNS} WHERE t.id > ? AND {condition} ORDER BY t.id LIMIT ?",
        (after_id, *values, limit),
    )
    return [_decode(columns) for columns in found]


def numbers_of(connection: sqlite3.Connection, ids: Sequence[str]) -> NDArray[np.int64]:
    """The numbers of those ids that are enrolled."""
    found = connection.execute(
        "SELECT number FROM tracklets WHERE id IN (SELECT value FROM json_each(?))", (_texts(ids, "exclude_ids"),)
    ).fetchall()
    return np.array(found, dtype=np.int64).reshape(-1)


def numbers_where(connection: sqlite3.Connection, filter: Filter, at: int) -> NDArray[np.int64]:
    """The numbers of all matching rows that have not expired at the moment `at`, ascending."""
    condition, values = where(filter, at)
    found = connection.execute(
        f"SELECT t.number FROM tracklets t WHERE {condition} ORDER BY t.number",  # noqa: S608 (parameters only)
        values,
    ).fetchall()
    return np.array(found, dtype=np.int64).reshape(-1)


def split_where(connection: sqlite3.Connection, filter: Filter, at: int) -> tuple[list[int], list[int]]:
    """The numbers of all matching rows, in two parts: the enrolled ones, and those that had expired at `at`."""
    condition, values = where(filter)
    found = connection.execute(
        f"SELECT t.number, {_ENROLLED} FROM tracklets t WHERE {condition} ORDER BY t.number",  # noqa: S608
        (at, *values),
    ).fetchall()
    enrolled = [number for number, lasting in found if lasting]
    return enrolled, [number for number, lasting in found if not lasting]


def where(filter: Filter, at: int | None = None) -> tuple[str, list[object]]:
    """A condition on `tracklets t` with the values of its parameters; "1" where everything matches.

    With `at` only what has not expired at that moment matches.

    Raises `InvalidArgument` for times without a zone, an interval that ends before it begins, and what is not JSON.
    """
    conditions = [] if at is None else [_ENROLLED]
    values: list[object] = [] if at is None else [at]
    if filter.camera_ids is not None and len(filter.camera_ids) == 1:
        # Said so, SQLite reads a page straight from the index over camera and id.
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
    for term in terms_of(dict(filter.metadata)):
        conditions.append("t.number IN (SELECT number FROM metadata_terms WHERE digest = ?)")
        values.append(term)
    if filter.exclude_ids:
        conditions.append("t.id NOT IN (SELECT value FROM json_each(?))")
        values.append(_texts(filter.exclude_ids, "exclude_ids"))
    return " AND ".join(conditions) or "1", values


def _texts(texts: Sequence[str], name: str) -> str:
    for text in texts:
        check_text(text, name)
    return json.dumps(list(texts))


def _decode(columns: Sequence[Any]) -> Record:
    identifier, vector, camera_id, start, end, metadata, frames, clips, created, expires, has_thumbnail = columns
    return Record(
        id=identifier,
        embedding=np.frombuffer(vector, _VECTOR).astype(np.float32),
        camera_id=camera_id,
        start_time=_moment(start),
        end_time=_moment(end),
        metadata=json.loads(metadata),
        frames=frames,
        clips=clips,
        created_at=to_datetime(created),
        expires_at=_moment(expires),
        has_thumbnail=bool(has_thumbnail),
    )


def _moment(microseconds: int | None) -> datetime | None:
    return None if microseconds is None else to_datetime(microseconds)
