"""The hyper-parameter search of fantastic (Pathak et al., AAAI 2020), with Ax.

The published code maximises the mAP on validation people over 60 trials of 121 epochs. The trials use neither random
erasing nor the attention loss, so they differ from the recipe that is trained afterwards.
"""

import json
import logging
import math
import tomllib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from rich.console import Console

from model.errors import Not3dError, extra
from model.ranking import k_reciprocal_rerank
from training.datasets.catalog import one_per_person_and_camera, read_training, set_aside
from training.datasets.tracklet import Tracklet
from training.evaluation.embed import FeatureError, embed_tracklets
from training.evaluation.metrics import rank_metrics
from training.evaluation.scoring import pairwise_distances
from training.evaluation.validation import network_embedder
from training.loop.checkpoint import load_checkpoint
from training.loop.run import BEST, LAST
from training.loop.trainer import DivergedError, train
from training.recipe import RECIPES, Recipe, load_recipe

SearchObjective = Literal["map", "reranked-map", "rank-1"]

STATE = "search.json"
"""The state of a search; replaced atomically."""
DISTRACTORS = 0.25
"""Share of the remaining training tracklets that are added to the gallery, as in the published code."""


@dataclass(frozen=True)
class Parameter:
    """A range of a hyper-parameter, by its name in fantastic's code, and its key in a recipe."""

    name: str
    low: float
    high: float
    key: str
    scaling: Literal["linear", "log"] = "linear"


SPACE = (
    Parameter("sigma", 0.1, 1.0, "losses.osm_caa_sigma"),
    Parameter("alpha", 0.5, 3.0, "losses.osm_caa_alpha"),
    Parameter("l", 0.1, 1.0, "losses.osm_caa_balance"),
    Parameter("margin", 1e-6, 1.0, "losses.triplet_margin", "log"),
    Parameter("beta", 1e-6, 1.0, "losses.osm_caa"),
    Parameter("gamma", 1e-6, 1.0, "schedule.decay"),
    Parameter("weight_decay", 1e-6, 1.0, "optimiser.weight_decay"),
)
"""The search space of the published code, with its linear scale of the weight decay."""

FIXED = {
    "augmentation.erase": "0.0",
    "losses.erasing_attention": "0.0",
    "losses.center": "5e-4",
    "losses.osm_caa_vectors": '"centers"',
    "schedule.epochs": "121",
}
"""What each trial changes in the recipe: CL centers, no random erasing, no attention loss, 121 epochs."""


class TuningError(Not3dError):
    """A search cannot start or continue; the message says why."""


@dataclass
class Trial:
    """One set of hyper-parameters, by name, and its result; `value` is `None` while it runs."""

    index: int
    parameters: dict[str, float]
    value: float | None = None
    diverged: bool = False


@dataclass(frozen=True)
class SearchSettings:
    """What a search depends on; it can be continued only with the same settings."""

    recipe: str
    data: tuple[str, ...]
    objective: SearchObjective
    seed: int
    split: int | None
    overrides: dict[str, str] = field(default_factory=dict)


