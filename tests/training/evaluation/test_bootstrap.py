import numpy as np
import pytest

from training.evaluation.bootstrap import people_bootstrap


def test_the_interval_of_independent_people_is_that_of_the_mean():
    values = np.random.default_rng(0).standard_normal(400)
    ((low, high),) = people_bootstrap([values], [str(n) for n in range(400)])
    expected = 1.96 * values.std() / 20
    assert values.mean() - low == pytest.approx(expected, rel=0.1)
    assert high - values.mean() == pytest.approx(expected, rel=0.1)


def test_queries_of_one_person_are_no_evidence_of_their_own():
    values = np.random.default_rng(0).standard_normal(100)
    alone = people_bootstrap([values], np.arange(100))[0]
    repeated = people_bootstrap([np.repeat(values, 9)], np.repeat(np.arange(100), 9))[0]
    np.testing.assert_allclose(alone, repeated)


def test_the_same_seed_gives_the_same_interval():
    values = [np.random.default_rng(1).random(30)]
    np.testing.assert_array_equal(
        people_bootstrap(values, range(30), seed=3), people_bootstrap(values, range(30), seed=3)
    )
    assert (people_bootstrap(values, range(30), seed=3) != people_bootstrap(values, range(30), seed=4)).any()


def test_wrong_shapes_are_errors():
    with pytest.raises(ValueError, match="do not belong"):
        people_bootstrap([[1.0, 2.0]], ["a"])
