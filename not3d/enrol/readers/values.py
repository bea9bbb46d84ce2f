"""Values that people write on the command line and in manifests: times and boxes."""

import math
import re
from datetime import UTC, datetime

from not3d.enrol.readers.tables import parse_number
from not3d.enrol.tracklets import PersonBox


def parse_time(text: str) -> datetime:
    """Parse an RFC 3339 time. It needs an offset, because otherwise the instant is unknown, and must exist in UTC.

    Raises:
        ValueError: says what is wrong.
    """
    try:
        value = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is not an RFC 3339 time such as 2026-05-01T12:00:00Z") from None
    if value.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone; add Z or an offset such as +02:00")
    try:
        value.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"{text!r} is out of range: in UTC, the years are 1 to 9999") from None
    return value


def parse_box(text: str) -> PersonBox:
    """Parse a box `x,y,w,h` in pixels: the left upper corner, width and height.

    Raises:
        ValueError: says what is wrong.
    """
    parts = [part for part in re.split(r"[,;\s]+", text.strip()) if part]
    try:
        x, y, w, h = map(parse_number, parts)
    except ValueError:
        raise ValueError(f"{text!r} is not a box: write x,y,w,h in pixels, such as 120,40,64,180") from None
    if not all(map(math.isfinite, (x, y, w, h))) or w <= 0 or h <= 0:
        raise ValueError(f"{text!r} is not a box: width and height must be above 0")
    return PersonBox(x, y, w, h)
