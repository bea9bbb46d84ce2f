"""Options that say what footage is, for the commands that read it."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from model.errors import extra
from not3d.commands import print_message
from not3d.enrol.discovery import MARS, is_picture, parse_layout
from not3d.enrol.ids import printable
from not3d.enrol.readers.tracks import TrackOptions, TracksFormat
from not3d.enrol.readers.values import parse_box, parse_time
from not3d.enrol.tracklets import PersonBox


def parse_time_option(text: str) -> datetime:
    """Parse an RFC 3339 time of the command line."""
    try:
        return parse_time(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _parse_box_option(text: str) -> PersonBox:
    try:
        return parse_box(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _check_layout(text: str) -> str:
    if text not in {"auto", MARS}:
        try:
            parse_layout(text)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None
    return text


Tracks = Annotated[
    Path | None,
    typer.Option(
        "--tracks",
        metavar="FILE_OR_FOLDER",
        help="The tracks of a full video: rows of MOT, a table with column names, JSON, or the folder of labels of "
        "Ultralytics.",
    ),
]
TracksFormatOption = Annotated[
    TracksFormat,
    typer.Option("--tracks-format", help="What --tracks is, if that is recognised wrongly."),
]
FrameBase = Annotated[
    int | None,
    typer.Option(
        "--frame-base",
        min=0,
        max=1,
        metavar="0|1",
        help="The number of the video's first frame in --tracks. "
        "[dim]Default: as the format usually has it; it is shown.[/]",
    ),
]
Classes = Annotated[
    str | None,
    typer.Option(
        "--classes",
        metavar="LIST",
        help="Which classes in --tracks are people, separated by commas. [dim]Default: person or pedestrian, by name "
        "or by the number of the format.[/]",
    ),
]
BoxOption = Annotated[
    PersonBox | None,
    typer.Option(
        "--box",
        parser=_parse_box_option,
        metavar="X,Y,W,H",
        help="Where in a picture the person is: left, top, width and height in pixels.",
    ),
]
Layout = Annotated[
    str,
    typer.Option(
        "--layout",
        callback=_check_layout,
        metavar="NAMES",
        help="What the folders of each level are, such as camera/tracklet, person/camera/tracklet or "
        "site/camera/date/tracklet (other names become metadata), or mars for the names of MARS's files. "
        "[dim]auto: by the number of levels; it is shown.[/]",
    ),
]


def track_options(
    tracks: Path | None, tracks_format: TracksFormat | str, frame_base: int | None, classes: str | None
) -> TrackOptions:
    """Return how tracks are read.

    Raises:
        BadParameter: options without tracks.
    """
    wanted = TracksFormat(tracks_format)
    if tracks is None:
        for given, name in (
            (wanted is not TracksFormat.AUTO, "--tracks-format"),
            (frame_base is not None, "--frame-base"),
            (classes, "--classes"),
        ):
            if given:
                raise typer.BadParameter("needs --tracks", param_hint=name)
    chosen = frozenset(name.strip() for name in (classes or "").split(",") if name.strip())
    return TrackOptions(wanted, frame_base, chosen)


def check_tracks(footage: Path) -> None:
    """Raise `BadParameter` if footage cannot have tracks, and `MissingExtra` if it cannot be cut."""
    if footage.is_dir() or is_picture(footage):
        raise typer.BadParameter(f"needs a video (got {printable(str(footage))})", param_hint="--tracks")
    with extra("video"):
        import not3d.enrol.footage  # noqa: F401 - to fail before anything is sent


def print_remarks(what: str, remarks: Sequence[str]) -> None:
    """Print on standard error what was recognised, and what was left out."""
    for line in filter(None, (what, *remarks)):
        print_message(line[:1].upper() + line[1:])
