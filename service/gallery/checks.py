"""What a caller gives, checked, and turned into the database's terms."""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from service.gallery.clock import format_timestamp, to_datetime, to_microseconds
from service.gallery.records import JSON, Filter, InvalidArgument, Record

R = TypeVar("R")

EXPIRY = "expiry"
"""Who removes expired records, as the audit log names it."""
LENGTH_TOLERANCE = 1e-3
"""What a normalised float32 vector may be off by after a trip through another program's decimals."""
_DEEPEST_JSON = 64
_JPEG = b"\xff\xd8\xff"
_MOST_THUMBNAIL_BYTES = 2**20


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
        frames=_count(record.frames, "frames"),
        clips=_count(record.clips, "clips"),
        created_at=to_microseconds(record.created_at, "created_at"),
        expires_at=None if record.expires_at is None else to_microseconds(record.expires_at, "expires_at"),
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


def interval_of(filter: Filter) -> tuple[int | None, int | None]:
    """Return a filter's `after` and `before` in microseconds. Raises `InvalidArgument` if they are no interval."""
    after = None if filter.after is None else to_microseconds(filter.after, "after")
    before = None if filter.before is None else to_microseconds(filter.before, "before")
    if after is not None and before is not None and after > before:
        raise InvalidArgument("after is later than before")
    return after, before


def audit_condition(filter: Filter) -> dict[str, JSON]:
    """Return a filter as the audit log keeps it: the given conditions, under their names in the HTTP contract."""
    given: dict[str, JSON] = {}
    if filter.camera_ids is not None:
        given["camera_ids"] = list(filter.camera_ids)
    if filter.exclude_camera_ids:
        given["exclude_camera_ids"] = list(filter.exclude_camera_ids)
    if filter.after is not None:
        given["after"] = format_timestamp(filter.after)
    if filter.before is not None:
        given["before"] = format_timestamp(filter.before)
    if filter.metadata:
        given["metadata"] = dict(filter.metadata)
    if filter.exclude_ids:
        given["exclude_ids"] = list(filter.exclude_ids)
    return given


def audit_condition_of_expiry(at: int) -> dict[str, JSON]:
    """Return the condition of the audit log's entry about records that had expired at `at`, in microseconds."""
    return {"expired_until": format_timestamp(to_datetime(at))}
