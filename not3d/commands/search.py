"""`not3d search` and `info`: questions to a running service."""

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from model.errors import extra
from not3d.client import Client
from not3d.client.responses import Calibration, Info, Json, SearchResult, format_probability
from not3d.commands import count_of, messages, print_message, results
from not3d.commands.conditions import (
    After,
    Before,
    CameraIds,
    CreatedAfter,
    CreatedBefore,
    ExcludeCameraIds,
    JsonMetadata,
    TimeOfDayOption,
    WithoutTime,
    json_pairs,
)
from not3d.commands.footage import (
    BoxOption,
    Classes,
    FrameBase,
    Layout,
    Tracks,
    TracksFormatOption,
    check_tracks,
    print_remarks,
    track_options,
)
from not3d.enrol.discovery import AUTO, list_tracklets
from not3d.enrol.ids import printable
from not3d.enrol.readers.tracks import TrackOptions, TracksFormat
from not3d.enrol.tracklets import FootageError, Item, LocalTracklet, is_same_person

if TYPE_CHECKING:
    from not3d.enrol.footage import Image


Url = Annotated[str, typer.Option("--url", envvar="NOT3D_URL", help="Address of the service.", metavar="URL")]
ApiKey = Annotated[
    str | None,
    typer.Option("--api-key", envvar="NOT3D_API_KEY", help="API key, if the service requires one.", metavar="KEY"),
]
CaFile = Annotated[
    Path | None,
    typer.Option(
        "--ca-file",
        envvar="NOT3D_CA_FILE",
        metavar="FILE",
        help="Certificate of the authority that signed the service's certificate, in PEM format. "
        "[dim]Default: the authorities that the system trusts.[/]",
    ),
]
Timeout = Annotated[float, typer.Option("--timeout", min=1, help="Seconds to wait for one answer.", metavar="SECONDS")]
Operator = Annotated[
    str | None,
    typer.Option(
        "--operator",
        envvar="NOT3D_OPERATOR",
        metavar="NAME",
        help="Who you are, for the audit log and as the author of verdicts.",
    ),
]
Purpose = Annotated[
    str | None,
    typer.Option("--purpose", metavar="TEXT", help="Why you search, for the audit log; some services require it."),
]
MaxClips = Annotated[
    int | None,
    typer.Option(
        "--max-clips",
        min=1,
        metavar="N",
        help="Compute at most N evenly spaced clips of a tracklet: faster, less exact.",
    ),
]
SHOWN = 5
"""Hits on a picture."""
DEFAULT_URL = "http://127.0.0.1:8000"


