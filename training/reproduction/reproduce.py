"""Runs or resumes rows of the papers' tables."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from training.datasets.catalog import DatasetKind, kind_of, split_count
from training.datasets.tracklet import DatasetError
from training.reproduction.comparison import Comparison, compare, skip
from training.reproduction.measurement import average, measure
from training.reproduction.papers import Paper, ReproductionError, Row, Table
from training.reproduction.training import Setting, row_training

Selected = tuple[Paper, Table, Row]
Split = int | Literal["all"] | None


def find_data(paths: Sequence[Path], *, smoke: bool = False) -> dict[DatasetKind, Path]:
    """The datasets among folders by what they are.

    Raises:
        ReproductionError: two of a kind, one that no row is about, or none in MARS's layout for a smoke run.
        DatasetError: a folder does not exist.
    """
    found: dict[DatasetKind, Path] = {}
    for path in paths:
        if not path.exists():
            raise DatasetError(f"{path} does not exist")
        kind = kind_of(path)
        if kind not in ("mars", "prid2011", "ilids-vid"):
            raise ReproductionError(f"--data {path}: no row is about a {kind}; give MARS, PRID2011 or iLIDS-VID")
        if kind in found:
            raise ReproductionError(f"--data {path}: {found[kind]} is {kind} already; give one")
        found[kind] = path
    if smoke and "mars" not in found:
        raise ReproductionError("--smoke needs --data with a small dataset in MARS's layout, which stands for all")
    return found


def run_row(selected: Selected, setting: Setting, *, split: Split = None) -> list[Comparison]:
    """Runs or resumes a row and gives what it came to, a comparison for each protocol that the paper may mean.

    A row whose training is finished is not trained again, and one that was interrupted goes on; rows that differ in
    inference only share one training. A row whose dataset was not given is skipped.

    Args:
        selected: a row, as :func:`training.reproduction.papers.select_rows` gives it
        setting: data, folder and changes
        split: of PRID2011 and iLIDS-VID: a number, or all for mean and deviation; by default the paper's

    Raises:
        RecipeError, DatasetError, TrainingError, WeightsError, EvaluationError: it cannot be run though its data are
            there.
        KeyboardInterrupt: by Ctrl-C; calling again goes on from there.
    """
    paper, table, row = selected
    missing = [kind for kind in row.kinds if setting.path(kind) is None]
    if missing:
        return [skip(paper, table, row, f"needs {' and '.join(missing)}: give --data for it")]
    conditions, path = paper.conditions[row.data], setting.path(row.data)
    recipe, _ = setting.recipe(row.recipe)
    if split == "all" and path is not None and split_count(path) > 1:
        splits: list[int | None] = list(range(split_count(path)))
    else:
        splits = [split if isinstance(split, int) else conditions.default_split]
    trainings = [row_training(setting, row.recipe, row.data, row.source, each) for each in splits]
    run = ", ".join(training.folder.name for training in trainings)
    remarks = [f"set by hand: {name} = {value}" for name, value in setting.overrides.items()]
    if setting.smoke and path is not None:
        remarks.append(f"smoke: {path.name} stands for {' and '.join(row.kinds)}, sizes and epochs are cut")
    found = []
    for protocol in conditions.protocols:
        own = average([measure(setting, row.recipe, row.data, protocol, training) for training in trainings])
        found.append(compare(paper, table, row, own, run, recipe.validation_share, remarks))
    return found


def drop_models(setting: Setting) -> None:
    """Deletes the models of a smoke run, which are of no use; what was measured stays."""
    for file in (setting.out / "runs").glob("*/*.pt"):
        file.unlink()
