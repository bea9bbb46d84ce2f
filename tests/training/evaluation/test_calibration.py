import math
from typing import Any

import numpy as np
import pytest

from model.calibration import Calibration, CalibrationError
from training.evaluation.calibration import (
    best_llr,
    cllr,
    cross_fit,
    det_points,
    error_rates,
    fit,
    fit_line,
    fit_thresholds,
    measure,
)
from training.evaluation.pairs import Pairs

SPACE = "0123456789abcdef"


def draw(
    people: int = 60, *, tracklets: int = 4, separation: float = 1.0, spread: float = 0.25, seed: int = 1
) -> Pairs:
    """Normal scores of mean m = `separation` for mated pairs and 0 for others: LLR = (s - m / 2) * m / spread^2."""
    random = np.random.default_rng(seed)
    mated = [(p, p) for p in range(people) for _ in range(tracklets)]
    others = [(a, b) for a in range(people) for b in range(a) for _ in range(tracklets)]
    first, second = np.array(mated + others).T
    same = first == second
    scores = np.where(same, separation, 0.0) + spread * random.standard_normal(len(same))
    return Pairs(scores, same, first, second, cameras=2)


def fitted(pairs: Pairs, **facts: Any) -> Calibration:
    return fit(pairs, embedding_space=SPACE, source="drawn", **facts)


def test_fit_finds_the_true_llr_whatever_the_mix() -> None:
    pairs = draw(people=120, separation=0.6)

    slope, intercept = fit_line(pairs)
    assert slope == pytest.approx(9.6, rel=0.1)
    assert intercept == pytest.approx(-2.88, rel=0.1)

    few = pairs.subset(pairs.same | (np.random.default_rng(1).random(len(pairs.same)) < 0.1))
    assert fit_line(few) == pytest.approx((slope, intercept), rel=0.15)


def test_one_person_with_many_tracklets_does_not_decide() -> None:
    pairs = draw(people=30)
    extra = np.full(5000, 7)
    crowded = Pairs(
        np.append(pairs.scores, np.full(5000, 0.05)),
        np.append(pairs.same, np.ones(5000, bool)),
        np.append(pairs.first, extra),
        np.append(pairs.second, extra),
        2,
    )

    # Person 7 has low scores now, and changes as much as one person of 30 does.
    low = pairs.scores.copy()
    low[pairs.same & (pairs.first == 7)] = 0.05
    alone = Pairs(low, pairs.same, pairs.first, pairs.second, 2)
    assert fit_line(crowded) == pytest.approx(fit_line(alone), rel=0.02)


