"""`not3d watchlist` and `not3d alerts`: people to be told about, and when they probably appeared."""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from not3d.client import Client
from not3d.client.responses import Alert, format_probability
from not3d.commands import count_of, print_message, print_result, results
from not3d.commands.records import AsJson
from not3d.commands.search import DEFAULT_URL, ApiKey, CaFile, Timeout, Url

app = typer.Typer(help="Watch for a person in new tracklets; list and delete watchlists.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The name of the watchlist.")]


@app.command()
def put(
    name: Name,
    *,
    ids: Annotated[
        list[str] | None, typer.Option("--id", metavar="ID", help="An enrolled tracklet of the person.")
    ] = None,
    case: Annotated[str | None, typer.Option(metavar="CASE", help="Copy the examples and rejects of a case.")] = None,
    min_score: Annotated[float | None, typer.Option(metavar="COSINE", help="Raise alerts from this score on.")] = None,
    min_probability: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Raise alerts from this probability on, such as 0.9.")
    ] = None,
    prior: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Expected share of new tracklets that show the person.")
    ] = None,
    cameras: Annotated[
        list[str] | None, typer.Option("--camera", metavar="ID", help="Compare only tracklets of this camera.")
    ] = None,
    cooldown: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Time between two alerts on one camera. [dim]Default: 60[/]")
    ] = None,
    expires_at: Annotated[
        str | None, typer.Option("--expires", metavar="TIME", help="When it ends, such as 2026-12-01T00:00:00Z.")
    ] = None,
    new: Annotated[bool, typer.Option("--new", help="Replace none: refuse a name that exists.")] = False,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    ca_file: CaFile = None,
    timeout: Timeout = 30.0,
) -> None:
    """Make a watchlist, or change it: without [cyan]--id[/] and [cyan]--case[/] it keeps its examples."""
    with Client(url, api_key, timeout, ca_file=ca_file) as client:
        made = client.put_watchlist(
            name,
            ids=ids or (),
            case=case,
            min_score=min_score,
            min_probability=min_probability,
            prior=prior,
            filter={"camera_ids": cameras} if cameras else None,
            cooldown=cooldown,
            expires_at=_time(expires_at),
            replaces="none" if new else "any",
        )
    if as_json:
        _print_json(made.answer)
        return
    reached = "no score" if made.threshold is None else f"scores from {made.threshold:.3f}"
    examples = count_of(len(made.examples), "example")
    print_result(f"{made.name}: {examples}, alerts at {reached}")
    if made.reason:
        print_message(f"Inactive: {made.reason}")


@app.command("list")
def list_watchlists(
    *,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    ca_file: CaFile = None,
    timeout: Timeout = 30.0,
) -> None:
    """List the watchlists."""
    with Client(url, api_key, timeout, ca_file=ca_file) as client:
        found = client.watchlists()
    if as_json:
        _print_json([each.answer for each in found])
        return
    columns = ("name", "active", "examples", "rejects", "threshold", "cool-down", "expires")
    table = Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False)
    for each in found:
        threshold = "" if each.threshold is None else f"{each.threshold:.3f}"
        counts = (str(len(each.examples)), str(len(each.rejects)))
        ends = "never" if each.expires_at is None else each.expires_at.isoformat(timespec="seconds")
        cells = (each.name, "yes" if each.active else "no", *counts, threshold, f"{each.cooldown:g} s", ends)
        table.add_row(*map(Text, cells))
    results.print(table)
    for each in found:
        if each.reason:
            print_message(f"{each.name} is inactive: {each.reason}")


@app.command()
def delete(
    name: Name, *, url: Url = DEFAULT_URL, api_key: ApiKey = None, ca_file: CaFile = None, timeout: Timeout = 30.0
) -> None:
    """Remove a watchlist with its vectors; its alerts stay."""
    with Client(url, api_key, timeout, ca_file=ca_file) as client:
        client.delete_watchlist(name)


def alerts(
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for new alerts, until Ctrl-C.")] = False,
    after: Annotated[
        str | None, typer.Option(metavar="ID", help="Only what came after this alert, oldest first.")
    ] = None,
    watchlists: Annotated[
        list[str] | None, typer.Option("--watchlist", metavar="NAME", help="Only of this watchlist.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1000, help="Number of alerts.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    ca_file: CaFile = None,
    timeout: Timeout = 30.0,
) -> None:
    """Show the newest alerts: probable appearances of people on watchlists."""
    chosen = watchlists or ()
    with Client(url, api_key, timeout, ca_file=ca_file) as client:
        if follow:
            for alert in client.follow_alerts(after=after, watchlists=chosen):
                _print_line(alert, as_json=as_json)
            return
        found: Sequence[Alert] = client.alerts(after=after, limit=limit, watchlists=chosen).items
        if not found and not as_json:
            print_message("No alerts.")
        for alert in found:
            _print_line(alert, as_json=as_json)


def _print_line(alert: Alert, *, as_json: bool) -> None:
    if as_json:
        print_result(json.dumps(alert.answer))
        return
    certain = f"score {alert.score:.3f}" if alert.probability is None else format_probability(alert.probability)
    when = alert.start_time or alert.time
    verdict = f"  {alert.verdict}" if alert.verdict else ""
    camera = alert.camera_id or "no camera"
    print_result(
        f"{when.isoformat(timespec='seconds')}  {alert.watchlist}  probable appearance ({certain})  {camera}  "
        f"{alert.record_id}{verdict}  {alert.id}"
    )


def _time(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        time = None
    if time is None or time.tzinfo is None:
        raise typer.BadParameter(
            f"must be a time with its zone, such as 2026-12-01T00:00:00Z (got {text})", param_hint="--expires"
        )
    return time


def _print_json(answer: Any) -> None:
    print_result(json.dumps(answer, indent=2))
