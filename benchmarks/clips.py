"""Accuracy and time of `max_clips`, as a table: `python -m benchmarks.clips --data FOLDER`. Needs the extra `train`.

Accuracy is measured on the service's engine in three ways: people set aside from the training data (mostly short
tracklets), the test lists of data in MARS's layout, and the same long test tracklets as queries in a gallery of all of
them and the people set aside. Time is that of `POST /embed` with one client over the long tracklets, alternating.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.bundle import BUNDLED, Bundle
from model.cgroups import available_cpus
from model.engines import open_engine
from model.tracklet import normalise, split_into_clips
from not3d.demo import running_service
from training.datasets.catalog import kind_of
from training.datasets.tracklet import Tracklet
from training.evaluation.embed import embed_tracklets
from training.evaluation.protocols import EvaluationSet, EvaluationSettings, select_tracklets
from training.evaluation.scoring import score

CHOICES: tuple[int | None, ...] = (1, 2, 4, 8, 16, None)
ROUNDS = 5
Features = NDArray[np.float32]


@dataclass(frozen=True)
class People:
    set_aside: EvaluationSet
    listed: EvaluationSet
    among_others: EvaluationSet

    @property
    def long(self) -> list[Tracklet]:
        return self.among_others.query


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=BUNDLED, help="the model (default: the bundled one)")
    parser.add_argument(
        "--data",
        type=Path,
        action="append",
        required=True,
        metavar="PATH",
        help="a dataset that the model was trained on; one of them must be in MARS's layout with test people",
    )
    arguments = parser.parse_args()
    with_lists = [path for path in arguments.data if kind_of(path) == "mars"]
    if len(with_lists) != 1:
        parser.error("exactly one dataset in MARS's layout is needed, for its long test tracklets")
    bundle = Bundle.load(arguments.bundle)
    people = _gather(bundle, arguments.data, with_lists[0])
    print(_describe(bundle, people), flush=True)
    accuracy = {choice: _measure_accuracy(bundle, people, choice) for choice in CHOICES}
    times = _measure_time(bundle, people.long)
    print(_table(bundle, people, accuracy, times))


def _gather(bundle: Bundle, data: Sequence[Path], with_lists: Path) -> People:
    set_aside = select_tracklets(data, "validation", bundle.spec.recipe)
    listed = select_tracklets([with_lists], "mars")
    long = list(dict.fromkeys([*listed.query, *listed.gallery_only]))
    among_all = EvaluationSet("cross-camera", long, set_aside.query, queries_in_gallery=True)
    return People(set_aside, listed, among_all)


def _measure_accuracy(
    bundle: Bundle, people: People, choice: int | None
) -> tuple[Sequence[Mapping[str, str | int | float]], Features]:
    """Return the figures of each selection, and unit vectors of the long tracklets."""
    spec = bundle.spec
    tracklets = list(dict.fromkeys(people.among_others.gallery))
    features = embed_tracklets(
        open_engine(bundle).embed,
        tracklets,
        frame_size=(spec.frame_height, spec.frame_width),
        clip_length=spec.clip_length,
        clip_weights=spec.clip_weights,
        max_clips=choice,
    )
    rows = {tracklet: row for row, tracklet in enumerate(tracklets)}
    settings = EvaluationSettings(max_clips=choice)
    figures = [
        score(
            features[[rows[t] for t in selection.query]],
            features[[rows[t] for t in selection.gallery]],
            selection,
            settings,
            head={},
            clip_length=spec.clip_length,
            seed=1,
        ).figures
        for selection in (people.set_aside, people.listed, people.among_others)
    ]
    return figures, normalise(features[[rows[t] for t in people.long]])


def _measure_time(bundle: Bundle, tracklets: Sequence[Tracklet]) -> dict[int | None, list[float]]:
    spent: dict[int | None, list[list[float]]] = {choice: [[] for _ in tracklets] for choice in CHOICES}
    frames = [[path.read_bytes() for path in tracklet.frames] for tracklet in tracklets]
    with tempfile.TemporaryDirectory() as folder, running_service(bundle.path, Path(folder)) as client:
        for turn in range(ROUNDS + 1):
            for number, sent in enumerate(frames):
                for choice in CHOICES:
                    started = time.perf_counter()
                    answer = client.embed(sent, max_clips=choice, enroll=False)
                    elapsed = 1000 * (time.perf_counter() - started)
                    expected = len(split_into_clips(len(sent), bundle.spec.clip_length, choice))
                    if answer.clips != expected:
                        raise SystemExit(f"{answer.clips} clips were computed, not {expected}")
                    if turn:  # the first round is a warm-up
                        spent[choice][number].append(elapsed)
    return {choice: [statistics.median(values) for values in each] for choice, each in spent.items()}


def _describe(bundle: Bundle, people: People) -> str:
    engine = open_engine(bundle)

    def lengths(tracklets: Sequence[Tracklet]) -> str:
        counts = [len(tracklet.frames) for tracklet in tracklets]
        return f"{min(counts)} to {max(counts)} frames, median {statistics.median(counts):g}"

    return (
        f"{bundle.spec.name}, clips of {bundle.spec.clip_length}, {engine.name} {engine.precision}, "
        f"{available_cpus()} CPUs. Set aside: {len(people.set_aside.query)} tracklets of "
        f"{lengths(people.set_aside.query)}. Test lists: {len(people.long)} tracklets of {lengths(people.long)}, "
        f"of {len({tracklet.person for tracklet in people.long})} people.\n"
    )


def _table(
    bundle: Bundle,
    people: People,
    accuracy: Mapping[int | None, tuple[Sequence[Mapping[str, str | int | float]], Features]],
    times: Mapping[int | None, list[float]],
) -> str:
    names = [f"{len(people.set_aside.query)} set aside", "test lists", f"long among {len(people.among_others.gallery)}"]
    head = ["`max_clips`", *(f"{name}: mAP, rank-1" for name in names)]
    head += ["cosine to all clips: mean, least", "clips computed", "`POST /embed`: mean ms", "of the longest"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    _, all_clips = accuracy[None]
    longest = int(np.argmax([len(tracklet.frames) for tracklet in people.long]))
    for choice in CHOICES:
        figures, vectors = accuracy[choice]
        cosines = (vectors * all_clips).sum(axis=1)
        clips = [len(split_into_clips(len(t.frames), bundle.spec.clip_length, choice)) for t in people.long]
        cells = ["all" if choice is None else str(choice)]
        cells += [f"{each['mAP']:.2f}, {each['rank-1']:.2f}" for each in figures]
        cells += [f"{cosines.mean():.3f}, {cosines.min():.3f}", f"{np.mean(clips):.1f}"]
        cells += [f"{np.mean(times[choice]):.0f}", f"{times[choice][longest]:.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
