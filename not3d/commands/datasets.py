"""``not3d datasets``: what can be read, and whether what is there is whole."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich import box
from rich.table import Table

from not3d.commands import Failure, messages, results
from training.datasets.catalog import DatasetKind
from training.datasets.check import DECODED, inspect_dataset
from training.datasets.official import OFFICIAL
from training.datasets.tracklet import DatasetError

app = typer.Typer(help="Datasets: which can be read, and whether one is whole.", no_args_is_help=True)


@app.command("list")
def list_layouts() -> None:
    """Name the datasets that are read, where their files belong, and their official counts."""
    for kind, official in OFFICIAL.items():
        results.print(f"[bold]{kind}[/]  {official.title}", highlight=False)
        for line in official.layout:
            results.print(f"    {line}", highlight=False, markup=False, soft_wrap=True)
        if official.counts:
            counted = ", ".join(f"{number:,} {name}" for name, number in official.counts.items())
            results.print(f"    [dim]{counted}[/]", highlight=False, soft_wrap=True)
        if official.remark:
            results.print(f"    [dim]{official.remark}[/]", highlight=False, soft_wrap=True)


@app.command()
def check(
    paths: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Datasets of any kind that `list` names.")],
    decode: Annotated[str, typer.Option(metavar="N", help="How many images to decode, or [bold]all[/].")] = str(
        DECODED
    ),
) -> None:
    """Read every list and split of datasets, compare their counts with the official ones, decode some images.

    Ends with status 1 where a file is missing, foreign or damaged.

    Example: [bold]not3d datasets check mars prid_2011[/]
    """
    if decode != "all" and not decode.isdecimal():
        raise Failure(f"--decode {decode}: a number, or all")
    number: int | Literal["all"] = "all" if decode == "all" else int(decode)
    unsound = 0
    for path in paths:
        with messages.status(f"Reading {path}"):
            try:
                found = inspect_dataset(path, decode=number)
            except DatasetError as error:
                raise Failure(str(error)) from error
        results.print(_table(path, found.kind, found.facts))
        for note in found.notes:
            results.print(f"  {note}", highlight=False, markup=False, soft_wrap=True)
        for problem in found.problems:
            results.print("  [red]problem[/] ", end="")
            results.print(problem, highlight=False, markup=False, soft_wrap=True)
        unsound += bool(found.problems)
    if unsound:
        raise Failure(
            f"{unsound} of {len(paths)} datasets have problems" if len(paths) > 1 else "the dataset has problems"
        )


def _table(path: Path, kind: DatasetKind, facts: dict[str, str]) -> Table:
    table = Table(str(path), kind, box=box.SIMPLE_HEAD, pad_edge=False)
    for name, value in facts.items():
        table.add_row(name, value)
    return table
