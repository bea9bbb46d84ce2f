"""Measure the spread of the bundled model's embeddings: `python -m benchmarks.gallery.spread --data PATH`.

Writes `spread.json`: variances along the widest directions, no vectors of people. The shape of the curves comes from
all people in the data; the shares between and within people come from the people set aside, because people that the
model was trained on are closer together. Needs the extra `train`.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.gallery.drawing import SPREAD, Drawing
from benchmarks.report import Report
from model.bundle import BUNDLED, Bundle
from model.engines import open_engine
from model.tracklet import normalise
from training.datasets.catalog import read_training, set_aside
from training.datasets.tracklet import Tracklet
from training.evaluation.embed import embed_tracklets

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999)
UNEVENNESS, LOOK_ALIKES, CLOSENESS = 0.4, 0.006, 0.68
"""Chosen, not measured, so that both tails of the cosines agree; see the benchmark's first table."""
MAX_CLIPS = 8
Rows = NDArray[np.float64]


@dataclass(frozen=True)
class Covariances:
    """Of unit rows `[N, D]`: the mean over people, the covariances between people and within a person."""

    mean: Rows
    between: Rows
    within: Rows

    @classmethod
    def of(cls, rows: Rows, people: NDArray[Any]) -> "Covariances":
        """Return unbiased estimates: noise of a person's mean over few tracklets is not counted as between people."""
        _, person, counts = np.unique(people, return_inverse=True, return_counts=True)
        means = np.zeros((len(counts), rows.shape[1]))
        np.add.at(means, person, rows)
        means /= counts[:, None]
        rest = rows - means[person]
        within = rest.T @ rest / (counts - 1).sum()
        mean = means.mean(axis=0)
        between = (means - mean).T @ (means - mean) / (len(counts) - 1) - within * np.mean(1 / counts)
        return cls(mean, between, within)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, action="append", required=True, help="training data; may be repeated")
    parser.add_argument("--out", type=Path, default=SPREAD)
    options = parser.parse_args()
    bundle = Bundle.load(BUNDLED)
    recipe: dict[str, Any] = dict(bundle.spec.recipe or {})
    tracklets = read_training(options.data)
    _, aside = set_aside(tracklets, recipe["validation_share"], recipe["seed"])
    unseen = {tracklet.person for tracklet in aside}
    tracklets.sort(key=lambda tracklet: tracklet.person not in unseen)
    rows = _embed(bundle, tracklets)
    saved = measure(rows, tracklets, len(aside)) | {"model": bundle.spec.name}
    lines = [f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in saved.items()]
    options.out.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def measure(rows: Rows, tracklets: list[Tracklet], unseen: int) -> dict[str, Any]:
    """Return the statistics of unit rows `[N, D]`; the first `unseen` rows are of people set aside."""
    people = np.asarray([tracklet.person for tracklet in tracklets])
    cameras = np.asarray([tracklet.camera for tracklet in tracklets])
    all_, new = Covariances.of(rows, people), Covariances.of(rows[:unseen], people[:unseen])
    _, axes = np.linalg.eigh(all_.between + all_.within)
    axes = axes[:, ::-1]
    shapes = (np.einsum("di,de,ei->i", axes, part, axes).clip(0) for part in (all_.between, all_.within))
    traces = np.asarray([float(new.mean @ new.mean), np.trace(new.between), np.trace(new.within)])
    mean, *shares = traces / traces.sum()  # the vectors have unit length
    curves = [shape * share / shape.sum() for shape, share in zip(shapes, shares, strict=True)]
    return {
        "people": len(np.unique(people)),
        "tracklets": len(rows),
        "people_set_aside": len(np.unique(people[:unseen])),
        "tracklets_set_aside": unseen,
        "mean": round(float(np.sqrt(mean)), 4),
        "unevenness": UNEVENNESS,
        "look_alikes": LOOK_ALIKES,
        "closeness": CLOSENESS,
        "camera": round(camera_share(rows[:unseen], people[:unseen], cameras[:unseen]), 4),
        "quantiles": QUANTILES,
        "cosines_set_aside": cosines(rows[:unseen], people[:unseen], cameras[:unseen]),
        "cosines": cosines(rows, people, cameras),
        "between": [float(f"{value:.3g}") for value in curves[0]],
        "within": [float(f"{value:.3g}") for value in curves[1]],
    }


def camera_share(rows: NDArray[Any], people: NDArray[Any], cameras: NDArray[Any]) -> float:
    """Return the share of the variance within a person that is common to all people of a camera.

    Tracklets of two people share it if the camera is the same.
    """
    scores = rows @ rows.T
    one_person, one_camera = people[:, None] == people, cameras[:, None] == cameras
    common = scores[~one_person & one_camera].mean() - scores[~one_person & ~one_camera].mean()
    return float(common / (1 - scores[one_person & ~one_camera].mean()))


def cosines(rows: NDArray[Any], people: NDArray[Any], cameras: NDArray[Any] | None = None) -> dict[str, list[float]]:
    """Return quantiles of cosines within a person (across cameras, if given) and between people."""
    scores = rows @ rows.T
    pairs = np.triu(np.ones(scores.shape, np.bool_), 1)
    same = people[:, None] == people[None]
    apart = np.ones_like(same) if cameras is None else cameras[:, None] != cameras[None]
    return {
        name: [round(float(value), 3) for value in np.quantile(scores[which], QUANTILES)]
        for name, which in (("same", pairs & same & apart), ("other", pairs & ~same))
    }


def _embed(bundle: Bundle, tracklets: list[Tracklet]) -> Rows:
    engine, spec = open_engine(bundle), bundle.spec
    features = embed_tracklets(
        engine.embed,
        tracklets,
        frame_size=(spec.frame_height, spec.frame_width),
        clip_length=spec.clip_length,
        clip_weights=spec.clip_weights,
        max_clips=MAX_CLIPS,
    )
    return normalise(features).astype(np.float64)


_PEOPLE, _TRACKLETS = 655, 2828


def compare_spread(report: Report, dimensions: Sequence[int]) -> None:
    """Print tables that compare vectors of real people with drawn ones of several dimensions."""
    saved = json.loads(SPREAD.read_text(encoding="utf-8"))
    names = [f"{100 * quantile:g} %" for quantile in saved["quantiles"]]
    aside = f"{saved['people_set_aside']} real people set aside, {saved['tracklets_set_aside']} tracklets"
    shown = {
        f"{aside}, other cameras": saved["cosines_set_aside"],
        f"all {saved['people']} people, {saved['tracklets']} tracklets, most trained on": saved["cosines"],
    }
    for dimension in (len(saved["between"]), *dimensions):
        drawing = Drawing(dimension, _PEOPLE)
        shown[f"drawn, {dimension} dimensions"] = cosines(
            drawing.chunk(0)[:_TRACKLETS], drawing.people_of(0)[:_TRACKLETS]
        )
    for which, text in (("same", "one person"), ("other", "two people")):
        report.head(f"cosines of {text}: quantiles", *names)
        for name, values in shown.items():
            report.row(name, *(f"{value:.2f}" for value in values[which]))
        report.end_table()


if __name__ == "__main__":
    main()
