"""Values in messages of other systems, read leniently: numbers as text, one object instead of a list."""

import base64
import binascii
import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from not3d.bridges.observations import MalformedMessage

_IMAGES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")
"""How JPEG and PNG begin."""
MAX_IMAGE_BYTES = 10_000_000
"""A crop of one person is a hundredth of it."""
MAX_ITEMS = 1000
"""Objects, frames or events that are read of one message."""
_YEARS = (1970, 2999)
"""Other years are those of a clock that was never set."""


def read_object(payload: bytes | bytearray | str) -> dict[str, Any]:
    """Return the JSON object in a message.

    Raises:
        MalformedMessage: it is not JSON, or not an object.
    """
    try:
        content = json.loads(payload)
    except (ValueError, RecursionError) as error:  # ValueError: also bytes that are not UTF-8
        raise MalformedMessage("not JSON", str(error)[:100]) from None
    if not isinstance(content, dict):
        raise MalformedMessage("not a JSON object", type(content).__name__)
    return content


def as_list(value: Any) -> list[Any]:
    """Return a list as it is, nothing as an empty list, and anything else as a list of one."""
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def as_items(value: Any, problems: list[MalformedMessage]) -> list[Any]:
    """Return the first items of what `as_list` returns; if there are more, that is a problem."""
    items = as_list(value)
    if len(items) > MAX_ITEMS:
        problems.append(MalformedMessage("too many items", f"{len(items)}, of which {MAX_ITEMS} are read"))
    return items[:MAX_ITEMS]


def as_mapping(value: Any) -> Mapping[str, Any]:
    """Return an object as it is, and anything else as an empty one."""
    return value if isinstance(value, dict) else {}


def as_number(value: Any, what: str) -> float:
    """Return a finite number, which may be given as text.

    Raises:
        MalformedMessage: it is none.
    """
    try:
        number = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise MalformedMessage(f"{what} is not a number", repr(value)[:50])
    return number


def as_time(value: Any, what: str) -> datetime:
    """Return a time in UTC: RFC 3339, or seconds since 1970; a time without an offset is in UTC.

    Raises:
        MalformedMessage: it is none.
    """
    read = None
    try:
        if isinstance(value, str):
            read = datetime.fromisoformat(value.strip())
            read = read.replace(tzinfo=UTC) if read.tzinfo is None else read.astimezone(UTC)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            read = datetime.fromtimestamp(value, UTC)
    except (ValueError, OverflowError, OSError):
        pass
    if read is not None and _YEARS[0] <= read.year <= _YEARS[1]:
        return read
    raise MalformedMessage(f"{what} is not a time", repr(value)[:50])


def as_name(value: Any, what: str) -> str:
    """Return an id or a name, which may be a whole number, as text.

    Raises:
        MalformedMessage: it is missing or empty.
    """
    if isinstance(value, str) and value.strip() and not any("\ud800" <= character <= "\udfff" for character in value):
        return value.strip()
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    raise MalformedMessage(f"no {what}" if value in (None, "") else f"{what} is not a name", repr(value)[:50])


def as_image(value: Any) -> bytes:
    """Return the JPEG or PNG in base64, with line breaks or a `data:` prefix, too.

    Raises:
        MalformedMessage: it is none.
    """
    if not isinstance(value, str) or not value:
        raise MalformedMessage("no image", type(value).__name__)
    if len(value) > MAX_IMAGE_BYTES * 3 // 2:  # base64, with line breaks
        raise MalformedMessage("image is too large", f"{len(value)} characters")
    text = value.partition(",")[2] if value.startswith("data:") else value
    try:
        data = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise MalformedMessage("image is not base64", str(error)) from None
    if not data.startswith(_IMAGES):
        raise MalformedMessage("image is neither JPEG nor PNG", repr(data[:8]))
    return data
