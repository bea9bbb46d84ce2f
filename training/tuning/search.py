"""Search of hyper-parameters as in paper B (Fantastic Techniques), with Ax.

Its program optimises, over 60 trials of 121 epochs, the mAP on people held out of the training set; without random
erasing and without the attention loss, so not quite the recipe that it then trains.
"""

import json
import logging
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from rich.console import Console

from model.errors import Not3dError
from model.ranking import k_reciprocal_rerank
from training.datasets.catalog import one_per_person_and_camera, read_training, set_aside
from training.datasets.tracklet import Tracklet
from training.evaluation.embed import embed_tracklets
from training.evaluation.metrics import rank_metrics
from training.evaluation.scoring import pairwise_distances
from training.evaluation.validation import network_embedder
from training.loop.checkpoint import load_checkpoint
from training.loop.run import BEST, LAST
from training.loop.trainer import DivergedError, train
from training.recipe import Recipe, load_recipe
from training.tuning.space import FIXED, SPACE, overrides_of

Objective = Literal["map", "reranked-map", "rank-1"]
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)

STATE = "search.json"
"""Where a search stands; whole at any time."""
DISTRACTORS = 0.25
"""Share of the remaining training tracklets that stand in the gallery, as in the published code."""


class TuningError(Not3dError):
    """A search cannot start or go on; the message says why."""


@dataclass
class Trial:
    """One set of hyper-parameters by paper B's names, and what it came to; ``value`` is ``None`` while it runs."""

    index: int
    parameters: dict[str, float]
    value: float | None = None
    diverged: bool = False


@dataclass(frozen=True)
class Setting:
    """What a search is over; one that goes on must be over the same."""

    recipe: str
    data: tuple[str, ...]
    objective: Objective
    seed: int
    split: int | None
    overrides: dict[str, str] = field(default_factory=dict)


def tune(
    recipe_path: Path,
    data: Sequence[Path],
    out: Path,
    *,
    trials: int = 60,
    objective: Objective = "map",
    overrides: Mapping[str, str] | None = None,
    seed: int = 1,
    split: int | None = None,
    device: str = "auto",
    console: Console | None = None,
) -> list[Trial]:
    """Runs or goes on with a search in ``out``; returns its finished trials, best first.

    Each trial is a run in a folder of its own. An interrupted one is resumed, a finished one never runs again; of the
    models only the best is kept.

    Args:
        recipe_path: what the hyper-parameters are put into, with :data:`FIXED` changes
        data: training data; people are set aside from it by the recipe's ``validation_share``
        out: the search's folder
        trials: how many there shall be in the end
        objective: mean average precision, the same re-ranked, or rank-1
        overrides: of the recipe, over the fixed changes: ``{"schedule.epochs": "20"}``
        seed: of Ax and of the distractors
        split: of datasets that have several
        device: auto, cpu or cuda
        console: for progress

    Raises:
        TuningError: a search over something else in ``out``, or nobody to set aside.
        RecipeError, DatasetError, TrainingError: from a run.
        KeyboardInterrupt: by Ctrl-C; the search goes on from there.
    """
    changes = {**FIXED, **(overrides or {})}
    setting = Setting(
        str(recipe_path), tuple(str(path.resolve()) for path in data), objective, seed, split, dict(overrides or {})
    )
    recipe = load_recipe(recipe_path, changes)
    selection = _hold_out(read_training(data, split), recipe, seed)
    console = console or Console(stderr=True)
    search = _Search.open(out, setting)
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
            value = _measure(checkpoint, selection, recipe, objective)
        except DivergedError as error:
            console.print(f"{error}; counts as 0", highlight=False)
            value, trial.diverged = 0.0, True
        search.complete(trial, value if math.isfinite(value) else 0.0)
        _keep_the_best(out, search.ranked)
        console.print(
            f"{objective} {100 * value:.2f}; best so far {100 * _value(search.ranked[0]):.2f}", highlight=False
        )
    return search.ranked


@dataclass(frozen=True)
class _Selection:
    query: list[Tracklet]
    distractors: list[Tracklet]


def _hold_out(tracklets: Sequence[Tracklet], recipe: Recipe, seed: int) -> _Selection:
    training, aside = set_aside(tracklets, recipe.validation_share, recipe.seed)
    query = one_per_person_and_camera(aside)
    if not query:
        raise TuningError(
            "nobody is set aside to measure trials on: a larger validation_share, or people under two cameras"
        )
    chosen = np.random.default_rng(seed).random(len(training)) < DISTRACTORS
    return _Selection(query, [tracklet for tracklet, is_in in zip(training, chosen, strict=True) if is_in])


