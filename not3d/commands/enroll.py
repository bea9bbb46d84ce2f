"""``not3d enroll``."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from not3d.client import Client, ClientError
from not3d.commands import Failure, Interrupted, load, messages, results
from not3d.commands.progress import counting, say, show_tally
from not3d.commands.search import DEFAULT_URL, ApiKey, MaxClips, Timeout, Tracks, parse_time
from not3d.enrol.discovery import Item, list_tracklets, source_of
from not3d.enrol.enrolment import PATIENCE_SECONDS, Outcome, Result, Terms, enroll_all, find_enrolled
from not3d.enrol.footage import as_id, cut_tracks, is_video, read_tracks
from not3d.enrol.ray_environment import prepare
from not3d.enrol.tally import RefusalReport, Tally

SHOWN = 20
"""Tracklets that a dry run names without being asked to."""


@dataclass(frozen=True)
class Archive:
    """What there is to enrol: the ids of all, and the tracklets, which are read as they are needed."""

    ids: Sequence[str]
    items: Iterable[Item]

    def without(self, ids: set[str]) -> Iterator[Item]:
        """The tracklets that have other ids. Nothing is read where there are none."""
        if ids.issuperset(self.ids):
            return iter(())
        return (item for item in self.items if item.id not in ids)


def enroll(
    footage: Annotated[
        Path,
        typer.Argument(metavar="FOLDER_OR_VIDEO", help="One folder of images per tracklet, MARS's layout, or a video."),
    ],
    *,
    tracks: Tracks = None,
    camera: Annotated[str | None, typer.Option(metavar="ID", help="The camera, for all of the footage.")] = None,
    start: Annotated[
        datetime | None,
        typer.Option(parser=parse_time, metavar="TIME", help="When the footage begins; each track gets its own times."),
    ] = None,
    replace_existing: Annotated[
        bool, typer.Option("--replace", help="Send tracklets whose id is enrolled too, and replace what is there.")
    ] = False,
    max_clips: MaxClips = None,
    workers: Annotated[
        int, typer.Option(min=1, max=64, help="Tracklets sent at a time; with --ray by each of its tasks.")
    ] = 2,
    patience: Annotated[
        float,
        typer.Option(
            min=0, metavar="SECONDS", help="How long a service that is busy, restarting or gone is asked again."
        ),
    ] = PATIENCE_SECONDS,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            dir_okay=False,
            help="Write the refused tracklets as JSON lines: id, source, status, reason.",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be sent, and send nothing.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="A line for each tracklet.")] = False,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Do it on a Ray cluster: local, or auto or host:port on one of its machines. Needs the extra ray; the "
            "workers must see the folder under the same path.",
        ),
    ] = None,
    urls: Annotated[
        list[str] | None,
        typer.Option(
            "--url",
            envvar="NOT3D_URL",
            metavar="URL",
            help="Where the service listens; may be repeated for replicas that share a gallery. "
            f"[dim]Default: {DEFAULT_URL}[/]",
        ),
    ] = None,
    api_key: ApiKey = None,
    timeout: Timeout = 120.0,
) -> None:
    """Add tracklets to the gallery of a running service.

    A folder holds the images of one tracklet, one such folder per tracklet,
    person/camera/tracklet folders, or MARS; names become ids.

    A video shows the crops of one person and is one tracklet. With
    [cyan]--tracks[/] it is a full video, and each track is one tracklet.

    What is enrolled under its id is skipped, so the same command goes on with
    what was interrupted; that its footage is another now is not noticed.
    """
    if tracks is not None and not is_video(footage):
        raise typer.BadParameter("goes with a video", param_hint="--tracks")
    if tracks is not None and ray is not None:
        raise typer.BadParameter("goes with folders; a video is cut on one machine", param_hint="--ray")
    # A track has got times of its own.
    terms = Terms(replace_existing, max_clips, camera, None if tracks else start, patience)
    urls = urls or [DEFAULT_URL]
    run_on_ray = None
    if ray:
        prepare(ray)
        run_on_ray = load("not3d.enrol.ray_enrolment", "ray").enroll_on_ray
    with ExitStack() as stack:
        asking = stack.enter_context(Client(urls[0], api_key, timeout))
        asking.info()  # before anything is read: is the service there, and does it let us in?
        archive = _list(footage, tracks, start)
        with counting("Enrolled already") as count:
            enrolled = set() if replace_existing else find_enrolled(asking, archive.ids, count)
        items = archive.without(enrolled)
        tally = Tally(len(archive.ids), len(enrolled))
        if dry_run:
            _say_what_would_be(tally, items, all_of_them=verbose)
            return
        written = stack.enter_context(RefusalReport(report))

        def take(outcome: Outcome) -> None:
            tally.add(outcome)
            written.add(outcome)
            if verbose:
                say(": ".join(filter(None, (outcome.id, outcome.result, outcome.reason))))

        try:
            with show_tally(tally):
                if run_on_ray is not None:
                    run_on_ray(ray, list(items), urls, api_key, timeout, terms=terms, workers=workers, report=take)
                else:
                    # One attempt: what is tried again, and for how long, is for the enrolment to say.
                    clients = [stack.enter_context(Client(url, api_key, timeout, attempts=1)) for url in urls]
                    enroll_all(clients, items, terms=terms, workers=workers, report=take)
        except KeyboardInterrupt:
            raise Interrupted(f"{tally.describe()} of {tally.total}; the same command goes on from here") from None
        except ClientError as error:
            raise Failure(
                f"{error}. {tally.describe()} of {tally.total}; the same command goes on from here"
            ) from error
    _say_what_was(tally, report)


def _list(footage: Path, tracks: Path | None, start: datetime | None) -> Archive:
    if tracks is not None:
        ids = [as_id(f"{footage.stem}-{track}") for track in read_tracks(tracks)]
        return Archive(ids, cut_tracks(footage, tracks, start))
    with counting("Listing tracklets") as count:
        items = list_tracklets(footage, count)
    return Archive([item.id for item in items], items)


def _say_what_would_be(tally: Tally, items: Iterator[Item], *, all_of_them: bool) -> None:
    left = tally.total - tally.skipped
    results.print(f"{left} of {tally.total} tracklets would be sent, {tally.skipped} are enrolled already")
    for number, item in enumerate(items):
        if number == SHOWN and not all_of_them:
            results.print(f"and {left - SHOWN} more; --verbose names them", style="dim")
            return
        results.print(f"{item.id}  {source_of(item)}", soft_wrap=True, markup=False, highlight=False)


def _say_what_was(tally: Tally, report: Path | None) -> None:
    line = f"{tally.counts[Result.ENROLLED]} of {tally.total} tracklets enrolled"
    if skipped := tally.counts[Result.SKIPPED]:
        line += f", {skipped} skipped: their ids are enrolled already"
    if tally.left_out:
        line += f", {tally.left_out} frames left out"
    results.print(line, soft_wrap=True)
    refused = tally.counts[Result.REFUSED]
    if not refused:
        return
    table = Table("refused", "why, and the first of them", box=box.SIMPLE_HEAD, pad_edge=False)
    table.columns[0].justify = "right"
    most = sorted(tally.refused.values(), key=lambda reason: -reason.count)
    for reason in most[:SHOWN]:
        table.add_row(str(reason.count), Text(f"{reason.first.id}: {reason.first.reason}", overflow="fold"))
    if len(most) > SHOWN:
        table.add_row(str(sum(reason.count for reason in most[SHOWN:])), "for other reasons")
    messages.print(table)
    more = f"; {report} names each" if report else "; --report FILE names each" if refused > 1 else ""
    raise Failure(f"{refused} tracklets were refused{more}")
