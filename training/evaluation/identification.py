"""Errors of a search in galleries of several sizes: FPIR and FNIR, as NIST's FRVT 1:N tests report them.

FPIR(N, T): share of searches for a person who is not enrolled that return a candidate of at least the score T from a
gallery of N tracklets. FNIR(N, R, T): share of searches for an enrolled person in which no tracklet of that person is
among the first R with at least the score T. *Identification* counts all answers above a threshold; *investigation* has
no threshold, and a human looks at the first R.

For a gallery no larger than the data the rates are measured: the average over all galleries of N that can be drawn from
the data has a closed form. For a larger one they are estimated as if each further tracklet were as likely to score high
as those at hand.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaln
from scipy.stats import binom, hypergeom

from training.evaluation.calibration import threshold_at
from training.evaluation.metrics import codes
from training.evaluation.pairs import Floats, Pairs, sites_of

SIZES = (100, 1_000, 10_000)
"""Tracklets in the gallery."""
FALSE_POSITIVE_RATES = (0.1, 0.01)
"""FPIR of the identification table."""
RANKS = (1, 10, 50)
"""Candidates that a human looks at."""

How = Literal["measured", "estimate", "too few"]

_MAX_PROBES = 2_000
_MAX_EXTRAPOLATION = 10
"""Galleries this many times as large as the data are still estimated for investigation."""


@dataclass(frozen=True)
class Identification:
    """FNIR at the threshold that gives this FPIR in a gallery of this size.

    Attributes:
        gallery: number of tracklets.
        fpir: wanted.
        how: `too few` if the data cannot tell; then `score` and `fnir` are None.
        score: the threshold.
        fnir: at this threshold, without a limit on the number of candidates.
        needed: number of pairs of two people that an estimate needs.
    """

    gallery: int
    fpir: float
    how: How
    score: float | None
    fnir: float | None
    needed: int


@dataclass(frozen=True)
class Investigation:
    """FNIR without a threshold by the number of candidates; empty if the data cannot tell."""

    gallery: int
    how: How
    fnir: dict[int, float]


@dataclass(frozen=True)
class SearchErrors:
    """Both tables, and the number of probes behind them."""

    mated: int
    non_mated: int
    identification: tuple[Identification, ...]
    investigation: tuple[Investigation, ...]


@dataclass(frozen=True)
class _Probe:
    others: NDArray[np.float32]
    """ascending scores of other people's tracklets"""
    mate: float | None
    """best score of a tracklet of the same person"""


def search_errors(
    scores: ArrayLike,
    query_ids: Sequence[str] | ArrayLike,
    gallery_ids: Sequence[str] | ArrayLike,
    query_cameras: Sequence[str] | ArrayLike,
    gallery_cameras: Sequence[str] | ArrayLike,
    pairs: Pairs,
    *,
    sizes: Sequence[int] = SIZES,
    seed: int = 1,
) -> SearchErrors:
    """Measure or estimate the errors of searches across the cameras of a site.

    Each query is a probe for both rates: once without and once with the tracklets of its person.

    Args:
        scores: `[Q, G]`, higher is more similar.
        query_ids: person ids `[Q]`.
        gallery_ids: person ids `[G]`.
        query_cameras: camera ids `[Q]`.
        gallery_cameras: camera ids `[G]`.
        pairs: of the same scores, for the estimates.
        sizes: of the galleries.
        seed: of the choice of probes, if there are more than 2,000.
    """
    probes = _probes(scores, query_ids, gallery_ids, query_cameras, gallery_cameras, seed)
    mated = [probe for probe in probes if probe.mate is not None]
    identification = tuple(_identify(probes, pairs, size, rate) for size in sizes for rate in FALSE_POSITIVE_RATES)
    return SearchErrors(len(mated), len(probes), identification, tuple(_investigate(mated, size) for size in sizes))


def fpir_estimate(fmr: float, gallery: int) -> float:
    """Return FPIR in a gallery of this size if its comparisons were independent."""
    return float(-np.expm1(gallery * np.log1p(-fmr)))


