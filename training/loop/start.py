"""The weights that a run starts from, and what it is to be called."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from model.network import VideoReID
from training.datasets.catalog import kind_of
from training.importing.weights import load_trunk, transfer_weights
from training.recipe import NOT_STATED, Card, Recipe


def start_network(network: VideoReID, recipe: Recipe, transfer: Path | None, console: Console) -> None:
    """Loads the trunk that the recipe names, then trunk and attention of the checkpoint that was given, as published.

    Raises:
        WeightsError: weights that do not fit, or cannot be had.
    """
    if recipe.start.weights != "none":
        console.print(str(load_trunk(network, recipe.start.weights, console=console)), highlight=False)
    if transfer is not None:
        console.print(str(transfer_weights(network, transfer)), highlight=False)


def name_run(recipe: Recipe, data: Sequence[Path], tracklets: int, split: int | None, out: Path) -> Recipe:
    """The recipe with what its card says of the data; named after the run's folder where its card is of other data."""
    read = (
        f"{', '.join(path.name for path in data)}{'' if split is None else f', split {split}'}: {tracklets} tracklets"
    )
    if recipe.card.datasets and not {kind_of(path) for path in data} <= set(recipe.card.datasets):
        return recipe.model_copy(update={"name": out.resolve().name, "card": Card(training_data=read)})
    if recipe.card.training_data == NOT_STATED:
        return recipe.model_copy(update={"card": recipe.card.model_copy(update={"training_data": read})})
    return recipe
