"""Runs, resumes and measures rows of the tables of the papers."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, get_args

from training.datasets.catalog import DatasetKind, kind_of, split_count
from training.datasets.tracklet import DatasetError
from training.evaluation.run import evaluate
from training.recipe import PublishedTable, find_recipe, load_recipe
from training.reproduction.memory import count_memory
from training.reproduction.papers import Paper, ReproductionError, Row, Table
from training.reproduction.report import Comparison, Measurement, compare, describe_differences, skip
from training.reproduction.training import ReproductionSettings, Training, row_training, smoke_evaluation

SEED = 1
"""Seed of the bootstrap over people."""

Selected = tuple[Paper, Table, Row]
Split = int | Literal["all"] | None


def find_data(paths: Sequence[Path], *, smoke: bool = False) -> dict[DatasetKind, Path]:
    """Return the folders of datasets by their kind.

    Raises:
        ReproductionError: two datasets are of one kind, no row uses the kind, or a smoke run has no dataset in the
            layout of MARS.
        DatasetError: a folder does not exist.
    """
    found: dict[DatasetKind, Path] = {}
    for path in paths:
        if not path.exists():
            raise DatasetError(f"{path} does not exist")
        kind = kind_of(path)
        if kind not in ("mars", "prid2011", "ilids-vid"):
            raise ReproductionError(f"--data {path}: no row uses a {kind}; give MARS, PRID2011 or iLIDS-VID")
        if kind in found:
            raise ReproductionError(f"--data {path}: {found[kind]} is {kind} too; give one of them")
        found[kind] = path
    if smoke and "mars" not in found:
        raise ReproductionError(
            "--smoke needs --data with a small dataset in the layout of MARS, which is used for all rows"
        )
    return found


def run_row(selected: Selected, settings: ReproductionSettings, *, split: Split = None) -> list[Comparison]:
    """Run or resume a row; return a comparison for each protocol that the paper may have used.

    A finished training is not repeated and an interrupted one is resumed. Rows that differ in inference only share one
    training. A row whose dataset was not given is skipped.

    Args:
        selected: a row from `training.reproduction.papers.select_rows`
        settings: data, folder and changes
        split: of PRID2011 and iLIDS-VID: a number, or all for mean and deviation; by default that of the paper

    Raises:
        RecipeError, DatasetError, TrainingError, WeightsError, EvaluationError: the row cannot be run.
        KeyboardInterrupt: Ctrl-C was pressed; the next call resumes.
    """
    paper, table, row = selected
    if row.data is None:
        return [_count(paper, table, row, settings)]
    missing = [kind for kind in row.kinds if settings.path(kind) is None]
    if missing:
        return [skip(paper, table, row, f"needs {' and '.join(missing)}: give --data for it")]
    conditions, path = paper.conditions_of(row), settings.path(row.data)
    recipe, _ = settings.recipe(row.recipe)
    if split == "all" and path is not None and split_count(path) > 1:
        splits: list[int | None] = list(range(split_count(path)))
    else:
        splits = [split if isinstance(split, int) else conditions.default_split]
    trainings = [row_training(settings, row.recipe, row.data, row.source, each) for each in splits]
    run = ", ".join(training.folder.name for training in trainings)
    remarks = _set_by_hand(settings)
    for each in get_args(PublishedTable):
        remarks += describe_differences(settings.differences(row.recipe, each), each)
    if settings.smoke and path is not None:
        remarks.append(f"smoke: {path.name} is used for {' and '.join(row.kinds)}, with small sizes and one epoch")
    comparisons = []
    for protocol in conditions.protocols:
        own = average([measure(settings, row.recipe, row.data, protocol, training) for training in trainings])
        comparisons.append(compare(paper, table, row, own, run, recipe.validation_share, remarks))
    return comparisons


def _count(paper: Paper, table: Table, row: Row, settings: ReproductionSettings) -> Comparison:
    """Compare a row of memory figures, which need no data; they are counted at full size, also in a smoke run."""
    figures = count_memory(load_recipe(find_recipe(row.recipe), dict(settings.overrides)).network)
    own = Measurement("counted", "none", 0, 0, 0, {n: round(v, 2) for n, v in figures.items()}, {}, {})
    return compare(paper, table, row, own, "", 0.0, _set_by_hand(settings))


def _set_by_hand(settings: ReproductionSettings) -> list[str]:
    return [f"set by hand: {name} = {value}" for name, value in settings.overrides.items()]


def drop_models(settings: ReproductionSettings) -> None:
    """Delete the models of a smoke run, which are useless; the measurements stay."""
    for file in (settings.out / "runs").glob("*/*.pt"):
        file.unlink()


def measure(
    settings: ReproductionSettings, recipe_name: str, kind: DatasetKind, protocol: str, training: Training
) -> Measurement:
    """Measure a training with the evaluation of a recipe, or read the measurement from disk; train if necessary.

    Raises:
        ReproductionError: the dataset was not given.
    """
    recipe, _ = settings.recipe(recipe_name)
    path = settings.path(kind)
    if path is None:
        raise ReproductionError(f"{recipe_name} needs {kind}: give --data for it")
    # In a smoke run, the one folder in the layout of MARS has only the protocols of MARS.
    protocol = "mars" if settings.smoke and protocol == "benchmark" else protocol
    options: dict[str, Any] = recipe.evaluation.model_dump() | {"protocol": protocol}
    if settings.smoke:
        options = smoke_evaluation(options)
    named = json.dumps([options, str(path.resolve()), training.split, SEED], sort_keys=True)
    file = training.folder / "evaluations" / f"{hashlib.sha256(named.encode()).hexdigest()[:12]}.json"
    if training.finished and file.is_file():
        return _read_measurement(file.read_text(encoding="utf-8"))
    checkpoint = training.checkpoint()
    result = evaluate(checkpoint, [path], options=options, split=training.split, seed=SEED, console=settings.console)
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
    """Return mean and standard deviation (n - 1) over splits; a single measurement does not change.

    The interval is that of the mean, two standard errors to each side. Splits share people, so it is too narrow.
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


def _read_measurement(text: str) -> Measurement:
    content = json.loads(text)
    del content["options"]
    content["intervals"] = {name: (low, high) for name, (low, high) in content["intervals"].items()}
    return Measurement(**content)
