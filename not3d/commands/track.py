"""`not3d track`: the probable appearances of one person in time order."""

import json
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from not3d.client import Client
from not3d.client.responses import Step, format_probability
from not3d.commands import print_message, results
from not3d.commands.footage import parse_time_option
from not3d.commands.search import DEFAULT_URL, ApiKey, CaFile, Operator, Purpose, Timeout, Url


def track(
    id: Annotated[str, typer.Argument(metavar="ID", help="The record with which the path begins.")],
    *,
    after: Annotated[
        datetime | None,
        typer.Option(parser=parse_time_option, metavar="TIME", help="[dim]Default: 12 hours before the record.[/]"),
    ] = None,
    before: Annotated[
        datetime | None,
        typer.Option(parser=parse_time_option, metavar="TIME", help="[dim]Default: 12 hours after the record.[/]"),
    ] = None,
    min_score: Annotated[float | None, typer.Option(min=-1, max=1, help="Leave out links that score less.")] = None,
    min_probability: Annotated[
        float | None, typer.Option(min=0, max=1, help="Leave out links that are less probable.")
    ] = None,
    prior: Annotated[float | None, typer.Option(help="Expected matches / searched records.")] = None,
    max_steps: Annotated[int | None, typer.Option(min=1, metavar="N", help="Records on the path at most.")] = None,
    purpose: Purpose = None,
    operator: Operator = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the answer of the service as JSON.")] = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    ca_file: CaFile = None,
    timeout: Timeout = 60.0,
) -> None:
    """Link the probable appearances of a person through the cameras, in time order.

    These are probable appearances, not a path taken: look at the pictures. Some
    links are wrong: docs/linking.md has measured figures.

    Example: [bold]not3d track cam3-0042 --min-score 0.7[/]
    """
    with Client(url, api_key, timeout, operator=operator, ca_file=ca_file) as client:
        found = client.track(
            id,
            after=after,
            before=before,
            min_score=min_score,
            min_probability=min_probability,
            prior=prior,
            max_steps=max_steps,
            purpose=purpose,
        )
    if as_json:
        results.print_json(json.dumps(found.answer))
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("seen from (UTC)", no_wrap=True)
    table.add_column("for", justify="right", no_wrap=True)
    table.add_column("camera", overflow="fold")
    table.add_column("id", overflow="fold")
    table.add_column("gap", justify="right", no_wrap=True)
    table.add_column("prob." if found.calibration else "score", justify="right", no_wrap=True)
    table.add_column("linked to", overflow="fold")
    for step in found.steps:
        start = f"{step.start_time.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
        length = f"{(step.end_time - step.start_time).total_seconds():,.0f} s"
        gap = "" if step.gap_seconds is None else f"{step.gap_seconds:,.0f} s"
        cells = (start, length, step.camera_id or "-", step.id, gap, _strength(step), step.linked_to or "-")
        table.add_row(*map(Text, cells))
    results.print(table)
    if not found.complete:
        print_message("There are more links than --max-steps")


def _strength(step: Step) -> str:
    if step.score is None:
        return "begin"
    return f"{step.score:.3f}" if step.probability is None else format_probability(step.probability)
