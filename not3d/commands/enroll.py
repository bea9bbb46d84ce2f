"""`not3d enroll`."""

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

from model.errors import extra
from not3d.client import Client, ClientError
from not3d.commands import Failure, Interrupted, messages, print_message, print_result, results
from not3d.commands.progress import show_count, show_counts
from not3d.commands.search import DEFAULT_URL, ApiKey, MaxClips, Timeout, Tracks, parse_time
from not3d.enrol.counts import EnrolmentCounts, RefusalReport
from not3d.enrol.discovery import Item, as_id, is_video, list_tracklets, source_of
from not3d.enrol.enrolment import RETRY_SECONDS, EnrolOptions, Outcome, Result, enroll_all, find_enrolled
from not3d.enrol.ray_enrolment import enroll_on_ray, prepare

MAX_SHOWN = 20
"""Maximum number of tracklets, or of reasons, that are shown without --verbose."""


@dataclass(frozen=True)
class Found:
    """What can be enrolled: the ids of all tracklets, and the tracklets, which are read when they are needed."""

    ids: Sequence[str]
    items: Iterable[Item]

    def without(self, ids: set[str]) -> Iterator[Item]:
        """Return the tracklets that have other ids. Nothing is read if there are none."""
        if ids.issuperset(self.ids):
            return iter(())
        return (item for item in self.items if item.id not in ids)


def enroll(
    footage: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER_OR_VIDEO", help="A folder of tracklets in one of the layouts above, or a video."
        ),
    ],
    *,
    tracks: Tracks = None,
    camera: Annotated[str | None, typer.Option(metavar="ID", help="The camera of all the footage.")] = None,
    start: Annotated[
        datetime | None,
        typer.Option(
            parser=parse_time,
            metavar="TIME",
            help="When the footage begins; with --tracks, each tracklet gets its own times.",
        ),
    ] = None,
    replace_existing: Annotated[
        bool, typer.Option("--replace", help="Also send tracklets whose id is enrolled, and replace their records.")
    ] = False,
    max_clips: MaxClips = None,
    workers: Annotated[
        int, typer.Option(min=1, max=64, help="Number of tracklets sent at the same time; with --ray, by each task.")
    ] = 2,
    retry_seconds: Annotated[
        float,
        typer.Option(
            "--patience",
            min=0,
            metavar="SECONDS",
            help="How long to retry calls to a service that is busy, restarting or unreachable.",
        ),
    ] = RETRY_SECONDS,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            dir_okay=False,
            help="Write the refused tracklets as JSON lines: id, source, status, reason.",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be sent, and send nothing.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Print a line for each tracklet.")] = False,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Enrol on a Ray cluster: local, or auto or host:port on one of its machines. Needs the extra ray. The "
            "folder must have the same path on all workers.",
        ),
    ] = None,
    urls: Annotated[
        list[str] | None,
        typer.Option(
            "--url",
            envvar="NOT3D_URL",
            metavar="URL",
            help=f"Address of the service; repeat it for replicas that share a gallery. [dim]Default: {DEFAULT_URL}[/]",
        ),
    ] = None,
    api_key: ApiKey = None,
    timeout: Timeout = 120.0,
) -> None:
    """Add tracklets to the gallery of a running service.

    A folder holds the images of one tracklet, or one folder per tracklet,
    or person/camera/tracklet folders, or the layout of MARS. The names of
    folders become ids.

    A video shows the crops of one person and is one tracklet. With
    [cyan]--tracks[/] it is a full video, and each track is one tracklet.

    Ids that are enrolled already are skipped, so the same command continues
    after an interruption. It does not notice if their footage has changed.
    """
    if tracks is not None and not is_video(footage):
        raise typer.BadParameter(f"needs a video (got {footage})", param_hint="--tracks")
    if tracks is not None:
        with extra("video"):
            import not3d.enrol.footage  # noqa: F401 - to fail before anything is sent
    if tracks is not None and ray is not None:
        raise typer.BadParameter("needs folders: a video is cut on one machine, without --ray", param_hint="--ray")
    # With tracks, each has its own times.
    options = EnrolOptions(replace_existing, max_clips, camera, None if tracks else start, retry_seconds)
    urls = urls or [DEFAULT_URL]
    if ray:
        prepare(ray)
    with ExitStack() as stack:
        client = stack.enter_context(Client(urls[0], api_key, timeout))
        client.info()  # fails before anything is read if the service is unreachable or refuses the key
        found = _find(footage, tracks, start)
        with show_count("Enrolled already") as count:
            enrolled = set() if replace_existing else find_enrolled(client, found.ids, count)
        items = found.without(enrolled)
        counts = EnrolmentCounts(len(found.ids), len(enrolled))
        if dry_run:
            _print_plan(counts, items, show_all=verbose)
            return
        refusals = stack.enter_context(RefusalReport(report))

        def take(outcome: Outcome) -> None:
            counts.add(outcome)
            refusals.add(outcome)
            if verbose:
                print_message(": ".join(filter(None, (outcome.id, outcome.result, outcome.reason))))

        try:
            with show_counts(counts):
                if ray:
                    enroll_on_ray(
                        ray, list(items), urls, api_key, timeout, options=options, workers=workers, report=take
                    )
                else:
                    # One attempt: the enrolment repeats calls itself.
                    clients = [stack.enter_context(Client(url, api_key, timeout, attempts=1)) for url in urls]
                    enroll_all(clients, items, options=options, workers=workers, report=take)
        except KeyboardInterrupt:
            raise Interrupted(f"{counts.describe()} of {counts.total}; the same command continues from here") from None
        except ClientError as error:
            raise Failure(
                f"{error}. {counts.describe()} of {counts.total}; the same command continues from here"
            ) from error
    _print_outcome(counts, report)


