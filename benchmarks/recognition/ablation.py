"""What each part of the recipe brings: short runs with one part left out, measured on all kinds of people.

Each run has a folder of its own. The seed decides the people set aside, the initial weights and all draws, so runs are
compared with the complete recipe of the same seed.
"""

import argparse
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.recognition.common import (
    MEASURES,
    EvalData,
    add_eval_data,
    add_output,
    add_training,
    changes,
    compose,
    conclude,
    console,
    digest,
    eval_data,
    existing,
    kept,
    measure,
    open_model,
    spread,
)
from benchmarks.recognition.short_runs import Training, length, samples_of, train_once
from benchmarks.report import markdown_table
from training.datasets.catalog import DatasetKind, kind_of
from training.loop.checkpoint import load_checkpoint
from training.recipe import find_recipe, load_recipe


@dataclass(frozen=True)
class Lever:
    """A part of the recipe, and what leaves it out: changes of the recipe, or a dataset that is not given."""

    key: str
    without: str
    changes: Mapping[str, str] = field(default_factory=dict)
    dataset: DatasetKind | None = None


_ALL_TRAINED = {"freeze.blocks": "0", "freeze.statistics": "false", "freeze.depthwise": "false"}

LEVERS = (
    Lever("complete", "nothing: the complete recipe"),
    Lever("noise", "nothing; other batches (`batch.seed`): the noise of this table", {"batch.seed": "101"}),
    Lever("noise-again", "the same, once more", {"batch.seed": "102"}),
    Lever("cuhk03", "CUHK03", dataset="cuhk03"),
    Lever(
        "imagenet",
        "ImageNet weights (random weights; all are trained, at one rate)",
        {"start.weights": "none", "optimiser.trunk_rate": "2e-3", "optimiser.head_steps": "0", **_ALL_TRAINED},
    ),
    Lever("instance-norm", "instance normalisation", {"network.backbone": "efficientnet_lite0"}),
    Lever("distillation", "distillation", {"losses.distillation": "0"}),
    Lever("relation", "relation", {"losses.relation": "0"}),
    Lever(
        "teacher", "teacher: neither distillation nor relation", {"losses.distillation": "0", "losses.relation": "0"}
    ),
    Lever("centring", "centring of the teacher's features by camera", {"teacher.centre_cameras": "false"}),
    Lever("whitening", "whitening of the teacher's features", {"teacher.whiten": "0"}),
    Lever("sites", "batches with the same number of people of each site", {"batch.sampler": "person"}),
    Lever("views", "two views of a person in a batch (crops of one view)", {"batch.cameras": "1"}),
    Lever("average", "average of the weights", {"optimiser.average": "0"}),
    Lever("camera", "camera augmentation", {"augmentation.camera": "{}"}),
    Lever("zoom", "zoom", {"augmentation.zoom": "0"}),
    Lever("erasing", "less erasing (0.5 instead of the recipe's)", {"augmentation.erase": "0.5"}),
    Lever("freezing", "freezing (all weights are trained)", _ALL_TRAINED),
    Lever("head-first", "first steps of the head alone", {"optimiser.head_steps": "0"}),
)
"""The rows of the table; the first one is what the others are compared with."""

