"""Records as rows of the database, and filters as SQL."""

import hashlib
import json
import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from service.gallery.records import Filter, GalleryBroken, GalleryError, InvalidArgument, Record

R = TypeVar("R")

ROWS_LACK_VECTORS = "the database is damaged: some rows lack their vector. Restore it from a backup"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_VECTOR = np.dtype("<f4")
_DEEPEST_JSON = 64
# What a normalised float32 vector may be off by after a trip through another program's decimals.
LENGTH_TOLERANCE = 1e-3

_JPEG = b"\xff\xd8\xff"
_MOST_THUMBNAIL_BYTES = 2**20

_COLUMNS = (
    "t.id, e.vector, t.camera_id, t.start_time, t.end_time, t.metadata, t.frames, t.clips, t.created_at, "
    "t.expires_at, EXISTS (SELECT 1 FROM thumbnails h WHERE h.number = t.number) "
    "FROM tracklets t JOIN embeddings e USING (number)"
)
# With the present moment, of which a method takes one and stays with it.
_ENROLLED = "(t.expires_at IS NULL OR t.expires_at > ?)"


@dataclass(frozen=True, slots=True)
class Row:
    """A checked record in the database's terms: times in microseconds since 1970, JSON as text, the vector as bytes."""

    id: str
    camera_id: str | None
    start_time: int | None
    end_time: int | None
    metadata: str
    terms: tuple[bytes, ...]
    frames: int
    clips: int
    created_at: int
    expires_at: int | None
    vector: NDArray[np.float32]
    thumbnail: bytes | None


@dataclass(frozen=True, slots=True)
class Place:
    """Where an id is kept: its number, and whether the record there has expired, so that the id is free."""

    number: int
    expired: bool


def now() -> int:
    """The present moment in microseconds since 1970."""
    return time.time_ns() // 1000


def microseconds(moment: datetime, name: str) -> int:
    """Microseconds since 1970 UTC, exactly. Raises `InvalidArgument` for a time without a zone."""
    if moment.tzinfo is None:
        raise InvalidArgument(f"{name} has no time zone")
    return (moment - _EPOCH) // timedelta(microseconds=1)


def check_vector(vector: NDArray[np.float32], dimension: int, name: str) -> NDArray[np.float32]:
    """The vector as float32 `[D]`, its own copy. Raises `InvalidArgument` for another shape, NaN or infinity."""
    array = np.array(vector, dtype=np.float32)
    if array.shape != (dimension,):
        raise InvalidArgument(f"{name} has shape {list(array.shape)}, this gallery's have [{dimension}]")
    if not np.isfinite(array).all():
        raise InvalidArgument(f"{name} contains NaN or infinity")
    return array


def encode(record: Record, dimension: int) -> Row:
    """Check a record and turn it into a row. Raises `InvalidArgument` naming the field that is wrong."""
    vector = check_vector(record.embedding, dimension, "embedding")
    length = float(np.linalg.norm(vector.astype(np.float64)))
    if abs(length - 1) > LENGTH_TOLERANCE:
        raise InvalidArgument(f"embedding has length {length:.4g}, not 1")
    if not record.id:
        raise InvalidArgument("id is empty")
    for name, text in (("id", record.id), ("camera_id", record.camera_id)):
        check_text(text, name)
    start = None if record.start_time is None else microseconds(record.start_time, "start_time")
    end = None if record.end_time is None else microseconds(record.end_time, "end_time")
    if start is not None and end is not None and start > end:
        raise InvalidArgument("start_time is later than end_time")
    terms = tuple(terms_of(record.metadata))
    return Row(
        id=record.id,
        camera_id=record.camera_id,
        start_time=start,
        end_time=end,
        metadata=json.dumps(record.metadata),
        terms=terms,
        frames=_count(record.frames, "frames"),
        clips=_count(record.clips, "clips"),
        created_at=microseconds(record.created_at, "created_at"),
        expires_at=None if record.expires_at is None else microseconds(record.expires_at, "expires_at"),
        vector=vector,
        thumbnail=_picture(record.thumbnail),
    )


def encode_all(records: Sequence[Record], encode_one: Callable[[Record], R]) -> dict[str, R]:
    """The rows of records by their ids, in order. Raises `InvalidArgument`, for one of several with its id."""
    new: dict[str, R] = {}
    for record in records:
        try:
            row = encode_one(record)
        except InvalidArgument as error:
            if len(records) == 1:
                raise
            raise InvalidArgument(f"{error} (record {record.id!r})") from error
        if record.id in new:
            raise InvalidArgument(f"records have the id {record.id!r} twice")
        new[record.id] = row
    return new


def _picture(thumbnail: bytes | None) -> bytes | None:
    if thumbnail is None:
        return None
    if not thumbnail.startswith(_JPEG):
        raise InvalidArgument("thumbnail is not a JPEG file")
    if len(thumbnail) > _MOST_THUMBNAIL_BYTES:
        raise InvalidArgument(f"thumbnail has {len(thumbnail)} bytes, at most {_MOST_THUMBNAIL_BYTES} are kept")
    return bytes(thumbnail)


def _count(number: int, name: str) -> int:
    if not 0 <= number < 2**31:
        raise InvalidArgument(f"{name} is {number}, not a count")
    return int(number)


