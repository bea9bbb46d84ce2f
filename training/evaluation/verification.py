"""Verification: do two tracklets show the same person? ROC, and true accept rate (TAR) at a false accept rate (FAR)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from training.evaluation.metrics import codes

FALSE_ACCEPT_RATES = (1e-2, 1e-3, 1e-4)
"""Reported operating points (FAR)."""

_BINS = 100
_CURVE = 400


@dataclass(frozen=True)
class Verification:
    """Scores (higher is more similar) of pairs of a query and a gallery tracklet from different cameras."""

    same_pairs: int
    different_pairs: int
    false_accept: NDArray[np.float64]
    """`[K]`, ascending: false accept rates of the ROC"""
    true_accept: NDArray[np.float64]
    """`[K]`: true accept rates at these"""
    tar_at: dict[float, float]
    """true accept rate by false accept rate; NaN if one wrong pair is already more than that rate"""
    threshold_at: dict[float, float]
    """lowest accepted score by false accept rate; NaN as in `tar_at`"""
    bins: NDArray[np.float64]
    """`[B + 1]`: edges of the two histograms"""
    same_histogram: NDArray[np.int64]
    """`[B]`: pairs of the same person"""
    different_histogram: NDArray[np.int64]
    """`[B]`: pairs of different people"""


def verify(
    scores: ArrayLike,
    query_ids: Sequence[str] | ArrayLike,
    gallery_ids: Sequence[str] | ArrayLike,
    query_cameras: Sequence[str] | ArrayLike,
    gallery_cameras: Sequence[str] | ArrayLike,
) -> Verification:
    """Measure verification on all pairs from different cameras.

    Pairs from one camera are left out: tracklets from one camera are similar because the background is. At a false
    accept rate r over n wrong pairs, floor(r n) of these may be accepted, and a pair is accepted if its score is above
    that of the next wrong pair. Ties count as wrong.

    Args:
        scores: `[Q, G]`, higher is more similar
        query_ids: person ids `[Q]`
        gallery_ids: person ids `[G]`; distractors count as other people
        query_cameras: camera ids `[Q]`
        gallery_cameras: camera ids `[G]`

    Raises:
        ValueError: there are no pairs of the same person, or none of different people, from different cameras.
    """
    matrix = np.asarray(scores)
    q_id, g_id, q_cam, g_cam = (np.asarray(a) for a in (query_ids, gallery_ids, query_cameras, gallery_cameras))
    (q_id, g_id), (q_cam, g_cam) = codes(q_id, g_id), codes(q_cam, g_cam)
    across = q_cam[:, None] != g_cam[None]
    same_person = q_id[:, None] == g_id[None]
    same = np.sort(matrix[across & same_person]).astype(np.float64)
    different = np.sort(matrix[across & ~same_person]).astype(np.float64)
    if not len(same) or not len(different):
        raise ValueError("verification needs pairs of the same and of different people from different cameras")
    accepted = np.unique(np.round(np.geomspace(1, len(different), _CURVE)).astype(np.int64)) - 1
    thresholds = different[len(different) - 1 - accepted]
    tar_at, threshold_at = {}, {}
    for rate in FALSE_ACCEPT_RATES:
        allowed = int(np.floor(rate * len(different) + 1e-9))
        resolved = allowed >= 1
        threshold = different[len(different) - 1 - allowed] if resolved else np.nan
        above = len(same) - int(np.searchsorted(same, threshold, side="right")) if resolved else 0
        tar_at[rate] = above / len(same) if resolved else float("nan")
        threshold_at[rate] = float(same[len(same) - above]) if resolved and above else float(threshold)
    low, high = min(same[0], different[0]), max(same[-1], different[-1])
    if low == high:  # a model that gives the same embedding for all tracklets
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, _BINS + 1)
    return Verification(
        same_pairs=len(same),
        different_pairs=len(different),
        false_accept=accepted / len(different),
        true_accept=1 - np.searchsorted(same, thresholds, side="right") / len(same),
        tar_at=tar_at,
        threshold_at=threshold_at,
        bins=edges,
        same_histogram=np.histogram(same, edges)[0],
        different_histogram=np.histogram(different, edges)[0],
    )
