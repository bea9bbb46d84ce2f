"""CMC, mAP and mINP under the rule of the field: gallery rows of the query's person and camera are left out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class RankMetrics:
    """All as shares of 1, averaged over the queries that have a right answer in the gallery."""

    cmc: NDArray[np.float64]
    """``[G]``: share of queries with a right answer among the first k + 1"""
    mean_ap: float
    mean_inp: float
    valid_queries: int
    valid: NDArray[np.int64]
    """``[V]``: which queries had a right answer; the rows of the three arrays below"""
    first_hit: NDArray[np.int64]
    """``[V]``: rank of the first right answer, from 1"""
    average_precision: NDArray[np.float64]
    """``[V]``"""
    inverse_penalty: NDArray[np.float64]
    """``[V]``: right answers / rank of the last of them (Ye et al., "Deep Learning for Person Re-identification",
    TPAMI 2021)"""

    @property
    def rank1(self) -> float:
        """Share of queries whose first answer is right."""
        return float(self.cmc[0])


def rank_metrics(
    distances: ArrayLike,
    query_ids: Sequence[str] | ArrayLike,
    gallery_ids: Sequence[str] | ArrayLike,
    query_cameras: Sequence[str] | ArrayLike,
    gallery_cameras: Sequence[str] | ArrayLike,
    average_precision: Literal["step", "trapezoid"] = "step",
) -> RankMetrics:
    """Ranks the gallery for each query by distance (ties by position).

    Args:
        distances: ``[Q, G]``, lower is nearer
        query_ids: ``[Q]`` person ids; likewise the others
        gallery_ids: ``[G]``
        query_cameras: ``[Q]``
        gallery_cameras: ``[G]``
        average_precision: ``step``, the mean of the precision at each hit; or ``trapezoid``, as in MARS's MATLAB
        program

    Raises:
        ValueError: shapes disagree, or no query has a right answer.
    """
    matrix = np.asarray(distances)
    q_id, g_id, q_cam, g_cam = (np.asarray(a) for a in (query_ids, gallery_ids, query_cameras, gallery_cameras))
    if matrix.shape != (len(q_id), len(g_id)) or len(q_id) != len(q_cam) or len(g_id) != len(g_cam):
        raise ValueError(f"distances {list(matrix.shape)} do not belong to {len(q_id)} queries and {len(g_id)} rows")
    if average_precision not in ("step", "trapezoid"):
        raise ValueError(f"unknown average precision {average_precision!r}")
    # Comparing strings for every pair is most of the time at MARS's size.
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
            # Precision just before each hit; at the very top it counts as 1.
            before = np.divide(found - 1, hits, out=np.ones(len(hits)), where=hits > 0)
            precision = (before + precision) / 2
        precisions.append(precision.mean())
        penalties.append(len(hits) / (hits[-1] + 1))
    if not valid:
        raise ValueError("no query has a right answer under another camera in the gallery")
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


def codes(query: NDArray[Any], gallery: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Names ``[Q]`` and ``[G]`` as numbers that are equal where the names are."""
    numbers = np.unique(np.concatenate([query, gallery]), return_inverse=True)[1].astype(np.int64)
    return numbers[: len(query)], numbers[len(query) :]
