"""Ids of tracklets: the client's own, or a new UUIDv7 (RFC 9562, section 5.7)."""

import secrets
import time
from typing import Annotated
from uuid import UUID

from pydantic import AfterValidator, Field

ID_PATTERN = r"^[A-Za-z0-9._:-]{1,128}$"


def _refuse_dots(value: str) -> str:
    # As a path segment these mean "here" and "up": HTTP clients take them out, and the record could not be reached.
    if value in {".", ".."}:
        raise ValueError("'.' and '..' cannot be used in a URL")
    return value


TrackletId = Annotated[
    str,
    Field(
        pattern=ID_PATTERN,
        description="1 to 128 letters, digits, `.`, `_`, `:`, `-`; not `.` or `..`",
        examples=["gate-3:0042"],
    ),
    AfterValidator(_refuse_dots),
]


def record_path(tracklet: str) -> str:
    """Where a record is read."""
    return f"/gallery/{tracklet}"


def thumbnail_path(tracklet: str) -> str:
    """Where its picture is read."""
    return f"{record_path(tracklet)}/thumbnail"


def new_id() -> str:
    """Make a UUIDv7: 48 bits of Unix time in milliseconds, then random bits, so that ids sort by their age."""
    milliseconds = time.time_ns() // 1_000_000
    value = (milliseconds & (2**48 - 1)) << 80 | 0x7 << 76 | secrets.randbits(12) << 64
    return str(UUID(int=value | 0b10 << 62 | secrets.randbits(62)))
