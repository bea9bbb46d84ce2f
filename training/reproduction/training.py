"""The trainings of the rows: each is done once, for all rows that are measured on it."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from training.datasets.catalog import SPLITS, DatasetKind, kind_of
from training.importing.third_party_weights import WeightsError
from training.loop.run import BEST, LAST
from training.loop.trainer import train
from training.recipe import PublishedTable, Recipe, find_recipe, load_recipe, published_differences
from training.reproduction.papers import ReproductionError, Source

FINISHED = "finished.json"
"""Written into the folder of a run after its last epoch; describes the run."""
SMOKE_HEIGHT, SMOKE_WIDTH = 64, 32
SMOKE_CLIPS = {None: 3, 41: 3, 4: 2}
"""Largest number of clips of a tracklet in a smoke run, by that of the row. The order of the numbers is kept."""


@dataclass(frozen=True)
class ReproductionSettings:
    """Where data and runs are stored, and what is changed in all rows."""

    data: Mapping[DatasetKind, Path]
    out: Path
    overrides: Mapping[str, str] = field(default_factory=dict)
    weights: Mapping[str, str] = field(default_factory=dict)
    """initial weights by backbone; `""` for all other backbones"""
    device: str = "auto"
    smoke: bool = False
    console: Console | None = None
    held_out: float = 0.0
    """share of the training people on whom the epoch is chosen; 0: all people train, and the last epoch is kept"""
    as_published: bool = False
    """take the choices of the papers' programs where a recipe follows the paper"""

    def path(self, kind: DatasetKind) -> Path | None:
        """Return the folder of a dataset; a smoke run uses the one in the layout of MARS for all."""
        return self.data.get("mars" if self.smoke else kind)

    def split_of(self, kind: DatasetKind, split: int | None) -> int | None:
        """Return the split if the data that is used for the dataset has several, otherwise `None`."""
        path = self.path(kind)
        return split if path is not None and kind_of(path) in SPLITS else None

    def recipe(self, name: str) -> tuple[Recipe, dict[str, str]]:
        """Return a recipe with all changes, and the changes.

        Raises:
            RecipeError: there is no such recipe, or a change is wrong.
        """
        path = find_recipe(name)
        changes = {"validation_share": str(self.held_out)} | self._published(path) | dict(self.overrides)
        recipe = load_recipe(path, changes)
        if self.smoke:
            changes |= smoke_overrides(recipe)
        elif recipe.start.weights == "imagenet":
            weights = self.weights.get(recipe.network.backbone, self.weights.get(""))
            changes |= {} if weights is None else {"start.weights": json.dumps(weights)}
        return load_recipe(path, changes), changes

    def differences(self, name: str, table: PublishedTable = "as_published") -> dict[str, tuple[Any, Any]]:
        """Return the values of a recipe that differ from its paper's program or text; see `published_differences`."""
        path = find_recipe(name)
        return published_differences(path, self._published(path) | dict(self.overrides), table=table)

    def _published(self, path: Path) -> dict[str, str]:
        """Return the choices of the paper's program, if they are asked for."""
        if not self.as_published:
            return {}
        return {key: json.dumps(published) for key, (_, published) in published_differences(path).items()}