def _find(footage: Path, tracks: Path | None, start: datetime | None) -> Found:
    if tracks is not None:
        from not3d.enrol.footage import cut_tracks, read_tracks

        ids = [as_id(f"{footage.stem}-{track}") for track in read_tracks(tracks)]
        return Found(ids, cut_tracks(footage, tracks, start))
    with show_count("Listing tracklets") as count:
        items = list_tracklets(footage, count)
    return Found([item.id for item in items], items)


def _print_plan(counts: EnrolmentCounts, items: Iterator[Item], *, show_all: bool) -> None:
    left = counts.total - counts.skipped
    results.print(f"{left} of {counts.total} tracklets would be sent, {counts.skipped} are enrolled already")
    for number, item in enumerate(items):
        if number == MAX_SHOWN and not show_all:
            results.print(f"and {left - MAX_SHOWN} more; --verbose shows them", style="dim")
            return
        print_result(f"{item.id}  {source_of(item)}")


def _print_outcome(counts: EnrolmentCounts, report: Path | None) -> None:
    line = f"{counts.by_result[Result.ENROLLED]} of {counts.total} tracklets enrolled"
    if skipped := counts.by_result[Result.SKIPPED]:
        line += f", {skipped} skipped: their ids are enrolled already"
    if counts.left_out:
        line += f", {counts.left_out} frames left out"
    results.print(line, soft_wrap=True)
    refused = counts.by_result[Result.REFUSED]
    if not refused:
        return
    table = Table("refused", "first of them, and why", box=box.SIMPLE_HEAD, pad_edge=False)
    table.columns[0].justify = "right"
    most = sorted(counts.refused.values(), key=lambda reason: -reason.count)
    for reason in most[:MAX_SHOWN]:
        table.add_row(str(reason.count), Text(f"{reason.first.id}: {reason.first.reason}", overflow="fold"))
    if len(most) > MAX_SHOWN:
        table.add_row(str(sum(reason.count for reason in most[MAX_SHOWN:])), "for other reasons")
    messages.print(table)
    more = f"; {report} lists them" if report else "; --report FILE lists them" if refused > 1 else ""
    raise Failure(f"{refused} tracklets were refused{more}")
