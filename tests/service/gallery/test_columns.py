"""The filter's columns keep their rows apart while rows come, go and move up."""

import numpy as np

from service.gallery.columns import Columns, Entry, Selection


def test_removed_rows_pass_no_filter_and_others_keep_their_columns_when_they_move_up() -> None:
    columns = Columns()
    for number in range(1, 3001):
        columns.append([Entry(number, f"c{number % 3}", number, number + 5)])
    columns.remove([number for number in range(1, 3001) if number % 7 == 0])
    wanted = Selection(camera_ids=("c1",), after=100, before=2000, without=np.array([100, 103], np.int64))
    expected = [
        number
        for number in range(1, 3001)
        if number % 7 and number % 3 == 1 and number + 5 >= 100 and number <= 2000 and number not in {100, 103}
    ]
    assert columns.numbers[columns.mask(wanted)].tolist() == expected
    columns.compact()
    assert columns.size == columns.living == 3000 - 3000 // 7
    assert columns.numbers[columns.mask(wanted)].tolist() == expected
    columns.append([Entry(4000, "c1", 150, None)])
    columns.remove([expected[0]])
    assert columns.numbers[columns.mask(wanted)].tolist() == [*expected[1:], 4000]


def test_rows_that_sql_found_narrow_the_mask() -> None:
    columns = Columns()
    columns.append([Entry(number, None, None, None) for number in (2, 3, 5, 8)])
    assert columns.mask(Selection(only=np.array([3, 8, 9]))).tolist() == [False, True, False, True]
    assert columns.mask(Selection(only=np.array([], np.int64))).tolist() == [False] * 4
