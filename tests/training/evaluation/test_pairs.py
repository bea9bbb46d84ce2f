import numpy as np
import pytest

from training.evaluation import pairs as module
from training.evaluation.pairs import Pairs, pairs_of_features, pairs_of_matrix


def test_pairs_are_from_different_cameras_and_taken_once() -> None:
    people, cameras = ["a", "a", "b", "b", "a"], ["1", "2", "1", "2", "1"]
    scores = np.arange(25).reshape(5, 5)

    pairs = pairs_of_matrix(scores, people, people, cameras, cameras, gallery_begins_with_queries=True)

    # (0,1) (0,3) (1,2) (1,4) (2,3) (3,4)
    assert pairs.scores.tolist() == [1, 3, 7, 9, 13, 19]
    assert pairs.same.tolist() == [True, False, False, True, True, False]
    assert (pairs.people, pairs.cameras, pairs.mated, pairs.non_mated) == (2, 2, 3, 3)
    assert (pairs.mated_people, pairs.people_pairs) == (2, 1)


def test_people_of_different_sites_are_not_compared() -> None:
    # Datasets that number their own people put their name before the id.
    people, cameras = ["a", "a", "b", "b", "cuhk03:a", "cuhk03:a"], ["1", "2", "2", "3", "1", "2"]

    pairs = pairs_of_features(np.eye(6) + 0.1, people, cameras)

    assert pairs.mated == 3
    assert pairs.non_mated == 3  # a1-b2, a1-b3, a2-b3
    assert pairs.people_pairs == 1


def test_queries_apart_from_the_gallery_are_compared_with_all_of_it() -> None:
    pairs = pairs_of_matrix([[0.9, 0.1], [0.2, 0.8]], ["a", "b"], ["a", "b"], ["1", "1"], ["2", "2"])

    assert pairs.scores.tolist() == [0.9, 0.1, 0.2, 0.8]


def test_comparisons_that_a_protocol_excludes_are_left_out() -> None:
    pairs = pairs_of_matrix([[0.9, -np.inf], [0.2, 0.8]], ["a", "b"], ["a", "b"], ["1", "1"], ["2", "2"])

    assert pairs.scores.tolist() == [0.9, 0.2, 0.8]


def test_each_person_and_each_pair_of_people_counts_the_same() -> None:
    people = ["a"] * 7 + ["b"] * 2 + ["c"] * 2
    cameras = ["1", "2", "1", "2", "1", "2", "1", "1", "2", "1", "2"]

    pairs = pairs_of_features(np.random.default_rng(1).normal(size=(11, 4)), people, cameras)

    weights = pairs.weights()
    for person in range(3):
        assert weights[pairs.same & (pairs.first == person)].sum() == pytest.approx(1 / 3)
    for low, high in ((0, 1), (0, 2), (1, 2)):
        both = ~pairs.same & np.isin(pairs.first, (low, high)) & np.isin(pairs.second, (low, high))
        assert weights[both].sum() == pytest.approx(1 / 3)


def test_a_draw_counts_people_as_often_as_they_were_drawn() -> None:
    people, cameras = ["a", "a", "b", "b", "c", "c"], ["1", "2"] * 3
    pairs = pairs_of_features(np.random.default_rng(1).normal(size=(6, 4)), people, cameras)

    weights = pairs.weights([2, 1, 0])

    assert weights[pairs.same].tolist() == pytest.approx([2 / 3, 1 / 3, 0])
    both = ~pairs.same & (np.minimum(pairs.first, pairs.second) == 0) & (np.maximum(pairs.first, pairs.second) == 1)
    assert weights[both].sum() == pytest.approx(1)


def test_pairs_without_names_are_clusters_of_their_own() -> None:
    nobody = np.full(4, -1)
    pairs = Pairs(np.arange(4.0), np.array([True, True, False, False]), np.arange(4), nobody)

    assert not pairs.named
    assert (pairs.people, pairs.mated_people, pairs.people_pairs) == (0, 2, 2)
    assert pairs.weights().tolist() == [0.5] * 4
    assert pairs.weights([1, 3, 1, 1]).tolist() == [0.25, 0.75, 0.5, 0.5]


def test_many_pairs_are_thinned_at_random(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_NON_MATED", 500)
    people = [str(k // 2) for k in range(120)]

    pairs = pairs_of_features(np.random.default_rng(1).normal(size=(120, 4)), people, ["1", "2"] * 60)

    assert pairs.mated == 60
    assert 400 < pairs.non_mated < 600
