"""Options that choose records: of `search`, `list` and `erase`."""

import json
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Final

import typer

from not3d.client.client import TimeOfDay
from not3d.commands.footage import parse_time_option


def _parse_time_of_day(text: str) -> TimeOfDay:
    found = _TIME_OF_DAY.fullmatch(text)
    if not found:
        raise typer.BadParameter(f"{text} is not FROM-TO, such as 22:00-06:00, or with the offset 22:00-06:00+02:00")
    start, end, offset = found.groups()
    return (start, end, offset) if offset else (start, end)


_CLOCK: Final = r"\d\d:\d\d(?::\d\d)?"
_TIME_OF_DAY: Final = re.compile(rf"({_CLOCK})-({_CLOCK})([+-]\d\d:\d\d|Z)?")

CameraIds = Annotated[
    list[str] | None, typer.Option("--camera-ids", metavar="ID", help="Records of this camera; may be repeated.")
]
ExcludeCameraIds = Annotated[
    list[str] | None,
    typer.Option("--exclude-camera-ids", metavar="ID", help="Not of this camera; may be repeated."),
]
After = Annotated[
    datetime | None, typer.Option(parser=parse_time_option, metavar="TIME", help="Seen at or after (RFC 3339).")
]
Before = Annotated[
    datetime | None, typer.Option(parser=parse_time_option, metavar="TIME", help="Seen at or before (RFC 3339).")
]
TimeOfDayOption = Annotated[
    # Typer would take a tuple for several values.
    object,
    typer.Option(
        "--time-of-day",
        parser=_parse_time_of_day,
        metavar="FROM-TO",
        help="Seen in this part of some day, such as 22:00-06:00; in local time with the offset to UTC: "
        "22:00-06:00+02:00.",
    ),
]
CreatedAfter = Annotated[
    datetime | None, typer.Option(parser=parse_time_option, metavar="TIME", help="Enrolled at or after (RFC 3339).")
]
CreatedBefore = Annotated[
    datetime | None, typer.Option(parser=parse_time_option, metavar="TIME", help="Enrolled at or before (RFC 3339).")
]
WithoutTime = Annotated[bool, typer.Option("--without-time", help="Records that have no time.")]
MetadataOption = Annotated[
    list[str] | None,
    typer.Option("--metadata", metavar="KEY=VALUE", help="Records with this value in their metadata; may be repeated."),
]
JsonMetadata = Annotated[
    list[str] | None,
    typer.Option(
        "--metadata",
        metavar="KEY=VALUE",
        help="With this value in the metadata: JSON such as [bold]3[/] or [bold]true[/], anything else is text; "
        "may be repeated.",
    ),
]


def pairs(given: Sequence[str] | None) -> dict[str, str]:
    """Return what `--metadata KEY=VALUE` names.

    Raises:
        typer.BadParameter: a text has another form, or a key comes twice.
    """
    found: dict[str, str] = {}
    for text in given or ():
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise typer.BadParameter(f"{text} is not KEY=VALUE", param_hint="--metadata")
        if key in found:
            raise typer.BadParameter(f"duplicate key {key}: give it once", param_hint="--metadata")
        found[key] = value
    return found


def json_pairs(given: Sequence[str] | None) -> dict[str, object]:
    """Return the pairs with values that are JSON, or otherwise text. Raises as `pairs`."""
    return {key: _json_or_text(value) for key, value in pairs(given).items()}


def _json_or_text(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text
