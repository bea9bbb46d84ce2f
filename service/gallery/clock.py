"""Times as the engines store them: microseconds since 1970 UTC."""

import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from service.gallery.records import JSON, InvalidArgument, TimeOfDay

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


def add_to_time(value: datetime, duration: timedelta) -> datetime:
    """Return the sum of an aware time and a duration in UTC, or the end of the range of times that it is beyond."""
    try:
        return value.astimezone(UTC) + duration
    except OverflowError:
        return (datetime.max if duration > timedelta() else datetime.min).replace(tzinfo=UTC)


def format_timestamp(value: datetime) -> str:
    """Return an RFC 3339 time in UTC, with microseconds only if they are not zero: `2024-05-01T12:00:00Z`."""
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z")


def format_time_of_day(value: TimeOfDay) -> dict[str, JSON]:
    """Return a part of each day as the HTTP API writes it, `{"from": "22:00:00", "to": ..., ...}`."""

    def text(seconds: int) -> str:
        return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"

    sign = "-" if value.utc_offset < 0 else "+"
    offset = f"{sign}{text(abs(value.utc_offset))[:5]}"
    return {"from": text(value.start), "to": text(value.end), "utc_offset": offset}


def parse_time_of_day(value: Mapping[str, str]) -> TimeOfDay:
    """Return what `format_time_of_day` wrote. Raises `KeyError` or `ValueError` for anything else."""

    def seconds(text: str) -> int:
        hours, minutes, *rest = map(int, text.split(":"))
        return 3600 * hours + 60 * minutes + sum(rest)

    offset = value["utc_offset"]
    return TimeOfDay(seconds(value["from"]), seconds(value["to"]), int(f"{offset[0]}1") * seconds(offset[1:]))
