"""What verdicts bring: mAP and rank-1 of the results that are left after the first 1, 3 and 5 were judged.

Each tracklet is cut into two halves, as trackers do that lose a person and find them again, so that a person has
several tracklets at each camera. Each half is a query for the other cameras. The first results of a search without
feedback are judged; examples and rejected ones are combined as `POST /search` does it, and the rest is ranked again.
Every method ranks the same rest. `--wrong` of the verdicts say the opposite of the truth.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.recognition.common import (
    MEASURES,
    EvalData,
    add_eval_data,
    add_output,
    compose,
    conclude,
    digest,
    eval_data,
    existing,
    kept,
)
from benchmarks.report import markdown_table
from model.bundle import Bundle
from model.engines import embed_in_parallel, open_engine
from model.feedback import REJECT_WEIGHT, Combine, combine_examples
from model.tracklet import normalise
from training.datasets.tracklet import Tracklet
from training.evaluation.embed import embed_tracklets
from training.evaluation.metrics import people_bootstrap
from training.evaluation.protocols import select_tracklets

VERDICTS = (1, 3, 5)
METHODS: dict[str, tuple[Combine, bool]] = {
    "mean": ("mean", True),
    "max": ("max", True),
    "mean, rejected ones unused": ("mean", False),
    "max, rejected ones unused": ("max", False),
}
"""How examples are combined, and whether rejected ones count (Rocchio)."""
MAX_CLIPS = 4
WITHOUT = "no feedback"

Figures = dict[str, Any]


@dataclass(frozen=True, eq=False)
class _Features:
    """Unit vectors `[N, D]` with the person and the camera of each."""

    vectors: NDArray[np.float32]
    people: NDArray[np.str_]
    cameras: NDArray[np.str_]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    parser.add_argument("bundle", type=existing, help="the bundle whose vectors are compared")
    add_eval_data(parser)
    parser.add_argument(
        "--wrong", type=float, default=0.1, help="share of wrong verdicts in the second half of the table (%(default)s)"
    )
    add_output(parser, "feedback", "docs/feedback.md")


def run(arguments: argparse.Namespace) -> None:
    """Measure each kind of people, and write the section."""
    rows = []
    for tested in eval_data(arguments):
        if tested.protocol == "mars":  # its excerpt has too few people
            continue
        key = [digest(arguments.bundle), [[path.name, path.stat().st_size] for path in tested.data], arguments.wrong]
        file = arguments.out / f"{tested.protocol}.json"
        measured = kept(file, [*key, REJECT_WEIGHT], _measure, tested, arguments.bundle, arguments.wrong, arguments.out)
        rows += _rows(tested.name, measured)
    columns = ("people", "verdicts", "queries, people", "method", *MEASURES, "gain of mAP")
    text = (
        "Percent. A query counts while the rest still has a tracklet of its person. The gain over no feedback on the "
        f"same rest has its 95 % interval (bootstrap over people). Rejected examples have the weight {REJECT_WEIGHT:g}."
    )
    conclude(arguments, compose("Gain from verdicts", text, markdown_table(columns, rows)))


def _measure(tested: EvalData, bundle: Path, wrong: float, out: Path) -> list[Figures]:
    features = _features(tested, bundle, out)
    return [_judge(features, verdicts, share) for share, verdicts in product((0.0, wrong), VERDICTS)]


def _features(tested: EvalData, path: Path, out: Path) -> _Features:
    """Return the features of all halves, computed once."""
    bundle = Bundle.load(path)
    file = out / f"{tested.protocol}-{bundle.embedding_space}.npz"
    halves = _halve(select_tracklets(tested.data, tested.protocol, bundle.spec.recipe).query)
    if file.is_file():
        vectors = np.load(file)["vectors"]
    else:
        spec = bundle.spec
        vectors = embed_tracklets(
            embed_in_parallel(open_engine(bundle)),
            halves,
            frame_size=(spec.frame_height, spec.frame_width),
            resampling=spec.preprocessing.resampling,
            clip_length=spec.clip_length,
            clip_weights=spec.clip_weights,
            max_clips=MAX_CLIPS,
        )
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(file, vectors=vectors)
    people, cameras = [half.person for half in halves], [half.camera for half in halves]
    return _Features(normalise(vectors), np.array(people), np.array(cameras))


def _halve(tracklets: Sequence[Tracklet]) -> list[Tracklet]:
    halves = []
    for tracklet in tracklets:
        middle = -(-len(tracklet.frames) // 2)
        parts = tracklet.frames[:middle], tracklet.frames[middle:]
        halves += [replace(tracklet, frames=frames) for frames in parts if frames]
    return halves


def _judge(features: _Features, verdicts: int, wrong: float, seed: int = 1) -> Figures:
    """Return mAP and rank-1 of the rest for each method, and the intervals of their gains."""
    draws = np.random.default_rng(seed)
    people: list[str] = []
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in (WITHOUT, *METHODS)}
    vectors = features.vectors
    scores = vectors @ vectors.T
    for query, (person, camera) in enumerate(zip(features.people, features.cameras, strict=True)):
        gallery = np.flatnonzero(features.cameras != camera)
        order = gallery[np.argsort(-scores[query, gallery], kind="stable")]
        judged, rest = order[:verdicts], order[verdicts:]
        right = features.people[rest] == person
        if not right.any():
            continue
        people.append(person)
        found[WITHOUT].append(_rank(scores[query, rest], right))
        said_same = (features.people[judged] == person) ^ (draws.random(len(judged)) < wrong)
        examples = [query, *judged[said_same]]
        for name, (combine, with_rejects) in METHODS.items():
            rejects = vectors[judged[~said_same]] if with_rejects else vectors[:0]
            queries = combine_examples(vectors[examples], features.cameras[examples].tolist(), rejects, combine)
            found[name].append(_rank((vectors[rest] @ queries.T).max(axis=1), right))
    if not people:
        return {"verdicts": verdicts, "wrong": wrong, "queries": 0, "people": 0, "methods": {}}
    measured = {name: 100 * np.array(values) for name, values in found.items()}
    gains = np.stack([measured[name][:, 0] - measured[WITHOUT][:, 0] for name in measured])
    intervals = people_bootstrap(gains, people)
    return {
        "verdicts": verdicts,
        "wrong": wrong,
        "queries": len(people),
        "people": len(set(people)),
        "methods": {
            name: {"mAP": mean_ap, "rank-1": rank1, "gain": [float(gain.mean()), *map(float, interval)]}
            for (name, values), gain, interval in zip(measured.items(), gains, intervals, strict=True)
            for mean_ap, rank1 in [values.mean(axis=0).tolist()]
        },
    }


def _rank(scores: NDArray[np.float32], right: NDArray[np.bool_]) -> tuple[float, float]:
    """Return the average precision of a ranking, and whether its first result is right."""
    places = np.flatnonzero(right[np.argsort(-scores, kind="stable")])
    return float(((np.arange(len(places)) + 1) / (places + 1)).mean()), float(places[0] == 0)


def _rows(name: str, measured: Sequence[Figures]) -> list[list[str]]:
    rows = []
    for figures in measured:
        wrong = f", {figures['wrong']:.0%} of them wrong" if figures["wrong"] else ""
        head = [name, f"{figures['verdicts']}{wrong}", f"{figures['queries']}, {figures['people']}"]
        best = max((each["mAP"] for each in figures["methods"].values()), default=0.0)
        for method, each in figures["methods"].items():
            mean_ap = f"{each['mAP']:.1f}"
            gain, low, high = each["gain"]
            shown = f"{gain:+.1f} ({low:+.1f} to {high:+.1f})" if method != WITHOUT else ""
            cells = [f"{each['rank-1']:.1f}", f"**{mean_ap}**" if each["mAP"] == best else mean_ap]
            rows.append([*head, method, *cells, shown])
            head = ["", "", ""]
    return rows