def search(
    footage: Annotated[
        Path | None,
        typer.Argument(
            metavar="FOLDER_OR_FILE", help="The query: a folder of one tracklet's images, a video, or a picture."
        ),
    ] = None,
    *,
    enrolled: Annotated[
        list[str] | None,
        typer.Option(
            "--id",
            metavar="ID",
            help="Use this enrolled tracklet as the query instead of footage. Further ones, also beside footage, are "
            "examples of the same person.",
        ),
    ] = None,
    reject: Annotated[
        list[str] | None,
        typer.Option("--reject", metavar="ID", help="An enrolled tracklet of another person; may be repeated."),
    ] = None,
    combine: Annotated[
        str | None,
        typer.Option(metavar="HOW", help="mean or max: how several examples are combined. [dim]Default: mean.[/]"),
    ] = None,
    case: Annotated[
        str | None, typer.Option(metavar="CASE", help="Add the query and the verdicts of this case.")
    ] = None,
    layout: Layout = AUTO,
    tracks: Tracks = None,
    tracks_format: TracksFormatOption = TracksFormat.AUTO,
    frame_base: FrameBase = None,
    classes: Classes = None,
    person_box: BoxOption = None,
    tracklet: Annotated[
        str | None, typer.Option(metavar="NAME", help="Which tracklet, if the folder or the tracks hold several.")
    ] = None,
    max_clips: MaxClips = None,
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, help="Number of hits.")] = 5,
    picture: Annotated[
        Path | None,
        typer.Option(metavar="FILE", dir_okay=False, help="Write the query and the first five as .png, .jpg or .webp."),
    ] = None,
    pictures: Annotated[
        list[Path] | None,
        typer.Option(
            "--pictures",
            envvar="NOT3D_PICTURES",
            metavar="DIR",
            exists=True,
            file_okay=False,
            help="For --picture: the folder that was enrolled, or its parent; nothing else is opened. "
            "May be repeated. [dim]Default: the current folder.[/]",
        ),
    ] = None,
    camera: Annotated[str | None, typer.Option(metavar="ID", help="The query's own camera.")] = None,
    person: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Person id of the query, if known: hits are then marked right or wrong."),
    ] = None,
    exclude_same_camera: Annotated[
        bool, typer.Option("--exclude-same-camera", help="Leave out the query's own camera.")
    ] = False,
    camera_ids: CameraIds = None,
    exclude_camera_ids: ExcludeCameraIds = None,
    after: After = None,
    before: Before = None,
    time_of_day: TimeOfDayOption = None,
    created_after: CreatedAfter = None,
    created_before: CreatedBefore = None,
    without_time: WithoutTime = False,
    metadata: JsonMetadata = None,
    min_score: Annotated[float | None, typer.Option(min=-1, max=1, help="Leave out hits below this score.")] = None,
    prior: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Expected matches / searched records, for the probability of hits. [dim]Default: the service's.[/]",
        ),
    ] = None,
    min_probability: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Leave out hits below this probability; needs a calibrated service."),
    ] = None,
    rerank: Annotated[bool, typer.Option("--rerank", help="Reorder the best hits (k-reciprocal).")] = False,
    purpose: Purpose = None,
    operator: Operator = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")] = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    ca_file: CaFile = None,
    timeout: Timeout = 120.0,
) -> None:
    """Find where else a person was seen.

    Ranks the gallery of a running service by similarity to a query: footage, as
    in [cyan]not3d search FOLDER --top-k 5[/], or a tracklet that is enrolled,
    as in [cyan]not3d search --id ID[/]. Further examples of the person, and
    tracklets of other people, refine it: [cyan]--id A --id B --reject C[/].

    [cyan]--picture ranked.png[/] draws the query and its first five hits;
    green is the same person and red another, if that is known. The frames of
    hits are looked for below [cyan]--pictures[/]; if there are none, the small
    pictures that the service keeps are drawn.

    If the service has a calibration, each hit has a probability. It is that of
    a probable appearance that a person has to look at, not an identification.
    """
    examples = enrolled or []
    if footage is None and not examples and case is None:
        raise typer.BadParameter("give a folder, a video, a picture, --id, or --case", param_hint="query")
    if combine not in (None, "mean", "max"):
        raise typer.BadParameter(f"must be mean or max (got {combine})", param_hint="--combine")
    tracks_read_as = track_options(tracks, tracks_format, frame_base, classes)
    if footage is None and (tracks or person_box):
        raise typer.BadParameter("needs footage", param_hint="--tracks" if tracks else "--box")
    if max_clips is not None and footage is None:
        raise typer.BadParameter("needs footage: an enrolled tracklet is not computed again", param_hint="--max-clips")
    if picture is not None:
        with extra("video"):
            from not3d.enrol.footage import read_pictures
            from not3d.enrol.local_frames import find_local_frames
            from not3d.picture import read_thumbnails
    folders = pictures or [Path()]
    with Client(url, api_key, timeout, operator=operator, ca_file=ca_file) as client:
        if footage is None and examples:
            record = client.get(examples[0])
            query = LocalTracklet(
                record.id, person=str(record.metadata.get("person", "")), camera=record.camera_id or ""
            )
            frames = find_local_frames(record.metadata, folders) if picture else []
            if picture and not frames:
                frames = read_thumbnails(client, record.id, record.thumbnails)
        elif footage is None:
            query, frames = LocalTracklet(f"case {case}"), []
        else:
            path = footage or Path()
            if tracks is None:
                listing = list_tracklets(path, layout=layout, box=person_box)
                print_remarks("", listing.remarks)
                query = _choose(listing.items, tracklet, path).open()
            else:
                query = _cut_track(client, path, tracks, tracks_read_as, tracklet, max_clips)
            frames = read_pictures(query) if picture else []
        query = replace(query, camera=camera or query.camera, person=person or query.person)
        if exclude_same_camera and not query.camera:
            raise typer.BadParameter("the query's camera is unknown; give --camera", param_hint="--exclude-same-camera")
        with messages.status("Searching"):
            result = client.search(
                query.frames or None,
                video=query.video,
                boxes=query.boxes or None,
                id=examples[0] if footage is None and examples else None,
                ids=examples if footage is not None else examples[1:],
                reject_ids=reject or (),
                combine=combine,  # type: ignore[arg-type]
                case=case,
                camera_id=query.camera or None,
                max_clips=max_clips,
                top_k=max(top_k, 5) if picture else top_k,
                min_score=min_score,
                prior=prior,
                min_probability=min_probability,
                camera_ids=camera_ids or None,
                exclude_camera_ids=exclude_camera_ids or (),
                after=after,
                before=before,
                time_of_day=time_of_day,  # type: ignore[arg-type]
                created_after=created_after,
                created_before=created_before,
                without_time=without_time,
                metadata=json_pairs(metadata),
                exclude_same_camera=exclude_same_camera,
                rerank=rerank,
                purpose=purpose,
            )
        kept = {
            hit.id: read_thumbnails(client, hit.id, hit.thumbnails)
            for hit in (result.hits[:SHOWN] if picture else ())
            if not find_local_frames(hit.metadata, folders)
        }
    shown = replace(result, hits=result.hits[:top_k])
    if as_json:
        results.print_json(json.dumps({**result.answer, "results": result.answer["results"][:top_k]}))
    else:
        results.print(make_table(shown, query.person, reranked=rerank))
        results.print(f"{count_of(result.searched, 'tracklet')} searched in {result.took_ms:.0f} ms", style="dim")
        for warning in result.warnings:
            print_message(f"Warning: {warning}")
        if result.calibration:
            results.print(f"probability: {describe_calibration(result.calibration)}", style="dim", highlight=False)
    if picture:
        _draw(picture, result, query, frames, folders, kept, rerank=rerank)