def _probes(
    scores: ArrayLike, query_ids: ArrayLike, gallery_ids: ArrayLike, query_cameras: ArrayLike,
    gallery_cameras: ArrayLike, seed: int,
) -> list[_Probe]:  # fmt: skip
    matrix = np.asarray(scores, np.float32)
    q_id, g_id, q_cam, g_cam = (np.asarray(a) for a in (query_ids, gallery_ids, query_cameras, gallery_cameras))
    q_site, g_site = sites_of(q_id, g_id)
    (q_id, g_id), (q_cam, g_cam) = codes(q_id, g_id), codes(q_cam, g_cam)
    rows = np.arange(len(q_id))
    if len(rows) > _MAX_PROBES:
        rows = np.random.default_rng(seed).permutation(rows)[:_MAX_PROBES]
    probes = []
    for row in rows:
        usable = (g_cam != q_cam[row]) & (g_site == q_site[row]) & np.isfinite(matrix[row])
        same = g_id == q_id[row]
        others, mates = matrix[row, usable & ~same], matrix[row, usable & same]
        if len(others):
            probes.append(_Probe(np.sort(others), float(mates.max()) if len(mates) else None))
    return probes


def _identify(probes: Sequence[_Probe], pairs: Pairs, size: int, rate: float) -> Identification:
    fmr = -float(np.expm1(np.log1p(-rate) / size))
    needed = int(np.ceil(3 / fmr))
    able = [probe for probe in probes if len(probe.others) >= size]
    mates = np.array([probe.mate for probe in probes if probe.mate is not None])
    how: How = "too few"
    score: float | None = None
    if 2 * len(able) >= len(probes) and rate * len(able) >= 1:
        how, score = "measured", _score_at(able, size, rate)
    elif pairs.non_mated >= needed:
        how, score = "estimate", threshold_at(pairs, fmr)
    fnir = None if score is None or not len(mates) else float((mates < score).mean())
    return Identification(size, rate, how, score, fnir, needed)


def _score_at(probes: Sequence[_Probe], size: int, rate: float) -> float:
    """Return the lowest score, of the probes' own, at which FPIR in a gallery of `size` is at most `rate`."""
    candidates = np.unique(np.concatenate([probe.others for probe in probes]))
    low, high = 0, len(candidates)  # `high` is a score above all
    while low < high:
        middle = (low + high) // 2
        if _fpir(probes, size, float(candidates[middle])) <= rate:
            high = middle
        else:
            low = middle + 1
    return float(candidates[high]) if high < len(candidates) else float(np.nextafter(candidates[-1], np.inf))


def _fpir(probes: Sequence[_Probe], size: int, score: float) -> float:
    total = np.array([len(probe.others) for probe in probes], np.float64)
    below = np.array([np.searchsorted(probe.others, np.float32(score), side="left") for probe in probes], np.float64)
    return float((1 - np.exp(_log_share_of_draws(below, total, size))).mean())


def _log_share_of_draws(below: Floats, total: Floats, size: int) -> Floats:
    """Return the logarithm of the share of the draws of `size` from `total` that lie within `below`."""
    enough = below >= size
    inside = np.where(enough, below, size)
    logarithm = gammaln(inside + 1) - gammaln(inside - size + 1) - gammaln(total + 1) + gammaln(total - size + 1)
    return np.where(enough, logarithm, -np.inf)


def _investigate(mated: Sequence[_Probe], size: int) -> Investigation:
    if not mated:
        return Investigation(size, "too few", {})
    total = np.array([len(probe.others) for probe in mated])
    above = np.array([
        len(probe.others) - np.searchsorted(probe.others, np.float32(probe.mate or 0.0), side="left")
        for probe in mated
    ])  # fmt: skip
    if 2 * (total >= size).sum() >= len(mated):
        able = total >= size
        missed = {rank: hypergeom.sf(rank - 1, total[able], above[able], size) for rank in RANKS}
        return Investigation(size, "measured", {rank: float(np.mean(share)) for rank, share in missed.items()})
    if size <= _MAX_EXTRAPOLATION * float(np.median(total)):
        missed = {rank: binom.sf(rank - 1, size, above / total) for rank in RANKS}
        return Investigation(size, "estimate", {rank: float(np.mean(share)) for rank, share in missed.items()})
    return Investigation(size, "too few", {})
