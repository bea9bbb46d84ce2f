import numpy as np
import pytest

from training.evaluation.metrics import people_bootstrap, rank_metrics


def test_metrics_of_one_query_by_hand():
    # Ranked: wrong, right, (same person and camera: left out), right, wrong.
    distances = [[0.1, 0.2, 0.3, 0.4, 0.5]]
    metrics = rank_metrics(distances, ["a"], ["x", "a", "a", "a", "y"], ["1"], ["1", "2", "1", "3", "1"])
    np.testing.assert_array_equal(metrics.cmc, [0, 1, 1, 1, 1])
    assert metrics.mean_ap == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert metrics.mean_inp == pytest.approx(2 / 3)
    assert metrics.valid_queries == 1


def test_trapezoid_starts_at_precision_one():
    distances = [[0.1, 0.2, 0.3]]
    metrics = rank_metrics(distances, ["a"], ["a", "x", "a"], ["1"], ["2", "2", "3"], "trapezoid")
    # Recall 0 to 1/2 at precisions 1 and 1; 1/2 to 1 at 1/2 and 2/3.
    assert metrics.mean_ap == pytest.approx(0.5 * (1 + 1) / 2 + 0.5 * (1 / 2 + 2 / 3) / 2)


def test_queries_without_a_right_answer_are_not_counted():
    metrics = rank_metrics([[0.2, 0.1], [0.1, 0.2]], ["a", "b"], ["a", "b"], ["1", "1"], ["2", "1"])
    assert metrics.valid_queries == 1
    assert metrics.rank1 == 0.0
    with pytest.raises(ValueError, match="no query"):
        rank_metrics([[0.1]], ["a"], ["b"], ["1"], ["2"])


def test_other_people_from_the_camera_of_the_query_count():
    metrics = rank_metrics([[0.1, 0.2]], ["a"], ["b", "a"], ["1"], ["1", "2"])
    assert metrics.rank1 == 0.0


def test_distances_that_do_not_fit_the_ids_are_an_error():
    with pytest.raises(ValueError, match="do not fit"):
        rank_metrics(np.zeros((2, 3)), ["a"], ["b"] * 3, ["1"], ["1"] * 3)


@pytest.mark.parametrize("average_precision", ["step", "trapezoid"])
def test_metrics_equal_loops_of_other_programs(average_precision):
    # MARS's MATLAB program integrates over the ranking; others take the mean of the precision at each hit.
    rng = np.random.default_rng(6)
    q_id, g_id = rng.integers(0, 9, 25), rng.integers(0, 9, 60)
    q_cam, g_cam = rng.integers(0, 3, 25), rng.integers(0, 3, 60)
    distances = rng.random((25, 60))
    precisions, first = [], []
    for row in range(25):
        ranked = [n for n in np.argsort(distances[row]) if g_id[n] != q_id[row] or g_cam[n] != q_cam[row]]
        right = sum(g_id[n] == q_id[row] for n in ranked)
        if not right:
            continue
        found, recall, precision, area, steps = 0, 0.0, 1.0, 0.0, []
        for place, n in enumerate(ranked, start=1):
            hit = bool(g_id[n] == q_id[row])
            found += hit
            area += (found / right - recall) * (precision + found / place) / 2
            recall, precision = found / right, found / place
            steps += [found / place] if hit else []
            if hit and found == 1:
                first.append(place)
        precisions.append(area if average_precision == "trapezoid" else np.mean(steps))
    metrics = rank_metrics(distances, q_id, g_id, q_cam, g_cam, average_precision)
    assert metrics.valid_queries == len(precisions) > 15
    np.testing.assert_allclose(metrics.average_precision, precisions)
    np.testing.assert_array_equal(metrics.first_hit, first)
    assert metrics.cmc[4] == pytest.approx(np.mean(np.array(first) <= 5))
    named = rank_metrics(distances, q_id.astype(str), list(map(str, g_id)), q_cam.astype(str), g_cam.astype(str))
    assert named.first_hit.tolist() == first


def test_interval_of_independent_people_is_that_of_the_mean():
    values = np.random.default_rng(0).standard_normal(400)
    ((low, high),) = people_bootstrap([values], [str(n) for n in range(400)])
    expected = 1.96 * values.std() / 20
    assert values.mean() - low == pytest.approx(expected, rel=0.1)
    assert high - values.mean() == pytest.approx(expected, rel=0.1)


def test_repeated_queries_of_one_person_do_not_narrow_the_interval():
    values = np.random.default_rng(0).standard_normal(100)
    alone = people_bootstrap([values], np.arange(100))[0]
    repeated = people_bootstrap([np.repeat(values, 9)], np.repeat(np.arange(100), 9))[0]
    np.testing.assert_allclose(alone, repeated)


def test_same_seed_gives_the_same_interval():
    values = [np.random.default_rng(1).random(30)]
    np.testing.assert_array_equal(
        people_bootstrap(values, range(30), seed=3), people_bootstrap(values, range(30), seed=3)
    )
    assert (people_bootstrap(values, range(30), seed=3) != people_bootstrap(values, range(30), seed=4)).any()


def test_values_that_do_not_fit_the_queries_are_an_error():
    with pytest.raises(ValueError, match="do not fit"):
        people_bootstrap([[1.0, 2.0]], ["a"])
