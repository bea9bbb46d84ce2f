"""Ranking where single precision is in doubt, sweeping out dead rows, and the order of versions."""

import threading

import numpy as np
import pytest
from numpy.typing import NDArray

from service.gallery.columns import Columns, Entry, Selection
from service.gallery.index import Index
from service.gallery.records import GalleryError
from service.gallery.vectors import Vectors, unit_rows

EVERYTHING = Selection()


def index_of(rows: NDArray[np.float32]) -> Index:
    index = Index(Vectors(rows.shape[1]), Columns(), 0)
    index.apply(1, [Entry(number, None, None, None) for number in range(len(rows))], rows, [])
    return index


def test_the_best_are_found_among_rows_closer_than_single_precision_can_tell() -> None:
    random = np.random.default_rng(3)
    query = unit_rows(random.standard_normal((1, 96)).astype(np.float32))[0]
    rows = unit_rows(query + random.standard_normal((4000, 96)).astype(np.float32) * np.float32(1e-7))
    exact = np.add.reduce(rows.astype(np.float64) * query.astype(np.float64), axis=1)
    found = index_of(rows).search(query, 10, EVERYTHING, 1)
    assert found is not None
    np.testing.assert_allclose(found.scores[:10], np.minimum(np.sort(exact)[::-1][:10], 1), rtol=0, atol=1e-15)


def test_everything_that_ties_with_the_last_one_is_a_candidate() -> None:
    rows = np.repeat(unit_rows(np.random.default_rng(4).standard_normal((5, 16)).astype(np.float32)), 200, axis=0)
    found = index_of(rows).search(rows[400], 3, EVERYTHING, 1)
    assert found is not None
    assert sorted(found.numbers.tolist()) == list(range(400, 600))
    assert len(set(found.scores.tolist())) == 1


def test_scores_never_leave_the_cosines_range() -> None:
    rows = np.random.default_rng(5).standard_normal((300, 33)).astype(np.float32)
    index = index_of(rows)
    for row in rows:
        for sign in (1, -1):
            found = index.search(sign * row, 300, EVERYTHING, 1)
            assert found is not None
            assert found.scores.max() <= 1
            assert found.scores.min() >= -1


def test_dead_rows_are_swept_out_and_the_rest_still_found() -> None:
    rows = unit_rows(np.random.default_rng(6).standard_normal((5000, 8)).astype(np.float32))
    index = index_of(rows)
    for version, first in enumerate(range(0, 4000, 500), start=2):
        index.apply(version, [], np.empty((0, 8), np.float32), list(range(first, first + 500)))
        assert len(index) == 4500 - first
        vectors, numbers = index.copy()
        assert numbers.tolist() == list(range(first + 500, 5000))
        assert len(vectors) == len(numbers)
        for number in (first + 500, 4321):
            found = index.search(rows[number], 1, EVERYTHING, version)
            assert found is not None
            assert found.numbers.tolist() == [number]
            assert found.searched == len(index)


def test_a_search_waits_for_its_version_and_refuses_an_older_one() -> None:
    rows = np.eye(4, dtype=np.float32)
    index = index_of(rows[:2])
    found: list[list[int]] = []

    def search() -> None:
        candidates = index.search(rows[2], 1, EVERYTHING, 2)
        assert candidates is not None
        found.append(candidates.numbers.tolist())

    waiting = threading.Thread(target=search)
    waiting.start()
    waiting.join(0.05)
    assert waiting.is_alive()
    index.apply(2, [Entry(2, None, None, None)], rows[2:3], [])
    waiting.join(10)
    assert found == [[2]]
    assert index.search(rows[2], 1, EVERYTHING, 1) is None


def test_a_change_that_fails_half_way_is_not_searched_over() -> None:
    index = index_of(np.eye(4, dtype=np.float32))
    with pytest.raises(AssertionError):
        index.apply(2, [Entry(9, None, None, None)], np.ones((1, 5), np.float32), [])  # FAISS checks the dimension
    with pytest.raises(GalleryError, match="restart"):
        index.search(np.ones(4, np.float32), 1, EVERYTHING, 2)
    with pytest.raises(GalleryError, match="restart"):
        index.check()
