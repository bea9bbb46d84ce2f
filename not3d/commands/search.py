"""`not3d search` and `info`: questions to a running service."""

import json
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from model.errors import extra
from not3d.client import Client
from not3d.client.responses import Calibration, Info, Json, SearchResult, format_probability
from not3d.commands import messages, print_message, results
from not3d.enrol.discovery import LocalTracklet, is_same_person, is_video, read_footage

if TYPE_CHECKING:
    from not3d.enrol.footage import Image


def parse_time(text: str) -> datetime:
    """Parse an RFC 3339 time. It needs an offset, because otherwise the instant is unknown."""
    try:
        value = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not an RFC 3339 time such as 2026-05-01T12:00:00Z") from None
    if value.tzinfo is None:
        raise typer.BadParameter(f"{text!r} has no time zone; add Z or an offset such as +02:00")
    return value


Url = Annotated[str, typer.Option("--url", envvar="NOT3D_URL", help="Address of the service.", metavar="URL")]
ApiKey = Annotated[
    str | None,
    typer.Option("--api-key", envvar="NOT3D_API_KEY", help="API key, if the service requires one.", metavar="KEY"),
]
Timeout = Annotated[float, typer.Option("--timeout", min=1, help="Seconds to wait for one answer.", metavar="SECONDS")]
Tracks = Annotated[
    Path | None,
    typer.Option(
        "--tracks",
        metavar="CSV",
        help="The tracks of a full video in MOT's format: frame,track,x,y,w,h,confidence, frames counted from 1.",
    ),
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
DEFAULT_URL = "http://127.0.0.1:8000"


def search(
    footage: Annotated[
        Path | None,
        typer.Argument(metavar="FOLDER_OR_VIDEO", help="The query: a folder of one tracklet's images, or a video."),
    ] = None,
    *,
    enrolled: Annotated[
        str | None,
        typer.Option("--id", metavar="ID", help="Use this enrolled tracklet as the query instead of footage."),
    ] = None,
    tracks: Tracks = None,
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
    camera_ids: Annotated[
        list[str] | None, typer.Option("--camera-ids", metavar="ID", help="Search these cameras only; may be repeated.")
    ] = None,
    after: Annotated[
        datetime | None, typer.Option(parser=parse_time, metavar="TIME", help="Seen at or after (RFC 3339).")
    ] = None,
    before: Annotated[
        datetime | None, typer.Option(parser=parse_time, metavar="TIME", help="Seen at or before (RFC 3339).")
    ] = None,
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
    as_json: Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")] = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    timeout: Timeout = 120.0,
) -> None:
    """Find where else a person was seen.

    Ranks the gallery of a running service by similarity to a query: footage, as
    in [cyan]not3d search FOLDER --top-k 5[/], or a tracklet that is enrolled,
    as in [cyan]not3d search --id ID[/].

    [cyan]--picture ranked.png[/] draws the query and its first five hits;
    green is the same person and red another, if that is known. The frames of
    hits are looked for below [cyan]--pictures[/].

    If the service has a calibration, each hit has a probability. It is that of
    a probable appearance that a person has to look at, not an identification.
    """
    if (footage is None) == (enrolled is None):
        raise typer.BadParameter("give a folder, a video, or --id", param_hint="query")
    if max_clips is not None and footage is None:
        raise typer.BadParameter("needs footage: an enrolled tracklet is not computed again", param_hint="--max-clips")
    if picture is not None:
        with extra("video"):
            from not3d.enrol.footage import read_pictures
            from not3d.enrol.local_frames import find_local_frames
    folders = pictures or [Path()]
    with Client(url, api_key, timeout) as client:
        if enrolled is not None:
            record = client.get(enrolled)
            query = LocalTracklet(
                record.id, person=str(record.metadata.get("person", "")), camera=record.camera_id or ""
            )
            frames = find_local_frames(record.metadata, folders) if picture else []
        else:
            query = _choose(footage or Path(), tracks, tracklet)
            frames = read_pictures(query) if picture else []
        query = replace(query, camera=camera or query.camera, person=person or query.person)
        if exclude_same_camera and not query.camera:
            raise typer.BadParameter("the query's camera is unknown; give --camera", param_hint="--exclude-same-camera")
        with messages.status("Searching"):
            result = client.search(
                query.frames or None,
                video=query.video,
                id=enrolled,
                camera_id=query.camera or None,
                max_clips=max_clips,
                top_k=max(top_k, 5) if picture else top_k,
                min_score=min_score,
                prior=prior,
                min_probability=min_probability,
                camera_ids=camera_ids or None,
                after=after,
                before=before,
                exclude_same_camera=exclude_same_camera,
                rerank=rerank,
            )
    shown = replace(result, hits=result.hits[:top_k])
    if as_json:
        results.print_json(json.dumps(asdict(shown), default=_as_json))
    else:
        results.print(make_table(shown, query.person, reranked=rerank))
        results.print(f"{result.searched} tracklets searched in {result.took_ms:.0f} ms", style="dim")
        if result.calibration:
            results.print(f"probability: {describe_calibration(result.calibration)}", style="dim", highlight=False)
    if picture:
        _draw(picture, result, query, frames, folders, rerank=rerank)


def _draw(
    picture: Path,
    result: SearchResult,
    query: LocalTracklet,
    frames: "list[Image]",
    folders: list[Path],
    *,
    rerank: bool,
) -> None:
    from not3d.picture import Panel, draw_ranked, make_panels, write_picture

    at = f" at camera {query.camera}" if query.camera else ""
    order = "; ordered by re-ranking" if rerank else ""
    panels = [Panel(frames, query.id, query.camera or None), *make_panels(result, query.person, folders)]
    subtitle = f"{query.id}{at}, {result.searched} tracklets searched{order}"
    basis = describe_calibration(result.calibration) if result.calibration else ""
    try:
        write_picture(picture, draw_ranked(panels[0], panels[1:], subtitle=subtitle, basis=basis))
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
    timeout: Timeout = 30.0,
) -> None:
    """Show model, calibration, engine, gallery and limits of a running service, or what a bundle is."""
    if bundle is not None:
        from not3d.commands.bundle_info import show_bundle

        show_bundle(bundle, as_json=as_json)
        return
    with Client(url, api_key, timeout) as client:
        facts = client.info()
    if as_json:
        results.print_json(json.dumps(asdict(facts), default=_as_json))
        return
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2))
    table.add_row("service", Text(f"{client.url}, version {facts.version}"))
    model = facts.model
    table.add_row("model", Text(f"{model['name']}, {model['dimension']} dimensions, clips of {model['clip_length']}"))
    for measured in model["accuracy"]:
        table.add_row("", Text(f"{measured['dataset']}: rank-1 {measured['rank1']:.2f}, mAP {measured['map']:.2f}"))
    table.add_row("embedding space", Text(facts.embedding_space))
    calibration = describe_calibration(facts.calibration) if facts.calibration else "none, so hits have no probability"
    table.add_row("calibration", Text(calibration))
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


