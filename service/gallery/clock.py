"""Times as the engines store them: microseconds since 1970 UTC."""

import time
from datetime import UTC, datetime, timedelta

from service.gallery.records import InvalidArgument

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def now() -> int:
    """Return the current time in microseconds since 1970."""
    return time.time_ns() // 1000


def to_microseconds(value: datetime, name: str) -> int:
    """Return an aware time in microseconds since 1970, exactly.

    Raises:
        InvalidArgument: the time has no time zone; the message begins with `name`.
    """
    if value.tzinfo is None:
        raise InvalidArgument(f"{name} has no time zone")
    return (value - _EPOCH) // timedelta(microseconds=1)


def to_datetime(microseconds: int) -> datetime:
    """Return microseconds since 1970 as an aware time."""
    return _EPOCH + timedelta(microseconds=microseconds)


def format_timestamp(value: datetime) -> str:
    """Return an RFC 3339 time in UTC, with microseconds only if they are not zero: `2024-05-01T12:00:00Z`."""
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