def tune(
    recipe_path: Path,
    data: Sequence[Path],
    out: Path,
    *,
    trials: int = 60,
    objective: SearchObjective = "map",
    overrides: Mapping[str, str] | None = None,
    seed: int = 1,
    split: int | None = None,
    device: str = "auto",
    console: Console | None = None,
) -> list[Trial]:
    """Start or continue a search; return its finished trials, best first.

    Each trial is a run in its own folder. An interrupted trial is resumed and a finished one does not run again. Only
    the best model is kept.

    Args:
        recipe_path: the recipe that the hyper-parameters change, after the changes in `FIXED`
        data: training data, with the validation people
        out: folder of the search
        trials: total number of trials, including those already finished
        objective: mean average precision, the same after re-ranking, or rank-1
        overrides: further changes of the recipe, applied after `FIXED`: `{"schedule.epochs": "20"}`
        seed: of Ax and of the distractors
        split: of datasets that have several
        device: auto, cpu or cuda
        console: for progress

    Raises:
        TuningError: `out` holds a search with other settings, or there are no validation people.
        RecipeError, DatasetError, TrainingError: a run fails.
        KeyboardInterrupt: Ctrl-C was pressed; the search can be continued.
    """
    changes = {**FIXED, **(overrides or {})}
    settings = SearchSettings(
        str(recipe_path), tuple(str(path.resolve()) for path in data), objective, seed, split, dict(overrides or {})
    )
    recipe = load_recipe(recipe_path, changes)
    tracklets = _select_validation(read_training(data, split), recipe, seed)
    console = console or Console(stderr=True)
    search = _Search.open(out, settings)
    while len(search.finished) < trials:
        trial = search.next_trial()
        folder = out / f"trial-{trial.index:03}"
        shown = ", ".join(f"{name} {value:.4g}" for name, value in trial.parameters.items())
        console.print(f"trial {len(search.finished) + 1} of {trials}: {shown}", highlight=False)
        try:
            checkpoint = train(
                recipe_path,
                data,
                folder,
                resume=(folder / LAST).exists(),
                overrides={**changes, **overrides_of(trial.parameters)},
                device=device,
                console=console,
                split=split,
            )
            value = _measure(checkpoint, tracklets, recipe, objective)
        except (DivergedError, FeatureError) as error:
            console.print(f"{error}; the trial counts as 0", highlight=False)
            value, trial.diverged = 0.0, True
        search.complete(trial, value if math.isfinite(value) else 0.0)
        _delete_other_models(out, search.ranked)
        console.print(
            f"{objective} {100 * value:.2f}; best so far {100 * _value(search.ranked[0]):.2f}", highlight=False
        )
    return search.ranked


def overrides_of(parameters: Mapping[str, float]) -> dict[str, str]:
    """Return the changes of a recipe; beta is the weight of OSM, and 1 - beta that of the triplet loss."""
    values = {parameter.key: repr(parameters[parameter.name]) for parameter in SPACE}
    return values | {"losses.triplet": repr(max(1.0 - parameters["beta"], 0.0))}


def write_recipe(parameters: Mapping[str, float], base: Path, out: Path, name: str, description: str) -> None:
    """Write a recipe that extends `base` by the parameters, without the changes in `FIXED`."""
    is_ours = base.resolve().is_relative_to(RECIPES)
    extends = base.resolve().relative_to(RECIPES).with_suffix("").as_posix() if is_ours else str(base.resolve())
    tables: dict[str, list[str]] = {}
    for path, value in overrides_of(parameters).items():
        table, key = path.split(".")
        tables.setdefault(table, []).append(f"{key} = {value}")
    lines = [f'extends = "{extends}"', f'name = "{name}"', f'description = "{description}"']
    for table, rows in tables.items():
        lines += ["", f"[{table}]", *rows]
    text = "\n".join(lines) + "\n"
    tomllib.loads(text)
    out.write_text(text, encoding="utf-8")


@dataclass(frozen=True)
class _ValidationSet:
    query: list[Tracklet]
    distractors: list[Tracklet]


def _select_validation(tracklets: Sequence[Tracklet], recipe: Recipe, seed: int) -> _ValidationSet:
    training, validation = set_aside(tracklets, recipe.validation_share, recipe.seed)
    query = one_per_person_and_camera(validation)
    if not query:
        raise TuningError(
            "no validation people to measure trials on: raise validation_share, or add people seen by two cameras"
        )
    chosen = np.random.default_rng(seed).random(len(training)) < DISTRACTORS
    return _ValidationSet(query, [tracklet for tracklet, is_in in zip(training, chosen, strict=True) if is_in])


def _measure(checkpoint: Path, validation: _ValidationSet, recipe: Recipe, objective: SearchObjective) -> float:
    """Return the objective of a checkpoint, from 0 to 1."""
    network = load_checkpoint(checkpoint).build()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows = [*validation.query, *validation.distractors]
    features = embed_tracklets(
        network_embedder(network.to(device), device),
        rows,
        frame_size=(network.spec.frame_height, network.spec.frame_width),
        resampling=network.spec.resampling,
        clip_length=network.spec.clip_length,
        clip_weights=network.spec.clip_weights,
        max_clips=recipe.evaluation.max_clips,
        clip_choice=recipe.evaluation.clip_choice,
        clip_seed=recipe.evaluation.clip_seed,
    )
    query = features[: len(validation.query)]
    if objective == "reranked-map":
        distances = k_reciprocal_rerank(query, features, form=recipe.evaluation.rerank_form)
    else:
        distances = pairwise_distances(query, features, recipe.evaluation.metric)
    metrics = rank_metrics(
        distances,
        [t.person for t in validation.query],
        [t.person for t in rows],
        [t.camera for t in validation.query],
        [t.camera for t in rows],
    )
    return metrics.rank1 if objective == "rank-1" else metrics.mean_ap


