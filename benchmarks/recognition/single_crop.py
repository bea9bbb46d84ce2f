"""What a tracklet of one crop costs: Axis cameras send one picture of a track, and ONVIF cameras often do.

Each tracklet is measured with all its frames and with one of them, drawn at random, as the query, in the gallery, and
as both. A camera that chooses its picture well does better than a random frame, and one that chooses badly does worse.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
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
    figures,
    kept,
)
from benchmarks.report import markdown_table
from model.bundle import Bundle
from model.engines import embed_in_parallel, open_engine
from training.datasets.tracklet import Tracklet
from training.evaluation.embed import embed_tracklets
from training.evaluation.protocols import EvaluationSet, EvaluationSettings, select_tracklets
from training.evaluation.scoring import score

ALL, ONE = "all frames", "one crop"
COMPARED = ((ALL, ALL), (ONE, ALL), (ALL, ONE), (ONE, ONE))
"""Frames of a query and of the tracklets in the gallery."""

Figures = dict[str, Any]
Features = NDArray[np.float32]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    parser.add_argument("bundle", type=existing, help="the bundle whose vectors are compared")
    add_eval_data(parser)
    parser.add_argument("--draws", type=int, default=5, help="draws of the one frame (default: %(default)s)")
    add_output(parser, "single-crop", "docs/figures/single-crop.md")


def run(arguments: argparse.Namespace) -> None:
    """Measure each kind of people, and write the section."""
    draws = 1 if arguments.quick else arguments.draws
    rows = []
    for tested in eval_data(arguments):
        key = [digest(arguments.bundle), [[path.name, path.stat().st_size] for path in tested.data], draws]
        found = kept(arguments.out / f"{tested.protocol}.json", key, _measure, tested, arguments.bundle, draws)
        counts = ", ".join(str(found["compared"][0][name]) for name in ("people", "queries", "gallery"))
        head = [tested.name, counts, f"{found['frames']:g}"]
        for (query, gallery), values in zip(COMPARED, found["compared"], strict=True):
            rows.append([*head, query, gallery, *(_cell(values[name]) for name in MEASURES)])
            head = ["", "", ""]
    text = (
        f"Percent, with 95 % intervals (bootstrap over people). One crop: a frame drawn at random, mean of {draws} "
        "draws. Tracklets with a single frame are in both."
    )
    columns = ("people", "people, queries, gallery", "frames, median", "query", "gallery", *MEASURES)
    conclude(arguments, compose("One crop instead of a tracklet", text, markdown_table(columns, rows)))


def _cell(value: Sequence[float]) -> str:
    return f"{value[0]:.1f} ({value[1]:.1f} to {value[2]:.1f})"


def _measure(tested: EvalData, path: Path, draws: int) -> Figures:
    bundle = Bundle.load(path)
    people = select_tracklets(tested.data, tested.protocol, bundle.spec.recipe)
    tracklets = list(dict.fromkeys([*people.query, *people.gallery]))
    features = {ALL: [_embed(bundle, tracklets)]}
    features[ONE] = [_embed(bundle, [one_frame(tracklet, seed) for tracklet in tracklets]) for seed in range(draws)]
    row_of = {tracklet: row for row, tracklet in enumerate(tracklets)}
    query, gallery = ([row_of[tracklet] for tracklet in part] for part in (people.query, people.gallery))

    def compare(of_query: str, of_gallery: str) -> Figures:
        count = draws if ONE in (of_query, of_gallery) else 1
        found = [
            _score(features[of_query][draw % len(features[of_query])][query],
                   features[of_gallery][draw % len(features[of_gallery])][gallery], people, bundle)
            for draw in range(count)
        ]  # fmt: skip
        means = {name: np.mean([each[name] for each in found], axis=0).tolist() for name in MEASURES}
        return {name: found[0][name] for name in ("people", "queries", "gallery")} | means

    compared = [compare(*frames) for frames in COMPARED]
    return {
        "frames": float(np.median([len(tracklet.frames) for tracklet in tracklets])),
        "compared": compared,
    }


def one_frame(tracklet: Tracklet, seed: int) -> Tracklet:
    """Return the tracklet with one of its frames, the same one for the same seed."""
    name = "\n".join([tracklet.person, tracklet.camera, tracklet.name])
    index = int(np.random.default_rng([seed, *name.encode()]).integers(len(tracklet.frames)))
    return replace(tracklet, frames=tracklet.frames[index : index + 1])


def _embed(bundle: Bundle, tracklets: Sequence[Tracklet]) -> Features:
    spec = bundle.spec
    return embed_tracklets(
        embed_in_parallel(open_engine(bundle)),
        tracklets,
        frame_size=(spec.frame_height, spec.frame_width),
        resampling=spec.preprocessing.resampling,
        clip_length=spec.clip_length,
        clip_weights=spec.clip_weights,
    )


def _score(query: Features, gallery: Features, people: EvaluationSet, bundle: Bundle) -> Figures:
    return figures(score(query, gallery, people, EvaluationSettings(), head={}, clip_length=bundle.spec.clip_length))