def _measure(checkpoint: Path, selection: _Selection, recipe: Recipe, objective: Objective) -> float:
    """The objective of a checkpoint as a share of 1, at the best of its evaluated epochs."""
    network = load_checkpoint(checkpoint).build()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows = [*selection.query, *selection.distractors]
    features = embed_tracklets(
        network_embedder(network.to(device), device),
        rows,
        frame_size=(network.spec.frame_height, network.spec.frame_width),
        clip_length=network.spec.clip_length,
        max_clips=recipe.evaluation.max_clips,
        clip_choice=recipe.evaluation.clip_choice,
    )
    query = features[: len(selection.query)]
    if objective == "reranked-map":
        distances = k_reciprocal_rerank(query, features)
    else:
        distances = pairwise_distances(query, features, recipe.evaluation.metric)
    metrics = rank_metrics(
        distances,
        [t.person for t in selection.query],
        [t.person for t in rows],
        [t.camera for t in selection.query],
        [t.camera for t in rows],
    )
    return metrics.rank1 if objective == "rank-1" else metrics.mean_ap


def _value(trial: Trial) -> float:
    return -1.0 if trial.value is None else trial.value


def _keep_the_best(out: Path, ranked: Sequence[Trial]) -> None:
    for place, trial in enumerate(ranked):
        folder = out / f"trial-{trial.index:03}"
        (folder / LAST).unlink(missing_ok=True)
        if place:
            (folder / BEST).unlink(missing_ok=True)


class _Search:
    """Ax's experiment and our record of its trials, in one file that is replaced whole."""

    def __init__(self, out: Path, setting: Setting, client: Any, trials: list[Trial]) -> None:
        self._out, self._setting, self._client, self._trials = out, setting, client, trials

    @classmethod
    def open(cls, out: Path, setting: Setting) -> "_Search":
        out.mkdir(parents=True, exist_ok=True)
        client_class, range_class = _import_ax()
        file = out / STATE
        if file.exists():
            state = json.loads(file.read_text(encoding="utf-8"))
            begun = json.loads(json.dumps(asdict(setting)))
            if different := [name for name, value in begun.items() if state["setting"].get(name) != value]:
                raise TuningError(
                    f"{out} holds a search with another {', '.join(different)}: go on with that one, or give another "
                    "folder"
                )
            scratch = out / "ax.partial"
            scratch.write_text(json.dumps(state["ax"]), encoding="utf-8")
            client = client_class.load_from_json_file(str(scratch))
            scratch.unlink()
            return cls(out, setting, client, [Trial(**trial) for trial in state["trials"]])
        client = client_class(random_seed=setting.seed)
        client.configure_experiment(
            parameters=[
                range_class(name=p.name, bounds=(p.low, p.high), parameter_type="float", scaling=p.scaling)
                for p in SPACE
            ],
            name=f"not3d {Path(setting.recipe).stem}",
        )
        client.configure_optimization(objective="objective")
        client.configure_generation_strategy(method="fast", initialization_random_seed=setting.seed)
        return cls(out, setting, client, [])

    @property
    def finished(self) -> list[Trial]:
        return [trial for trial in self._trials if trial.value is not None]

    @property
    def ranked(self) -> list[Trial]:
        """Finished trials, best first."""
        return sorted(self.finished, key=_value, reverse=True)

    def next_trial(self) -> Trial:
        """The one that was interrupted, or a new one, which is on disk before it runs."""
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
        state = {"setting": asdict(self._setting), "trials": [asdict(trial) for trial in self._trials], "ax": ax}
        scratch.write_text(json.dumps(state), encoding="utf-8")
        scratch.replace(self._out / STATE)


def _import_ax() -> tuple[Any, Any]:
    with warnings.catch_warnings():
        # A dependency of Ax compiles something by a way that PyTorch deprecates.
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            from ax.api.client import Client
            from ax.api.configs import RangeParameterConfig
        except ModuleNotFoundError as error:
            raise TuningError(
                f"this needs Ax ({error}), which comes with the extra: pip install 'not3d[tune]'"
            ) from None
    logging.getLogger("ax").setLevel(logging.WARNING)  # it says what we say
    return Client, RangeParameterConfig
