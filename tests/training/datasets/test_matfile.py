"""The .mat reader against scipy, which is the reference."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from training.datasets.matfile import read_mat
from training.datasets.tracklet import DatasetError

scipy_io = pytest.importorskip("scipy.io")

ARRAYS = {
    "track_test_info": np.arange(40, dtype=np.int32).reshape(10, 4) - 1,
    "query_IDX": np.array([[4130, 65535, 0]], dtype=np.uint16),
    "x": np.array([[7]], dtype=np.uint8),
    "floats": np.linspace(-1, 1, 6).reshape(2, 3),
}


@pytest.mark.parametrize("compressed", [False, True])
def test_arrays_that_scipy_writes_are_read(tmp_path: Path, compressed: bool) -> None:
    scipy_io.savemat(tmp_path / "a.mat", ARRAYS, do_compression=compressed)
    arrays = read_mat(tmp_path / "a.mat")
    assert list(arrays) == list(ARRAYS)
    for name, expected in ARRAYS.items():
        assert arrays[name].dtype == expected.dtype
        np.testing.assert_array_equal(arrays[name], expected)


def test_official_lists_are_read_as_scipy_reads_them(shared_data: Path) -> None:
    official = sorted((shared_data.parent / "reference").glob("*.mat"))
    if not official:
        pytest.skip("the official MARS lists are not beside the shared data")
    for path in official:
        expected: dict[str, NDArray[Any]] = scipy_io.loadmat(path)
        for name, array in read_mat(path).items():
            assert array.dtype == expected[name].dtype
            np.testing.assert_array_equal(array, expected[name])


@pytest.mark.parametrize("kept", [0, 100, 130, 150, -3])
def test_file_cut_short_is_refused(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "a.mat"
    scipy_io.savemat(path, ARRAYS)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DatasetError, match=r"a\.mat"):
        read_mat(path)


@pytest.mark.parametrize("value", ["text", np.array([[1 + 2j]]), {"field": 1}])
def test_variables_that_are_not_real_numbers_are_skipped(tmp_path: Path, value: object) -> None:
    scipy_io.savemat(tmp_path / "a.mat", {"value": value, **ARRAYS})
    assert list(read_mat(tmp_path / "a.mat")) == list(ARRAYS)
