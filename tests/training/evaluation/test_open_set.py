import numpy as np
import pytest

from training.evaluation.open_set import open_set


def drawn(count=400, lift=4.0):
    rng = np.random.default_rng(0)
    scores = rng.standard_normal((count, count))
    scores[np.arange(count), np.arange(count)] += lift
    ids = [f"{n:04}" for n in range(count)]
    return scores, ids, ids, ["1"] * count, ["2"] * count


def test_half_of_the_people_are_removed_from_the_gallery():
    result = open_set(*drawn(), seed=4)
    assert (result.mated, result.non_mated) == (200, 200)
    assert open_set(*drawn(), seed=4).dir_at == result.dir_at
    assert open_set(*drawn(), seed=5).dir_at != result.dir_at


def test_rates_equal_loops():
    scores, ids, _, *cameras = drawn()
    result = open_set(scores, ids, ids, *cameras, seed=4)
    out = set(np.random.default_rng(4).permutation(np.unique(ids))[:200])
    enrolled = [n for n, person in enumerate(ids) if person not in out]
    alarms = sorted((max(scores[n, enrolled]) for n, person in enumerate(ids) if person in out), reverse=True)
    for rate, detection in result.dir_at.items():
        threshold = alarms[int(rate * 200)]
        found = [
            scores[n, n] > threshold and max(scores[n, enrolled]) == scores[n, n]
            for n, person in enumerate(ids)
            if person not in out
        ]
        assert detection == pytest.approx(np.mean(found))
    # If all alarms are allowed, the rate is rank-1.
    rank1 = np.mean([max(scores[n, enrolled]) == scores[n, n] for n in enrolled])
    assert result.detection[-1] == pytest.approx(rank1)


def test_query_is_not_compared_with_its_person_and_camera():
    scores = [[0.9, 0.8, 0.1], [0.2, 0.7, 0.3], [0.1, 0.1, 0.1]]
    ids, cameras = ["a", "b", "c"], ["1", "1", "1"]
    for seed in range(10):
        result = open_set(scores, ids, ids, cameras, cameras, seed=seed)
        assert result is None  # no query has a right answer, so there are no mated probes


def test_queries_of_people_missing_in_the_gallery_are_non_mated():
    result = open_set(np.zeros((4, 2)), ["a", "b", "x", "y"], ["a", "b"], ["1"] * 4, ["2"] * 2, seed=1)
    assert result is None or result.mated + result.non_mated == 4
