"""CMC, mAP and mINP, and their confidence intervals.

As usual in the field, gallery rows with the person and the camera of the query are left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class RankMetrics:
    """Means over the queries that have a right answer in the gallery, as fractions of 1."""

    cmc: NDArray[np.float64]
    """`[G]`: at index k, share of queries with a right answer among the first k + 1"""
    mean_ap: float
    mean_inp: float
    valid_queries: int
    valid: NDArray[np.int64]
    """`[V]`: indices of the queries with a right answer, to which the three arrays below belong"""
    first_hit: NDArray[np.int64]
    """`[V]`: rank of the first right answer, from 1"""
    average_precision: NDArray[np.float64]
    """`[V]`"""
    inverse_penalty: NDArray[np.float64]
    """`[V]`: number of right answers / rank of the last of them (Ye et al., "Deep Learning for Person
    Re-identification", TPAMI 2021)"""

    @property
    def rank1(self) -> float:
        """Return the share of queries whose first answer is right."""
        return float(self.cmc[0])


def rank_metrics(
    distances: ArrayLike,
    query_ids: Sequence[str] | ArrayLike,
    gallery_ids: Sequence[str] | ArrayLike,
    query_cameras: Sequence[str] | ArrayLike,
    gallery_cameras: Sequence[str] | ArrayLike,
    average_precision: Literal["step", "trapezoid"] = "step",
) -> RankMetrics:
    """Rank the gallery for each query by distance (ties by position) and compute the metrics.

    Args:
        distances: `[Q, G]`, lower is closer
        query_ids: person ids `[Q]`
        gallery_ids: person ids `[G]`
        query_cameras: camera ids `[Q]`
        gallery_cameras: camera ids `[G]`
        average_precision: `step`, the mean of the precision at each hit; or `trapezoid`, as in MARS's MATLAB program

    Raises:
        ValueError: shapes disagree, or no query has a right answer.
    """
    matrix = np.asarray(distances)
    q_id, g_id, q_cam, g_cam = (np.asarray(a) for a in (query_ids, gallery_ids, query_cameras, gallery_cameras))
    if matrix.shape != (len(q_id), len(g_id)) or len(q_id) != len(q_cam) or len(g_id) != len(g_cam):
        raise ValueError(f"distances {list(matrix.shape)} do not fit {len(q_id)} queries and {len(g_id)} gallery rows")
    if average_precision not in ("step", "trapezoid"):
        raise ValueError(f"unknown average precision {average_precision!r}")
    # Integers, because comparing strings for all pairs would take most of the time for MARS.
    q_id, g_id = codes(q_id, g_id)
    q_cam, g_cam = codes(q_cam, g_cam)
    cmc = np.zeros(matrix.shape[1])
    valid, first, precisions, penalties = [], [], [], []
    for row, distance in enumerate(matrix):
        kept = ~((g_id == q_id[row]) & (g_cam == q_cam[row]))
        order = np.argsort(distance[kept], kind="stable")
        hits = np.flatnonzero(g_id[kept][order] == q_id[row])
        if not len(hits):
            continue
        cmc[hits[0] :] += 1
        valid.append(row)
        first.append(hits[0] + 1)
        found = np.arange(1, len(hits) + 1)
        precision = found / (hits + 1)
        if average_precision == "trapezoid":
            # Precision just before each hit; before the first rank it counts as 1.
            before = np.divide(found - 1, hits, out=np.ones(len(hits)), where=hits > 0)
            precision = (before + precision) / 2
        precisions.append(precision.mean())
        penalties.append(len(hits) / (hits[-1] + 1))
    if not valid:
        raise ValueError("no query has a right answer from another camera in the gallery")
    return RankMetrics(
        cmc=cmc / len(valid),
        mean_ap=float(np.mean(precisions)),
        mean_inp=float(np.mean(penalties)),
        valid_queries=len(valid),
        valid=np.asarray(valid, dtype=np.int64),
        first_hit=np.asarray(first, dtype=np.int64),
        average_precision=np.asarray(precisions),
        inverse_penalty=np.asarray(penalties),
    )


def people_bootstrap(
    values: ArrayLike, people: Sequence[str] | ArrayLike, *, seed: int = 1, draws: int = 2000, level: float = 0.95
) -> NDArray[np.float64]:
    """Return percentile intervals `[M, 2]` of the means of M metrics over queries.

    Cluster bootstrap (Davison & Hinkley, "Bootstrap Methods and their Application", section 3.8): people are drawn with
    replacement, each with all of their queries, since queries of one person are alike. The gallery stays the same.

    Args:
        values: `[M, V]`: M metrics of each of V queries
        people: `[V]`: person ids of the queries
        seed: of the draws
        draws: number of draws
        level: share of the draws inside the interval

    Raises:
        ValueError: shapes disagree, or there are no queries.
    """
    matrix = np.asarray(values, dtype=np.float64)
    ids = np.asarray(people)
    if matrix.ndim != 2 or matrix.shape[1] != len(ids) or not len(ids):
        raise ValueError(f"values {list(matrix.shape)} do not fit {len(ids)} queries")
    _, clusters = np.unique(ids, return_inverse=True)
    count = int(clusters.max()) + 1
    sizes = np.bincount(clusters, minlength=count)
    sums = np.stack([np.bincount(clusters, row, minlength=count) for row in matrix])
    weights = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=draws)
    means = (weights @ sums.T) / (weights @ sizes)[:, None]
    tail = 100 * (1 - level) / 2
    return np.percentile(means, [tail, 100 - tail], axis=0).T


def codes(query: NDArray[Any], gallery: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return names `[Q]` and `[G]` as numbers that are equal if the names are."""
    numbers = np.unique(np.concatenate([query, gallery]), return_inverse=True)[1].astype(np.int64)
    return numbers[: len(query)], numbers[len(query) :]
