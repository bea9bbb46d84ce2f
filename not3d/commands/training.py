"""``not3d train``, ``evaluate`` and ``export``: thin doors to `training`, whose dependencies come with an extra."""

from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.table import Table

from not3d.commands import Failure, load, results


def train(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", exists=True, dir_okay=False, help="A recipe, *.toml.")],
    data: Annotated[
        list[Path],
        typer.Option("--data", "-d", metavar="PATH", exists=True, help="A dataset; may be given several times."),
    ],
    *,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", file_okay=False, help="Where the run is kept.")],
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in DIR.")] = False,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Change a value of the recipe; may be repeated."),
    ] = None,
) -> None:
    """Train a network as a recipe says; prints the checkpoint.

    Datasets: a Market-1501 folder or tar, MARS, or folders of tracklets.
    """
    overrides = dict(_parse_change(change) for change in changes or [])
    trainer = load("training.trainer", "train")
    checkpoint = trainer.train(recipe, data, out, resume=resume, overrides=overrides)
    results.print(str(checkpoint), soft_wrap=True, highlight=False)


def evaluate(
    model: Annotated[Path, typer.Argument(metavar="CHECKPOINT_OR_BUNDLE", exists=True)],
    *,
    data: Annotated[Path, typer.Option("--data", "-d", metavar="PATH", exists=True, help="The dataset.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="DIR", file_okay=False, help="Write a report here.")
    ] = None,
    protocol: Annotated[
        str, typer.Option(metavar="NAME", help="Which tracklets are queries, which the gallery.")
    ] = "auto",
) -> None:
    """Measure rank-1 and mAP of a checkpoint or a bundle on a dataset."""
    figures = load("training.evaluation.run", "train").evaluate(model, data, out=out, protocol=protocol)
    table = Table("measure", "value", box=box.SIMPLE_HEAD, pad_edge=False)
    for name, value in figures.items():
        table.add_row(str(name), f"{value:.2f}" if isinstance(value, float) else str(value))
    results.print(table)


def export(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", exists=True, dir_okay=False)],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", file_okay=False, help="Where the bundle goes.")],
    crops: Annotated[
        Path | None,
        typer.Option(metavar="PATH", exists=True, help="Crops of people, to compare the bundle with PyTorch on."),
    ] = None,
) -> None:
    """Write a checkpoint as a bundle, which the service loads.

    Nothing is written where the bundle's embeddings differ from PyTorch's.
    """
    load("training.export", "train").export_bundle(checkpoint, out, crops=crops)
    results.print(str(out), soft_wrap=True, highlight=False)


def _parse_change(change: str) -> tuple[str, str]:
    name, equals, value = change.partition("=")
    if not equals or not name:
        raise Failure(f"--set {change}: write NAME=VALUE")
    return name, value