def _draw(
    picture: Path,
    result: SearchResult,
    query: LocalTracklet,
    frames: "list[Image]",
    folders: list[Path],
    kept: dict[str, "list[Image]"],
    *,
    rerank: bool,
) -> None:
    from not3d.picture import Panel, draw_ranked, make_panels, write_picture

    at = f" at camera {query.camera}" if query.camera else ""
    order = "; ordered by re-ranking" if rerank else ""
    panels = [Panel(frames, query.id, query.camera or None), *make_panels(result, query.person, folders, kept)]
    subtitle = f"{query.id}{at}, {count_of(result.searched, 'tracklet')} searched{order}"
    basis = describe_calibration(result.calibration) if result.calibration else ""
    try:
        image = draw_ranked(panels[0], panels[1:], subtitle=subtitle, basis=basis, warnings=result.warnings)
        write_picture(picture, image)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--picture") from error
    messages.print(f"Picture: {picture.resolve()}", style="dim", soft_wrap=True, markup=False)
    if missing := sum(not panel.frames for panel in panels):
        where = ", ".join(str(folder.resolve()) for folder in folders)
        print_message(
            f"No frames of {missing} of its {len(panels)} tracklets below {where}; --pictures DIR adds a folder."
        )


def info(
    bundle: Annotated[
        Path | None,
        typer.Argument(
            metavar="BUNDLE",
            exists=True,
            file_okay=False,
            help="Show this bundle's model, accuracy and thresholds instead of a running service.",
        ),
    ] = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")] = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    ca_file: CaFile = None,
    timeout: Timeout = 30.0,
) -> None:
    """Show model, calibration, engine, gallery and limits of a running service, or describe a bundle."""
    if bundle is not None:
        from not3d.commands.bundle_info import show_bundle

        show_bundle(bundle, as_json=as_json)
        return
    with Client(url, api_key, timeout, ca_file=ca_file) as client:
        facts = client.info()
    if as_json:
        results.print_json(json.dumps(facts.answer))
        return
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2))
    table.add_row("service", Text(f"{client.url}, version {facts.version}"))
    model = facts.model
    if model:
        words = f"{model['name']}, {model['dimension']} dimensions, clips of {model['clip_length']}"
    else:
        words = f"none: it stores vectors of another system, {facts.dimension} dimensions"
    table.add_row("model", Text(words))
    for measured in model.get("accuracy", ()):
        table.add_row("", Text(f"{measured['dataset']}: rank-1 {measured['rank1']:.2f}, mAP {measured['map']:.2f}"))
    table.add_row("embedding space", Text(facts.embedding_space))
    calibration = describe_calibration(facts.calibration) if facts.calibration else "none, so hits have no probability"
    table.add_row("calibration", Text(calibration))
    if facts.engine:
        table.add_row("engine", Text(_listed(facts.engine)))
    table.add_row("gallery", Text(_listed(facts.gallery)))
    table.add_row("limits", Text(_listed(facts.limits, separator="\n")))
    results.print(table)
    if facts.thresholds:
        results.print(_thresholds_table(facts))