def _value(trial: Trial) -> float:
    return -1.0 if trial.value is None else trial.value


def _delete_other_models(out: Path, ranked: Sequence[Trial]) -> None:
    for position, trial in enumerate(ranked):
        folder = out / f"trial-{trial.index:03}"
        (folder / LAST).unlink(missing_ok=True)
        if position:
            (folder / BEST).unlink(missing_ok=True)


class _Search:
    """The experiment of Ax and our record of its trials, in one file that is replaced atomically."""

    def __init__(self, out: Path, settings: SearchSettings, client: Any, trials: list[Trial]) -> None:
        self._out, self._settings, self._client, self._trials = out, settings, client, trials

    @classmethod
    def open(cls, out: Path, settings: SearchSettings) -> "_Search":
        out.mkdir(parents=True, exist_ok=True)
        client_class, range_class = _import_ax()
        file = out / STATE
        if file.exists():
            try:
                state = json.loads(file.read_text(encoding="utf-8"))
                own = state["setting"]
                trials = [Trial(**trial) for trial in state["trials"]]
                ax = json.dumps(state["ax"])
            except (ValueError, KeyError, TypeError):
                raise TuningError(f"{file} is damaged: give another folder, or delete this one") from None
            begun = json.loads(json.dumps(asdict(settings)))
            if different := [name for name, value in begun.items() if own.get(name) != value]:
                raise TuningError(
                    f"{out} holds a search with another {', '.join(different)}: continue it with the same, or give "
                    "another folder"
                )
            scratch = out / "ax.partial"
            scratch.write_text(ax, encoding="utf-8")
            client = client_class.load_from_json_file(str(scratch))
            scratch.unlink()
            return cls(out, settings, client, trials)
        client = client_class(random_seed=settings.seed)
        client.configure_experiment(
            parameters=[
                range_class(name=p.name, bounds=(p.low, p.high), parameter_type="float", scaling=p.scaling)
                for p in SPACE
            ],
            name=f"not3d {Path(settings.recipe).stem}",
        )
        client.configure_optimization(objective="objective")
        client.configure_generation_strategy(method="fast", initialization_random_seed=settings.seed)
        return cls(out, settings, client, [])

    @property
    def finished(self) -> list[Trial]:
        return [trial for trial in self._trials if trial.value is not None]

    @property
    def ranked(self) -> list[Trial]:
        """Finished trials, best first."""
        return sorted(self.finished, key=_value, reverse=True)

    def next_trial(self) -> Trial:
        """Return the interrupted trial, or a new one, which is saved before it runs."""
        running = next((trial for trial in self._trials if trial.value is None), None)
        if running is not None:
            return running
        ((index, parameters),) = self._client.get_next_trials(max_trials=1).items()
        trial = Trial(index, {name: float(value) for name, value in parameters.items()})
        self._trials.append(trial)
        self._save()
        return trial

    def complete(self, trial: Trial, value: float) -> None:
        self._client.complete_trial(trial.index, raw_data={"objective": value})
        trial.value = value
        self._save()

    def _save(self) -> None:
        scratch = self._out / "search.partial"
        self._client.save_to_json_file(str(scratch))
        ax = json.loads(scratch.read_text(encoding="utf-8"))
        state = {"setting": asdict(self._settings), "trials": [asdict(trial) for trial in self._trials], "ax": ax}
        scratch.write_text(json.dumps(state), encoding="utf-8")
        scratch.replace(self._out / STATE)


def _import_ax() -> tuple[Any, Any]:
    with warnings.catch_warnings():
        # A dependency of Ax uses a compiler of PyTorch that is deprecated.
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        with extra("tune"):
            from ax.api.client import Client
            from ax.api.configs import RangeParameterConfig
    for name in list(logging.root.manager.loggerDict):  # its loggers have levels of their own
        if name.partition(".")[0] == "ax":
            logging.getLogger(name).setLevel(logging.WARNING)  # otherwise it repeats our messages
    return Client, RangeParameterConfig
