"""`not3d datasets`: which datasets can be read, and whether one is complete."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich import box
from rich.table import Table

from model.errors import extra
from not3d.commands import Failure, messages, print_result, results

if TYPE_CHECKING:
    from training.datasets.catalog import DatasetKind

app = typer.Typer(help="List the datasets that can be read, and check whether one is complete.", no_args_is_help=True)


@app.command("list")
def list_layouts() -> None:
    """Name the datasets that are read, where their files belong, and their official counts."""
    with extra("train"):
        from training.datasets.official import OFFICIAL
    for kind, official in OFFICIAL.items():
        results.print(f"[bold]{kind}[/]  {official.title}", highlight=False)
        for line in official.layout:
            print_result(f"    {line}")
        if official.counts:
            counted = ", ".join(f"{number:,} {name}" for name, number in official.counts.items())
            results.print(f"    [dim]{counted}[/]", highlight=False, soft_wrap=True)
        if official.remark:
            results.print(f"    [dim]{official.remark}[/]", highlight=False, soft_wrap=True)


@app.command()
def check(
    paths: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Datasets of any kind that `list` names.")],
    decode: Annotated[str, typer.Option(metavar="N", help="How many images to decode, or [bold]all[/].")] = "200",
) -> None:
    """Read every list and split of datasets, compare their counts with the official ones, decode some images.

    Ends with status 1 if a file is missing, damaged or not part of the dataset.

    Example: [bold]not3d datasets check mars prid_2011[/]
    """
    if decode != "all" and not decode.isdecimal():
        raise Failure(f"--decode must be a number or all (got {decode})")
    with extra("train"):
        from training.datasets.check import inspect_dataset
    number: int | Literal["all"] = "all" if decode == "all" else int(decode)
    damaged = 0
    for path in paths:
        with messages.status(f"Reading {path}"):
            found = inspect_dataset(path, decode=number)
        results.print(_table(path, found.kind, found.facts))
        for note in found.notes:
            print_result(f"  {note}")
        for problem in found.problems:
            results.print("  [red]problem[/] ", end="")
            print_result(problem)
        damaged += bool(found.problems)
    if damaged:
        raise Failure(
            f"{damaged} of {len(paths)} datasets have problems" if len(paths) > 1 else "the dataset has problems"
        )


def _table(path: Path, kind: "DatasetKind", facts: dict[str, str]) -> Table:
    table = Table(str(path), kind, box=box.SIMPLE_HEAD, pad_edge=False)
    for name, value in facts.items():
        table.add_row(name, value)
    return table
