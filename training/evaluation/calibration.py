"""Fit scores to log-likelihood ratios (LLR), and measure how right the probabilities are.

The fit is a logistic regression on two parameters (Platt scaling), weighted so that it gives an LLR and not the
probabilities of the training mix (Brümmer & du Preez, "Application-independent evaluation of speaker detection", 2006,
which also defines Cllr and its minimum). Forms with three parameters (beta calibration, a quadratic, a line with a
kink) were measured too: none is better on all sites (docs/figures/calibration.md).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from pydantic import ValidationError
from scipy.optimize import isotonic_regression, minimize

from model.calibration import Calibration, CalibrationError, Mode, Threshold
from training.evaluation.pairs import Floats, Pairs

FALSE_MATCH_RATES = (1e-2, 1e-3, 1e-4)
"""FMR of the thresholds."""
MIN_PEOPLE = 20
"""Fewest people with a mated pair (of mated pairs, if the people are unknown)."""
MIN_NON_MATED = 300
"""Fewest pairs of two people: the rule of three for the false match rate 0.01."""
FIT_PRIOR = 0.1
"""Share of mated pairs for which the fit is best. At 0.5 the many clear pairs decide, at 0.01 few doubtful ones."""

_LARGEST_SCORE, _SMALLEST_SPREAD = 1e3, 1e-4

_DRAWS = 1000
_RIDGE = 0.0005
"""Weight of a penalty on the slope, divided by the number of people: scores that separate all pairs stay finite."""


def fit(
    pairs: Pairs,
    *,
    embedding_space: str,
    source: str,
    mode: Mode = "cosine",
    fitted_at: datetime | None = None,
    seed: int = 1,
    draws: int = _DRAWS,
) -> Calibration:
    """Fit a calibration.

    Args:
        pairs: from different cameras.
        embedding_space: of the vectors whose scores these are.
        source: on whose tracklets, in words.
        mode: which scores these are.
        fitted_at: by default now.
        seed: of the bootstrap.
        draws: of the bootstrap.

    Raises:
        CalibrationError: there are too few people or pairs, or pairs of one person do not score higher.
    """
    _refuse_too_few(pairs)
    _refuse_odd_scale(pairs.scores)
    slope, intercept = fit_line(pairs)
    if slope <= 0:
        raise CalibrationError(
            "pairs of one person do not score higher than pairs of two people, so these scores say nothing: check that "
            "higher scores mean more similar, and which pairs are marked as the same person"
        )
    try:
        return Calibration(
            embedding_space=embedding_space,
            mode=mode,
            slope=_rounded(slope),
            intercept=_rounded(intercept),
            llr_low=_rounded(-math.log(pairs.mated_people / 3)),
            llr_high=_rounded(math.log(pairs.people_pairs / 3)),
            people=pairs.people,
            cameras=pairs.cameras,
            mated_pairs=pairs.mated,
            non_mated_pairs=pairs.non_mated,
            fitted_at=(fitted_at or datetime.now(UTC)).isoformat(timespec="seconds").replace("+00:00", "Z"),
            source=source,
            thresholds=fit_thresholds(pairs, seed=seed, draws=draws),
        )
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise CalibrationError(f"this calibration cannot be written: {faults}") from None


def _refuse_too_few(pairs: Pairs) -> None:
    who = "people whom two cameras saw" if pairs.named else "pairs of one person"
    if pairs.mated_people < MIN_PEOPLE:
        raise CalibrationError(
            f"too few {who}: {pairs.mated_people}, but a calibration needs at least {MIN_PEOPLE}; label more of them"
        )
    if pairs.non_mated < MIN_NON_MATED:
        raise CalibrationError(
            f"too few pairs of two people from different cameras: {pairs.non_mated}, but a calibration needs at least "
            f"{MIN_NON_MATED}; label more tracklets"
        )
    if pairs.people_pairs <= 3:
        raise CalibrationError(
            f"only {pairs.people_pairs} different pairs of people were compared, but a calibration needs at least 4; "
            "label more people"
        )


def _refuse_odd_scale(scores: Floats) -> None:
    """Refuse scores that the numbers of a calibration, which have six decimals, cannot describe."""
    largest, spread = float(np.abs(scores).max()), float(np.ptp(scores))
    if largest > _LARGEST_SCORE or 0 < spread < _SMALLEST_SPREAD:
        raise CalibrationError(
            f"the scores are {scores.min():g} to {scores.max():g}: a calibration needs scores of at most "
            f"{_LARGEST_SCORE:g} that differ by at least {_SMALLEST_SPREAD:g}; give the scores of the service's answers"
        )


def fit_line(pairs: Pairs, prior: float = FIT_PRIOR) -> tuple[float, float]:
    """Return slope and intercept of the LLR, without a check of the number of pairs."""
    weights = pairs.weights()
    centre = float(weights @ pairs.scores) / 2
    scale = math.sqrt(float(weights @ np.square(pairs.scores - centre)) / 2) or 1.0
    x = (pairs.scores - centre) / scale
    signs = np.where(pairs.same, 1.0, -1.0)
    mass = np.where(pairs.same, prior, 1 - prior) * weights
    shift = math.log(prior / (1 - prior))
    ridge = _RIDGE / max(pairs.mated_people, 1)

    def loss(line: Floats) -> tuple[float, Floats]:
        margins = signs * (line[0] * x + line[1] + shift)
        slopes = -signs * mass * np.exp(-np.logaddexp(0.0, margins))
        value = float(mass @ np.logaddexp(0.0, -margins)) + ridge * line[0] ** 2
        return value, np.array([slopes @ x + 2 * ridge * line[0], slopes.sum()])

    found = minimize(loss, np.zeros(2), jac=True, method="BFGS", options={"gtol": 1e-9}).x
    slope = float(found[0]) / scale
    return slope, float(found[1]) - slope * centre


def fit_thresholds(
    pairs: Pairs, rates: Sequence[float] = FALSE_MATCH_RATES, *, seed: int = 1, draws: int = _DRAWS
) -> tuple[Threshold, ...]:
    """Return the thresholds that the data supports: the false match rate f needs 3 / f pairs of two people.

    The intervals are percentiles of a bootstrap over people: each draw takes people with replacement, with all of
    their pairs, finds its own threshold, and measures its FNMR.
    """
    wanted = [rate for rate in rates if pairs.non_mated >= 3 / rate - 1e-6]
    ordered = pairs.ordered()
    weights = ordered.weights()
    scores = [_threshold(ordered, weights, rate) for rate in wanted]
    drawn = np.array([
        [_fnmr(ordered, drawn, _threshold(ordered, drawn, rate)) for rate in wanted]
        for drawn in _bootstrap(ordered, seed, draws)
    ]).reshape(-1, len(wanted))  # fmt: skip
    found = []
    for column, (rate, exact) in enumerate(zip(wanted, scores, strict=True)):
        score = _rounded_up(exact)
        fnmr = _fnmr(ordered, weights, score)
        low, high = np.percentile(drawn[:, column], [2.5, 97.5])
        found.append(
            Threshold(
                fmr=rate,
                score=score,
                fnmr=round(fnmr, 4),
                fnmr_low=round(min(float(low), fnmr), 4),
                fnmr_high=round(max(float(high), fnmr), 4),
            )
        )
    return tuple(found)


def error_rates(pairs: Pairs, score: float) -> tuple[float, float]:
    """Return FMR and FNMR if pairs that score at least `score` count as the same person."""
    weights = pairs.weights()
    fmr = float(weights[~pairs.same & (pairs.scores >= score)].sum())
    return fmr, _fnmr(pairs, weights, score)


def threshold_at(pairs: Pairs, rate: float) -> float:
    """Return the lowest score at which FMR is at most `rate`."""
    ordered = pairs.ordered()
    return _threshold(ordered, ordered.weights(), rate)


def det_points(pairs: Pairs, points: int = 300) -> tuple[Floats, Floats]:
    """Return FMR `[K]`, falling, and FNMR `[K]` for the DET curve, at thresholds spread over the logarithm of FMR.

    Equal scores are accepted together, so a model that gives few different scores has few points.
    """
    weights = pairs.weights()
    order = np.argsort(pairs.scores[~pairs.same])[::-1]
    falses, masses = pairs.scores[~pairs.same][order], np.cumsum(weights[~pairs.same][order])
    spread = np.round(np.geomspace(1, len(falses), points)).astype(np.int64) - 1
    last_equal = np.searchsorted(-falses, -falses[spread], side="right") - 1
    places = np.unique(last_equal)[::-1]
    mated = np.argsort(pairs.scores[pairs.same])
    trues, missed = pairs.scores[pairs.same][mated], np.append(0.0, np.cumsum(weights[pairs.same][mated]))
    fnmr = missed[np.searchsorted(trues, falses[places], side="left")]
    return np.minimum(masses[places], 1.0), np.clip(fnmr, 0.0, 1.0)


def _threshold(ordered: Pairs, weights: Floats, rate: float) -> float:
    """Return the middle between the lowest accepted and the highest rejected score of pairs of two people."""
    falses, masses = ordered.scores[~ordered.same][::-1], np.cumsum(weights[~ordered.same][::-1])
    # Equal scores are accepted together or not at all.
    last = np.append(falses[1:] != falses[:-1], True)
    accepted = np.flatnonzero(last & (masses <= rate + 1e-12))
    if not len(accepted):
        return float(np.nextafter(falses[0], np.inf))
    place = int(accepted[-1])
    return float(falses[place] + falses[min(place + 1, len(falses) - 1)]) / 2


def _fnmr(pairs: Pairs, weights: Floats, score: float) -> float:
    return float(min(1.0, weights[pairs.same & (pairs.scores < score)].sum()))


def _bootstrap(pairs: Pairs, seed: int, draws: int) -> Iterator[Floats]:
    """Yield the weights `[P]` of each draw of people."""
    random = np.random.default_rng(seed)
    people = np.unique(pairs.first if not pairs.named else np.concatenate([pairs.first, pairs.second]))
    times = np.zeros(int(people.max()) + 1)
    for _ in range(draws):
        times[people] = random.multinomial(len(people), np.full(len(people), 1 / len(people)))
        weights = pairs.weights(times)
        if weights[pairs.same].any() and weights[~pairs.same].any():
            yield weights


@dataclass(frozen=True)
class Bin:
    """One bar of the reliability diagram."""

    predicted: float
    """mean probability of its pairs, at prior 0.5"""
    observed: float
    """weighted share of them that are mated"""
    low: float
    high: float
    """95% interval of `observed`, by bootstrap over people"""
    share: float
    """weighted share of all pairs"""


@dataclass(frozen=True)
class Quality:
    """How right LLRs are. The weights are those of `Pairs.weights`.

    Attributes:
        cllr: cost of log-likelihood ratios, in bits: 0 is perfect, 1 what a system costs that knows nothing.
        min_cllr: the cost after the best monotone calibration on the same pairs; the rest of `cllr` is the
            calibration's fault.
        ece: expected calibration error of the probabilities at prior 0.5, over ten bins.
        brier: mean squared error of these probabilities.
        bins: of the reliability diagram.
    """

    cllr: float
    min_cllr: float
    ece: float
    brier: float
    bins: tuple[Bin, ...]


def measure(pairs: Pairs, llr: Floats, *, bins: int = 10, seed: int = 1, draws: int = 500) -> Quality:
    """Measure LLRs `[P]` (natural logarithm) of pairs."""
    weights = pairs.weights()
    probability = np.exp(-np.logaddexp(0.0, -llr))
    truth = pairs.same.astype(np.float64)
    place = np.minimum((probability * bins).astype(np.int64), bins - 1)

    def sums(values: Floats) -> Floats:
        return np.asarray(np.bincount(place, values, minlength=bins), np.float64)

    share, hits, mean = sums(weights) / 2, sums(weights * truth) / 2, sums(weights * probability) / 2
    drawn = [
        np.divide(sums(w * truth), sums(w), out=np.full(bins, np.nan), where=sums(w) > 0)
        for w in _bootstrap(pairs, seed, draws)
    ]
    with np.errstate(invalid="ignore"):
        bars = []
        for index in np.flatnonzero(share > 0):
            values = np.array([row[index] for row in drawn if not np.isnan(row[index])])
            low, high = np.percentile(values, [2.5, 97.5]) if len(values) else (0.0, 1.0)
            observed = float(hits[index] / share[index])
            bars.append(Bin(float(mean[index] / share[index]), observed, float(low), float(high), float(share[index])))
    return Quality(
        cllr=cllr(pairs, llr),
        min_cllr=cllr(pairs, best_llr(pairs)),
        ece=float(np.abs(hits - mean).sum()),
        brier=float(weights @ np.square(probability - truth)) / 2,
        bins=tuple(bars),
    )


def cllr(pairs: Pairs, llr: Floats) -> float:
    """Return the cost of log-likelihood ratios `[P]` in bits."""
    costs = np.logaddexp(0.0, np.where(pairs.same, -llr, llr))
    return float(pairs.weights() @ costs) / (2 * math.log(2))


def best_llr(pairs: Pairs) -> Floats:
    """Return the LLRs `[P]` of the best monotone calibration of these pairs (pool adjacent violators)."""
    # Equal scores are one step, whatever the order of their pairs.
    levels, inverse = np.unique(pairs.scores, return_inverse=True)
    weights = pairs.weights()
    mated = np.bincount(inverse, weights * pairs.same, minlength=len(levels))
    both = np.bincount(inverse, weights, minlength=len(levels))
    share = isotonic_regression(mated / both, weights=both).x[inverse]
    share = np.clip(share, 1e-12, 1 - 1e-12)
    return np.asarray(np.log(share) - np.log1p(-share), np.float64)


def cross_fit(pairs: Pairs, seed: int = 1) -> tuple[Pairs, Floats]:
    """Return pairs and their LLRs from a line that was fitted on other people: one half each on the other.

    Pairs of a person of one half and a person of the other are left out.

    Raises:
        CalibrationError: a half has no pairs of one kind.
    """
    people = np.unique(np.concatenate([pairs.first, pairs.second[pairs.second >= 0]]))
    shuffled = np.random.default_rng(seed).permutation(people)
    halves = [pairs.of_people(half) for half in np.array_split(shuffled, 2)]
    if any(not half.mated or not half.non_mated for half in halves):
        raise CalibrationError("too few people to fit a calibration on one half and measure it on the other")
    llr = []
    for half, other in (halves, halves[::-1]):
        slope, intercept = fit_line(other)
        raw = slope * half.scores + intercept
        low, high = -math.log(max(other.mated_people / 3, 1.0)), math.log(max(other.people_pairs / 3, 1.0))
        llr.append(np.clip(raw, low, high))
    first, second = halves
    joined = Pairs(
        np.concatenate([first.scores, second.scores]),
        np.concatenate([first.same, second.same]),
        np.concatenate([first.first, second.first]),
        np.concatenate([first.second, second.second]),
        pairs.cameras,
    )
    return joined, np.concatenate(llr)


def _rounded(value: float) -> float:
    return round(float(value), 6)


def _rounded_up(score: float) -> float:
    """Return a score of six decimals that is not below `score`, so that it accepts no pair that `score` rejects."""
    rounded = math.ceil(score * 1e6) / 1e6
    # The product may be rounded down to a whole number, for example if `score` is just above equal scores.
    return rounded if rounded >= score else round(rounded + 1e-6, 6)
