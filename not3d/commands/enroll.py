"""`not3d enroll`."""

import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import MAXYEAR, UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from model.errors import extra
from not3d.client import Client, ClientError
from not3d.client.responses import Info
from not3d.commands import Failure, Interrupted, messages, print_message, print_result, results
from not3d.commands.footage import (
    BoxOption,
    Classes,
    FrameBase,
    Layout,
    Tracks,
    TracksFormatOption,
    check_tracks,
    parse_time_option,
    print_remarks,
    track_options,
)
from not3d.commands.progress import show_count, show_counts
from not3d.commands.search import DEFAULT_URL, ApiKey, CaFile, MaxClips, Timeout
from not3d.enrol.comparison import Plan, find_enrolled, make_plan
from not3d.enrol.counts import EnrolmentCounts, RefusalReport
from not3d.enrol.discovery import AUTO, list_tracklets
from not3d.enrol.enrolment import RETRY_SECONDS, EnrolOptions, Outcome, Result, enroll_all
from not3d.enrol.ids import printable
from not3d.enrol.ray_enrolment import enroll_on_ray, prepare
from not3d.enrol.readers.manifest import read_manifest
from not3d.enrol.readers.tracks import TrackOptions, TracksFormat
from not3d.enrol.tracklets import Item, LocalTracklet, PersonBox, with_prefix

MAX_SHOWN = 20
"""Maximum number of tracklets, or of reasons, that are shown without --verbose."""


@dataclass(frozen=True)
class Found:
    """What can be enrolled. `prepare` makes tracklets ready to be sent; nothing is read before."""

    items: Sequence[Item]
    prepare: Callable[[Sequence[Item]], Iterable[Item]] = iter


