from datetime import UTC, datetime, timedelta, timezone

import pytest

from service.gallery.clock import add_to_time


@pytest.mark.parametrize(
    ("time", "hours", "expected"),
    [
        (datetime(2026, 5, 1, tzinfo=UTC), 12, datetime(2026, 5, 1, 12, tzinfo=UTC)),
        (datetime(2026, 5, 1, tzinfo=UTC), -12, datetime(2026, 4, 30, 12, tzinfo=UTC)),
        (datetime(1, 1, 1, 11, tzinfo=UTC), -12, datetime.min.replace(tzinfo=UTC)),
        (datetime(9999, 12, 31, 13, tzinfo=UTC), 12, datetime.max.replace(tzinfo=UTC)),
        # Of another zone, whose own time is not at the end of the range.
        (datetime(9999, 12, 31, 10, tzinfo=timezone(timedelta(hours=-5))), 12, datetime.max.replace(tzinfo=UTC)),
    ],
)
def test_a_sum_stays_within_the_range_of_times(time: datetime, hours: int, expected: datetime) -> None:
    assert add_to_time(time, timedelta(hours=hours)) == expected
