"""Compute the figures of an evaluation from features: ranking, verification, open set, confidence intervals."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from model.calibration import Calibration
from model.ranking import cosine_scores, k_reciprocal_rerank
from training.datasets.tracklet import Tracklet
from training.evaluation.certainty import Certainty, measure_certainty
from training.evaluation.metrics import RankMetrics, people_bootstrap, rank_metrics
from training.evaluation.open_set import FALSE_POSITIVE_RATES, OpenSet, open_set
from training.evaluation.protocols import PROTOCOLS, EvaluationError, EvaluationSet, EvaluationSettings, Metric
from training.evaluation.verification import Verification, verify

RANKS = (1, 5, 10, 20)
"""Reported ranks of the CMC."""

_CMC_RANKS = 100
"""Ranks of the CMC in the JSON."""

FrameWeights = Callable[[Tracklet], list[float] | None]
"""Attention weights of a tracklet's first clip, one per frame, with sum 1; None if the model has none."""


@dataclass(frozen=True)
class EvaluationResult:
    """One model on one dataset (one split of it) under one protocol."""

    figures: dict[str, str | int | float]
    """by name, in the order of the report; shares in percent"""
    rank: RankMetrics
    intervals: dict[str, tuple[float, float]]
    """95% confidence intervals in percent, by the name of a figure"""
    verification: Verification
    open_set: OpenSet | None
    distances: NDArray[np.float32]
    """`[Q, G]`, lower is closer"""
    query: list[Tracklet]
    gallery: list[Tracklet]
    clip_length: int
    frame_weights: FrameWeights | None = None
    """only for checkpoints with attention"""
    certainty: Certainty | None = None
    """None if there are no pairs of one kind from two cameras of a site"""

    def as_json(self) -> dict[str, Any]:
        """Return figures, intervals and curves as JSON values; NaN becomes None."""
        verification, opened = self.verification, self.open_set
        return {
            "figures": {name: _without_nan(value) for name, value in self.figures.items()},
            "confidence intervals (95%, bootstrap over people)": {
                name: list(bounds) for name, bounds in self.intervals.items()
            },
            "cmc": self.rank.cmc[:_CMC_RANKS].tolist(),
            "roc": {
                "same pairs": verification.same_pairs,
                "different pairs": verification.different_pairs,
                "false accept rate": verification.false_accept.tolist(),
                "true accept rate": verification.true_accept.tolist(),
                "score threshold": {f"{rate:g}": _without_nan(at) for rate, at in verification.threshold_at.items()},
            },
            "open set": opened
            and {
                "mated probes": opened.mated,
                "non-mated probes": opened.non_mated,
                "false positive rate": opened.false_positive.tolist(),
                "detection and identification rate": opened.detection.tolist(),
            },
            "certainty": self.certainty and self.certainty.as_json(),
        }


def score(
    query: NDArray[np.float32],
    gallery: NDArray[np.float32],
    people: EvaluationSet,
    settings: EvaluationSettings,
    *,
    head: Mapping[str, str | int | float],
    clip_length: int,
    seed: int = 1,
    frame_weights: FrameWeights | None = None,
    calibration: Calibration | None = None,
) -> EvaluationResult:
    """Measure one model under one protocol.

    Args:
        query: means of clip embeddings `[Q, D]`, not normalised, in the order of `people`
        gallery: means of clip embeddings `[G, D]`, also not normalised
        people: the tracklets of the features
        settings: distance and re-ranking
        head: figures at the beginning of the result, such as the names of model and data
        clip_length: frames of a clip
        seed: of the bootstrap and of the halves of the open set
        frame_weights: for a report
        calibration: of the model's cosine scores; other scores are measured without it

    Raises:
        EvaluationError: no query has a right answer from another camera, or there is only one person.
    """
    distances = pairwise_distances(query, gallery, settings.metric)
    if settings.rerank:
        try:
            distances = k_reciprocal_rerank(query, gallery, form=settings.rerank_form)
        except ValueError as error:
            raise EvaluationError(str(error)) from None
    rows = people.gallery
    ids = [t.person for t in people.query], [t.person for t in rows]
    cameras = [t.camera for t in people.query], [t.camera for t in rows]
    size = len(rows)
    if people.other_cameras_only:
        own = np.asarray(cameras[0])[:, None] == np.asarray(cameras[1])[None]
        distances = np.where(own, np.float32(np.inf), distances)  # ranked last, and accepted at no threshold
        size = int((~own).sum(axis=1).max())
    precision = settings.average_precision or people.average_precision
    try:
        metrics = rank_metrics(distances, *ids, *cameras, average_precision=precision)
        verification = verify(-distances, *ids, *cameras)
    except ValueError as error:
        raise EvaluationError(
            f"protocol {people.name}, {len(ids[0])} queries, {len(rows)} in the gallery: {error}"
        ) from error
    opened = open_set(-distances, *ids, *cameras, seed=seed)
    intervals = _intervals(metrics, ids[0], seed)
    cosine = settings.metric == "cosine" and not settings.rerank
    certainty = measure_certainty(
        1 - distances if cosine else -distances,
        *ids,
        *cameras,
        calibration=calibration if cosine else None,
        gallery_begins_with_queries=people.queries_in_gallery,
        seed=seed,
    )
    figures: dict[str, str | int | float] = {
        **head,
        "protocol": f"{people.name}: {PROTOCOLS[people.name]}",
        **({} if people.split is None else {"split": people.split}),
        "distance": _describe(settings, precision),
        "seed": seed,
        "people": len(set(ids[0])),
        "queries": metrics.valid_queries,
        "queries without a match": len(people.query) - metrics.valid_queries,
        "gallery": size,
        **_percent(metrics),
        "pairs": f"{verification.same_pairs:,} of one person, {verification.different_pairs:,} of two, across cameras",
        **{f"TAR at FAR {rate:g}": round(100 * tar, 2) for rate, tar in verification.tar_at.items()},
    }
    if opened:
        figures["probes"] = f"{opened.mated:,} enrolled, {opened.non_mated:,} not"
        figures |= {f"DIR at FPIR {rate:g}": round(100 * opened.dir_at[rate], 2) for rate in FALSE_POSITIVE_RATES}
    if certainty:
        figures |= {"probabilities": certainty.calibration, **certainty.figures}
    return EvaluationResult(
        figures=figures,
        rank=metrics,
        intervals=intervals,
        verification=verification,
        open_set=opened,
        distances=distances,
        query=people.query,
        gallery=rows,
        clip_length=clip_length,
        frame_weights=frame_weights,
        certainty=certainty,
    )


