"""Which tracklets ask which, by name; papers whose names differ here cannot be compared."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from model.errors import Not3dError
from training.datasets.catalog import (
    kind_of,
    one_per_person_and_camera,
    read_benchmark,
    read_training,
    set_aside,
    split_count,
)
from training.datasets.tracklet import Benchmark, DatasetError, Tracklet

PROTOCOLS = {
    "mars": "MARS, gallery without the queries, over the queries that have a match there; step AP "
    "(jiyanggao, systems A and B, torchreid: 1,840 queries, 9,330 in the gallery)",
    "mars-all-queries": "MARS, queries in the gallery as well; step AP (AP3D, TKP, SINet: 1,980 queries, 11,310)",
    "mars-official": "MARS, queries in the gallery as well; trapezoid AP (the dataset's MATLAB program: 1,980 queries)",
    "benchmark": "the dataset's own queries against its gallery; step AP",
    "cross-camera": "one tracklet per person and camera, each a query against those of the other cameras",
    "validation": "the same, on the people that the model's recipe set aside from this training data",
}
"""What each name means. ``auto`` is ``mars`` for MARS's layout, ``benchmark`` where a dataset has test lists, and
``cross-camera`` elsewhere."""


class EvaluationError(Not3dError):
    """The protocol does not fit the data or the model."""


@dataclass(frozen=True)
class EvaluationSet:
    """Tracklets by role. Where the gallery holds the queries, it begins with them."""

    name: str
    query: list[Tracklet]
    gallery_only: list[Tracklet]
    """gallery tracklets that are not queries"""
    queries_in_gallery: bool
    average_precision: Literal["step", "trapezoid"] = "step"
    split: int | None = None

    @property
    def gallery(self) -> list[Tracklet]:
        """All rows of the gallery."""
        return [*self.query, *self.gallery_only] if self.queries_in_gallery else self.gallery_only


def select_tracklets(
    data: Sequence[Path], protocol: str, recipe: Mapping[str, Any] | None = None, split: int | None = None
) -> EvaluationSet:
    """The tracklets of a protocol; ``recipe`` is the model's, for ``validation``.

    Raises:
        EvaluationError: an unknown protocol, or one that fits neither data nor model.
        DatasetError: from the data.
    """
    if protocol not in ("auto", *PROTOCOLS):
        raise EvaluationError(f"unknown protocol {protocol!r}; known are auto, {', '.join(PROTOCOLS)}")
    for path in data:
        if not path.exists():
            raise DatasetError(f"{path} does not exist")
    if split is not None and all(split_count(path) == 1 for path in data):
        raise EvaluationError(f"split {split}: {', '.join(path.name for path in data)} has no splits; leave it out")
    name = _resolve(data, protocol)
    if name.startswith("mars") or name == "benchmark":
        if len(data) != 1 or (name != "benchmark" and kind_of(data[0]) != "mars"):
            layout = "a dataset with test lists" if name == "benchmark" else "one dataset in MARS's layout"
            raise EvaluationError(f"the protocol {name} needs {layout}")
        return _of_benchmark(name, read_benchmark(data[0], split))
    tracklets = read_training(data, split)
    if name == "validation":
        recipe = recipe or {}
        if not recipe.get("validation_share"):
            raise EvaluationError("the model's recipe set nobody aside (no validation_share)")
        _, tracklets = set_aside(tracklets, recipe["validation_share"], recipe["seed"])
        if not tracklets:
            raise EvaluationError(
                "the model's training set nobody of these people aside: measure with --protocol cross-camera on people "
                "it has not seen, or train with a larger validation_share"
            )
    return EvaluationSet(name, one_per_person_and_camera(tracklets), [], queries_in_gallery=True, split=split)


def _resolve(data: Sequence[Path], protocol: str) -> str:
    if protocol != "auto":
        return protocol
    kinds = {kind_of(path) for path in data}
    if kinds == {"mars"}:
        return "mars"
    return "cross-camera" if kinds & {"folder", "market1501"} else "benchmark"


def _of_benchmark(name: str, benchmark: Benchmark) -> EvaluationSet:
    together = name in ("mars-all-queries", "mars-official")
    return EvaluationSet(
        name,
        benchmark.query,
        benchmark.gallery,
        queries_in_gallery=together,
        average_precision="trapezoid" if name == "mars-official" else "step",
        split=benchmark.split,
    )
