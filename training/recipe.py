"""A recipe: one experiment or one shipped model as a readable TOML file, with every setting of the trainer."""

import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from model.errors import Not3dError
from model.network import NetworkSpec
from model.spec import Text
from training.batches.augmentation import Augmentation
from training.batches.sampling import BatchSampling, ClipSampling
from training.datasets.catalog import DatasetKind
from training.evaluation.protocols import EvaluationSettings
from training.loop.freezing import FreezeSettings
from training.loop.objective import LossWeights
from training.loop.optimiser import OptimiserSettings, ScheduleSettings
from training.loop.teacher import TeacherSettings
from training.ranges import LARGEST_SEED

RECIPES = Path(__file__).parent / "recipes"
"""The recipes that come with the project."""


PublishedTable = Literal["as_published", "as_printed"]
"""The tables of a recipe about a paper: what its program does, and what its text says, if the recipe differs."""


class RecipeError(Not3dError):
    """A recipe that cannot be read, or that holds a wrong value."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class InitialWeights(_Part):
    """The weights that training starts from."""

    weights: str = Field(
        "none", description="of the backbone: none (random), imagenet, or a file or URL of such weights"
    )
    transfer: str = Field(
        "", description="describes the checkpoint that the run requires (--transfer); empty if it requires none"
    )


class BatchSettings(_Part):
    """P x K clips of all processes together, and how they are drawn; see `training.batches.sampling`."""

    people: int = Field(8, ge=2, description="P, persons in a batch")
    tracklets: int = Field(4, ge=1, le=10_000, description="K, tracklets of each person")
    sampler: BatchSampling = Field(
        "person",
        description="person: each person once per epoch; luo: all tracklets, as in VID-Trans-ReID; sites: the same "
        "number of people of each site",
    )
    cameras: Literal[1, 2] = Field(
        2, description="sites only: how many cameras the K tracklets of a person come from, if it has them"
    )
    clip_length: int | None = Field(
        None, ge=1, le=256, description="frames of a training clip; default: clip_length of the network"
    )
    composites: int = Field(
        0, ge=0, le=10_000, description="invented crops in a batch beside the clips, for the losses of a teacher alone"
    )
    on_device: bool = Field(
        False,
        description="keep all crops in the memory of the device that trains, and augment them there; for clips of one "
        "frame, in one process",
    )
    seed: int | None = Field(
        None,
        ge=0,
        le=LARGEST_SEED,
        description="of the batches and their augmentation; default: the recipe's seed, which also decides who is set "
        "aside. With `--start`, give another seed, so that the run does not repeat the batches of the one before",
    )
    spread_cameras: bool = Field(
        True, description="person only: prefer K tracklets of different cameras (ours); false: any K tracklets"
    )
    sampling: ClipSampling = Field(
        "restricted", description="frames of a clip; consecutive_code never draws the last frame of a tracklet"
    )


class Resolution(_Part):
    """Frame size in pixels from an epoch on; small frames first make early epochs cheap."""

    from_epoch: int = Field(ge=1)
    height: int = Field(ge=32, le=4096)
    width: int = Field(ge=32, le=4096)


NOT_STATED = "not stated"


class ModelCardTexts(_Part):
    """The parts of the model card that only a person can write; `datasets` and `people` say what they hold for."""

    datasets: tuple[DatasetKind, ...] = ()
    people: int | None = Field(None, ge=1, description="in these datasets; a part of them gets no such card")
    training_data: Text = NOT_STATED
    data_terms: Text = NOT_STATED
    intended_use: Text = "Finding, for a human operator, tracklets that may show the same person."
    not_for: Text = "Identifying people by name, or decisions about a person without a human's review."


class Recipe(_Part):
    """All settings of a training run, except where the data and the run are stored."""

    name: Text
    description: str = ""
    seed: int = Field(1, ge=0, le=LARGEST_SEED)
    precision: Literal["fp32", "bf16", "fp16"] = "bf16"
    validation_share: float = Field(0.1, ge=0, lt=1, description="share of the people used to choose the best epoch")
    network: NetworkSpec = NetworkSpec()
    start: InitialWeights = InitialWeights()
    freeze: FreezeSettings = FreezeSettings()
    teacher: TeacherSettings = TeacherSettings()
    batch: BatchSettings = BatchSettings()
    augmentation: Augmentation = Augmentation()
    optimiser: OptimiserSettings = OptimiserSettings()
    schedule: ScheduleSettings = ScheduleSettings()
    resolutions: tuple[Resolution, ...] = ()
    losses: LossWeights = LossWeights()
    evaluation: EvaluationSettings = EvaluationSettings()
    card: ModelCardTexts = ModelCardTexts()

    @model_validator(mode="before")
    @classmethod
    def _drop_removed_keys(cls, content: Any) -> Any:
        """Accept keys that are in checkpoints of earlier versions, if they switch nothing on."""
        if not isinstance(content, dict):
            return content
        content = dict(content)
        if content.pop("winograd", False):
            raise ValueError("winograd was removed, because its results were not equal: delete the key")
        frozen = content.get("freeze")
        if isinstance(frozen, dict) and "calibration" in frozen:
            if frozen["calibration"]:
                raise ValueError("freeze.calibration was removed, because models with it ranked worse: delete the key")
            content["freeze"] = {key: value for key, value in frozen.items() if key != "calibration"}
        return content

    @model_validator(mode="after")
    def _check_device(self) -> "Recipe":
        length = self.batch.clip_length or self.network.clip_length
        if self.batch.on_device and length != 1:
            raise ValueError(f"batch.on_device needs batch.clip_length = 1 (got {length})")
        if self.batch.on_device and self.batch.sampling == "consecutive_code":
            raise ValueError('batch.on_device draws any frame of a tracklet: set batch.sampling = "random"')
        if self.teacher.live and self.teacher.composites:
            raise ValueError("with teacher.live, batch.composites says how many are made: set teacher.composites = 0")
        if self.teacher.live and not self.batch.on_device:
            raise ValueError("teacher.live needs batch.on_device = true")
        if self.batch.on_device and self.losses.need_teacher and not self.teacher.live:
            raise ValueError("batch.on_device makes other crops than a teacher has stored: set teacher.live = true")
        return self

    @model_validator(mode="after")
    def _check_frame_sizes(self) -> "Recipe":
        network = self.network
        sizes = [(network.frame_height, network.frame_width), *((step.height, step.width) for step in self.resolutions)]
        if self.augmentation.pad >= min(map(min, sizes)):
            raise ValueError(
                f"augmentation.pad must be below the shortest side of a frame, {min(map(min, sizes))} pixels "
                f"(got {self.augmentation.pad})"
            )
        for height, width in sizes:
            reduced = network.model_copy(update={"frame_height": height, "frame_width": width})
            if network.attention == "full_map" and reduced.map_size != network.map_size:
                raise ValueError(
                    f'with attention = "full_map", frames of {height}x{width} have another map than those of '
                    f"{network.frame_height}x{network.frame_width}: set resolutions = [], or use another attention"
                )
        return self

    def frame_size(self, epoch: int) -> tuple[int, int]:
        """Return height and width of the training frames in an epoch (from 1)."""
        size = (self.network.frame_height, self.network.frame_width)
        for step in sorted(self.resolutions, key=lambda step: step.from_epoch):
            if epoch >= step.from_epoch:
                size = (step.height, step.width)
        return size


def find_recipe(name_or_path: str | Path) -> Path:
    """Return the file of a recipe, given by path or by its name among the recipes of the project.

    Raises:
        RecipeError: there is no such recipe; the message lists the recipes of the project.
    """
    for path in (Path(name_or_path), RECIPES / f"{name_or_path}.toml"):
        if path.is_file():
            return path
    known = ", ".join(sorted(str(path.relative_to(RECIPES).with_suffix("")) for path in RECIPES.rglob("*.toml")))
    raise RecipeError(f"no recipe {name_or_path}: give a file, or one of {known}")


def load_recipe(path: Path, overrides: dict[str, str] | None = None, *, as_published: bool = False) -> Recipe:
    """Read a recipe.

    With `extends = "<name or file>"`, the values of that recipe hold for all keys that this recipe does not set. A
    file is looked up next to the recipe, then a name among the recipes of the project. Tables are merged key by key;
    lists, such as `[[resolutions]]`, are replaced. `[card]` is not inherited, because it describes one model and its
    data.

    A recipe of a paper may follow the paper where its program does something else. What the program does is then in
    the table `[as_published]`, which has the form of a recipe. `[as_printed]` has what the paper prints where the
    recipe follows the program.

    Args:
        path: the recipe
        overrides: dotted keys and TOML values, such as `{"schedule.epochs": "3"}`; they win over `as_published`
        as_published: take the values of `[as_published]`

    Raises:
        RecipeError: the message names the key and what is wrong with it.
    """
    content = _read(path, ())
    published = content.pop("as_published", {})
    content.pop("as_printed", None)
    if not isinstance(published, dict):
        raise RecipeError(f"{path}: as_published: must be a table with the values of a recipe (got {published!r})")
    if as_published:
        if not published:
            raise RecipeError(f"{path}: no published program differs from this recipe: leave out --as-published")
        content = _merge(content, published)
    for key, value in (overrides or {}).items():
        _set(content, key, value)
    try:
        recipe = Recipe.model_validate(content)
        recipe.losses.check_network(recipe.network)
    except ValidationError as error:
        lines = (
            ": ".join(
                [
                    *filter(None, [".".join(map(str, e["loc"]))]),
                    "there is no such key"
                    if e["type"] == "extra_forbidden"
                    else e["msg"].removeprefix("Value error, "),
                ]
            )
            for e in error.errors()
        )
        raise RecipeError(f"{path}: {'; '.join(lines)}") from None
    except ValueError as error:
        raise RecipeError(f"{path}: losses: {error}") from None
    _check_last_size(recipe, path)
    return recipe


def published_differences(
    path: Path, overrides: dict[str, str] | None = None, *, table: PublishedTable = "as_published"
) -> dict[str, tuple[Any, Any]]:
    """Return the values of a recipe that differ from those of its paper's program or text, as (own, published).

    Args:
        path: the recipe
        overrides: see `load_recipe`; a value that is set to the published one does not differ
        table: `as_published` compares with the program, `as_printed` with the text of the paper

    Raises:
        RecipeError: see `load_recipe`.
    """
    published = _read(path, ()).get(table, {})
    own = load_recipe(path, overrides).model_dump()
    found: dict[str, tuple[Any, Any]] = {}
    for part, values in published.items():
        for key, value in values.items() if isinstance(values, dict) else [("", values)]:
            mine = own[part][key] if key else own[part]
            if mine != value:
                found[f"{part}.{key}" if key else part] = (mine, value)
    return found


def _check_last_size(recipe: Recipe, path: Path) -> None:
    """Raise if the last epoch does not train at the frame size at which the network is measured and exported."""
    last = recipe.frame_size(recipe.schedule.epochs)
    own = (recipe.network.frame_height, recipe.network.frame_width)
    if last != own:
        raise RecipeError(
            f"{path}: resolutions: the last of {recipe.schedule.epochs} epochs has frames of {last[0]}x{last[1]}, but "
            f"the network has {own[0]}x{own[1]}: change the steps, or remove them (resolutions = [])"
        )


def _read(path: Path, parents: tuple[Path, ...]) -> dict[str, Any]:
    """Return the values of a recipe, merged with those of the recipes that it extends."""
    path = path.resolve()
    if path in parents:
        raise RecipeError(f"{path}: extends itself, through {', '.join(p.name for p in parents)}")
    try:
        content: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise RecipeError(f"{path}: {error}") from None
    if "extends" not in content:
        return content
    base_name = content.pop("extends")
    if not isinstance(base_name, str):
        raise RecipeError(f"{path}: extends: must be the name of a recipe, or a file (got {base_name!r})")
    sibling = path.parent / base_name
    try:
        base = find_recipe(sibling if sibling.is_file() else base_name)
    except RecipeError as error:
        raise RecipeError(f"{path}: extends: {error}") from None
    inherited = _read(base, (*parents, path))
    inherited.pop("card", None)
    return _merge(inherited, content)


def _merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
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
