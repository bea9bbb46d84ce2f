"""A row measured: its recipe's evaluation on its training's model, remembered on disk."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from training.datasets.catalog import DatasetKind
from training.evaluation.run import evaluate
from training.reproduction.papers import ReproductionError
from training.reproduction.smoke import smoke_evaluation
from training.reproduction.training import Setting, Training

SEED = 1
"""Of the bootstrap over people."""


@dataclass(frozen=True)
class Measurement:
    """Figures of one model, or their means over splits, in percent."""

    protocol: str
    split: str
    seed: int
    """of the training"""
    queries: int
    gallery: int
    figures: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    """95%: by bootstrap over people, or of a mean over splits"""
    deviations: dict[str, float]
    """standard deviations over splits; empty where there was one"""


def measure(setting: Setting, recipe_name: str, kind: DatasetKind, protocol: str, training: Training) -> Measurement:
    """Measures a training by a recipe's evaluation; trains first where need be, and neither twice.

    Raises:
        EvaluationError, DatasetError and others: from training and evaluation.
        ReproductionError: the dataset was not given.
    """
    recipe, _ = setting.recipe(recipe_name)
    path = setting.path(kind)
    if path is None:
        raise ReproductionError(f"{recipe_name} needs {kind}")
    # The one MARS-like folder of a smoke run has its own protocols only.
    protocol = "mars" if setting.smoke and protocol == "benchmark" else protocol
    options: dict[str, Any] = recipe.evaluation.model_dump() | {"protocol": protocol}
    if setting.smoke:
        options = smoke_evaluation(options)
    named = json.dumps([options, str(path.resolve()), training.split, SEED], sort_keys=True)
    file = training.folder / "evaluations" / f"{hashlib.sha256(named.encode()).hexdigest()[:12]}.json"
    if training.finished and file.is_file():
        return _read(file.read_text(encoding="utf-8"))
    checkpoint = training.checkpoint()
    result = evaluate(checkpoint, [path], options=options, split=training.split, seed=SEED, console=setting.console)
    measures = [name for name in result.figures if name.startswith("rank-") or name in ("mAP", "mINP")]
    measurement = Measurement(
        protocol=protocol,
        split="the only one" if training.split is None else str(training.split),
        seed=recipe.seed,
        queries=int(result.figures["queries"]),
        gallery=int(result.figures["gallery"]),
        figures={name: float(result.figures[name]) for name in measures},
        intervals={n: (float(low), float(high)) for n, (low, high) in result.intervals.items() if n in measures},
        deviations={},
    )
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps({"options": options} | asdict(measurement), indent=2) + "\n", encoding="utf-8")
    return measurement


def average(measurements: Sequence[Measurement]) -> Measurement:
    """Mean and standard deviation (n - 1) over splits; one measurement stays as it is.

    The interval is the mean's under a normal distribution, two standard errors to each side. Splits share people, so
    that it is narrower than it should be.
    """
    first, count = measurements[0], len(measurements)
    if count == 1:
        return first
    means = {name: sum(m.figures[name] for m in measurements) / count for name in first.figures}
    squares = {name: sum((m.figures[name] - mean) ** 2 for m in measurements) for name, mean in means.items()}
    spread = {name: math.sqrt(square / (count - 1)) for name, square in squares.items()}
    error = {name: 2 * value / math.sqrt(count) for name, value in spread.items()}
    return Measurement(
        first.protocol,
        f"mean of {', '.join(m.split for m in measurements)}",
        first.seed,
        first.queries,
        first.gallery,
        {name: round(value, 2) for name, value in means.items()},
        {name: (round(means[name] - error[name], 2), round(means[name] + error[name], 2)) for name in means},
        {name: round(value, 2) for name, value in spread.items()},
    )


def _read(text: str) -> Measurement:
    content = json.loads(text)
    del content["options"]
    content["intervals"] = {name: (low, high) for name, (low, high) in content["intervals"].items()}
    return Measurement(**content)
