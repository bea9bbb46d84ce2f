"""A recipe: one experiment or one shipped model as a readable TOML file. The trainer takes nothing from elsewhere."""

import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from model.errors import Not3dError
from model.network import NetworkSpec
from training.batches.augmentation import Augmentation
from training.batches.sampling import BatchSampling, ClipSampling
from training.datasets.catalog import DatasetKind
from training.evaluation.settings import EvaluationSettings
from training.loop.objective import Weights
from training.loop.schedule import ScheduleForm

RECIPES = Path(__file__).parent / "recipes"
"""The recipes that come with the project."""


class RecipeError(Not3dError):
    """A recipe that cannot be read, or a value in it that makes no sense."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Start(_Part):
    """The weights that training starts from."""

    weights: str = Field(
        "none", description="of the trunk: none (drawn at random), imagenet, or a file or URL of such weights"
    )
    transfer: str = Field(
        "", description="which checkpoint the run has to be given (--transfer), in words; empty where it needs none"
    )


class Batch(_Part):
    """P x K x T of all processes together, and where the clips come from; see :mod:`training.batches.sampling`."""

    people: int = Field(8, ge=2, description="P, persons in a batch")
    tracklets: int = Field(4, ge=1, description="K, tracklets of each person")
    sampler: BatchSampling = Field(
        "person", description="person: everybody once an epoch; luo: all tracklets, as in VID-Trans-ReID"
    )
    spread_cameras: bool = Field(
        True, description="person only: K tracklets of different cameras while there are any (ours); false: at random"
    )
    sampling: ClipSampling = Field(
        "restricted", description="frames of a clip; consecutive_code never draws a tracklet's last frame (D-B3)"
    )


class Optimiser(_Part):
    """Adam as in the papers (weight decay inside the gradient), or AdamW (outside it)."""

    name: Literal["adam", "adamw"] = "adam"
    learning_rate: float = Field(3.5e-4, gt=0)
    weight_decay: float = Field(5e-4, ge=0)
    clip_gradient: float | None = Field(None, gt=0, description="largest L2 norm of the whole gradient")


class Schedule(_Part):
    """Length of training and the learning rate's course; see :func:`training.loop.schedule.learning_rate`."""

    epochs: int = Field(120, ge=1)
    form: ScheduleForm = "paper"
    warm_up: int = Field(10, ge=1)
    milestones: tuple[int, ...] = (40, 70)
    decay: float = Field(0.1, gt=0, le=1, description="of the rate at each milestone; gamma in system B's search")
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
    seed: int = Field(1, ge=0)
    precision: Literal["fp32", "bf16", "fp16"] = "bf16"
    winograd: bool = Field(
        False, description="3x3 convolutions on a CPU by Winograd's form: faster, with an error of a percent in bf16"
    )
    validation_share: float = Field(0.1, ge=0, lt=1, description="share of the people set aside to choose the model by")
    network: NetworkSpec = NetworkSpec()
    start: Start = Start()
    batch: Batch = Batch()
    augmentation: Augmentation = Augmentation()
    optimiser: Optimiser = Optimiser()
    schedule: Schedule = Schedule()
    resolutions: tuple[Resolution, ...] = ()
    losses: Weights = Weights()
    evaluation: EvaluationSettings = EvaluationSettings()
    card: Card = Card()

    def frame_size(self, epoch: int) -> tuple[int, int]:
        """Height and width of the training frames in an epoch (from 1)."""
        size = (self.network.frame_height, self.network.frame_width)
        for step in sorted(self.resolutions, key=lambda step: step.from_epoch):
            if epoch >= step.from_epoch:
                size = (step.height, step.width)
        return size


def find_recipe(name_or_path: str | Path) -> Path:
    """A recipe's file by path, or by its name among those that come with the project.

    Raises:
        RecipeError: there is none; the message lists those that come with the project.
    """
    for path in (Path(name_or_path), RECIPES / f"{name_or_path}.toml"):
        if path.is_file():
            return path
    known = ", ".join(sorted(str(path.relative_to(RECIPES).with_suffix("")) for path in RECIPES.rglob("*.toml")))
    raise RecipeError(f"no recipe {name_or_path}; known are {known}, or give a file")


def load_recipe(path: Path, overrides: dict[str, str] | None = None) -> Recipe:
    """Reads a recipe.

    ``extends = "<name or file>"`` in it names another, whose values hold where the recipe gives none of its own: a file
    lies beside the recipe that names it, else a name is one of those that come with the project. Tables are merged
    key by key; lists, ``[[resolutions]]`` among them, are replaced as a whole; ``[card]`` is not taken over, since it
    describes one model and its data. ``overrides`` sets dotted keys, such as ``{"schedule.epochs": "3"}``, with TOML
    values.

    Raises:
        RecipeError: names the key and what is wrong with it.
    """
    content = _read(path, ())
    for key, value in (overrides or {}).items():
        _set(content, key, value)
    try:
        recipe = Recipe.model_validate(content)
        recipe.losses.check_network(recipe.network)
        _check_last_size(recipe, path)
    except ValidationError as error:
        lines = (f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise RecipeError(f"{path}: {'; '.join(lines)}") from None
    except RecipeError:
        raise
    except ValueError as error:
        raise RecipeError(f"{path}: losses: {error}") from None
    return recipe


def _check_last_size(recipe: Recipe, path: Path) -> None:
    """A network that never trained at its own frame size would be measured and exported at it all the same."""
    last = recipe.frame_size(recipe.schedule.epochs)
    own = (recipe.network.frame_height, recipe.network.frame_width)
    if last != own:
        raise RecipeError(
            f"{path}: resolutions: the last of {recipe.schedule.epochs} epochs has frames of {last[0]}x{last[1]}, the "
            f"network's are {own[0]}x{own[1]}: move the steps, or leave them out (resolutions = [])"
        )


def _read(path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    """A recipe's values with those of the recipes that it extends."""
    path = path.resolve()
    if path in above:
        raise RecipeError(f"{path}: extends itself, by way of {', '.join(p.name for p in above)}")
    try:
        content: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise RecipeError(f"{path}: {error}") from None
    if "extends" not in content:
        return content
    named = content.pop("extends")
    if not isinstance(named, str):
        raise RecipeError(f"{path}: extends: the name of a recipe, or a file")
    beside = path.parent / named
    try:
        base = find_recipe(beside if beside.is_file() else named)
    except RecipeError as error:
        raise RecipeError(f"{path}: extends: {error}") from None
    inherited = _read(base, (*above, path))
    inherited.pop("card", None)
    return _merge(inherited, content)


def _merge(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in own.items():
        below = merged.get(key)
        merged[key] = _merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def _set(content: dict[str, Any], key: str, value: str) -> None:
    *parents, leaf = key.split(".")
    table = content
    for parent in parents:
        table = table.setdefault(parent, {})
        if not isinstance(table, dict):
            raise RecipeError(f"{key}: {parent} is a value, not a table")
    table[leaf] = _parse(value)


def _parse(value: str) -> Any:
    try:
        return tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return value  # a bare word is a string