def check_text(text: str | None, name: str) -> None:
    """Raises `InvalidArgument` for text SQLite cannot hold unchanged: half a surrogate pair, NUL."""
    try:
        encoded = (text or "").encode()
    except UnicodeEncodeError as error:
        raise InvalidArgument(f"{name} is not valid Unicode") from error
    if b"\0" in encoded:
        raise InvalidArgument(f"{name} contains a NUL character")


def terms_of(metadata: object) -> Iterable[bytes]:
    """One digest for each top-level key with its value; two digests are equal where key and value are.

    Raises `InvalidArgument` for what is not a JSON object.
    """
    if not isinstance(metadata, dict):
        raise InvalidArgument("metadata is not a JSON object")
    plain = _canonical(metadata, 0)
    for key, value in plain.items():
        text = json.dumps([key, value], sort_keys=True, separators=(",", ":"))
        yield hashlib.sha256(text.encode("ascii")).digest()


def _canonical(value: Any, depth: int) -> Any:
    """The same JSON value in the one form in which equal values have equal texts."""
    if depth > _DEEPEST_JSON:
        raise InvalidArgument(f"metadata is nested deeper than {_DEEPEST_JSON} levels")
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        if abs(value) >= 2**1024:
            raise InvalidArgument("metadata contains a number beyond the range of a double")
        return value
    if isinstance(value, float):
        if not np.isfinite(value):
            raise InvalidArgument("metadata contains NaN or infinity, which JSON has no words for")
        return int(value) if value.is_integer() else value
    if isinstance(value, list):
        return [_canonical(item, depth + 1) for item in value]
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise InvalidArgument("metadata has a key that is not text")
        return {key: _canonical(item, depth + 1) for key, item in value.items()}
    raise InvalidArgument(f"metadata contains a {type(value).__name__}, which is not JSON")


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


def places_of(connection: sqlite3.Connection, ids: Sequence[str], at: int) -> dict[str, Place]:
    """Where those of these ids are that have a row, expired at the moment `at` or not."""
    found = connection.execute(
        "SELECT id, number, expires_at FROM tracklets WHERE id IN (SELECT value FROM json_each(?))", (json.dumps(ids),)
    )
    return {id_: Place(number, expires is not None and expires <= at) for id_, number, expires in found}


def expired(connection: sqlite3.Connection, at: int, limit: int) -> list[int]:
    """The numbers of at most `limit` rows that have expired, the longest expired first."""
    found = connection.execute(
        "SELECT number FROM tracklets WHERE expires_at <= ? ORDER BY expires_at LIMIT ?", (at, limit)
    )
    return [number for (number,) in found]


def delete(connection: sqlite3.Connection, numbers: Sequence[int]) -> None:
    """Remove rows with all that belongs to them."""
    connection.executemany("DELETE FROM tracklets WHERE number = ?", [(number,) for number in numbers])


def by_id(connection: sqlite3.Connection, id: str, at: int) -> Record | None:  # noqa: A002 (the field's name everywhere)
    """The record of an id, unless it has expired."""
    found = connection.execute(f"SELECT {_COLUMNS} WHERE t.id = ? AND {_ENROLLED}", (id, at)).fetchone()
    return None if found is None else _decode(found)


def thumbnail_of(connection: sqlite3.Connection, id: str, at: int) -> bytes | None:  # noqa: A002
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
    filter: Filter,  # noqa: A002
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


def numbers_where(connection: sqlite3.Connection, filter: Filter, at: int) -> NDArray[np.int64]:  # noqa: A002
    """The numbers of all matching rows that have not expired at the moment `at`, ascending."""
    condition, values = where(filter, at)
    found = connection.execute(
        f"SELECT t.number FROM tracklets t WHERE {condition} ORDER BY t.number",  # noqa: S608 (parameters only)
        values,
    ).fetchall()
    return np.array(found, dtype=np.int64).reshape(-1)


def split_where(connection: sqlite3.Connection, filter: Filter, at: int) -> tuple[list[int], list[int]]:  # noqa: A002
    """The numbers of all matching rows, in two parts: the enrolled ones, and those that had expired at `at`."""
    condition, values = where(filter)
    found = connection.execute(
        f"SELECT t.number, {_ENROLLED} FROM tracklets t WHERE {condition} ORDER BY t.number",  # noqa: S608
        (at, *values),
    ).fetchall()
    enrolled = [number for number, lasting in found if lasting]
    return enrolled, [number for number, lasting in found if not lasting]


def where(filter: Filter, at: int | None = None) -> tuple[str, list[object]]:  # noqa: A002
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
    after, before = interval(filter)
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


def interval(filter: Filter) -> tuple[int | None, int | None]:  # noqa: A002
    """`after` and `before` in microseconds. Raises `InvalidArgument` where they are no interval."""
    after = None if filter.after is None else microseconds(filter.after, "after")
    before = None if filter.before is None else microseconds(filter.before, "before")
    if after is not None and before is not None and after > before:
        raise InvalidArgument("after is later than before")
    return after, before


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
        created_at=moment(created),
        expires_at=_moment(expires),
        has_thumbnail=bool(has_thumbnail),
    )


def moment(microseconds: int) -> datetime:
    """Microseconds since 1970 as an aware time."""
    return _EPOCH + timedelta(microseconds=microseconds)


def _moment(microseconds: int | None) -> datetime | None:
    return None if microseconds is None else moment(microseconds)
