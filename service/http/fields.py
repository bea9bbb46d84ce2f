"""The kinds of value that requests and answers are made of, each with its rule."""

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    PlainSerializer,
    PlainValidator,
    WithJsonSchema,
)

from service.gallery.clock import format_timestamp

_RFC3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)
_INTEGER_BOUND = 2**63
_DEEPEST = 64
"""Levels of nesting that a gallery keeps."""


class Body(BaseModel):
    """What a client sends: unknown fields are refused, and no type is guessed (`"5"` is no number in JSON)."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    ELSEWHERE: ClassVar[Mapping[str, str]] = {}
    """Fields that people look for here, and where they belong."""


class Parameters(BaseModel):
    """What a client writes behind the `?`: text, so that `false` is read as a boolean; unknown names are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Answer(BaseModel):
    """What the service sends."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _parse_timestamp(value: Any) -> datetime:
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value.astimezone(UTC)
    if not isinstance(value, str) or not _RFC3339.fullmatch(value):
        raise ValueError("not an RFC 3339 time with an offset, such as 2024-05-01T12:00:00Z")
    try:
        return datetime.fromisoformat(value.upper()).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"no such time: {error}") from None


def _check_printable(value: str) -> str:
    if not value.isprintable():
        raise ValueError("contains characters that cannot be printed")
    return value


def _check_json(value: JsonValue) -> JsonValue:
    return _check_level(value, 0)


def _check_level(value: JsonValue, depth: int) -> JsonValue:
    """Refuse what JSON text can say but other readers of it (SQLite, JavaScript) cannot keep."""
    if depth > _DEEPEST:
        raise ValueError(f"is nested deeper than {_DEEPEST} levels")
    match value:
        case dict():
            for key, item in value.items():
                _check_level(key, depth + 1)
                _check_level(item, depth + 1)
        case list():
            for item in value:
                _check_level(item, depth + 1)
        case str():
            if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
                raise ValueError("contains a lone surrogate, which is no character")
        case bool() | None:
            pass
        case int():
            if not -_INTEGER_BOUND <= value < _INTEGER_BOUND:
                raise ValueError("contains an integer of more than 64 bits")
        case float():
            if not math.isfinite(value):
                raise ValueError("contains NaN or an infinity")
    return value


Timestamp = Annotated[
    datetime,
    PlainValidator(_parse_timestamp),
    PlainSerializer(format_timestamp, return_type=str),
    WithJsonSchema({"type": "string", "format": "date-time", "examples": ["2024-05-01T12:00:00Z"]}),
]
"""An instant, RFC 3339 with an offset; kept and answered in UTC."""

CameraId = Annotated[str, Field(min_length=1, max_length=128), AfterValidator(_check_printable)]
Metadata = Annotated[dict[str, JsonValue], AfterValidator(_check_json)]

Coordinate = Annotated[float, Field(ge=-1e6, le=1e6)]
Side = Annotated[float, Field(gt=0, le=1e6)]
Box = tuple[Annotated[int, Field(ge=0, le=10_000_000)], Coordinate, Coordinate, Side, Side]
"""`[frame, x, y, w, h]`: 0-based index of the frame, corner and size in pixels."""

MAX_ITEMS = 100_000
"""Of any list, whatever the settings allow; and a list's first fault is the last that is looked for."""

Embedding = Annotated[list[float], Field(fail_fast=True, min_length=1, max_length=65_536)]
