"""From features to figures: distances, ranking, verification, open set, intervals."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from model.ranking import cosine_scores, k_reciprocal_rerank
from training.evaluation.bootstrap import people_bootstrap
from training.evaluation.metrics import RankMetrics, rank_metrics
from training.evaluation.open_set import FALSE_POSITIVE_RATES, open_set
from training.evaluation.protocols import PROTOCOLS, EvaluationError, EvaluationSet
from training.evaluation.result import EvaluationResult, FrameWeights
from training.evaluation.settings import EvaluationSettings, Metric
from training.evaluation.verification import verify

RANKS = (1, 5, 10, 20)
"""Ranks of the CMC that are reported."""


def score(
    query: NDArray[np.float32],
    gallery: NDArray[np.float32],
    selection: EvaluationSet,
    settings: EvaluationSettings,
    *,
    head: Mapping[str, str | int | float],
    clip_length: int,
    seed: int = 1,
    frame_weights: FrameWeights | None = None,
) -> EvaluationResult:
    """Everything that is measured of one model under one protocol.

    Args:
        query: means of clip embeddings ``[Q, D]``, not normalised, in the selection's order
        gallery: ``[G, D]`` likewise
        selection: whose rows they are
        settings: distance and re-ranking
        head: figures to begin with: the model, the data
        clip_length: frames of a clip
        seed: of the bootstrap and of the open set's halves
        frame_weights: for a report

    Raises:
        EvaluationError: no query has a right answer under another camera, or there is one person only.
    """
    distances = pairwise_distances(query, gallery, settings.metric)
    if settings.rerank:
        distances = k_reciprocal_rerank(query, gallery)
    rows = selection.gallery
    ids = [t.person for t in selection.query], [t.person for t in rows]
    cameras = [t.camera for t in selection.query], [t.camera for t in rows]
    precision = settings.average_precision or selection.average_precision
    try:
        metrics = rank_metrics(distances, *ids, *cameras, average_precision=precision)
        verification = verify(-distances, *ids, *cameras)
    except ValueError as error:
        raise EvaluationError(
            f"protocol {selection.name}, {len(ids[0])} queries, {len(rows)} in the gallery: {error}"
        ) from error
    opened = open_set(-distances, *ids, *cameras, seed=seed)
    intervals = _intervals(metrics, ids[0], seed)
    figures: dict[str, str | int | float] = {
        **head,
        "protocol": f"{selection.name}: {PROTOCOLS[selection.name]}",
        **({} if selection.split is None else {"split": selection.split}),
        "distance": _describe(settings, precision),
        "seed": seed,
        "people": len(set(ids[0])),
        "queries": metrics.valid_queries,
        "queries without a match": len(selection.query) - metrics.valid_queries,
        "gallery": len(rows),
        **_percent(metrics),
        "pairs": f"{verification.same_pairs:,} of one person, {verification.different_pairs:,} of two, across cameras",
        **{f"TAR at FAR {rate:g}": round(100 * tar, 2) for rate, tar in verification.tar_at.items()},
    }
    if opened:
        figures["probes"] = f"{opened.mated:,} enrolled, {opened.non_mated:,} not"
        figures |= {f"DIR at FPIR {rate:g}": round(100 * opened.dir_at[rate], 2) for rate in FALSE_POSITIVE_RATES}
    return EvaluationResult(
        figures, metrics, intervals, verification, opened, distances, selection.query, rows, clip_length, frame_weights
    )


def pairwise_distances(query: NDArray[np.float32], gallery: NDArray[np.float32], metric: Metric) -> NDArray[np.float32]:
    """``float32 [Q, G]``: one less the cosine, or the Euclidean distance of the rows as they are."""
    if metric == "cosine":
        return 1 - cosine_scores(query, gallery)
    squares = np.square(query).sum(axis=1)[:, None] + np.square(gallery).sum(axis=1)[None]
    distances: NDArray[np.float32] = np.sqrt(np.maximum(squares - 2 * (query @ gallery.T), 0)).astype(np.float32)
    return distances


def summarise_splits(results: Sequence[EvaluationResult]) -> dict[str, str | int | float]:
    """Mean and standard deviation (of the sample, n - 1) over the splits of a dataset, beside what they share.

    Raises:
        ValueError: fewer than two results, or of different protocols.
    """
    names = {str(result.figures["protocol"]) for result in results}
    if len(results) < 2 or len(names) != 1:
        raise ValueError(f"a mean over splits needs two results of one protocol, not {len(results)} of {len(names)}")
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
    clips = "all clips" if settings.max_clips is None else f"{settings.max_clips} clips ({settings.clip_choice})"
    # Zhong et al.: re-ranking begins with distances of its own, whatever the metric is.
    metric = "k-reciprocal re-ranking of unit vectors" if settings.rerank else settings.metric
    feature = "" if settings.feature is None else f", {settings.feature} feature"
    return f"{metric}{feature}, {clips}, {precision} AP"
