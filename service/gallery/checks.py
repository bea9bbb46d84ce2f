"""Check the arguments of a gallery's methods, and convert records to the rows that the engines store."""

import base64
import binascii
import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from service.gallery.clock import format_timestamp, to_datetime, to_microseconds
from service.gallery.records import JSON, EmptyFilter, Filter, InvalidArgument, Record

R = TypeVar("R")

LENGTH_TOLERANCE = 1e-3
"""Maximum difference of a vector's length from 1, such as after a conversion to decimal text and back."""
EXPIRY = "expiry"
"""The name in the audit log for the automatic removal of expired records."""
_MAX_JSON_DEPTH = 64
_MAX_THUMBNAIL_BYTES = 2**20
_JPEG = b"\xff\xd8\xff"
_CURSOR_PREFIX = b"after:"


@dataclass(frozen=True, slots=True)
class Row:
    """A checked record as an engine stores it: times in microseconds since 1970, metadata as JSON text.

    `terms` has one digest for each top-level key of the metadata with its value; see `terms_of`.
    """

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


def encode(record: Record, dimension: int) -> Row:
    """Check a record and return it as a row. Raises `InvalidArgument`, which names the wrong field."""
    vector = check_vector(record.embedding, dimension, "embedding")
    length = float(np.linalg.norm(vector.astype(np.float64)))
    if abs(length - 1) > LENGTH_TOLERANCE:
        raise InvalidArgument(f"embedding must have length 1 (got length {length:.4g})")
    if not record.id:
        raise InvalidArgument("id is empty")
    for name, text in (("id", record.id), ("camera_id", record.camera_id)):
        check_text(text, name)
    start = None if record.start_time is None else to_microseconds(record.start_time, "start_time")
    end = None if record.end_time is None else to_microseconds(record.end_time, "end_time")
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
        frames=_check_count(record.frames, "frames"),
        clips=_check_count(record.clips, "clips"),
        created_at=to_microseconds(record.created_at, "created_at"),
        expires_at=None if record.expires_at is None else to_microseconds(record.expires_at, "expires_at"),
        vector=vector,
        thumbnail=_check_thumbnail(record.thumbnail),
    )


def encode_all(records: Sequence[Record], encode_one: Callable[[Record], R]) -> dict[str, R]:
    """Return the rows of records by id, in their order.

    Raises:
        InvalidArgument: a record is invalid, or an id occurs twice. The message names the record if there are several.
    """
    rows: dict[str, R] = {}
    for record in records:
        try:
            row = encode_one(record)
        except InvalidArgument as error:
            if len(records) == 1:
                raise
            raise InvalidArgument(f"{error} (record {record.id!r})") from error
        if record.id in rows:
            raise InvalidArgument(f"duplicate id {record.id!r}")
        rows[record.id] = row
    return rows


def check_vector(vector: NDArray[np.float32], dimension: int, name: str) -> NDArray[np.float32]:
    """Return a float32 copy `[D]` of the vector. Raises `InvalidArgument` for another shape, NaN or infinity."""
    array = np.array(vector, dtype=np.float32)
    if array.shape != (dimension,):
        raise InvalidArgument(f"{name} has shape {list(array.shape)}, but this gallery needs [{dimension}]")
    if not np.isfinite(array).all():
        raise InvalidArgument(f"{name} contains NaN or infinity")
    return array


def check_query(embedding: NDArray[np.float32], dimension: int) -> NDArray[np.float32]:
    """Return a float32 copy `[D]` of a query of any length. Raises `InvalidArgument` if it is invalid or all zeros."""
    query = check_vector(embedding, dimension, "embedding")
    if not query.any():
        raise InvalidArgument("embedding is all zeros, so it has no direction")
    return query


def check_limit(limit: int, name: str = "limit", most: int | None = None) -> None:
    """Raise `InvalidArgument` unless a number of results is at least 1 and at most `most`."""
    if limit < 1:
        raise InvalidArgument(f"{name} must be at least 1 (got {limit})")
    if most is not None and limit > most:
        raise InvalidArgument(f"{name} must be at most {most} (got {limit})")


def check_text(text: str | None, name: str) -> None:
    """Raise `InvalidArgument` for text that no engine can store: a lone surrogate, or a NUL character."""
    try:
        encoded = (text or "").encode()
    except UnicodeEncodeError as error:
        raise InvalidArgument(f"{name} is not valid Unicode") from error
    if b"\0" in encoded:
        raise InvalidArgument(f"{name} contains a NUL character")


