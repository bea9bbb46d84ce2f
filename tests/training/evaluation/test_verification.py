import numpy as np
import pytest

from training.evaluation.verification import verify

CAMERAS = ["1", "1"], ["2", "2"]


def test_rates_of_four_pairs_by_hand():
    # Same: 0.9, 0.4; different: 0.5, 0.1. Two wrong pairs are too few for a rate of 1e-2.
    result = verify([[0.9, 0.5], [0.1, 0.4]], ["a", "b"], ["a", "b"], *CAMERAS)
    assert (result.same_pairs, result.different_pairs) == (2, 2)
    np.testing.assert_allclose(result.false_accept, [0, 0.5])
    np.testing.assert_allclose(result.true_accept, [0.5, 1.0])
    assert all(np.isnan(rate) for rate in result.tar_at.values())
    assert result.same_histogram.sum() == result.different_histogram.sum() == 2


def test_pairs_from_one_camera_are_left_out():
    result = verify([[0.9, 0.5], [0.1, 0.4]], ["a", "b"], ["a", "b"], ["1", "1"], ["2", "1"])
    assert (result.same_pairs, result.different_pairs) == (1, 1)


def test_rates_of_random_scores():
    rng = np.random.default_rng(0)
    ids = [str(n) for n in range(300)]
    scores = rng.standard_normal((300, 300))
    scores[np.arange(300), np.arange(300)] += 3.0
    result = verify(scores, ids, ids, ["1"] * 300, ["2"] * 300)
    different = scores[~np.eye(300, dtype=bool)]
    same = scores.diagonal()
    for rate, tar in result.tar_at.items():
        allowed = int(rate * different.size)
        threshold = np.sort(different)[-allowed - 1]
        assert (different > threshold).sum() == allowed
        assert tar == pytest.approx((same > threshold).mean())
        assert (same >= result.threshold_at[rate]).mean() == pytest.approx(tar)
    assert (np.diff(result.true_accept) >= 0).all()
    assert (np.diff(result.false_accept) > 0).all()


def test_ties_are_not_accepted():
    result = verify(np.zeros((20, 20)), *[[str(n) for n in range(20)]] * 2, ["1"] * 20, ["2"] * 20)
    assert result.tar_at[1e-2] == 0
    assert (np.diff(result.bins) > 0).all()
    assert (result.same_histogram.sum(), result.different_histogram.sum()) == (20, 380)


def test_only_one_kind_of_pairs_is_an_error():
    with pytest.raises(ValueError, match="pairs"):
        verify([[0.5]], ["a"], ["a"], ["1"], ["2"])