def test_calibration_says_on_what_it_was_fitted_and_how_certain_it_may_be() -> None:
    pairs = draw(people=60)

    calibration = fitted(pairs, mode="mean")

    assert (calibration.people, calibration.cameras, calibration.mode) == (60, 2, "mean")
    assert (calibration.mated_pairs, calibration.non_mated_pairs) == (240, 4 * 60 * 59 // 2)
    assert calibration.llr_high == pytest.approx(math.log(60 * 59 / 2 / 3), abs=1e-5)
    assert calibration.llr_low == pytest.approx(-math.log(20), abs=1e-5)
    assert calibration.fitted_at.endswith("Z")
    assert fitted(pairs, mode="mean").slope == calibration.slope


def test_scores_that_separate_all_pairs_stay_finite() -> None:
    calibration = fitted(draw(people=20, spread=0.01))

    assert 0 < calibration.slope < 1000
    assert 0 < float(calibration.llr(1.0)) == calibration.llr_high


def test_thresholds_have_their_fmr_and_an_interval() -> None:
    pairs = draw(people=80, separation=0.6)

    thresholds = fit_thresholds(pairs, draws=200)

    assert [t.fmr for t in thresholds] == [1e-2, 1e-3]  # 12,640 pairs cannot tell 1e-4
    for threshold in thresholds:
        fmr, fnmr = error_rates(pairs, threshold.score)
        assert fmr <= threshold.fmr
        assert fmr == pytest.approx(threshold.fmr, rel=0.1)
        assert fnmr == pytest.approx(threshold.fnmr, abs=1e-4)
        assert threshold.fnmr_low < threshold.fnmr < threshold.fnmr_high
    truth = 0.5 * math.erfc((0.6 - 2.326 * 0.25) / 0.25 / math.sqrt(2))
    assert thresholds[0].fnmr_low <= truth <= thresholds[0].fnmr_high


def test_fewer_people_have_wider_intervals() -> None:
    def width(people: int) -> float:
        first = fit_thresholds(draw(people=people, separation=0.6), (1e-2,), draws=300)[0]
        return first.fnmr_high - first.fnmr_low

    assert width(25) > 1.3 * width(100)


def test_equal_scores_are_accepted_together() -> None:
    pairs = draw(people=40)
    coarse = Pairs(np.round(pairs.scores, 1), pairs.same, pairs.first, pairs.second, 2)

    for threshold in fit_thresholds(coarse, draws=20):
        assert error_rates(coarse, threshold.score)[0] <= threshold.fmr


def test_a_threshold_that_the_data_cannot_support_is_left_out() -> None:
    assert [t.fmr for t in fitted(draw(people=20, tracklets=2)).thresholds] == [1e-2]


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (draw(people=19), "too few people whom two cameras saw: 19, but a calibration needs at least 20"),
        (draw(people=20, tracklets=1), "too few pairs of two people from different cameras: 190, .* at least 300"),
    ],
)
def test_too_few_are_refused_with_the_number_that_is_needed(pairs: Pairs, message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        fitted(pairs)


def test_pairs_without_names_are_counted_as_pairs() -> None:
    named = draw(people=10)
    pairs = Pairs(named.scores, named.same, np.arange(len(named.same)), np.full(len(named.same), -1))

    with pytest.raises(CalibrationError, match="at least 300"):
        fitted(pairs)
    named = draw(people=30)
    calibration = fitted(Pairs(named.scores, named.same, np.arange(len(named.same)), np.full(len(named.same), -1)))
    assert (calibration.people, calibration.cameras) == (0, 0)
    assert calibration.llr_low == pytest.approx(-math.log(40), abs=1e-5)


def test_scores_that_fall_with_likeness_are_refused() -> None:
    pairs = draw()

    with pytest.raises(CalibrationError, match="do not score higher"):
        fitted(Pairs(-pairs.scores, pairs.same, pairs.first, pairs.second, 2))


def test_cllr_is_one_for_a_system_that_knows_nothing_and_zero_for_a_perfect_one() -> None:
    pairs = draw()

    assert cllr(pairs, np.zeros(len(pairs.same))) == pytest.approx(1)
    assert cllr(pairs, np.where(pairs.same, 50.0, -50.0)) == pytest.approx(0, abs=1e-9)


def test_no_monotone_calibration_costs_less_than_the_minimum() -> None:
    pairs = draw(separation=0.5)
    best = cllr(pairs, best_llr(pairs))

    for slope, intercept in (fit_line(pairs, 0.5), fit_line(pairs, 0.01), (3.0, 0.0), (8.0, -2.0)):
        assert cllr(pairs, slope * pairs.scores + intercept) >= best
    ranks = np.argsort(np.argsort(pairs.scores)).astype(float)
    assert cllr(pairs, best_llr(Pairs(ranks, pairs.same, pairs.first, pairs.second))) == pytest.approx(best)


def test_right_probabilities_have_a_small_calibration_error_and_wrong_ones_a_large_one() -> None:
    pairs = draw(people=150, separation=0.4)
    truth = (pairs.scores - 0.2) * 0.4 / 0.25**2

    right, wrong = measure(pairs, truth, draws=50), measure(pairs, 4 * truth + 3, draws=50)

    assert right.ece < 0.02
    assert wrong.ece > 0.1
    assert right.brier < wrong.brier
    assert right.min_cllr <= right.cllr < wrong.cllr
    assert sum(bar.share for bar in right.bins) == pytest.approx(1)
    inside = [bar for bar in right.bins if bar.low - 0.02 <= bar.predicted <= bar.high + 0.02]
    assert len(inside) >= len(right.bins) - 2


def test_det_curve_has_the_rates_of_its_thresholds() -> None:
    pairs = draw(separation=0.5)

    fmr, fnmr = det_points(pairs)

    assert (np.diff(fmr) < 0).all()
    assert (np.diff(fnmr) >= 0).all()
    score = float(np.sort(pairs.scores[~pairs.same])[-50])
    wanted = error_rates(pairs, score)
    place = int(np.argmin(np.abs(fmr - wanted[0])))
    assert fnmr[place] == pytest.approx(wanted[1], abs=0.03)


def test_cross_fit_measures_each_half_with_the_other() -> None:
    pairs = draw(people=80)

    joined, llr = cross_fit(pairs)

    assert joined.mated == pairs.mated
    assert joined.non_mated == pytest.approx(pairs.non_mated / 2, rel=0.05)
    assert len(llr) == len(joined.scores)
    assert cllr(joined, llr) < 0.4
    with pytest.raises(CalibrationError, match="too few people"):
        cross_fit(draw(people=2))


@pytest.mark.parametrize("stranger", [0.1, -0.2, 0.100057, 0.337257, 0.580652])
def test_threshold_above_equal_scores_does_not_accept_them(stranger: float) -> None:
    pairs = draw(people=30)
    equal = Pairs(np.where(pairs.same, 0.9, stranger), pairs.same, pairs.first, pairs.second, 2)

    for threshold in fitted(equal, draws=20).thresholds:
        assert error_rates(equal, threshold.score) == (0.0, 0.0)


def test_miss_rate_of_a_threshold_is_that_of_the_rounded_score() -> None:
    pairs = draw(people=30)
    near = np.where(pairs.first % 2 == 0, 0.5 + 3e-7, 0.6)
    close = Pairs(np.where(pairs.same, near, 0.5), pairs.same, pairs.first, pairs.second, 2)

    (threshold,) = fit_thresholds(close, [1e-2], draws=20)

    assert threshold.score == 0.500001
    assert threshold.fnmr == 0.5
    assert error_rates(close, threshold.score) == (0.0, pytest.approx(0.5))


@pytest.mark.parametrize("factor", [1e-9, 1e9, 1e200])
def test_scores_of_an_odd_scale_are_refused(factor: float) -> None:
    pairs = draw()
    with pytest.raises(CalibrationError, match="a calibration needs scores of at most"):
        fitted(Pairs(pairs.scores * factor, pairs.same, pairs.first, pairs.second, 2))


def test_text_that_is_too_long_for_a_calibration_is_named() -> None:
    with pytest.raises(CalibrationError, match=r"source: .*2000"):
        fit(draw(people=30), embedding_space=SPACE, source="x" * 2001, draws=20)


def test_det_curve_accepts_equal_scores_together() -> None:
    pairs = draw(people=30)
    constant = Pairs(np.full(len(pairs.scores), 0.5), pairs.same, pairs.first, pairs.second, 2)
    fmr, fnmr = det_points(constant)
    assert (fmr.tolist(), fnmr.tolist()) == ([pytest.approx(1.0)], [0.0])

    coarse = Pairs(np.round(pairs.scores, 1), pairs.same, pairs.first, pairs.second, 2)
    falses = np.unique(coarse.scores[~coarse.same])
    measured = {error_rates(coarse, float(score)) for score in falses}
    for point in zip(*det_points(coarse), strict=True):
        assert any(point == pytest.approx(rates) for rates in measured)