_QUICK_LEVERS = ("cuhk03", "teacher", "views")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    add_eval_data(parser)
    parser.add_argument("--teacher", type=existing, metavar="PATH", help="bundle or .onnx of the teacher")
    parser.add_argument("--recipe", default="unseen-sites", help="file or name (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=21_120, help="crops that a run sees (default: %(default)s)")
    parser.add_argument(
        "--seeds", type=int, default=2, help="runs of each row, with seeds from 1 (default: %(default)s)"
    )
    parser.add_argument(
        "--only",
        action="append",
        choices=[lever.key for lever in LEVERS[1:]],
        help="leave out only this; may be repeated (default: each)",
    )
    add_training(parser)
    add_output(parser, "ablation", "docs/figures/unseen-sites.md")


def run(arguments: argparse.Namespace) -> None:
    """Train and measure what is not finished yet, and write the table."""
    if arguments.quick:
        arguments.samples, arguments.seeds = 32, 1
        arguments.only = arguments.only or list(_QUICK_LEVERS)
    teacher = arguments.teacher and open_model(arguments.teacher, arguments.out)
    base = changes(arguments)
    base |= length(arguments.recipe, arguments.samples, base)
    measured: dict[str, list[dict[str, Any]]] = defaultdict(list)
    chosen = [lever for lever in LEVERS if not arguments.only or lever.key in ("complete", *arguments.only)]
    unused = [lever for lever in chosen[1:] if not _changes_something(arguments, base, lever)]
    for seed in range(1, arguments.seeds + 1):
        for lever in chosen:
            if lever in unused:
                continue
            settings = {**base, **lever.changes, "seed": str(seed)}
            training = Training(arguments.recipe, _data(arguments, lever), settings, teacher, device=arguments.device)
            found = _train_and_measure(training, arguments.out / f"{lever.key}-{seed}", eval_data(arguments))
            measured[lever.key].append(found)
            console.print(f"without {lever.key}, seed {seed}: {found['wall'] / 60:.1f} minutes", highlight=False)
    conclude(arguments, _section(arguments, base, measured, unused))


def _data(arguments: argparse.Namespace, lever: Lever) -> tuple[Path, ...]:
    return tuple(path for path in arguments.data if lever.dataset is None or kind_of(path) != lever.dataset)


def _changes_something(arguments: argparse.Namespace, base: Mapping[str, str], lever: Lever) -> bool:
    path = find_recipe(arguments.recipe)
    same = load_recipe(path, dict(base)) == load_recipe(path, {**base, **lever.changes})
    return not same or len(_data(arguments, lever)) < len(arguments.data)


def _train_and_measure(training: Training, out: Path, measures: Sequence[EvalData]) -> dict[str, Any]:
    trained = train_once(training, out)
    found = {}
    for tested in measures:
        if tested.protocol == "validation" and tested.data == training.data:
            found[tested.name] = _validated(trained.checkpoint)
            continue
        key = [digest(trained.checkpoint), tested.protocol, [path.name for path in tested.data]]
        found[tested.name] = kept(out / f"{tested.protocol}.json", key, measure, tested, trained.checkpoint)
    return {"wall": trained.wall, "processor": trained.processor, "figures": found}


def _validated(checkpoint: Path) -> dict[str, Any]:
    """Return the figures of the people set aside, on whom the trainer measured the last step."""
    accuracy = load_checkpoint(checkpoint).accuracy[0]
    counts = {name: accuracy[name] for name in ("people", "queries", "gallery")}
    return {**counts, "rank-1": [accuracy["rank1"]], "mAP": [accuracy["map"]]}


def _minutes(runs: Sequence[Mapping[str, Any]]) -> str:
    wall, processor = (sum(run[name] for run in runs) / len(runs) / 60 for name in ("wall", "processor"))
    return f"{wall:.1f}, {processor:.1f}"


def _section(
    arguments: argparse.Namespace,
    base: Mapping[str, str],
    measured: Mapping[str, Sequence[Mapping[str, Any]]],
    unused: Sequence[Lever],
) -> str:
    names = list(measured["complete"][0]["figures"])
    columns = ["left out"]
    for name in names:
        columns += [f"{name}: rank-1 / mAP", "change of mAP"]
    columns.append("minutes of a run: wall, processor")
    rows = []
    for lever in LEVERS:
        runs = measured.get(lever.key)
        if runs is None:
            continue
        cells = [lever.without]
        for name in names:
            cells.append(" / ".join(spread(run["figures"][name][measure][0] for run in runs) for measure in MEASURES))
            whole = measured["complete"]
            pairs = zip(runs, whole, strict=True)
            changed = [run["figures"][name]["mAP"][0] - own["figures"][name]["mAP"][0] for run, own in pairs]
            cells.append("" if runs is whole else spread(changed, "+"))
        rows.append([*cells, _minutes(runs)])
    counts = "; ".join(
        f"{name}: {found['people']} people, {found['queries']} queries, {found['gallery']} in the gallery"
        for name, found in measured["complete"][0]["figures"].items()
    )
    crops = samples_of(arguments.recipe, base)
    seeds = f"{arguments.seeds} seed{'s' if arguments.seeds > 1 else ''}"
    text = (
        f"Short runs of `{arguments.recipe}`: {crops:,} crops each, {seeds}. Percent at the last step: the mean over "
        "the seeds, and in brackets the least and the largest. A change is the difference from the complete recipe "
        "with the same seed, so with the same people set aside. The head alone is trained in the first tenth of the "
        f"steps, and the average of the weights is over a tenth. {counts} (seed 1)."
    )
    after = (
        f"Not part of this recipe or data, so not run: {'; '.join(lever.without for lever in unused)}."
        if unused
        else ""
    )
    return compose("What each part brings", text, markdown_table(columns, rows), after)
