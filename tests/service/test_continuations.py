from dataclasses import replace

import numpy as np
import pytest

from service import continuations
from service.callers import Caller
from service.continuations import KEEP_SECONDS, MAX_SEARCHES, Continuation, Continuations

ANN, BOB = Caller("ann"), Caller("bob")


class Clock:
    time = 0.0

    def __call__(self) -> float:
        return self.time


def search(name: str, shown: int = 1, vectors: int = 0) -> Continuation[str]:
    return Continuation(name, None, np.ones((vectors, 4)), {}, ("r",) * shown)


def test_a_cursor_is_of_use_to_its_caller_only_and_for_some_minutes() -> None:
    clock = Clock()
    kept = Continuations[str](clock)
    cursor = kept.keep(ANN, search("a"))
    again = Caller("ann", operator="another person at the same key")
    found = [kept.find(cursor, caller) for caller in (ANN, again, BOB, Caller("ann", cameras=frozenset({"x"})))]
    assert [each and each.body for each in found] == ["a", "a", None, None]
    assert kept.find("unknown", ANN) is None
    clock.time = KEEP_SECONDS - 1
    later = kept.keep(ANN, search("b"))
    assert kept.find(cursor, ANN) is not None
    clock.time = KEEP_SECONDS
    assert kept.find(cursor, ANN) is None
    assert kept.find(later, ANN) is not None


def test_the_oldest_searches_are_dropped_if_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Continuations[str](Clock())
    cursors = [kept.keep(ANN, search(str(number))) for number in range(MAX_SEARCHES + 3)]
    assert [kept.find(cursor, ANN) is None for cursor in cursors[:4]] == [True, True, True, False]
    monkeypatch.setattr(continuations, "MAX_IDS", 1000)
    large = kept.keep(ANN, search("large", shown=200, vectors=20))  # 200 + 20 * 40 = 1000
    assert [cursor for cursor in [*cursors, large] if kept.find(cursor, ANN)] == [large]
    kept.keep(ANN, search("one more"))
    assert kept.find(large, ANN) is None
    wide = kept.keep(ANN, replace(search("wide"), values=999))
    assert kept.find(wide, ANN) is not None
    kept.keep(ANN, search("one more"))
    assert kept.find(wide, ANN) is None
