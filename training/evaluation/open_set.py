"""Open-set identification: is the person in the gallery, and if so, who is it?

DIR at FPIR as in Grother & Ngan, "FRVT: Performance of Face Identification Algorithms" (NIST IR 8009), and Phillips,
Grother & Micheals, "Evaluation Methods in Face Recognition" (2011).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from training.evaluation.metrics import codes

FALSE_POSITIVE_RATES = (1e-1, 1e-2)
"""Reported operating points (FPIR)."""


@dataclass(frozen=True)
class OpenSet:
    """Rates over mated probes, whose person is enrolled, and non-mated probes, whose person is not."""

    mated: int
    non_mated: int
    false_positive: NDArray[np.float64]
    """`[K]`, ascending: share of non-mated probes whose best score is accepted (FPIR)"""
    detection: NDArray[np.float64]
    """`[K]`: share of mated probes whose best answer is right and accepted (DIR at rank 1)"""
    dir_at: dict[float, float]
    """detection and identification rate by FPIR; NaN if one probe is already more than that rate"""


def open_set(
    scores: ArrayLike,
    query_ids: Sequence[str] | ArrayLike,
    gallery_ids: Sequence[str] | ArrayLike,
    query_cameras: Sequence[str] | ArrayLike,
    gallery_cameras: Sequence[str] | ArrayLike,
    seed: int = 1,
) -> OpenSet | None:
    """Measure open-set identification after the gallery rows of half of the query people are removed.

    Queries without a right answer in the gallery are non-mated probes too. As usual in the field, a query is not
    compared with rows of its person and camera.

    Args:
        scores: `[Q, G]`, higher is more similar
        query_ids: person ids `[Q]`
        gallery_ids: person ids `[G]`
        query_cameras: camera ids `[Q]`
        gallery_cameras: camera ids `[G]`
        seed: of the halves

    Returns:
        The rates, or None if there are no probes of one kind.
    """
    matrix = np.asarray(scores)
    q_id, g_id, q_cam, g_cam = (np.asarray(a) for a in (query_ids, gallery_ids, query_cameras, gallery_cameras))
    people = np.unique(q_id)
    out = np.random.default_rng(seed).permutation(people)[: len(people) // 2]
    enrolled = ~np.isin(g_id, out)
    # After the draw: people are drawn by name, so a seed gives the same halves for every gallery.
    (q_id, g_id), (q_cam, g_cam) = codes(q_id, g_id), codes(q_cam, g_cam)
    rows, rows_cam = g_id[enrolled], g_cam[enrolled]
    right, wrong = [], []
    for row, candidates in enumerate(matrix[:, enrolled].astype(np.float64)):
        same = rows == q_id[row]
        usable = ~(same & (rows_cam == q_cam[row]))
        if not usable.any():
            continue
        best = int(np.argmax(np.where(usable, candidates, -np.inf)))
        if (same & usable).any():
            right.append(candidates[best] if same[best] else -np.inf)
        else:
            wrong.append(candidates[best])
    if not right or not wrong:
        return None
    found, alarms = np.sort(right), np.sort(wrong)
    count = len(alarms)
    # If k false alarms are allowed, an answer is accepted above the score of the next alarm.
    thresholds = np.append(alarms[::-1], -np.inf)
    detection = 1 - np.searchsorted(found, thresholds, side="right") / len(found)
    at = {}
    for rate in FALSE_POSITIVE_RATES:
        allowed = int(np.floor(rate * count + 1e-9))
        at[rate] = float(detection[allowed]) if allowed >= 1 else float("nan")
    return OpenSet(len(found), count, np.arange(count + 1) / count, detection, at)
