"""Check the arguments of a gallery's methods, and convert records to the rows that the engines store."""

import base64
import binascii
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from service.gallery.clock import (
    format_time_of_day,
    format_timestamp,
    parse_time_of_day,
    to_datetime,
    to_microseconds,
)
from service.gallery.records import (
    JSON,
    MAX_THUMBNAILS,
    EmptyFilter,
    Filter,
    InvalidArgument,
    OtherCount,
    Record,
    json_values,
)

R = TypeVar("R")

LENGTH_TOLERANCE = 1e-3
"""Maximum difference of a vector's length from 1, such as after a conversion to decimal text and back."""
DAY_SECONDS = 86_400
DAY = DAY_SECONDS * 10**6
"""Microseconds of a day."""
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
    thumbnails: tuple[bytes, ...]


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
    metadata = json_values(record.metadata) if isinstance(record.metadata, Mapping) else record.metadata
    terms = tuple(terms_of(metadata))
    return Row(
        id=record.id,
        camera_id=record.camera_id,
        start_time=start,
        end_time=end,
        metadata=json.dumps(metadata),
        terms=terms,
        frames=_check_count(record.frames, "frames"),
        clips=_check_count(record.clips, "clips"),
        created_at=to_microseconds(record.created_at, "created_at"),
        expires_at=None if record.expires_at is None else to_microseconds(record.expires_at, "expires_at"),
        vector=vector,
        thumbnails=_check_thumbnails(record.thumbnails),
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


def check_count(counted: int, expected: int | None) -> None:
    """Raise `OtherCount` if an erasure is expected to remove another number of records than those that pass."""
    if expected is not None and counted != expected:
        raise OtherCount(counted, expected)


def interval_of(filter: Filter) -> tuple[int | None, int | None]:
    """Return `after` and `before` in microseconds since 1970. Raises `InvalidArgument` if `after` is later."""
    after = None if filter.after is None else to_microseconds(filter.after, "after")
    before = None if filter.before is None else to_microseconds(filter.before, "before")
    if after is not None and before is not None and after > before:
        raise InvalidArgument("after is later than before")
    return after, before


def created_of(filter: Filter) -> tuple[int | None, int | None]:
    """Return `created_after` and `created_before` in microseconds since 1970. Raises as `interval_of`."""
    after = None if filter.created_after is None else to_microseconds(filter.created_after, "created_after")
    before = None if filter.created_before is None else to_microseconds(filter.created_before, "created_before")
    if after is not None and before is not None and after > before:
        raise InvalidArgument("created_after is later than created_before")
    return after, before


@dataclass(frozen=True, slots=True)
class DailyWindow:
    """A part of each day in microseconds: `start` in UTC since midnight, 0 to `DAY` - 1, and its length."""

    start: int
    length: int


def daily_window(filter: Filter) -> DailyWindow | None:
    """Return `time_of_day` in UTC. Raises `InvalidArgument` if it is not a part of a day."""
    wanted = filter.time_of_day
    if wanted is None:
        return None
    if not (0 <= wanted.start <= DAY_SECONDS and 0 <= wanted.end <= DAY_SECONDS and wanted.start != wanted.end):
        raise InvalidArgument(
            f"time_of_day must have two different ends from 0 to {DAY_SECONDS} (got {wanted.start}, {wanted.end})"
        )
    length = (wanted.end - wanted.start) % DAY_SECONDS or DAY_SECONDS
    return DailyWindow((wanted.start - wanted.utc_offset) % DAY_SECONDS * 10**6, length * 10**6)


def term_choices(filter: Filter) -> list[list[bytes]]:
    """Return the digests of a filter's metadata, as `terms_of`: a record has at least one of each list."""
    choices = [[term] for term in terms_of(dict(filter.metadata))]
    for key, text in filter.metadata_texts.items():
        terms = list(terms_of({key: text}))
        # Text that is no number, or none that a record can have, is only itself.
        with suppress(ValueError, RecursionError):
            value = json.loads(text)
            if isinstance(value, bool | int | float) or value is None:
                terms += terms_of({key: value})
        choices.append(terms)
    return choices


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


def passes(row: Row, filter: Filter) -> bool:
    """Return whether a row passes a filter, as an engine's search decides it. Raises `InvalidArgument` as `where`."""
    camera = row.camera_id
    if filter.camera_ids is not None and camera not in filter.camera_ids:
        return False
    if camera is not None and camera in filter.exclude_camera_ids:
        return False
    first = row.start_time if row.start_time is not None else row.end_time
    last = row.end_time if row.end_time is not None else row.start_time
    after, before = interval_of(filter)
    if (after is not None and (last is None or last < after)) or (
        before is not None and (first is None or first > before)
    ):
        return False
    if (window := daily_window(filter)) is not None:
        if first is None or last is None:
            return False
        since = (first - window.start) % DAY
        if since > window.length and since + last - first < DAY:
            return False
    created_after, created_before = created_of(filter)
    return (
        (first is None or not filter.without_time)
        and (created_after is None or row.created_at >= created_after)
        and (created_before is None or row.created_at <= created_before)
        and all(set(terms).intersection(row.terms) for terms in term_choices(filter))
        and row.id not in filter.exclude_ids
    )


def audit_condition(filter: Filter) -> dict[str, JSON]:
    """Return the conditions that a filter has, as the audit log stores them, with their names in the HTTP API."""
    values: dict[str, JSON] = {
        "camera_ids": None if filter.camera_ids is None else list(filter.camera_ids),
        "exclude_camera_ids": list(filter.exclude_camera_ids) or None,
        "after": None if filter.after is None else format_timestamp(filter.after),
        "before": None if filter.before is None else format_timestamp(filter.before),
        "time_of_day": None if filter.time_of_day is None else format_time_of_day(filter.time_of_day),
        "without_time": filter.without_time or None,
        "created_after": None if filter.created_after is None else format_timestamp(filter.created_after),
        "created_before": None if filter.created_before is None else format_timestamp(filter.created_before),
        "metadata": dict(filter.metadata) or None,
        "metadata_texts": dict(filter.metadata_texts) or None,
        "exclude_ids": list(filter.exclude_ids) or None,
    }
    return {name: value for name, value in values.items() if value is not None}


def parse_condition(condition: Mapping[str, JSON]) -> Filter:
    """Return the filter of which `audit_condition` returned the conditions.

    Raises:
        ValueError, TypeError or KeyError: it returned something else.
    """
    given: dict[str, Any] = dict(condition)
    for name in ("camera_ids", "exclude_camera_ids", "exclude_ids"):
        if name in given:
            given[name] = tuple(given[name])
    for name in ("after", "before", "created_after", "created_before"):
        if name in given:
            given[name] = datetime.fromisoformat(given[name])
    if "time_of_day" in given:
        given["time_of_day"] = parse_time_of_day(given["time_of_day"])
    return Filter(**given)


def audit_condition_of_expiry(at: int) -> dict[str, JSON]:
    """Return the condition of an audit entry about records that had expired at `at`, in microseconds since 1970."""
    return {"expired_until": format_timestamp(to_datetime(at))}


def _check_thumbnails(thumbnails: Sequence[bytes]) -> tuple[bytes, ...]:
    if len(thumbnails) > MAX_THUMBNAILS:
        raise InvalidArgument(f"thumbnails must be at most {MAX_THUMBNAILS} (got {len(thumbnails)})")
    for thumbnail in thumbnails:
        if not thumbnail.startswith(_JPEG):
            raise InvalidArgument("thumbnail is not a JPEG file")
        if (size := len(thumbnail)) > _MAX_THUMBNAIL_BYTES:
            raise InvalidArgument(f"thumbnail has {size} bytes, more than the limit of {_MAX_THUMBNAIL_BYTES}")
    return tuple(map(bytes, thumbnails))


def choose_thumbnail(count: int, frame: int | None) -> int | None:
    """Return the index of a record's thumbnail, of the middle one without `frame`; `None` if there is no such one."""
    index = count // 2 if frame is None else frame
    return index if 0 <= index < count else None


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
