"""Types of the fields of requests and answers."""

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, JsonValue

_INTEGER_BOUND = 2**63
"""SQLite's integers, and JSON's in most programs, have 64 bits."""
_MAX_DEPTH = 64
"""Most levels of nesting of metadata in a gallery."""


class Body(BaseModel):
    """A JSON body of a request. Unknown fields are refused and no value is converted: `"5"` is not a number."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    ELSEWHERE: ClassVar[Mapping[str, str]] = {}
    """Fields that are often sent in the wrong place, and the place where they belong."""


class Parameters(BaseModel):
    """The query parameters of a request. They are text, so `false` is read as a boolean; unknown names are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Answer(BaseModel):
    """A JSON body of an answer."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _refuse_unix_time(value: Any) -> Any:
    # pydantic reads a number, also one in a string, as Unix time; in the contract a time is RFC 3339.
    if not isinstance(value, str | datetime) or (isinstance(value, str) and value[4:5] != "-"):
        raise ValueError("should be an RFC 3339 time with an offset, such as 2024-05-01T12:00:00Z")
    return value


def _to_utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError as error:
        raise ValueError(f"is out of range in UTC: {error}") from None


def _to_integer(value: Any) -> Any:
    """Return a whole float as an integer: JSON Schema's `integer` includes 3.0, and numpy writes integers so."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _null_to_nan(value: Any) -> Any:
    """Return null as NaN, for which programs write it: JSON has no NaN."""
    return math.nan if value is None else value


def _check_printable(value: str) -> str:
    if not value.isprintable():
        raise ValueError("contains a character that cannot be printed")
    return value


def check_stated(value: str) -> str:
    """Refuse a text that says nothing, or that cannot be shown on one line."""
    if not value.strip():
        raise ValueError("is blank")
    return _check_printable(value)


def _check_json(value: JsonValue) -> JsonValue:
    return _check_level(value, 0)


def _check_level(value: JsonValue, depth: int) -> JsonValue:
    """Refuse values that JSON allows but SQLite or JavaScript cannot keep."""
    if depth > _MAX_DEPTH:
        raise ValueError(f"is nested deeper than {_MAX_DEPTH} levels")
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
                raise ValueError("contains a lone surrogate, which is not a character")
        case bool() | None:
            pass
        case int():
            if not -_INTEGER_BOUND <= value < _INTEGER_BOUND:
                raise ValueError(
                    f"contains an integer outside {-_INTEGER_BOUND} to {_INTEGER_BOUND - 1} (64 bits with a sign): "
                    "send it as a string"
                )
        case float():
            if not math.isfinite(value):
                raise ValueError(
                    "contains NaN, an infinity, or a number beyond 1.8e308, the largest of 64 bits: send null or a "
                    "string"
                )
    return value


Timestamp = Annotated[
    AwareDatetime,
    Field(strict=False, examples=["2024-05-01T12:00:00Z"]),
    BeforeValidator(_refuse_unix_time),
    AfterValidator(_to_utc),
]
"""A time, RFC 3339 with an offset; kept and answered in UTC."""


def _to_seconds(value: Any) -> Any:
    if not isinstance(value, str) or (found := _CLOCK.fullmatch(value)) is None:
        raise ValueError("should be a time of day from 00:00 to 24:00, such as 06:30 or 22:00:00")
    hours, minutes, seconds = (int(part or 0) for part in found.groups())
    total = 3600 * hours + 60 * minutes + seconds
    if total > 86_400 or minutes > 59 or seconds > 59:
        raise ValueError("should be a time of day from 00:00 to 24:00, such as 06:30 or 22:00:00")
    return total


def _to_offset(value: Any) -> Any:
    if value == "Z":
        return 0
    if not isinstance(value, str) or (found := _OFFSET.fullmatch(value)) is None:
        raise ValueError("should be an offset from UTC, such as +02:00, -05:30 or Z")
    seconds = 3600 * int(found[2]) + 60 * int(found[3])
    if seconds > 18 * 3600 or int(found[3]) > 59:
        raise ValueError("should be an offset from UTC of at most 18 hours, such as +02:00")
    return -seconds if found[1] == "-" else seconds


_CLOCK = re.compile(r"([0-9]{2}):([0-9]{2})(?::([0-9]{2}))?")
_OFFSET = re.compile(r"([+-])([0-9]{2}):([0-9]{2})")
ClockTime = Annotated[int, BeforeValidator(_to_seconds, json_schema_input_type=str), Field(examples=["22:00"])]
"""Seconds since midnight, sent as `HH:MM` or `HH:MM:SS`."""
UtcOffset = Annotated[int, BeforeValidator(_to_offset, json_schema_input_type=str), Field(examples=["+02:00"])]
"""Local time minus UTC in seconds, sent as `+HH:MM`."""

CameraId = Annotated[str, Field(min_length=1, max_length=128), AfterValidator(_check_printable)]
Metadata = Annotated[dict[str, JsonValue], AfterValidator(_check_json)]

Integer = Annotated[int, BeforeValidator(_to_integer), Field(ge=-(2**53), le=2**53)]
"""An integer that every JSON parser keeps; a whole float such as 3.0 is one."""
Coordinate = Annotated[float, Field(allow_inf_nan=True), BeforeValidator(_null_to_nan)]
Box = tuple[Integer, Coordinate, Coordinate, Coordinate, Coordinate]
"""`[frame, x, y, w, h]`: 0-based index of the frame, corner and size in pixels.

Any numbers are accepted here: a box that cannot be cut out is one rejected frame of its tracklet.
"""

MAX_ITEMS = 100_000
"""Most items of a list. Its validation stops at the first fault."""

Embedding = Annotated[list[float], Field(fail_fast=True, min_length=1, max_length=65_536)]
