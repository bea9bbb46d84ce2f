"""The collections of one embedding space, records as their rows, and filters as Milvus conditions."""

import base64
import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from pymilvus import CollectionSchema, DataType, MilvusClient

from service.gallery import checks, clock
from service.gallery.records import Filter, InvalidArgument, Record

_NEVER = 2**62
"""Stored instead of a missing time: later than every time. Its negative is earlier than every time."""
_MAX_ID_BYTES = 128
_MAX_CAMERA_BYTES = 1024
_MAX_TEXT_BYTES = 65_535
_MAX_TERMS = 4096
_MAX_PARTS = 64
_HAS_START, _HAS_END = 1, 2
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
        "first": _NEVER if first is None else first,
        "last": -_NEVER if last is None else last,
        "times": _HAS_START * (row.start_time is not None) + _HAS_END * (row.end_time is not None),
        "terms": [_term_text(term) for term in row.terms],
        "metadata": row.metadata,
        "frames": row.frames,
        "clips": row.clips,
        "created_at": row.created_at,
        "expires_at": _NEVER if row.expires_at is None else row.expires_at,
        "has_thumbnail": row.thumbnail is not None,
        "thumbnail": split(base64.b64encode(row.thumbnail or b"").decode("ascii")),
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
        metadata=json.loads(row["metadata"]),
        frames=row["frames"],
        clips=row["clips"],
        created_at=clock.to_datetime(row["created_at"]),
        expires_at=None if row["expires_at"] == _NEVER else clock.to_datetime(row["expires_at"]),
        has_thumbnail=row["has_thumbnail"],
    )


def condition(filter: Filter, now: int | None) -> str:
    """Return the condition of the rows that pass `filter` and have not expired at `now`, in microseconds since 1970.

    Without `now`, expired rows pass too. Raises `InvalidArgument` if a time has no time zone, `after` is later than
    `before`, or the metadata are not JSON.
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
    if terms := [_term_text(term) for term in checks.terms_of(dict(filter.metadata))]:
        parts.append(f"ARRAY_CONTAINS_ALL(terms, {quoted_list(terms)})")
    if filter.exclude_ids:
        for id_ in filter.exclude_ids:
            checks.check_text(id_, "exclude_ids")
        parts.append(f"id not in {quoted_list(filter.exclude_ids)}")
    return " and ".join(parts)


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
