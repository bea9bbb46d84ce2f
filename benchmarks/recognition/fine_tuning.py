"""What fine-tuning brings on a site: `not3d train site --start MODEL` on some of its people, measured on others.

The start must not have seen the site. By default it is trained here, on the datasets of `--data`. Each draw has its own
test people, who are the same for all numbers of training people; fewer training people are among more of them.
"""

import argparse
import shutil
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.recognition.common import (
    MEASURES,
    EvalData,
    add_output,
    add_training,
    changes,
    compose,
    conclude,
    console,
    digest,
    existing,
    kept,
    measure,
    open_model,
    spread,
)
from benchmarks.recognition.short_runs import Training, length, samples_of, train_once
from benchmarks.report import markdown_table
from training.datasets.catalog import read_training
from training.datasets.tracklet import Tracklet


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    data: dict[str, Any] = {"type": existing, "metavar": "PATH"}
    parser.add_argument("--site", required=True, help="the people of the site", **data)
    parser.add_argument("--start", help="bundle or checkpoint of a model that did not see the site", **data)
    parser.add_argument("--data", action="append", help="a training dataset of the start; may be repeated", **data)
    parser.add_argument("--teacher", help="bundle or .onnx of the teacher of the start", **data)
    parser.add_argument("--start-recipe", default="unseen-sites", help="of the start (default: %(default)s)")
    parser.add_argument(
        "--start-samples", type=int, default=105_600, help="crops that the start sees (default: %(default)s)"
    )
    parser.add_argument("--recipe", default="site", help="of the fine-tuning: file or name (default: %(default)s)")
    parser.add_argument(
        "--people", type=int, nargs="+", default=[30, 100, 300], help="numbers of training people (default: 30 100 300)"
    )
    parser.add_argument("--test-people", type=int, default=300, help="of each draw (default: %(default)s)")
    parser.add_argument("--draws", type=int, default=3, help="draws of people (default: %(default)s)")
    add_training(parser)
    add_output(parser, "fine-tuning", "docs/figures/unseen-sites.md")


def run(arguments: argparse.Namespace) -> None:
    """Train and measure what is not finished yet, and write the table."""
    if arguments.quick:
        arguments.start_samples, arguments.people, arguments.test_people, arguments.draws = 32, [6], 4, 1
    if not arguments.start and not arguments.data:
        raise SystemExit("give the start with --start, or the data to train one with --data")
    tuning = changes(arguments)
    if arguments.quick:
        tuning |= {"schedule.epochs": "1", "schedule.steps": "2", "validation_share": "0"}
    start, origin_of_start = _start(arguments)
    people = _people(read_training([arguments.site]))
    needed = arguments.test_people + max(arguments.people)
    if needed > len(people):
        raise SystemExit(
            f"{arguments.site} has {len(people)} people of two cameras, but {needed} are needed: lower --people or "
            "--test-people"
        )
    rows: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for draw in range(1, arguments.draws + 1):
        order = [sorted(people)[i] for i in np.random.default_rng(draw).permutation(len(people))]
        place = arguments.out / f"draw-{draw}-of-{arguments.test_people}"
        test, others = order[: arguments.test_people], order[arguments.test_people :]
        tested = EvalData("other people of the site", (_write(people, test, place / "test"),), "other-site")
        for count in arguments.people:
            data = _write(people, others[:count], place / f"people-{count}")
            training = Training(
                arguments.recipe, (data,), tuning | {"seed": str(draw)}, start=start, device=arguments.device
            )
            out = place / f"run-{count}"
            trained = train_once(training, out)
            before = kept(place / "start.json", digest(start), measure, tested, start)
            after = kept(out / "figures.json", digest(trained.checkpoint), measure, tested, trained.checkpoint)
            spent = {"wall": trained.wall, "processor": trained.processor}
            rows[count].append({"before": before, "after": after, **spent})
            console.print(f"{count} people, draw {draw}: {trained.wall / 60:.1f} minutes", highlight=False)
    conclude(arguments, _section(arguments, rows, origin_of_start, tuning))


