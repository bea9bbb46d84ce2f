"""Ranking beyond single precision, removal of dead rows, and the order of versions."""

import threading

import numpy as np
import pytest
from numpy.typing import NDArray

from service.gallery.embedded.index.columns import Columns, FilterValues, RowFilter
from service.gallery.embedded.index.flat import FlatVectors, unit_rows
from service.gallery.embedded.index.index import Index
from service.gallery.records import GalleryError

EVERYTHING = RowFilter(now=0)


def fetch(numbers: NDArray[np.int64]) -> NDArray[np.float32]:
    raise AssertionError("exact vectors are in memory")


def index_of(rows: NDArray[np.float32]) -> Index:
    index = Index(FlatVectors(rows.shape[1]), Columns(), 0)
    index.apply(1, [FilterValues(number, None, None, None) for number in range(len(rows))], rows, [])
    return index


def test_the_best_rows_are_found_among_rows_that_single_precision_cannot_tell_apart() -> None:
    random = np.random.default_rng(3)
    query = unit_rows(random.standard_normal((1, 96)).astype(np.float32))[0]
    rows = unit_rows(query + random.standard_normal((4000, 96)).astype(np.float32) * np.float32(1e-7))
    exact = np.add.reduce(rows.astype(np.float64) * query.astype(np.float64), axis=1)
    found = index_of(rows).search(query, 10, EVERYTHING, 1, fetch)
    assert found is not None
    np.testing.assert_allclose(found.scores[:10], np.minimum(np.sort(exact)[::-1][:10], 1), rtol=0, atol=1e-15)


def test_all_rows_that_tie_with_the_last_one_are_candidates() -> None:
    rows = np.repeat(unit_rows(np.random.default_rng(4).standard_normal((5, 16)).astype(np.float32)), 200, axis=0)
    found = index_of(rows).search(rows[400], 3, EVERYTHING, 1, fetch)
    assert found is not None
    assert sorted(found.numbers.tolist()) == list(range(400, 600))
    assert len(set(found.scores.tolist())) == 1


def test_scores_stay_within_the_range_of_a_cosine() -> None:
    rows = np.random.default_rng(5).standard_normal((300, 33)).astype(np.float32)
    index = index_of(rows)
    for row in rows:
        for sign in (1, -1):
            found = index.search(sign * row, 300, EVERYTHING, 1, fetch)
            assert found is not None
            assert found.scores.max() <= 1
            assert found.scores.min() >= -1


def test_dead_rows_are_not_found_and_a_copy_does_not_have_them() -> None:
    rows = unit_rows(np.random.default_rng(6).standard_normal((5000, 8)).astype(np.float32))
    index = index_of(rows)
    for version, first in enumerate(range(0, 4000, 500), start=2):
        index.apply(version, [], np.empty((0, 8), np.float32), list(range(first, first + 500)))
        assert len(index) == 4500 - first
        assert index.dead > 0
        vectors, alive, numbers = index.live_rows()
        assert numbers.tolist() == list(range(first + 500, 5000))
        if version % 2:
            index.replace(vectors.subset(alive, index.read_lock), numbers)
            assert index.dead == 0
        for number in (first + 500, 4321):
            found = index.search(rows[number], 1, EVERYTHING, version, fetch)
            assert found is not None
            assert found.numbers.tolist() == [number]
            assert found.searched == len(index)


def test_replacing_refuses_vectors_without_a_live_row() -> None:
    rows = np.eye(4, dtype=np.float32)
    index = index_of(rows)
    other = FlatVectors(4)
    other.append(rows[:3])
    with pytest.raises(GalleryError, match="does not have the rows"):
        index.replace(other, np.arange(3))
    found = index.search(rows[3], 1, EVERYTHING, 1, fetch)
    assert found is not None
    assert found.numbers.tolist() == [3]


def test_an_expired_row_is_neither_found_nor_counted() -> None:
    rows = np.eye(4, dtype=np.float32)
    index = Index(FlatVectors(4), Columns(), 0)
    index.apply(
        1, [FilterValues(number, None, None, None, expires_at=10 * number or None) for number in range(4)], rows, []
    )
    for now, left in ((9, [0, 1, 2, 3]), (10, [0, 2, 3]), (20, [0, 3]), (99, [0])):
        assert index.count(now) == len(left)
        found = index.search(rows[1], 4, RowFilter(now=now), 1, fetch)
        assert found is not None
        assert sorted(found.numbers.tolist()) == left
        assert found.searched == len(left)


def test_a_search_waits_for_its_version_and_refuses_an_older_one() -> None:
    rows = np.eye(4, dtype=np.float32)
    index = index_of(rows[:2])
    found: list[list[int]] = []

    def search() -> None:
        candidates = index.search(rows[2], 1, EVERYTHING, 2, fetch)
        assert candidates is not None
        found.append(candidates.numbers.tolist())

    waiting = threading.Thread(target=search)
    waiting.start()
    waiting.join(0.05)
    assert waiting.is_alive()
    index.apply(2, [FilterValues(2, None, None, None)], rows[2:3], [])
    waiting.join(120)
    assert found == [[2]]
    assert index.search(rows[2], 1, EVERYTHING, 1, fetch) is None


def test_a_partly_applied_change_breaks_the_index() -> None:
    index = index_of(np.eye(4, dtype=np.float32))
    with pytest.raises(AssertionError):
        index.apply(
            2, [FilterValues(9, None, None, None)], np.ones((1, 5), np.float32), []
        )  # FAISS checks the dimension
    with pytest.raises(GalleryError, match="restart"):
        index.search(np.ones(4, np.float32), 1, EVERYTHING, 2, fetch)
    with pytest.raises(GalleryError, match="restart"):
        index.check()
