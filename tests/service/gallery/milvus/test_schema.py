"""Conditions in the form that Milvus takes."""

import pytest

pytest.importorskip("pymilvus")

from service.gallery.checks import DAY, DailyWindow
from service.gallery.milvus.schema import MAX_DAYS, daily_condition
from service.gallery.records import InvalidArgument

HOUR = DAY // 24
NIGHT = DailyWindow(22 * HOUR, 8 * HOUR)


def nesting(condition: str) -> int:
    depth = deepest = 0
    for character in condition:
        depth += {"(": 1, ")": -1}.get(character, 0)
        deepest = max(deepest, depth)
    assert depth == 0
    return deepest


@pytest.mark.parametrize("days", [1, 2, 3, 100, MAX_DAYS - 2])
def test_many_days_do_not_nest_deep(days: int) -> None:
    """Milvus 2.3.5 answers a chain of 1,000 `or` after 30 s or not at all, and a tree of them after 0.3 s."""
    condition = daily_condition(NIGHT, 0, days * DAY)
    clauses = condition.count("last >=")
    assert days <= clauses <= days + 2
    assert condition.count(" or ") == clauses - 1
    assert nesting(condition) <= 12
    code = compile(condition, "condition", "eval")
    for hour in range(0, days * 24, 1 if days <= 3 else 37):
        passes = eval(code, {"first": hour * HOUR, "last": hour * HOUR})
        assert passes == (hour % 24 >= 22 or hour % 24 <= 6), hour


def test_more_days_than_a_condition_can_have_are_refused() -> None:
    with pytest.raises(InvalidArgument, match=r"covers \d+ days.*add after and before"):
        daily_condition(NIGHT, 0, (MAX_DAYS + 1) * DAY)