def pairwise_distances(query: NDArray[np.float32], gallery: NDArray[np.float32], metric: Metric) -> NDArray[np.float32]:
    """Return distances `float32 [Q, G]`: 1 - cosine, or the Euclidean distance without normalising."""
    if metric == "cosine":
        return 1 - cosine_scores(query, gallery)
    squares = np.square(query).sum(axis=1)[:, None] + np.square(gallery).sum(axis=1)[None]
    distances: NDArray[np.float32] = np.sqrt(np.maximum(squares - 2 * (query @ gallery.T), 0)).astype(np.float32)
    return distances


def summarise_splits(results: Sequence[EvaluationResult]) -> dict[str, str | int | float]:
    """Return mean and sample standard deviation (n - 1) over the splits of a dataset, and what the splits share.

    Raises:
        ValueError: there are fewer than two results, or they have different protocols.
    """
    names = {str(result.figures["protocol"]) for result in results}
    if len(results) < 2 or len(names) != 1:
        raise ValueError(
            f"a mean over splits needs at least two results of one protocol (got {len(results)} of {len(names)})"
        )
    first = results[0].figures
    shared: dict[str, str | int | float] = {
        key: first[key] for key in ("model", "data", "protocol", "distance", "seed") if key in first
    }
    shared["split"] = f"mean of {len(results)}: {', '.join(str(result.figures['split']) for result in results)}"
    for name in ("queries", "gallery"):
        shared[name] = ", ".join(sorted({str(result.figures[name]) for result in results}))
    for name in _percent(results[0].rank):
        values = np.array([float(result.figures[name]) for result in results])
        shared[name] = round(float(values.mean()), 2)
        shared[f"{name} std"] = round(float(values.std(ddof=1)), 2)
    return shared


def _percent(metrics: RankMetrics) -> dict[str, float]:
    last = len(metrics.cmc) - 1
    shares = {f"rank-{k}": float(metrics.cmc[min(k - 1, last)]) for k in RANKS}
    return {name: round(100 * value, 2) for name, value in (shares | _means(metrics)).items()}


def _means(metrics: RankMetrics) -> dict[str, float]:
    return {"mAP": metrics.mean_ap, "mINP": metrics.mean_inp}


def _intervals(metrics: RankMetrics, query_ids: Sequence[str], seed: int) -> dict[str, tuple[float, float]]:
    each = {f"rank-{k}": (metrics.first_hit <= k).astype(np.float64) for k in RANKS}
    each |= {"mAP": metrics.average_precision, "mINP": metrics.inverse_penalty}
    people = np.asarray(query_ids)[metrics.valid]
    bounds = people_bootstrap(list(each.values()), people, seed=seed)
    return {name: (round(100 * low, 2), round(100 * high, 2)) for name, (low, high) in zip(each, bounds, strict=True)}


def _describe(settings: EvaluationSettings, precision: Literal["step", "trapezoid"]) -> str:
    choice = f"random, seed {settings.clip_seed}" if settings.clip_choice == "random" else settings.clip_choice
    clips = "all clips" if settings.max_clips is None else f"{settings.max_clips} clips ({choice})"
    # Re-ranking (Zhong et al.) computes its own distances, for every metric.
    of = "unit vectors" if settings.rerank_form == "unit" else "features as they are, in half precision"
    metric = f"k-reciprocal re-ranking of {of}" if settings.rerank else settings.metric
    feature = "" if settings.feature is None else f", {settings.feature} feature"
    return f"{metric}{feature}, {clips}, {precision} AP"


def _without_nan(value: str | float) -> str | float | None:
    return None if isinstance(value, float) and math.isnan(value) else value
