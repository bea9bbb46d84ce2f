"""The trainings behind the rows: each is done once, however many rows are measured on it."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from training.datasets.catalog import SPLITS, DatasetKind, kind_of
from training.importing.third_party_weights import WeightsError
from training.loop.run import BEST, LAST
from training.loop.trainer import train
from training.recipe import Recipe, find_recipe, load_recipe
from training.reproduction.papers import ReproductionError, Source
from training.reproduction.smoke import smoke_overrides

FINISHED = "finished.json"
"""Written into a run's folder after its last epoch; what it was, and what it needed."""


@dataclass(frozen=True)
class Setting:
    """Where data and runs lie, and what is changed for every row."""

    data: Mapping[DatasetKind, Path]
    out: Path
    overrides: Mapping[str, str] = field(default_factory=dict)
    weights: Mapping[str, str] = field(default_factory=dict)
    """weights to start from by backbone; ``""`` for all others"""
    device: str = "auto"
    smoke: bool = False
    console: Console | None = None

    def path(self, kind: DatasetKind) -> Path | None:
        """The folder of a dataset; in a smoke run the one in MARS's layout stands for all."""
        return self.data.get("mars" if self.smoke else kind)

    def split_of(self, kind: DatasetKind, split: int | None) -> int | None:
        """The split, where the data that stands for the dataset has several."""
        path = self.path(kind)
        return split if path is not None and kind_of(path) in SPLITS else None

    def recipe(self, name: str) -> tuple[Recipe, dict[str, str]]:
        """A recipe as it is run, and the changes that make it so.

        Raises:
            RecipeError: there is none of this name, or a change makes no sense.
        """
        path = find_recipe(name)
        recipe = load_recipe(path, dict(self.overrides))
        changes = dict(self.overrides)
        if self.smoke:
            changes |= smoke_overrides(recipe)
        elif recipe.start.weights == "imagenet":
            weights = self.weights.get(recipe.network.backbone, self.weights.get(""))
            changes |= {} if weights is None else {"start.weights": json.dumps(weights)}
        return load_recipe(path, changes), changes


@dataclass(frozen=True)
class Training:
    """A recipe's training part on data, after another one perhaps; its folder is named after its content."""

    setting: Setting
    recipe_name: str
    kinds: tuple[DatasetKind, ...]
    split: int | None = None
    source: "Training | None" = None

    @property
    def data(self) -> list[Path]:
        """The datasets' folders.

        Raises:
            ReproductionError: one was not given.
        """
        paths = [self.setting.path(kind) for kind in self.kinds]
        if None in paths:
            raise ReproductionError(f"needs {', '.join(self.kinds)}")
        # One folder may stand for several datasets in a smoke run.
        return list(dict.fromkeys(path.resolve() for path in paths if path is not None))

    @property
    def key(self) -> str:
        """Digest of all that decides the weights: equal for rows that differ in inference only."""
        recipe, _ = self.setting.recipe(self.recipe_name)
        content: dict[str, Any] = recipe.model_dump(mode="json", exclude={"name", "description", "evaluation", "card"})
        content |= {"data": [str(path) for path in self.data], "split": self.split}
        content |= {"source": self.source.key if self.source else None}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def folder(self) -> Path:
        """Where the run is kept, under the name of the first recipe that asked for it."""
        parent, key = self.setting.out / "runs", self.key
        for path in sorted(parent.glob(f"*-{key}")):
            return path
        return parent / f"{self.recipe_name.replace('/', '-')}-{key}"

    @property
    def finished(self) -> bool:
        """Whether all epochs are done."""
        return (self.folder / FINISHED).is_file()

    def checkpoint(self) -> Path:
        """The trained model; trains or goes on training where need be, the source first.

        Raises:
            ReproductionError: the weights to start from cannot be had.
            RecipeError, DatasetError, TrainingError, CheckpointError, WeightsError: see :func:`training.loop.trainer.train`.
            KeyboardInterrupt: by Ctrl-C; calling again goes on from there.
        """
        folder = self.folder
        if self.finished and (folder / BEST).is_file():
            return folder / BEST
        transfer = self.source.checkpoint() if self.source else None
        recipe, changes = self.setting.recipe(self.recipe_name)
        # Rows that differ in inference alone have one run: it must not tell which of them made it.
        neutral = {"name": json.dumps(folder.name), "description": '""', "evaluation": "{}"}
        try:
            best = train(
                find_recipe(self.recipe_name),
                self.data,
                folder,
                resume=(folder / LAST).exists(),
                overrides={key: value for key, value in changes.items() if not key.startswith("evaluation")} | neutral,
                device=self.setting.device,
                console=self.setting.console,
                split=self.split,
                transfer=transfer,
            )
        except WeightsError as error:
            if recipe.start.weights == "none":
                raise
            backbone = recipe.network.backbone
            raise ReproductionError(f"{self.recipe_name}: {error}; here by --weights {backbone}=FILE") from None
        note = {
            "recipe": self.recipe_name,
            "data": [str(path) for path in self.data],
            "split": self.split,
            "seed": recipe.seed,
            "transferred from": self.source.folder.name if self.source else None,
        }
        (folder / FINISHED).write_text(json.dumps(note, indent=2) + "\n", encoding="utf-8")
        (folder / LAST).unlink(missing_ok=True)  # three times the model's size, and nothing is left to go on with
        return best


def row_training(
    setting: Setting, recipe: str, kind: DatasetKind, source: Source | None, split: int | None
) -> Training:
    """The training of a row; its source sees the training half of the same split."""
    first = None
    if source is not None:
        first = Training(setting, source.recipe, source.data, _split(setting, source.data, kind, split))
    return Training(setting, recipe, (kind,), setting.split_of(kind, split), first)


def _split(setting: Setting, kinds: Sequence[DatasetKind], own: DatasetKind, split: int | None) -> int | None:
    """The split of a source: the row's own where it is of the same dataset, else the first."""
    splits = [setting.split_of(kind, split if kind == own else 0) for kind in kinds]
    return next((each for each in splits if each is not None), None)
