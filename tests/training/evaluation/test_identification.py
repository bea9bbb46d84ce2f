import numpy as np
import pytest

from training.evaluation.calibration import error_rates
from training.evaluation.identification import SearchErrors, fpir_estimate, search_errors
from training.evaluation.pairs import pairs_of_matrix


def measure(people: int, sizes: tuple[int, ...], seed: int = 1) -> tuple[SearchErrors, np.ndarray]:
    """One probe and one gallery tracklet a person, by two cameras; independent normal scores."""
    random = np.random.default_rng(seed)
    scores = random.standard_normal((people, people)) + 3 * np.eye(people)
    names = [str(k) for k in range(people)]
    sides = names, names, ["1"] * people, ["2"] * people
    return search_errors(scores, *sides, pairs_of_matrix(scores, *sides), sizes=sizes), scores


def test_rates_of_small_galleries_are_those_of_galleries_that_are_drawn() -> None:
    errors, scores = measure(300, (100,))
    row = errors.identification[0]
    assert (row.gallery, row.fpir, row.how) == (100, 0.1, "measured")
    assert (errors.mated, errors.non_mated) == (300, 300)

    random = np.random.default_rng(7)
    alarms, missed = [], {1: [], 10: []}
    for _ in range(40):
        drawn = random.permutation(300)[:100]
        for probe in range(300):
            rows = drawn[drawn != probe]
            others = scores[probe, rows]
            alarms.append(others.max() >= row.score)
            for rank, misses in missed.items():
                misses.append((others >= scores[probe, probe]).sum() >= rank)
    assert np.mean(alarms) == pytest.approx(0.1, abs=0.02)
    assert row.fnir == pytest.approx((np.diag(scores) < row.score).mean())
    found = errors.investigation[0]
    assert found.how == "measured"
    for rank, misses in missed.items():
        assert found.fnir[rank] == pytest.approx(np.mean(misses), abs=0.02)


def test_larger_galleries_are_estimated_and_called_so() -> None:
    small, _ = measure(200, (1_000,))
    large, _ = measure(1_200, (1_000,), seed=2)

    assert [row.how for row in small.identification] == ["estimate", "too few"]
    assert [row.how for row in large.identification] == ["measured", "measured"]
    assert small.identification[0].score == pytest.approx(large.identification[0].score, abs=0.4)
    assert small.investigation[0].how == "estimate"
    assert small.investigation[0].fnir[10] == pytest.approx(large.investigation[0].fnir[10], abs=0.06)


def test_what_the_data_cannot_tell_is_not_told() -> None:
    errors, _ = measure(50, (10_000,))

    for row in errors.identification:
        assert (row.how, row.score, row.fnir) == ("too few", None, None)
    assert errors.identification[0].needed == pytest.approx(3 / (1 - 0.9 ** (1 / 10_000)), rel=1e-3)
    assert errors.investigation[0].how == "too few"
    assert errors.investigation[0].fnir == {}


def test_false_alarms_grow_with_the_gallery() -> None:
    assert fpir_estimate(1e-3, 1) == pytest.approx(1e-3)
    assert fpir_estimate(1e-3, 100) == pytest.approx(0.0952, abs=1e-4)
    assert fpir_estimate(1e-3, 10_000) == pytest.approx(1, abs=1e-4)


def test_threshold_of_an_estimate_has_the_fmr_of_independent_trials() -> None:
    errors, scores = measure(200, (1_000,))
    names = [str(k) for k in range(200)]
    pairs = pairs_of_matrix(scores, names, names, ["1"] * 200, ["2"] * 200)

    fmr, _ = error_rates(pairs, errors.identification[0].score)

    assert fpir_estimate(fmr, 1_000) <= 0.1 + 1e-9
    assert fpir_estimate(fmr, 1_000) > 0.05