def describe_calibration(calibration: Calibration) -> str:
    """Return in one line under which prior probabilities are given, and on what they were fitted."""
    prior = "1 / (searched records + 1)" if calibration.prior is None else f"{calibration.prior:.3g}"
    people = f"{calibration.fitted_people} people" if calibration.fitted_people else "pairs of unnamed people"
    cameras = f" and {calibration.fitted_cameras} cameras" if calibration.fitted_cameras else ""
    return (
        f"prior {prior}; {calibration.source} calibration {calibration.id}, fitted on {people}{cameras} "
        f"({calibration.fitted_at:%Y-%m-%d})"
    )


def _thresholds_table(facts: Info) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        title="Thresholds for --min-score, with the errors measured on the people of the calibration",
        title_justify="left",
        caption="FMR: share of pairs of two people that score at least this. FNMR: share of pairs of one person that "
        "score less.",
        caption_justify="left",
    )
    for name in ("FMR", "score", "FNMR", "95% interval"):
        table.add_column(name, justify="right")
    for each in facts.thresholds:
        interval = f"{each.fnmr_low:.1%} to {each.fnmr_high:.1%}"
        table.add_row(f"{each.fmr:.2g}", f"{each.score:.3f}", f"{each.fnmr:.1%}", interval)
    return table


def make_table(result: SearchResult, person: str = "", *, reranked: bool = False) -> Table:
    """Return the hits as a table, with columns for their probability and, if the person is known, for the truth."""
    order = "In the order of re-ranking; score: cosine" if reranked else None
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=order, title_justify="left", min_width=len(order or ""))
    table.add_column("rank", justify="right")
    table.add_column("id", overflow="fold")
    table.add_column("score", justify="right")
    if result.calibration:
        table.add_column("probability", justify="right")
    table.add_column("camera")
    timed = any(hit.start_time for hit in result.hits)
    if timed:
        table.add_column("seen from (UTC)")
    if person:
        table.add_column("person")
    for hit in result.hits:
        # Ids and cameras come from outside: Text keeps rich from reading markup in them.
        row = [Text(str(hit.rank)), Text(hit.id), Text(f"{hit.score:.3f}")]
        if result.calibration:
            row.append(Text("-" if hit.probability is None else format_probability(hit.probability)))
        row.append(Text(hit.camera_id or "-"))
        if timed:
            row.append(Text(f"{hit.start_time.astimezone(UTC):%Y-%m-%d %H:%M:%S}" if hit.start_time else "-"))
        if person:
            same = is_same_person(hit, person)
            row.append(Text("?") if same is None else Text("same", "green") if same else Text("another", "red"))
        table.add_row(*row)
    return table


def _choose(items: Sequence[Item], wanted: str | None, footage: Path) -> Item:
    """Return the only tracklet of the footage, or the wanted one, by its name, its track or its id."""
    matches = [
        item
        for item in items
        if wanted is None or wanted in {item.id, item.origin.get("tracklet"), item.origin.get("track")}
    ]
    if len(matches) == 1:
        return matches[0]
    some = ", ".join(item.id for item in items[:8]) + (", ..." if len(items) > 8 else "")
    shown = printable(str(footage))
    if wanted is None:
        raise typer.BadParameter(
            f"choose one of the {len(items)} tracklets ({some}) in {shown}", param_hint="--tracklet"
        )
    if matches:
        ids = ", ".join(item.id for item in matches[:8])
        raise typer.BadParameter(
            f"{len(matches)} tracklets in {shown} are called {wanted}: {ids}", param_hint="--tracklet"
        )
    raise typer.BadParameter(f"no tracklet {wanted}, only {some}, in {shown}", param_hint="--tracklet")


def _cut_track(
    client: Client, video: Path, tracks: Path, options: TrackOptions, wanted: str | None, max_clips: int | None
) -> LocalTracklet:
    """Return the only or the wanted track of a full video, cut out of it."""
    check_tracks(video)
    from not3d.enrol.footage import cut_tracks, list_tracks

    items, read = list_tracks(video, tracks, options)
    print_remarks(f"Tracks: {read.description}", read.remarks)
    chosen = _choose(items, wanted, video).open()
    (cut,) = cut_tracks([chosen], clip_length=client.info().clip_length, max_clips=max_clips)
    if cut.problem:
        raise FootageError(f"{cut.id}: {cut.problem}")
    return cut


def _listed(facts: Json, separator: str = ", ") -> str:
    return separator.join(
        f"{name.replace('_', ' ')} {'none' if value is None else value}" for name, value in facts.items()
    )