def _start(arguments: argparse.Namespace) -> tuple[Path, str]:
    """Return the start, and what it was trained on, in words."""
    if arguments.start:
        return arguments.start, f"The start, `{arguments.start.name}`, did not see the site"
    teacher = arguments.teacher and open_model(arguments.teacher, arguments.out)
    base = changes(argparse.Namespace(quick=arguments.quick, set=[]))
    base |= length(arguments.start_recipe, arguments.start_samples, base)
    trained = train_once(
        Training(arguments.start_recipe, tuple(arguments.data), base, teacher, device=arguments.device),
        arguments.out / "start",
    )
    crops = samples_of(arguments.start_recipe, base)
    data = ", ".join(path.name for path in arguments.data)
    return trained.checkpoint, (
        f"The start was trained by `{arguments.start_recipe}` on {data} alone, with {crops:,} crops in "
        f"{trained.wall / 60:.0f} minutes"
    )


def _people(tracklets: Sequence[Tracklet]) -> dict[str, list[Tracklet]]:
    """Return the tracklets of each person whom two cameras saw."""
    found: dict[str, list[Tracklet]] = defaultdict(list)
    for tracklet in tracklets:
        found[tracklet.person].append(tracklet)
    return {person: own for person, own in found.items() if len({t.camera for t in own}) > 1}


def _write(people: dict[str, list[Tracklet]], chosen: Sequence[str], folder: Path) -> Path:
    """Write people as a user has them, `person/camera/tracklet/*.jpg`, into a new folder, and return it."""
    if folder.is_dir():
        return folder
    scratch = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(scratch, ignore_errors=True)
    for person in chosen:
        for tracklet in people[person]:
            target = scratch / person.replace(":", "-") / tracklet.camera / tracklet.name.replace(":", "-")
            target.mkdir(parents=True)
            for number, frame in enumerate(tracklet.frames):
                shutil.copyfile(frame, target / f"{number:04d}{frame.suffix}")
    scratch.replace(folder)
    return folder


def _section(
    arguments: argparse.Namespace, rows: dict[int, list[dict[str, Any]]], origin_of_start: str, tuning: dict[str, str]
) -> str:
    columns = ["people", "start: rank-1 / mAP", "fine-tuned: rank-1 / mAP", "change of rank-1", "change of mAP"]
    columns.append("minutes: wall, processor")
    lines = []
    for count, runs in rows.items():
        cells = [str(count)]
        cells += [
            " / ".join(spread(run[when][name][0] for run in runs) for name in MEASURES) for when in ("before", "after")
        ]
        cells += [spread((run["after"][name][0] - run["before"][name][0] for run in runs), "+") for name in MEASURES]
        minutes = (statistics.fmean(run[name] for run in runs) / 60 for name in ("wall", "processor"))
        lines.append([*cells, ", ".join(f"{value:.1f}" for value in minutes)])
    first = next(iter(rows.values()))[0]["before"]
    low, high = first["mAP"][1:]
    counts = f"{first['people']} other people of it ({first['queries']} queries, {first['gallery']} in the gallery)"
    draws = f"{arguments.draws} draw{'s' if arguments.draws > 1 else ''}"
    text = (
        f"{origin_of_start}; `{arguments.recipe}` then sees {samples_of(arguments.recipe, tuning):,} crops of the "
        f"given number of people of {arguments.site.name}. Measured on {counts} by the protocol `other-site`, {draws} "
        "of people: mean, and in brackets the least and the largest. The 95 % interval of the mAP of the start in the "
        f"first draw is {low:.1f} to {high:.1f}; start and fine-tuned model are measured on the same crops. A part of "
        "the given people is set aside (`validation_share`). Minutes are those of the complete command."
    )
    return compose("Fine-tuning for a site", text, markdown_table(columns, lines))
