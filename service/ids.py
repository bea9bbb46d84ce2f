"""Ids of tracklets: given by the client, or a new UUIDv7 (RFC 9562, section 5.7)."""

import secrets
import time
from typing import Annotated
from uuid import UUID

from pydantic import AfterValidator, Field

ID_PATTERN = r"^[A-Za-z0-9._:-]{1,128}$"
SOURCES = frozenset({"axis", "deepstream", "frigate", "mqtt", "onvif"})
"""The bridges. Ids of their records are `SOURCE:CAMERA:NAME`."""


def _refuse_dots(value: str) -> str:
    # HTTP clients remove these path segments, so the record could not be requested.
    if value in {".", ".."}:
        raise ValueError("must not be '.' or '..'")
    return value


TrackletId = Annotated[
    str,
    Field(
        pattern=ID_PATTERN,
        description="1 to 128 letters, digits, `.`, `_`, `:` or `-`; not `.` or `..`",
        examples=["gate-3:0042"],
    ),
    AfterValidator(_refuse_dots),
]


def camera_named_by(id: str) -> str | None:
    """Return the camera that an id names, `CAMERA:NAME` or `SOURCE:CAMERA:NAME`, or `None` if it names none.

    An id names at most one camera: after a source that bridges know, it is always the second part.
    """
    first, *others = id.split(":", 2)
    if not others:
        return None
    return others[0] if first in SOURCES and len(others) == 2 else first


def new_id() -> str:
    """Return a new UUIDv7. It starts with the Unix time in milliseconds (48 bits), so ids sort by age."""
    milliseconds = time.time_ns() // 1_000_000
    value = (milliseconds & (2**48 - 1)) << 80 | 0x7 << 76 | secrets.randbits(12) << 64
    return str(UUID(int=value | 0b10 << 62 | secrets.randbits(62)))
