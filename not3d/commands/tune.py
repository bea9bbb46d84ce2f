"""``not3d tune``: the hyper-parameter search of Fantastic Techniques."""

from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.table import Table

from not3d.commands import Failure, Interrupted, load, messages, results
from not3d.commands.training import Data, _parse_change, training_module


def tune(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="What is tuned: a file, or the name of one of ours.")],
    data: Data,
    *,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", file_okay=False, help="Where the search is kept.")],
    trials: Annotated[int, typer.Option(min=1, help="How many there shall be in the end.")] = 60,
    objective: Annotated[str, typer.Option(metavar="NAME", help="map, reranked-map or rank-1.")] = "map",
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Change a value of every trial's recipe; may be repeated."),
    ] = None,
    split: Annotated[int | None, typer.Option(min=0, metavar="N", help="Of PRID2011 and iLIDS-VID.")] = None,
    seed: Annotated[int, typer.Option(help="Of the search.")] = 1,
    device: Annotated[str, typer.Option(metavar="NAME", help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Search the loss's and optimiser's hyper-parameters, as Fantastic Techniques did, with Ax.

    Seven parameters, 60 trials of 121 epochs without random erasing and attention loss, measured on training people
    who are set aside, with a quarter of the other tracklets in the gallery. The same command goes on with what Ctrl-C
    interrupted. Writes best.toml, a recipe that [bold]train[/] takes, and prints it.

    Example: [bold]not3d tune fantastic -d mars --out runs/tune --set schedule.epochs=20[/]
    """
    overrides = dict(_parse_change(change) for change in changes or [])
    with training_module("tuning") as tuning:
        if objective not in tuning.OBJECTIVES:
            raise Failure(f"--objective {objective}: {', '.join(tuning.OBJECTIVES)}")
        base = load("training.recipe", "train").find_recipe(recipe)
        try:
            ranked = tuning.tune(
                base, data, out, trials=trials, objective=objective, overrides=overrides, seed=seed, split=split,
                device=device, console=messages,
            )  # fmt: skip
        except KeyboardInterrupt:
            raise Interrupted(f"the same command goes on from {out}") from None
        best = ranked[0]
        load("training.tuning.space", "train").write_recipe(
            best.parameters,
            base,
            out / "best.toml",
            f"{base.stem}-tuned",
            f"{base.stem} with the best of {len(ranked)} trials, {objective} {100 * best.value:.2f}.",
        )
    table = Table("trial", objective, *best.parameters, box=box.SIMPLE_HEAD, pad_edge=False)
    for trial in ranked:
        shown = "diverged" if trial.diverged else f"{100 * trial.value:.2f}"
        table.add_row(str(trial.index), shown, *(f"{value:.4g}" for value in trial.parameters.values()))
    messages.print(table)
    results.print(str(out / "best.toml"), soft_wrap=True, highlight=False)