def _choose(footage: Path, tracks: Path | None, wanted: str | None) -> LocalTracklet:
    """Return the only tracklet of the footage, or the wanted one, by its name, its track or its id."""
    if tracks is None:
        found = read_footage(footage)
        count, items = len(found), iter(found)
    elif is_video(footage):
        with extra("video"):
            from not3d.enrol.footage import cut_tracks, read_tracks
        count, items = len(read_tracks(tracks)), cut_tracks(footage, tracks)
    else:
        raise typer.BadParameter(f"needs a video (got {footage})", param_hint="--tracks")
    names = []
    for item in items:
        aliases = (item.id, item.origin.get("tracklet"), item.origin.get("track"))
        if count == 1 if wanted is None else wanted in aliases:
            return item
        names.append(item.id)
        if wanted is None and len(names) == 8:
            break
    some = ", ".join(names[:8]) + (", ..." if count > 8 else "")
    if wanted is None:
        raise typer.BadParameter(f"choose one of the {count} tracklets ({some}) in {footage}", param_hint="--tracklet")
    raise typer.BadParameter(f"no tracklet {wanted}, only {some}, in {footage}", param_hint="--tracklet")


def _listed(facts: Json, separator: str = ", ") -> str:
    return separator.join(f"{name.replace('_', ' ')} {value}" for name, value in facts.items())


def _as_json(value: object) -> str:
    assert isinstance(value, datetime)  # noqa: S101 - the only type here that json does not know
    return value.isoformat()
