"""A recipe: one experiment or one shipped model as a readable TOML file. The trainer takes nothing from elsewhere."""

import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from model.network import NetworkSpec
from training.augmentation import Augmentation
from training.datasets.catalog import DatasetKind
from training.objective import Weights
from training.sampling import ClipSampling
from training.schedule import ScheduleForm

RECIPES = Path(__file__).parent / "recipes"
"""The recipes that come with the project."""


class RecipeError(ValueError):
    """A recipe that cannot be read, or a value in it that makes no sense."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Batch(_Part):
    """P x K x T, and where the clips come from."""

    people: int = Field(8, ge=2, description="P, persons in a batch")
    tracklets: int = Field(4, ge=1, description="K, tracklets of each person")
    sampling: ClipSampling = "restricted"


class Optimiser(_Part):
    """Adam as in the papers (weight decay inside the gradient), or AdamW (outside it)."""

    name: Literal["adam", "adamw"] = "adam"
    learning_rate: float = Field(3.5e-4, gt=0)
    weight_decay: float = Field(5e-4, ge=0)
    clip_gradient: float | None = Field(None, gt=0, description="largest L2 norm of the whole gradient")


class Schedule(_Part):
    """Length of training and the learning rate's course; see :func:`training.schedule.learning_rate`."""

    epochs: int = Field(120, ge=1)
    form: ScheduleForm = "paper"
    warm_up: int = Field(10, ge=1)
    milestones: tuple[int, ...] = (40, 70)
    evaluate_every: int = Field(10, ge=1)


class Resolution(_Part):
    """Frame size from an epoch on; small frames first make early epochs cheap."""

    from_epoch: int = Field(ge=1)
    height: int = Field(ge=32)
    width: int = Field(ge=32)


NOT_STATED = "not stated"


class Card(_Part):
    """What the model card says that no program can know. Where it names datasets, it holds for them and no others."""

    datasets: tuple[DatasetKind, ...] = ()
    training_data: str = NOT_STATED
    data_terms: str = NOT_STATED
    intended_use: str = "Finding, for a human operator, tracklets that may show the same person."
    not_for: str = "Identifying people by name, or decisions about a person without a human's review."


class Recipe(_Part):
    """Everything that decides a training run but the data's place."""

    name: str
    description: str = ""
    seed: int = 1
    precision: Literal["fp32", "bf16", "fp16"] = "bf16"
    validation_share: float = Field(0.1, ge=0, lt=1, description="share of the people set aside to choose the model by")
    network: NetworkSpec = NetworkSpec()
    batch: Batch = Batch()
    augmentation: Augmentation = Augmentation()
    optimiser: Optimiser = Optimiser()
    schedule: Schedule = Schedule()
    resolutions: tuple[Resolution, ...] = ()
    losses: Weights = Weights()
    card: Card = Card()

    def frame_size(self, epoch: int) -> tuple[int, int]:
        """Height and width of the training frames in an epoch (from 1)."""
        size = (self.network.frame_height, self.network.frame_width)
        for step in sorted(self.resolutions, key=lambda step: step.from_epoch):
            if epoch >= step.from_epoch:
                size = (step.height, step.width)
        return size


def find_recipe(name_or_path: str | Path) -> Path:
    """A recipe's file by path, or by its name among those that come with the project."""
    for path in (Path(name_or_path), RECIPES / f"{name_or_path}.toml"):
        if path.is_file():
            return path
    known = ", ".join(sorted(path.stem for path in RECIPES.glob("*.toml")))
    raise RecipeError(f"no recipe {name_or_path}; known are {known}, or give a file")


def load_recipe(path: Path, overrides: dict[str, str] | None = None) -> Recipe:
    """Reads a recipe; ``overrides`` sets dotted keys, such as ``{"schedule.epochs": "3"}``, with TOML values.

    Raises:
        RecipeError: names the key and what is wrong with it.
    """
    try:
        content: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
        for key, value in (overrides or {}).items():
            *parents, leaf = key.split(".")
            table = content
            for parent in parents:
                table = table.setdefault(parent, {})
            table[leaf] = _parse(value)
        return Recipe.model_validate(content)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{path}: {error}") from None
    except ValidationError as error:
        lines = (f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise RecipeError(f"{path}: {'; '.join(lines)}") from None


def _parse(value: str) -> Any:
    try:
        return tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return value  # a bare word is a string
