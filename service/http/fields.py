"""Types of the fields of requests and answers."""

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, JsonValue

_INTEGER_BOUND = 2**63
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


def _check_printable(value: str) -> str:
    if not value.isprintable():
        raise ValueError("contains a character that cannot be printed")
    return value


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
                raise ValueError("contains an integer of more than 64 bits")
        case float():
            if not math.isfinite(value):
                raise ValueError("contains NaN or an infinity")
    return value


Timestamp = Annotated[
    AwareDatetime,
    Field(strict=False, examples=["2024-05-01T12:00:00Z"]),
    BeforeValidator(_refuse_unix_time),
    AfterValidator(_to_utc),
]
"""A time, RFC 3339 with an offset; kept and answered in UTC."""

CameraId = Annotated[str, Field(min_length=1, max_length=128), AfterValidator(_check_printable)]
Metadata = Annotated[dict[str, JsonValue], AfterValidator(_check_json)]

Coordinate = Annotated[float, Field(ge=-1e6, le=1e6)]
Side = Annotated[float, Field(gt=0, le=1e6)]
Box = tuple[Annotated[int, Field(ge=0, le=10_000_000)], Coordinate, Coordinate, Side, Side]
"""`[frame, x, y, w, h]`: 0-based index of the frame, corner and size in pixels."""

MAX_ITEMS = 100_000
"""Most items of a list. Its validation stops at the first fault."""

Embedding = Annotated[list[float], Field(fail_fast=True, min_length=1, max_length=65_536)]
