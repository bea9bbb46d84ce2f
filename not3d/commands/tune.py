"""`not3d tune`: the hyper-parameter search of Fantastic Techniques."""

from pathlib import Path
from typing import Annotated, cast, get_args

import typer
from rich import box
from rich.table import Table

from model.errors import extra
from not3d.commands import Failure, Interrupted, messages, print_result
from not3d.commands.training import Changes, Data, Device, RecipeName, parse_changes


def tune(
    recipe: RecipeName,
    data: Data,
    *,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", file_okay=False, help="Folder of the search.")],
    trials: Annotated[int, typer.Option(min=1, help="Total number of trials.")] = 60,
    objective: Annotated[str, typer.Option(metavar="NAME", help="map, reranked-map or rank-1.")] = "map",
    changes: Changes = None,
    split: Annotated[int | None, typer.Option(min=0, metavar="N", help="Split of PRID2011 or iLIDS-VID.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Random seed of the search.")] = 1,
    device: Device = "auto",
) -> None:
    """Tune the hyper-parameters of loss and optimiser with Ax, as in Fantastic Techniques.

    Seven parameters, 60 trials of 121 epochs without random erasing and attention loss, measured on validation people
    of the training data, with a quarter of the other tracklets in the gallery. After Ctrl-C, the same command
    continues. Writes best.toml, a recipe for [bold]train[/], and prints its path.

    Example: [bold]not3d tune fantastic -d mars --out runs/tune --set schedule.epochs=20[/]
    """
    overrides = parse_changes(changes)
    with extra("tune"):
        from training.recipe import find_recipe
        from training.tuning import search
        from training.tuning.search import write_recipe
    choices = get_args(search.SearchObjective)
    if objective not in choices:
        raise Failure(f"--objective must be one of {', '.join(choices)} (got {objective})")
    base = find_recipe(recipe)
    try:
        ranked = search.tune(
            base,
            data,
            out,
            trials=trials,
            objective=cast(search.SearchObjective, objective),
            overrides=overrides,
            seed=seed,
            split=split,
            device=device,
            console=messages,
        )
    except KeyboardInterrupt:
        raise Interrupted(f"the same command continues from {out}") from None
    best = ranked[0]
    write_recipe(
        best.parameters,
        base,
        out / "best.toml",
        f"{base.stem}-tuned",
        f"{base.stem} with the best of {len(ranked)} trials, {objective} {_percent(best.value)}.",
    )
    table = Table("trial", objective, *best.parameters, box=box.SIMPLE_HEAD, pad_edge=False)
    for trial in ranked:
        shown = "diverged" if trial.diverged else _percent(trial.value)
        table.add_row(str(trial.index), shown, *(f"{value:.4g}" for value in trial.parameters.values()))
    messages.print(table)
    print_result(str(out / "best.toml"))


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"
