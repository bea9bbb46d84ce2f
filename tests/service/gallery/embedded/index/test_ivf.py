"""The approximate index finds what comparing all rows would find, also in a subset and a file."""

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from service.gallery.embedded.index.flat import unit_rows
from service.gallery.embedded.index.ivf import BuildCancelled, IvfVectors, list_count, sample_size

D, ROWS = 48, 6000


def people(count: int, seed: int) -> NDArray[np.float32]:
    """Return unit vectors `[count, D]` in clusters of about ten."""
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(0).standard_normal((ROWS // 10, D))
    return unit_rows(centres[random.integers(0, len(centres), count)] + 0.4 * random.standard_normal((count, D)))


@pytest.fixture(scope="module")
def rows() -> NDArray[np.float32]:
    return people(ROWS, 1)


@pytest.fixture
def vectors(rows: NDArray[np.float32]) -> IvfVectors:
    lists = list_count(ROWS)
    made = IvfVectors.train(rows[: sample_size(lists)], lists, ROWS, lambda: False)
    made.append(rows)
    made.tune(rows[::300], lambda: False)
    return made


def recall(vectors: IvfVectors, rows: NDArray[np.float32], mask: NDArray[np.bool_] | None, wanted: int = 10) -> float:
    """Return the share of the best rows by the full vectors that is among the candidates."""
    found = total = 0
    for query in people(50, 2):
        scores = rows @ query if mask is None else np.where(mask, rows @ query, -2)
        allowed = len(rows) if mask is None else int(mask.sum())
        positions = vectors.nearest(query, min(wanted, allowed), allowed, mask).positions
        assert len(set(positions.tolist())) == len(positions)
        assert mask is None or mask[positions].all()
        best = np.argsort(-scores)[: min(wanted, allowed)]
        found += len(set(best.tolist()) & set(positions.tolist()))
        total += len(best)
    return found / total


def test_the_number_of_lists_grows_with_the_root_of_the_rows() -> None:
    assert [list_count(rows) for rows in (1, 8, 100, 10_000, 1_000_000, 10**12)] == [1, 2, 8, 128, 1024, 16_384]


def test_a_few_lists_find_nearly_all_best_rows(
    vectors: IvfVectors, rows: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.gallery.embedded.index.ivf._MIN_CODE_BYTES", 0)
    assert vectors.probes < vectors.lists
    assert recall(vectors, rows, None) >= 0.98


@pytest.mark.parametrize("share", [0.7, 0.3, 0.01, 0.0002])
def test_a_filter_is_obeyed_and_costs_no_recall(
    vectors: IvfVectors, rows: NDArray[np.float32], share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.gallery.embedded.index.ivf._MIN_CODE_BYTES", 0)
    monkeypatch.setattr("service.gallery.embedded.index.ivf._MIN_CODE_BYTES_FILTERED", 0)
    monkeypatch.setattr("service.gallery.embedded.index.ivf._MAX_COMPARED_EXACTLY", 30)
    mask = np.random.default_rng(3).random(ROWS) < share
    mask[17] = True
    assert recall(vectors, rows, mask) >= 0.98


@pytest.mark.parametrize("shift", [0.0, 0.4, 0.8, 1.2])
@pytest.mark.parametrize("strangers", [True, False])
def test_a_filter_that_shows_in_the_vectors_costs_no_recall(
    rows: NDArray[np.float32], shift: float, strangers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sixth of the rows are of a camera at night, of other people or the same; all queries are of the day."""
    monkeypatch.setattr("service.gallery.embedded.index.ivf._MIN_CODE_BYTES_FILTERED", 0)
    monkeypatch.setattr("service.gallery.embedded.index.ivf._MAX_COMPARED_EXACTLY", 30)
    light = unit_rows(np.random.default_rng(8).standard_normal((1, D)).astype(np.float32))
    shown = np.random.default_rng(9).standard_normal((ROWS // 5, D)).astype(np.float32) if strangers else rows[::5]
    night = unit_rows(unit_rows(shown) + np.float32(shift) * light)
    both = np.concatenate([rows, night])
    lists = list_count(len(both))
    vectors = IvfVectors.train(both[: sample_size(lists)], lists, len(both), lambda: False)
    vectors.append(both)
    vectors.tune(both[::70], lambda: False)
    mask = np.arange(len(both)) >= ROWS
    assert recall(vectors, both, mask) >= 0.97


def test_a_few_dead_rows_do_not_slow_a_search(vectors: IvfVectors, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    search = IvfVectors._search

    def watched(self: IvfVectors, direction: Any, count: int, probes: int, chosen: Any) -> Any:
        read.append(probes)
        return search(self, direction, count, probes, chosen)

    monkeypatch.setattr(IvfVectors, "_search", watched)
    mask = np.ones(ROWS, np.bool_)
    mask[7] = False
    for query in people(20, 6):
        vectors.nearest(query, 10, ROWS, None)
        vectors.nearest(query, 10, ROWS - 1, mask)
    assert sum(read[1::2]) <= 1.1 * sum(read[::2])


def test_enough_rows_are_found_if_the_nearest_lists_hold_fewer(
    vectors: IvfVectors, rows: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.gallery.embedded.index.ivf._MIN_CODE_BYTES", 0)
    vectors.probes = 1
    mask = rows[:, 0] < 0  # mostly far from this query
    query = unit_rows(np.eye(1, D, dtype=np.float32))[0]
    allowed = int(mask.sum())
    for wanted in (10, 1000, allowed):
        positions = vectors.nearest(query, wanted, allowed, mask).positions
        assert len(positions) >= wanted
        assert mask[positions].all()


def test_few_allowed_rows_are_all_candidates(vectors: IvfVectors) -> None:
    mask = np.zeros(ROWS, np.bool_)
    mask[[5, 77, 4000]] = True
    found = vectors.nearest(people(1, 4)[0], 2, 3, mask)
    assert found.exact
    assert found.positions.tolist() == [5, 77, 4000]


def test_a_subset_and_a_file_hold_the_chosen_rows(vectors: IvfVectors, rows: NDArray[np.float32]) -> None:
    mask = np.random.default_rng(5).random(ROWS - 500) < 0.5  # the last rows were appended after the mask was made
    kept = rows[: ROWS - 500][mask]
    data = b"".join(vectors.serialise(mask, nullcontext))
    read = IvfVectors.deserialise(reader(data), vectors.parameters(), D, len(kept))
    for other in (vectors.subset(mask, nullcontext), read):
        assert len(other) == len(kept)
        assert other.parameters() == vectors.parameters()
        other.probes = other.lists  # so that all rows are found
        assert recall(other, kept, None) == 1
        other.append(rows[:1])
        assert len(kept) in other.nearest(rows[0], 1, len(other), None).positions


def test_wrong_bytes_are_refused(vectors: IvfVectors) -> None:
    mask = np.ones(ROWS, np.bool_)
    data = b"".join(vectors.serialise(mask, nullcontext))
    with pytest.raises(ValueError, match="does not match"):
        IvfVectors.deserialise(reader(data), vectors.parameters(), D, ROWS - 1)
    with pytest.raises(ValueError, match="does not match"):
        IvfVectors.deserialise(reader(data), vectors.parameters(), D, ROWS + 1)
    with pytest.raises(ValueError, match="numbers of lists are invalid"):
        IvfVectors.deserialise(reader(data), {**vectors.parameters(), "lists": 0}, D, ROWS)


def test_training_and_tuning_can_be_cancelled(vectors: IvfVectors, rows: NDArray[np.float32]) -> None:
    with pytest.raises(BuildCancelled):
        IvfVectors.train(rows, 8, ROWS, lambda: True)
    with pytest.raises(BuildCancelled):
        vectors.tune(rows[:5], lambda: True)


def reader(data: bytes) -> "Reader":
    return Reader(iter([data]))


class Reader:
    """Reads bytes as `file` does: exactly as many as wanted, or an error."""

    def __init__(self, parts: Iterator[bytes]) -> None:
        self._left = memoryview(b"".join(parts))

    def __call__(self, size: int) -> bytes:
        if size > len(self._left):
            raise ValueError("its number of rows does not match its vectors")
        part, self._left = bytes(self._left[:size]), self._left[size:]
        return part