@dataclass(frozen=True)
class Training:
    """The training of a recipe on data, possibly after another training; its folder is named by a hash of both."""

    settings: ReproductionSettings
    recipe_name: str
    kinds: tuple[DatasetKind, ...]
    split: int | None = None
    source: "Training | None" = None

    @property
    def data(self) -> list[Path]:
        """The folders of the datasets.

        Raises:
            ReproductionError: a dataset was not given.
        """
        paths = [self.settings.path(kind) for kind in self.kinds]
        if None in paths:
            raise ReproductionError(f"{self.recipe_name} needs {', '.join(self.kinds)}: give --data for each")
        # In a smoke run, one folder is used for several datasets.
        return list(dict.fromkeys(path.resolve() for path in paths if path is not None))

    @property
    def key(self) -> str:
        """A hash of all that decides the weights; the same for rows that differ in inference only."""
        recipe, _ = self.settings.recipe(self.recipe_name)
        content: dict[str, Any] = recipe.model_dump(mode="json", exclude={"name", "description", "evaluation", "card"})
        content |= {"data": [str(path) for path in self.data], "split": self.split}
        content |= {"source": self.source.key if self.source else None}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def folder(self) -> Path:
        """The folder of the run, named after the first recipe that used it."""
        parent, key = self.settings.out / "runs", self.key
        for path in sorted(parent.glob(f"*-{key}")):
            return path
        return parent / f"{self.recipe_name.replace('/', '-')}-{key}"

    @property
    def finished(self) -> bool:
        """Whether all epochs are done."""
        return (self.folder / FINISHED).is_file()

    def checkpoint(self) -> Path:
        """Return the trained model; start or resume its training if necessary, after that of its source.

        Raises:
            ReproductionError: the initial weights cannot be read.
            RecipeError, DatasetError, TrainingError, CheckpointError, WeightsError: see `training.loop.trainer.train`.
            KeyboardInterrupt: Ctrl-C was pressed; the next call resumes.
        """
        folder = self.folder
        if self.finished and (folder / BEST).is_file():
            return folder / BEST
        transfer = self.source.checkpoint() if self.source else None
        recipe, changes = self.settings.recipe(self.recipe_name)
        # Rows that differ in inference only share a run, which must not depend on the row that started it.
        neutral = {"name": json.dumps(folder.name), "description": '""', "evaluation": "{}"}
        try:
            best = train(
                find_recipe(self.recipe_name),
                self.data,
                folder,
                resume=(folder / LAST).exists(),
                overrides={key: value for key, value in changes.items() if not key.startswith("evaluation")} | neutral,
                device=self.settings.device,
                console=self.settings.console,
                split=self.split,
                transfer=transfer,
            )
        except WeightsError as error:
            if recipe.start.weights == "none":
                raise
            backbone = recipe.network.backbone
            raise ReproductionError(f"{self.recipe_name}: {error}; give them with --weights {backbone}=FILE") from None
        note = {
            "recipe": self.recipe_name,
            "data": [str(path) for path in self.data],
            "split": self.split,
            "seed": recipe.seed,
            "transferred from": self.source.folder.name if self.source else None,
        }
        (folder / FINISHED).write_text(json.dumps(note, indent=2) + "\n", encoding="utf-8")
        (folder / LAST).unlink(missing_ok=True)  # three times the size of the model, and no longer needed
        return best


def row_training(
    settings: ReproductionSettings, recipe: str, kind: DatasetKind, source: Source | None, split: int | None
) -> Training:
    """Return the training of a row, and through its sources all trainings before it.

    A source of the row's own dataset trains on the training half of the same split, others on that of their first.
    """

    def earlier(source: Source | None) -> Training | None:
        if source is None:
            return None
        chosen = settings.split_of(source.data, split if source.data == kind else 0)
        return Training(settings, source.recipe, (source.data,), chosen, earlier(source.source))

    return Training(settings, recipe, (kind,), settings.split_of(kind, split), earlier(source))


def smoke_overrides(recipe: Recipe) -> dict[str, str]:
    """Return the changes with which a recipe runs in seconds; its figures are then meaningless.

    Frames are small, P and K are halved, there is one epoch, and no weights are read. Network, losses, sampler, clip
    length, optimiser and transfer do not change.
    """
    batch = recipe.batch
    return {
        "precision": "fp32",
        "start.weights": "none",
        "network.frame_height": str(SMOKE_HEIGHT),
        "network.frame_width": str(SMOKE_WIDTH),
        "resolutions": "[]",
        "batch.people": str(max(2, batch.people // 2)),
        "batch.tracklets": str(max(2, batch.tracklets // 2)),
        "schedule.epochs": "1",
        "schedule.evaluate_every": "1",
    }


def smoke_evaluation(settings: dict[str, Any]) -> dict[str, Any]:
    """Return evaluation settings with fewer clips: 3 instead of all, 2 instead of 4."""
    clips = settings["max_clips"]
    return settings | {"max_clips": SMOKE_CLIPS.get(clips, clips)}
