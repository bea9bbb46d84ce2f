"""The collections of one embedding space, records as their rows, and filters as Milvus conditions."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from pymilvus import CollectionSchema, DataType, MilvusClient

from service.gallery import checks, clock
from service.gallery.records import MAX_THUMBNAILS, CameraSummary, Filter, InvalidArgument, Record, StoredJson

_MAX_ID_BYTES = 128
_MAX_CAMERA_BYTES = 1024
_MAX_TEXT_BYTES = 65_535
_MAX_TERMS = 4096
_MAX_PARTS = 64
MAX_DAYS = 1000
"""Maximum days of a condition on the time of day."""
NEVER = 2**62
"""Stored instead of a missing time: later than every time. Its negative is earlier than every time."""
_HAS_START, _HAS_END, _ONE_THUMBNAIL = 1, 2, 4
"""Parts of the field `times`: which times a record has, and how many thumbnails."""
_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r"})
"""The characters that Milvus does not accept as they are inside quotes."""

FIELDS = (
    *("id", "vector", "camera_id", "first", "last", "times", "metadata", "frames", "clips"),
    *("created_at", "expires_at", "has_thumbnail"),
)
"""The fields that `decode` reads. The thumbnail is read only on request."""


def records_schema(dimension: int, description: str) -> CollectionSchema:
    """Return the schema of the records. Milvus 2.3 has no null values, so a flag or an extreme value replaces them."""
    schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False, description=description)
    schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=_MAX_ID_BYTES)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dimension)
    schema.add_field("camera_id", DataType.VARCHAR, max_length=_MAX_CAMERA_BYTES)
    # The interval that time filters compare: if one end is missing, both are the other one.
    for name in ("first", "last"):
        schema.add_field(name, DataType.INT64)
    schema.add_field("times", DataType.INT8)
    # A digest of each top-level key with its value, so that a filter for equality searches one list.
    schema.add_field(
        "terms", DataType.ARRAY, element_type=DataType.VARCHAR, max_capacity=_MAX_TERMS, max_length=_MAX_ID_BYTES
    )
    schema.add_field("metadata", DataType.VARCHAR, max_length=_MAX_TEXT_BYTES)
    for name in ("frames", "clips", "created_at", "expires_at"):
        schema.add_field(name, DataType.INT64)
    schema.add_field("has_thumbnail", DataType.BOOL)
    _add_long_text(schema, "thumbnail")
    return schema


def locks_schema() -> CollectionSchema:
    """Return the schema of the lock requests; see `DistributedLocks`. A stored collection calls a request a claim."""
    schema = _bare_schema("claim")
    schema.add_field("name", DataType.VARCHAR, max_length=2 * _MAX_ID_BYTES)
    for name in ("number", "made_at"):
        schema.add_field(name, DataType.INT64)
    schema.add_field("state", DataType.INT8)
    return schema


def audit_schema() -> CollectionSchema:
    """Return the schema of the audit log; see `AuditLog`."""
    schema = _bare_schema("position")
    schema.add_field("receipt", DataType.VARCHAR, max_length=_MAX_ID_BYTES)
    _add_long_text(schema, "entry")
    return schema


def watchlists_schema() -> CollectionSchema:
    """Return the schema of the watchlists; see `MilvusAlerts`. `stamp` changes with each change."""
    schema = _bare_schema("name")
    schema.add_field("stamp", DataType.VARCHAR, max_length=_MAX_ID_BYTES)
    schema.add_field("expires_at", DataType.INT64)
    _add_long_text(schema, "content")
    return schema


def alerts_schema() -> CollectionSchema:
    """Return the schema of the alerts. The key is the id, so alerts are in the order of their times."""
    schema = _bare_schema("alert")
    for name in ("digest", "uid", "watchlist", "record", "example"):
        schema.add_field(name, DataType.VARCHAR, max_length=_MAX_ID_BYTES)
    schema.add_field("camera_id", DataType.VARCHAR, max_length=_MAX_CAMERA_BYTES)
    schema.add_field("moment", DataType.INT64)
    _add_long_text(schema, "content")
    return schema


def judged_schema() -> CollectionSchema:
    """Return the schema of the times of the latest verdicts. The key is the id of the alert."""
    schema = _bare_schema("alert")
    schema.add_field("time", DataType.INT64)
    return schema


def deliveries_schema() -> CollectionSchema:
    """Return the schema of the deliveries to webhooks."""
    schema = _bare_schema("delivery")
    for name in ("webhook", "alert"):
        schema.add_field(name, DataType.VARCHAR, max_length=_MAX_ID_BYTES)
    for name in ("tries", "due", "claim"):
        schema.add_field(name, DataType.INT64)
    schema.add_field("dead", DataType.INT8)
    return schema


def _bare_schema(key: str) -> CollectionSchema:
    schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field(key, DataType.VARCHAR, is_primary=True, max_length=_MAX_ID_BYTES)
    # Milvus has no collection without a vector.
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=2)
    return schema


def _add_long_text(schema: CollectionSchema, name: str) -> None:
    """Add a field for texts that may be longer than a Milvus text: a list of parts."""
    schema.add_field(
        name, DataType.ARRAY, element_type=DataType.VARCHAR, max_capacity=_MAX_PARTS, max_length=_MAX_TEXT_BYTES
    )


def split(text: str) -> list[str]:
    """Return an ASCII text as the parts that `_add_long_text` stores."""
    return [text[start : start + _MAX_TEXT_BYTES] for start in range(0, len(text), _MAX_TEXT_BYTES)]


def encode(record: Record, dimension: int) -> dict[str, Any]:
    """Check a record and return it as a row. Raises `InvalidArgument`, which names the wrong field."""
    row = checks.encode(record, dimension)
    camera = _camera_text(row.camera_id)
    for name, text, limit in (
        ("id", row.id, _MAX_ID_BYTES),
        ("camera_id", camera, _MAX_CAMERA_BYTES),
        ("metadata", row.metadata, _MAX_TEXT_BYTES),
    ):
        if (size := len(text.encode())) > limit:
            raise InvalidArgument(f"{name} has {size} bytes as text, more than the {limit} that Milvus can store")
    if len(row.terms) > _MAX_TERMS:
        raise InvalidArgument(f"metadata has {len(row.terms)} keys, more than the {_MAX_TERMS} that Milvus can store")
    first = row.start_time if row.start_time is not None else row.end_time
    last = row.end_time if row.end_time is not None else row.start_time
    return {
        "id": row.id,
        "vector": row.vector,
        "camera_id": camera,
        "first": NEVER if first is None else first,
        "last": -NEVER if last is None else last,
        "times": _HAS_START * (row.start_time is not None)
        + _HAS_END * (row.end_time is not None)
        + _ONE_THUMBNAIL * len(row.thumbnails),
        "terms": [_term_text(term) for term in row.terms],
        "metadata": row.metadata,
        "frames": row.frames,
        "clips": row.clips,
        "created_at": row.created_at,
        "expires_at": NEVER if row.expires_at is None else row.expires_at,
        "has_thumbnail": bool(row.thumbnails),
        "thumbnail": split(",".join(base64.b64encode(jpeg).decode("ascii") for jpeg in row.thumbnails)),
    }


def decode(row: Mapping[str, Any]) -> Record:
    """Return the record of a row that has `FIELDS`."""
    times = row["times"]
    return Record(
        id=row["id"],
        embedding=np.array(row["vector"], np.float32),
        camera_id=row["camera_id"][1:] if row["camera_id"] else None,
        start_time=clock.to_datetime(row["first"]) if times & _HAS_START else None,
        end_time=clock.to_datetime(row["last"]) if times & _HAS_END else None,
        metadata=StoredJson(row["metadata"]),
        frames=row["frames"],
        clips=row["clips"],
        created_at=clock.to_datetime(row["created_at"]),
        expires_at=None if row["expires_at"] == NEVER else clock.to_datetime(row["expires_at"]),
        # Rows of earlier versions have one thumbnail and no number of them.
        thumbnail_count=(times // _ONE_THUMBNAIL or 1) if row["has_thumbnail"] else 0,
    )


def condition(filter: Filter, now: int | None) -> str:
    """Return the condition of the rows that pass `filter` and have not expired at `now`, in microseconds since 1970.

    Without `now`, expired rows pass too. `time_of_day` is not part of it: see `daily_condition`.

    Raises:
        InvalidArgument: a time has no time zone, an interval ends before it begins, or the metadata are not JSON.
    """
    parts = [] if now is None else [f"expires_at > {now}"]
    if filter.camera_ids is not None:
        parts.append(f"camera_id in {_quoted_cameras(filter.camera_ids, 'camera_ids')}")
    if filter.exclude_camera_ids:
        parts.append(f"camera_id not in {_quoted_cameras(filter.exclude_camera_ids, 'exclude_camera_ids')}")
    after, before = checks.interval_of(filter)
    if after is not None:
        parts.append(f"last >= {after}")
    if before is not None:
        parts.append(f"first <= {before}")
    if filter.without_time:
        parts.append(f"times in {[_ONE_THUMBNAIL * count for count in range(MAX_THUMBNAILS + 1)]}")
    created_after, created_before = checks.created_of(filter)
    if created_after is not None:
        parts.append(f"created_at >= {created_after}")
    if created_before is not None:
        parts.append(f"created_at <= {created_before}")
    parts += [
        f"ARRAY_CONTAINS_ANY(terms, {quoted_list(map(_term_text, terms))})" for terms in checks.term_choices(filter)
    ]
    if filter.exclude_ids:
        for id_ in filter.exclude_ids:
            checks.check_text(id_, "exclude_ids")
        parts.append(f"id not in {quoted_list(filter.exclude_ids)}")
    return " and ".join(parts)


def summarise(camera: str, records: int, first: int, last: int) -> CameraSummary:
    """Return what is known of one camera: its text as stored, the number of its rows, and the ends of their times."""
    return CameraSummary(
        camera[1:] if camera else None,
        records,
        None if first == NEVER else clock.to_datetime(first),
        None if last == -NEVER else clock.to_datetime(last),
    )


def daily_condition(window: checks.DailyWindow, first: int, last: int) -> str:
    """Return the condition of the rows whose interval overlaps a part of some day, as one interval for each day.

    Milvus has no remainder that could be compared with a range.

    Args:
        window: the part of each day.
        first: a time in microseconds since 1970 before which no wanted row ends.
        last: a time after which no wanted row starts.

    Raises:
        InvalidArgument: there are too many days.
    """
    day = (first - window.start - window.length) // checks.DAY
    days = range(day, (last - window.start) // checks.DAY + 1)
    if len(days) > MAX_DAYS:
        raise InvalidArgument(
            f"time_of_day covers {len(days)} days, more than the {MAX_DAYS} that one condition of Milvus may have: add "
            "after and before"
        )
    starts = [day * checks.DAY + window.start for day in days]
    parts = [f"(first <= {start + window.length} and last >= {start})" for start in starts]
    return _any_of(parts) if parts else "id == ''"


def _any_of(parts: Sequence[str]) -> str:
    """Join conditions with `or`, as a balanced tree: Milvus 2.3 refuses expressions that are nested a hundred deep."""
    if len(parts) == 1:
        return parts[0]
    half = len(parts) // 2
    return f"({_any_of(parts[:half])} or {_any_of(parts[half:])})"


def quoted(text: str) -> str:
    """Return a text as a literal of a Milvus condition, with special characters escaped."""
    return f'"{text.translate(_ESCAPES)}"'


def quoted_list(texts: Iterable[str]) -> str:
    """Return texts as a list of literals."""
    return f"[{', '.join(map(quoted, texts))}]"


def _quoted_cameras(cameras: Iterable[str], name: str) -> str:
    for camera in cameras:
        checks.check_text(camera, name)
    return quoted_list(map(_camera_text, cameras))


def _camera_text(camera_id: str | None) -> str:
    """Return a camera as it is stored: `=ID`, or the empty text for no camera."""
    return "" if camera_id is None else f"={camera_id}"


def _term_text(term: bytes) -> str:
    return base64.b64encode(term).decode("ascii")