def check_erasure(filter: Filter, by: str) -> None:
    """Raise `EmptyFilter` if an erasure has no condition, and `InvalidArgument` if `by` cannot be stored."""
    if filter.is_empty:
        raise EmptyFilter("filter has no condition, so it would erase all records: give at least one")
    check_text(by, "by")


def interval_of(filter: Filter) -> tuple[int | None, int | None]:
    """Return `after` and `before` in microseconds since 1970. Raises `InvalidArgument` if `after` is later."""
    after = None if filter.after is None else to_microseconds(filter.after, "after")
    before = None if filter.before is None else to_microseconds(filter.before, "before")
    if after is not None and before is not None and after > before:
        raise InvalidArgument("after is later than before")
    return after, before


def terms_of(metadata: object) -> Iterable[bytes]:
    """Yield a SHA-256 digest for each top-level key with its value. Equal keys and values have equal digests.

    Raises `InvalidArgument` if the metadata is not a JSON object.
    """
    if not isinstance(metadata, dict):
        raise InvalidArgument("metadata is not a JSON object")
    plain = _canonical(metadata, 0)
    for key, value in plain.items():
        text = json.dumps([key, value], sort_keys=True, separators=(",", ":"))
        yield hashlib.sha256(text.encode("ascii")).digest()


def encode_cursor(last_id: str) -> str:
    """Return the cursor of the page after this id. The prefix keeps clients from using ids as cursors."""
    return base64.urlsafe_b64encode(_CURSOR_PREFIX + last_id.encode()).decode("ascii")


def decode_cursor(cursor: str | None) -> str:
    """Return the last id of the previous page, or "" without a cursor. Raises `InvalidArgument` for any other text."""
    if cursor is None:
        return ""
    try:
        plain = base64.b64decode(cursor.encode("ascii"), altchars=b"-_", validate=True)
        if not plain.startswith(_CURSOR_PREFIX):
            raise InvalidArgument("cursor is not a `next_cursor` of this service")
        last_id = plain.removeprefix(_CURSOR_PREFIX).decode()
    except (binascii.Error, UnicodeError) as error:
        raise InvalidArgument("cursor is not a `next_cursor` of this service") from error
    check_text(last_id, "cursor")
    return last_id


def audit_condition(filter: Filter) -> dict[str, JSON]:
    """Return the conditions that a filter has, as the audit log stores them, with their names in the HTTP API."""
    values: dict[str, JSON] = {
        "camera_ids": None if filter.camera_ids is None else list(filter.camera_ids),
        "exclude_camera_ids": list(filter.exclude_camera_ids) or None,
        "after": None if filter.after is None else format_timestamp(filter.after),
        "before": None if filter.before is None else format_timestamp(filter.before),
        "metadata": dict(filter.metadata) or None,
        "exclude_ids": list(filter.exclude_ids) or None,
    }
    return {name: value for name, value in values.items() if value is not None}


def audit_condition_of_expiry(at: int) -> dict[str, JSON]:
    """Return the condition of an audit entry about records that had expired at `at`, in microseconds since 1970."""
    return {"expired_until": format_timestamp(to_datetime(at))}


def _check_thumbnail(thumbnail: bytes | None) -> bytes | None:
    if thumbnail is None:
        return None
    if not thumbnail.startswith(_JPEG):
        raise InvalidArgument("thumbnail is not a JPEG file")
    if len(thumbnail) > _MAX_THUMBNAIL_BYTES:
        raise InvalidArgument(f"thumbnail has {len(thumbnail)} bytes, more than the limit of {_MAX_THUMBNAIL_BYTES}")
    return bytes(thumbnail)


def _check_count(number: int, name: str) -> int:
    if not 0 <= number < 2**31:
        raise InvalidArgument(f"{name} must be from 0 to {2**31 - 1} (got {number})")
    return int(number)


def _canonical(value: Any, depth: int) -> Any:
    """Return a JSON value in canonical form: equal values give equal JSON text."""
    if depth > _MAX_JSON_DEPTH:
        raise InvalidArgument(f"metadata is nested deeper than {_MAX_JSON_DEPTH} levels")
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        if abs(value) >= 2**1024:
            raise InvalidArgument("metadata contains a number beyond the range of a double")
        return value
    if isinstance(value, float):
        if not np.isfinite(value):
            raise InvalidArgument("metadata contains NaN or infinity, which JSON does not allow")
        return int(value) if value.is_integer() else value
    if isinstance(value, list):
        return [_canonical(item, depth + 1) for item in value]
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise InvalidArgument("metadata has a key that is not text")
        return {key: _canonical(item, depth + 1) for key, item in value.items()}
    raise InvalidArgument(f"metadata contains a {type(value).__name__}, which is not JSON")
