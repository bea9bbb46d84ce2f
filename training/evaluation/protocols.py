"""Protocols and settings of an evaluation: which tracklets are query and gallery, and how distances are computed.

Figures measured under different protocols cannot be compared.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from model.errors import Not3dError
from model.ranking import RerankForm
from training.datasets.catalog import (
    has_test_lists,
    kind_of,
    one_per_person_and_camera,
    read_benchmark,
    read_training,
    set_aside,
    split_count,
)
from training.datasets.tracklet import Benchmark, DatasetError, Tracklet

PROTOCOLS = {
    "mars": "MARS, gallery without the queries; queries that have no match there are left out; step AP "
    "(temporal-attention baseline, not3d, fantastic, torchreid: 1,840 queries, gallery of 9,330)",
    "mars-all-queries": "MARS, gallery with the queries; step AP (AP3D, TKP, SINet: 1,980 queries, gallery of 11,310)",
    "mars-official": "MARS, gallery with the queries; trapezoid AP (the dataset's MATLAB program: 1,980 queries)",
    "benchmark": "the dataset's queries against its gallery; step AP",
    "cross-camera": "one tracklet per person and camera; each is a query for the other cameras",
    "other-site": "one tracklet per person and camera; each is a query for the other cameras, and tracklets of its own "
    "camera are not in its gallery",
    "validation": "as cross-camera, on the validation people of this training data, chosen by the model's recipe",
}
"""Descriptions by name. `auto` is `mars` for the layout of MARS, `benchmark` for other datasets with test lists, and
otherwise `cross-camera`."""

ClipChoice = Literal["even", "first", "random"]
Metric = Literal["cosine", "euclidean"]


class EvaluationSettings(BaseModel):
    """The settings that influence the figures, besides model and data. Recipes have them, because papers differ.

    The defaults are those of the service.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    protocol: str = Field("auto", description="a name of training.evaluation.protocols.PROTOCOLS, or auto")
    metric: Metric = Field(
        "cosine",
        description="distance between video features; euclidean uses the means of clip embeddings without normalising "
        "them, as not3d and fantastic do",
    )
    feature: Literal["batch_normed", "raw"] | None = Field(
        None,
        description="feature after the neck (batch_normed) or before (raw); default: the network's. Checkpoints only",
    )
    max_clips: int | None = Field(None, ge=1, description="maximum number of clips per tracklet; by default all")
    clip_choice: ClipChoice = Field(
        "even",
        description="which clips: evenly spaced, the first ones (the published code takes 41), or random ones that do "
        "not overlap (aas_rfu)",
    )
    clip_seed: int = Field(1, ge=0, description="of random clips; each tracklet has a stream of its own")
    rerank: bool = Field(False, description="k-reciprocal re-ranking, k1 20, k2 6, lambda 0.3")
    rerank_form: RerankForm = Field(
        "unit",
        description="unit: of unit vectors; published: of features as they are, in half precision, as fantastic does",
    )
    average_precision: Literal["step", "trapezoid"] | None = Field(None, description="by default the protocol's")

    @model_validator(mode="after")
    def _check(self) -> Self:
        """Refuse an unknown protocol, and a choice that would be ignored."""
        _check_protocol(self.protocol)
        if self.rerank_form != "unit" and not self.rerank:
            raise ValueError(
                f"rerank_form {self.rerank_form} has no effect without re-ranking: add --rerank (in a recipe: "
                "rerank = true)"
            )
        if self.clip_choice != "even" and self.max_clips is None:
            raise ValueError(
                f"clip_choice {self.clip_choice} has no effect on all clips: add --max-clips (in a recipe: max_clips)"
            )
        return self


class EvaluationError(Not3dError):
    """The protocol or a setting does not fit the data or the model."""


@dataclass(frozen=True)
class EvaluationSet:
    """The tracklets of a protocol by role. A gallery that contains the queries begins with them."""

    name: str
    query: list[Tracklet]
    gallery_only: list[Tracklet]
    """Gallery tracklets that are not queries."""
    queries_in_gallery: bool
    average_precision: Literal["step", "trapezoid"] = "step"
    split: int | None = None
    other_cameras_only: bool = False
    """A query is not compared with the gallery tracklets of its own camera."""

    @property
    def gallery(self) -> list[Tracklet]:
        """Return all rows of the gallery."""
        return [*self.query, *self.gallery_only] if self.queries_in_gallery else self.gallery_only


def select_tracklets(
    data: Sequence[Path], protocol: str, recipe: Mapping[str, Any] | None = None, split: int | None = None
) -> EvaluationSet:
    """Read the tracklets of a protocol.

    Args:
        data: datasets
        protocol: a name of `PROTOCOLS`, or `auto`
        recipe: the recipe of the model; needed for `validation`
        split: number of the split, for datasets that have several

    Raises:
        EvaluationError: the protocol is unknown, or does not fit the data or the model.
        DatasetError: from the data.
    """
    try:
        _check_protocol(protocol)
    except ValueError as error:
        raise EvaluationError(str(error)) from None
    for path in data:
        if not path.exists():
            raise DatasetError(f"{path} does not exist")
    if split is not None and all(split_count(path) == 1 for path in data):
        raise EvaluationError(f"split {split}: {', '.join(path.name for path in data)} has no splits; omit it")
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
            raise EvaluationError("the model has no validation people (its recipe has no validation_share)")
        _, tracklets = set_aside(tracklets, recipe["validation_share"], recipe["seed"])
        if not tracklets:
            raise EvaluationError(
                "none of these people are validation people of the model: measure with --protocol cross-camera on "
                "people that were not trained on, or train with a larger validation_share"
            )
    return EvaluationSet(
        name,
        one_per_person_and_camera(tracklets),
        [],
        queries_in_gallery=True,
        split=split,
        other_cameras_only=name == "other-site",
    )


def _check_protocol(name: str) -> None:
    """Raise `ValueError` if there is no such protocol."""
    if name not in ("auto", *PROTOCOLS):
        raise ValueError(f"unknown protocol {name!r}; choose auto, {', '.join(PROTOCOLS)}")


def _resolve(data: Sequence[Path], protocol: str) -> str:
    if protocol != "auto":
        return protocol
    kinds = {kind_of(path) for path in data}
    if kinds == {"mars"}:
        return "mars"
    return "benchmark" if all(has_test_lists(path) for path in data) else "cross-camera"


def _of_benchmark(name: str, benchmark: Benchmark) -> EvaluationSet:
    return EvaluationSet(
        name,
        benchmark.query,
        benchmark.gallery,
        queries_in_gallery=name in ("mars-all-queries", "mars-official"),
        average_precision="trapezoid" if name == "mars-official" else "step",
        split=benchmark.split,
    )