def enroll(
    footage: Annotated[
        Path | None,
        typer.Argument(
            metavar="FOLDER_OR_FILE",
            help="A folder of tracklets in one of the layouts above, a video, or a picture of one person.",
        ),
    ] = None,
    *,
    manifest: Annotated[
        Path | None,
        typer.Option(
            metavar="CSV",
            dir_okay=False,
            help="A table with a header instead: path (relative to the table), and if known id, camera, start, end, "
            "box, person. Other columns become metadata.",
        ),
    ] = None,
    layout: Layout = AUTO,
    tracks: Tracks = None,
    tracks_format: TracksFormatOption = TracksFormat.AUTO,
    frame_base: FrameBase = None,
    classes: Classes = None,
    person_box: BoxOption = None,
    camera: Annotated[str | None, typer.Option(metavar="ID", help="The camera of all the footage.")] = None,
    start: Annotated[
        datetime | None,
        typer.Option(
            parser=parse_time_option,
            metavar="TIME",
            help="When the footage begins: of one tracklet, or with --tracks of the video; each track then gets its "
            "own times. For many tracklets, write their times into a --manifest.",
        ),
    ] = None,
    id_prefix: Annotated[
        str,
        typer.Option(
            "--id-prefix",
            metavar="TEXT",
            help="Put this before each id, to tell apart footage with equal names, such as 2026-05-01-.",
        ),
    ] = "",
    replace_existing: Annotated[
        bool, typer.Option("--replace", help="Also send tracklets that are enrolled, and replace their records.")
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
    ca_file: CaFile = None,
    timeout: Timeout = 120.0,
) -> None:
    """Add tracklets to the gallery of a running service.

    A [cyan]folder[/] holds the images of one tracklet, or folders
    tracklet, camera/tracklet or person/camera/tracklet, or MARS. The names
    of folders become ids.

    A [cyan]picture[/] shows one person, who is inside [cyan]--box[/] if it
    shows more. A [cyan]video[/] shows the crops of one person and is one
    tracklet. With [cyan]--tracks[/] it is a full video, and each track is
    one tracklet.

    What is enrolled already is compared and skipped, so the same command
    continues after an interruption. If an id is enrolled from other
    footage, the tracklet is refused and the exit status is 1.
    """
    _check_usage(footage, manifest, layout, tracks, person_box, start, id_prefix, ray)
    tracks_read_as = track_options(tracks, tracks_format, frame_base, classes)
    options = EnrolOptions(replace_existing, max_clips, retry_seconds)
    urls = urls or [DEFAULT_URL]
    if ray:
        prepare(ray)
    with ExitStack() as stack:
        client = stack.enter_context(Client(urls[0], api_key, timeout, ca_file=ca_file))
        facts = client.info()  # fails before anything is read if the service is unreachable or refuses the key
        if manifest is not None:
            found = Found(read_manifest(manifest, camera or ""))
        elif tracks is not None:
            found = _find_tracks(footage or Path(), tracks, tracks_read_as, camera or "", start, max_clips, facts)
        else:
            found = _find(footage or Path(), layout, camera or "", person_box, start)
        items = [with_prefix(item, id_prefix) for item in found.items] if id_prefix else found.items
        with show_count("Enrolled already") as count:
            enrolled = find_enrolled(client, {name for item in items for name in (item.id, item.fallback_id)}, count)
        with show_count("Compared") as count:
            plan = make_plan(items, enrolled, replace_existing=replace_existing, compared=count)
        counts = EnrolmentCounts(len(items), len(plan.skipped))
        refused = [Outcome(item.id, printable(item.source), Result.REFUSED, reason) for item, reason in plan.refused]
        if dry_run:
            _print_plan(plan, show_all=verbose)
            for outcome in refused:
                counts.add(outcome)
            _fail_if_refused(counts, None)
            return
        refusals = stack.enter_context(RefusalReport(report))

        def take(outcome: Outcome) -> None:
            counts.add(outcome)
            refusals.add(outcome)
            if verbose:
                print_message(": ".join(filter(None, (outcome.id, outcome.result, outcome.reason, *outcome.warnings))))

        for outcome in refused:
            take(outcome)
        try:
            with show_counts(counts):
                ready = found.prepare(plan.send)
                if ray:
                    enroll_on_ray(
                        ray,
                        list(ready),
                        urls,
                        api_key,
                        timeout,
                        ca_file=ca_file,
                        options=options,
                        workers=workers,
                        report=take,
                    )
                else:
                    # One attempt: the enrolment repeats calls itself.
                    opened = (Client(url, api_key, timeout, attempts=1, ca_file=ca_file) for url in urls)
                    clients = [stack.enter_context(client) for client in opened]
                    enroll_all(clients, ready, options=options, workers=workers, report=take)
        except KeyboardInterrupt:
            raise Interrupted(f"{counts.describe()} of {counts.total}; the same command continues from here") from None
        except ClientError as error:
            raise Failure(
                f"{error}. {counts.describe()} of {counts.total}; the same command continues from here"
            ) from error
    _print_outcome(counts, plan, report, show_all=verbose)


def _check_usage(
    footage: Path | None,
    manifest: Path | None,
    layout: str,
    tracks: Path | None,
    person_box: PersonBox | None,
    start: datetime | None,
    id_prefix: str,
    ray: str | None,
) -> None:
    """Raise `BadParameter` for options that do not go together."""
    if (footage is None) == (manifest is None):
        raise typer.BadParameter("give a folder, a video or a picture, or --manifest", param_hint="FOLDER_OR_FILE")
    if manifest is not None:
        for given, name in (
            (tracks, "--tracks"),
            (person_box, "--box"),
            (start, "--start"),
            (id_prefix, "--id-prefix"),
            (layout != AUTO, "--layout"),
        ):
            if given:
                raise typer.BadParameter("does not go with --manifest, which has a column for it", param_hint=name)
    if tracks is not None and footage is not None:
        check_tracks(footage)
        if person_box is not None:
            raise typer.BadParameter("is for a picture; --tracks has the boxes of a video", param_hint="--box")
        if start is not None and start.astimezone(UTC).year == MAXYEAR:
            fault = f"a video cannot begin in the year {MAXYEAR}, after which no time exists (got {start.isoformat()})"
            raise typer.BadParameter(fault, param_hint="--start")
    if tracks is not None and ray is not None:
        raise typer.BadParameter("needs folders: a video is cut on one machine, without --ray", param_hint="--ray")
    if not re.fullmatch(r"[A-Za-z0-9._:-]{0,64}", id_prefix):
        raise typer.BadParameter("must be at most 64 letters, digits or . _ : -", param_hint="--id-prefix")


def _find_tracks(
    video: Path,
    tracks: Path,
    options: TrackOptions,
    camera: str,
    start: datetime | None,
    max_clips: int | None,
    facts: Info,
) -> Found:
    with extra("video"):
        from not3d.enrol.footage import cut_tracks, list_tracks
    items, read = list_tracks(video, tracks, options, camera)
    print_remarks(f"Tracks: {read.description}", read.remarks)

    def cut(chosen: Sequence[Item]) -> Iterable[Item]:
        return cut_tracks(
            [item for item in chosen if isinstance(item, LocalTracklet)],
            start,
            clip_length=facts.clip_length,
            max_clips=max_clips,
            max_frames=facts.limits.get("max_frames"),
        )

    return Found(items, cut)


def _find(
    footage: Path,
    layout: str,
    camera: str,
    person_box: PersonBox | None,
    start: datetime | None,
) -> Found:
    with show_count("Listing tracklets") as count:
        listing = list_tracklets(footage, count, layout=layout, camera=camera, box=person_box)
    print_remarks(f"Layout: {listing.layout}" if listing.layout else "", listing.remarks)
    if start is None:
        return Found(listing.items)
    if len(listing.items) > 1:
        raise typer.BadParameter(
            f"{printable(str(footage))} holds {len(listing.items)} tracklets, which did not all begin at one time: "
            "enrol them one by one, or list them with their times in a --manifest",
            param_hint="--start",
        )
    return Found([replace(item, start_time=start) for item in listing.items])


def _print_plan(plan: Plan, *, show_all: bool) -> None:
    total = len(plan.send) + len(plan.skipped) + len(plan.refused)
    results.print(f"{len(plan.send)} of {total} tracklets would be sent, {len(plan.skipped)} are enrolled already")
    for item in plan.send if show_all else plan.send[:MAX_SHOWN]:
        print_result(f"{item.id}  {printable(item.source)}")
    if len(plan.send) > MAX_SHOWN and not show_all:
        results.print(f"and {len(plan.send) - MAX_SHOWN} more; --verbose shows them", style="dim")


def _print_outcome(counts: EnrolmentCounts, plan: Plan, report: Path | None, *, show_all: bool) -> None:
    line = f"{counts.by_result[Result.ENROLLED]} of {counts.total} tracklets enrolled"
    if skipped := counts.by_result[Result.SKIPPED]:
        line += f", {skipped} skipped: the same footage is enrolled already"
    if counts.left_out:
        line += f", {counts.left_out} frames left out"
    results.print(line, soft_wrap=True)
    if first := counts.first_warned:
        print_message(f"Warning: doubtful tracklets: {counts.warned}; the first, {first.id}: {first.warnings[0]}")
    _print_ids("Skipped", plan.skipped, show_all=show_all)
    if plan.unverified:
        _print_ids("Of these, not compared because their records have no digest", plan.unverified, show_all=show_all)
    _fail_if_refused(counts, report)


def _print_ids(what: str, ids: Sequence[str], *, show_all: bool) -> None:
    if ids:
        shown = ids if show_all else ids[:MAX_SHOWN]
        more = f" and {len(ids) - len(shown)} more; --verbose shows them" if len(shown) < len(ids) else ""
        print_message(f"{what}: {', '.join(shown)}{more}")


def _fail_if_refused(counts: EnrolmentCounts, report: Path | None) -> None:
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
    what = "tracklet was" if refused == 1 else "tracklets were"
    raise Failure(f"{refused} {what} refused{more}")
