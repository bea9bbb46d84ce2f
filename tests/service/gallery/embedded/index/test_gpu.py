"""A mirror on a GPU, which ignores filters, never returns a row that a filter excludes, nor a worse one than the CPU.

FAISS's CPU index replaces the GPU's, and is given no filter either.
"""

from typing import Any

import faiss as untyped_faiss
import numpy as np
import pytest
from numpy.typing import NDArray

from service.gallery.embedded.index import gpu
from service.gallery.embedded.index.columns import Columns, FilterValues, RowFilter
from service.gallery.embedded.index.flat import FlatVectors, unit_rows
from service.gallery.embedded.index.gpu import GpuMirror, open_mirror
from service.gallery.embedded.index.index import Index

faiss: Any = untyped_faiss
D, ROWS = 24, 3000


def half_precision() -> Any:
    return faiss.IndexScalarQuantizer(D, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)


class Large(FlatVectors):
    """Vectors that count as too many to compare exactly."""

    exact = False


class Refusing(Large):
    """Vectors of the CPU, for a test in which only the GPU may search."""

    def nearest(self, *_: object) -> Any:
        raise AssertionError("the CPU was asked")


@pytest.fixture
def rows() -> NDArray[np.float32]:
    return unit_rows(np.random.default_rng(1).standard_normal((ROWS, D)).astype(np.float32))


def build(rows: NDArray[np.float32], mirror: GpuMirror, kind: type[FlatVectors] = Large) -> Index:
    index = Index(kind(D), Columns(), 0, mirror)
    index.apply(1, [FilterValues(number, f"c{number % 3}", None, None) for number in range(len(rows))], rows, [])
    return index


def search(
    index: Index, rows: NDArray[np.float32], query: NDArray[np.float32], row_filter: RowFilter
) -> tuple[list[int], int]:
    found = index.search(query, 10, row_filter, index._version, lambda numbers: rows[numbers])
    assert found is not None
    return found.numbers[:10].tolist(), found.searched


@pytest.mark.parametrize("only", [ROWS, ROWS // 2, 200, 15, 3])
def test_the_mirror_answers_as_the_cpu_does(rows: NDArray[np.float32], only: int) -> None:
    mirror = GpuMirror(half_precision, D, 10**9)
    index, plain = build(rows, mirror), build(rows, GpuMirror(half_precision, D, 0))
    assert mirror.in_use
    random = np.random.default_rng(only)
    for query in unit_rows(random.standard_normal((20, D)).astype(np.float32)):
        chosen = RowFilter(0, term_rows=(np.sort(random.choice(ROWS, only, replace=False)),))
        assert search(index, rows, query, chosen) == search(plain, rows, query, chosen)


def test_the_mirror_answers_alone_without_a_filter_and_after_removals(rows: NDArray[np.float32]) -> None:
    index = build(rows, GpuMirror(half_precision, D, 10**9), Refusing)
    index.apply(2, [], np.empty((0, D), np.float32), list(range(0, ROWS, 3)))
    for query in rows[:6]:
        scores = rows @ query
        scores[::3] = -2
        assert search(index, rows, query, RowFilter(0))[0] == np.argsort(-scores)[:10].tolist()


def test_replacing_the_index_removes_dead_rows_from_the_mirror(rows: NDArray[np.float32]) -> None:
    mirror = GpuMirror(half_precision, D, 10**9)
    index = build(rows, mirror)
    index.apply(2, [], np.empty((0, D), np.float32), list(range(2000)))
    vectors, alive, numbers = index.live_rows()
    index.replace(vectors.subset(alive, index.read_lock), numbers)
    assert len(mirror._numbers) == 1000
    assert "GPU" in index.description
    assert search(index, rows, rows[2500], RowFilter(0))[0][0] == 2500


def test_the_mirror_is_disabled_without_memory_or_after_a_failure(
    rows: NDArray[np.float32], caplog: pytest.LogCaptureFixture
) -> None:
    small = GpuMirror(half_precision, D, 2 * D * 2999)
    index = build(rows, small)
    assert not small.in_use
    assert "memory for 2999 records" in caplog.text
    assert "GPU" not in index.description
    assert search(index, rows, rows[5], RowFilter(0))[0][0] == 5

    class Failing:
        def add(self, rows: object) -> None:
            raise RuntimeError("out of memory")

    assert not (failing := GpuMirror(Failing, D, 10**9)).in_use or build(rows, failing)
    assert not failing.in_use
    assert "out of memory" in caplog.text


def test_without_a_gpu_there_is_no_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu.faiss, "get_num_gpus", lambda: 0, raising=False)
    assert open_mirror(D, 10**9) is None
