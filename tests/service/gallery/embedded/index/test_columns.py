"""Filters find the right rows while rows are added and removed."""

import numpy as np
import pytest
from numpy.typing import NDArray

from service.gallery.embedded.index.columns import Columns, FilterValues, RowFilter


def passing(columns: Columns, row_filter: RowFilter) -> list[int]:
    mask = columns.mask(row_filter)
    found: NDArray[np.int64] = columns.numbers if mask is None else columns.numbers[mask]
    return found.tolist()


def test_removed_rows_pass_no_filter_and_a_subset_keeps_the_values_of_the_others() -> None:
    columns = Columns()
    for number in range(1, 3001):
        columns.append([FilterValues(number, f"c{number % 3}", number, number + 5)])
    columns.remove([number for number in range(1, 3001) if number % 7 == 0])
    wanted = RowFilter(now=0, camera_ids=("c1",), after=100, before=2000, exclude_rows=np.array([100, 103], np.int64))
    expected = [
        number
        for number in range(1, 3001)
        if number % 7 and number % 3 == 1 and number + 5 >= 100 and number <= 2000 and number not in {100, 103}
    ]
    assert passing(columns, wanted) == expected
    columns = columns.subset(columns.numbers[columns.alive])
    assert columns.size == columns.live == 3000 - 3000 // 7
    assert passing(columns, wanted) == expected
    columns.append([FilterValues(4000, "c1", 150, None)])
    columns.remove([expected[0]])
    assert passing(columns, wanted) == [*expected[1:], 4000]


def test_row_numbers_from_sql_narrow_the_mask() -> None:
    columns = Columns()
    columns.append([FilterValues(number, None, None, None) for number in (2, 3, 5, 8)])
    assert passing(columns, RowFilter(0, term_rows=(np.array([1, 3, 8, 9]),))) == [3, 8]
    assert passing(columns, RowFilter(0, term_rows=(np.array([3, 8]), np.array([2, 8])))) == [8]
    assert passing(columns, RowFilter(0, term_rows=(np.array([], np.int64),))) == []
    assert passing(columns, RowFilter(0, exclude_rows=np.array([2, 4, 9]))) == [3, 5, 8]
    columns.append([FilterValues(10**12, None, None, None)])  # the numbers are too far apart for a table
    assert passing(columns, RowFilter(0, term_rows=(np.array([1, 3, 9, 10**12, 10**13]),))) == [3, 10**12]
    assert passing(Columns(), RowFilter(0, term_rows=(np.array([1, 3]),))) == []


def test_a_row_without_a_camera_matches_no_camera_and_is_never_excluded() -> None:
    columns = Columns()
    columns.append([FilterValues(1, None, None, None), FilterValues(2, "a", None, None)])
    assert passing(columns, RowFilter(0, camera_ids=("a", "unknown"))) == [2]
    assert passing(columns, RowFilter(0, camera_ids=())) == []
    assert passing(columns, RowFilter(0, exclude_camera_ids=("a", "unknown"))) == [1]


def test_expired_rows_pass_no_filter() -> None:
    columns = Columns()
    columns.append(
        [
            FilterValues(1, None, None, None, 50),
            FilterValues(2, None, None, None),
            FilterValues(3, None, None, None, 70),
        ]
    )
    assert columns.mask(RowFilter(now=49)) is None
    assert [columns.count_unexpired(now) for now in (49, 50, 70)] == [3, 2, 1]
    assert passing(columns, RowFilter(now=50)) == [2, 3]
    columns.remove([1])
    left = columns.subset(columns.numbers[columns.alive])
    assert left.mask(RowFilter(now=69)) is None
    left.append([FilterValues(4, None, None, None, 60)])
    left.remove([4])
    left.append([FilterValues(5, None, None, None)])
    assert passing(left, RowFilter(now=69)) == [2, 3, 5]
    assert left._first_expiry == 70  # removed rows do not make searches look for expired rows


def test_a_subset_refuses_unknown_rows() -> None:
    columns = Columns()
    columns.append([FilterValues(number, None, None, None) for number in (2, 3)])
    for numbers in ([1, 2], [2, 4]):
        with pytest.raises((ValueError, IndexError)):
            columns.subset(np.array(numbers))
