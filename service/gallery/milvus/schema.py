"""The collections of one embedding space, and how a record is a row of one."""

import base64
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from pymilvus import CollectionSchema, DataType, MilvusClient

from service.gallery import checks, clock
from service.gallery.records import InvalidArgument, Record

NEVER = 2**62
"""Of a time that is not given: later than every time, its negative earlier."""
_LONGEST_ID = 128
_LONGEST_CAMERA = 1024
_LONGEST_TEXT = 65_535
_MOST_TERMS = 4096
_MOST_PARTS = 64
_HAS_START, _HAS_END = 1, 2

FIELDS = (
    *("id", "vector", "camera_id", "first", "last", "times", "metadata", "frames", "clips"),
    *("created_at", "expires_at", "has_thumbnail"),
)
"""What a record is read from; the thumbnail stays where it is."""


def records_schema(dimension: int, description: str) -> CollectionSchema:
    """Of the records. Milvus 2.3 knows no missing values, hence a mark or an extreme value in their place."""
    schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False, description=description)
    schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=_LONGEST_ID)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dimension)
    schema.add_field("camera_id", DataType.VARCHAR, max_length=_LONGEST_CAMERA)
    # The interval that time filters look at: where one end is missing, both are the other.
    for name in ("first", "last"):
        schema.add_field(name, DataType.INT64)
    schema.add_field("times", DataType.INT8)
    # A digest of each top-level key with its value, which makes equality a look at a list.
    schema.add_field(
        "terms", DataType.ARRAY, element_type=DataType.VARCHAR, max_capacity=_MOST_TERMS, max_length=_LONGEST_ID
    )
    schema.add_field("metadata", DataType.VARCHAR, max_length=_LONGEST_TEXT)
    for name in ("frames", "clips", "created_at", "expires_at"):
        schema.add_field(name, DataType.INT64)
    schema.add_field("has_thumbnail", DataType.BOOL)
    _add_long_text(schema, "thumbnail")
    return schema


def claims_schema() -> CollectionSchema:
    """Of the claims by which replicas take turns; see `DistributedLocks`."""
    schema = _bare_schema("claim")
    schema.add_field("name", DataType.VARCHAR, max_length=2 * _LONGEST_ID)
    for name in ("number", "made_at"):
        schema.add_field(name, DataType.INT64)
    schema.add_field("state", DataType.INT8)
    return schema


def log_schema() -> CollectionSchema:
    """Of the audit log; see `Journal`."""
    schema = _bare_schema("position")
    schema.add_field("receipt", DataType.VARCHAR, max_length=_LONGEST_ID)
    _add_long_text(schema, "entry")
    return schema


def _bare_schema(key: str) -> CollectionSchema:
    schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field(key, DataType.VARCHAR, is_primary=True, max_length=_LONGEST_ID)
    # Milvus has no collection without a vector.
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=2)
    return schema


def _add_long_text(schema: CollectionSchema, name: str) -> None:
    """One that may be longer than Milvus allows for a text: a list of its parts."""
    schema.add_field(
        name, DataType.ARRAY, element_type=DataType.VARCHAR, max_capacity=_MOST_PARTS, max_length=_LONGEST_TEXT
    )


def split(text: str) -> list[str]:
    """An ASCII text as `_add_long_text` keeps it."""
    return [text[start : start + _LONGEST_TEXT] for start in range(0, len(text), _LONGEST_TEXT)]


def camera_text(camera_id: str | None) -> str:
    """A camera as it is stored: no camera is the empty text, which no camera's is."""
    return "" if camera_id is None else f"={camera_id}"


def term_text(term: bytes) -> str:
    """A metadata term as it is stored."""
    return base64.b64encode(term).decode("ascii")


def encode(record: Record, dimension: int) -> dict[str, Any]:
    """Check a record and turn it into a row. Raises `InvalidArgument` naming the field that is wrong."""
    row = checks.encode(record, dimension)
    first = row.start_time if row.start_time is not None else row.end_time
    last = row.end_time if row.end_time is not None else row.start_time
    for name, text, longest in (
        ("id", row.id, _LONGEST_ID),
        ("camera_id", camera_text(row.camera_id), _LONGEST_CAMERA),
        ("metadata", row.metadata, _LONGEST_TEXT),
    ):
        if len(text.encode()) > longest:
            raise InvalidArgument(f"{name} takes more than the {longest} bytes that Milvus keeps")
    if len(row.terms) > _MOST_TERMS:
        raise InvalidArgument(f"metadata has more than the {_MOST_TERMS} keys that Milvus keeps")
    return {
        "id": row.id,
        "vector": row.vector,
        "camera_id": camera_text(row.camera_id),
        "first": NEVER if first is None else first,
        "last": -NEVER if last is None else last,
        "times": _HAS_START * (row.start_time is not None) + _HAS_END * (row.end_time is not None),
        "terms": [term_text(term) for term in row.terms],
        "metadata": row.metadata,
        "frames": row.frames,
        "clips": row.clips,
        "created_at": row.created_at,
        "expires_at": NEVER if row.expires_at is None else row.expires_at,
        "has_thumbnail": row.thumbnail is not None,
        "thumbnail": split(base64.b64encode(row.thumbnail or b"").decode("ascii")),
    }


def decode(row: Mapping[str, Any]) -> Record:
    """The record of a row that has `FIELDS`."""
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
        expires_at=None if row["expires_at"] == NEVER else clock.to_datetime(row["expires_at"]),
        has_thumbnail=row["has_thumbnail"],
    )
