import pytest

from service.progress import Progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr("service.progress.time.monotonic", lambda: now[0])
    return now


def test_only_time_in_which_work_waits_counts(clock: list[float]) -> None:
    progress = Progress()
    clock[0] += 50
    assert progress.stalled_seconds == 0
    progress.begin()
    clock[0] += 2
    progress.begin()
    clock[0] += 3
    assert progress.stalled_seconds == 5
    progress.step()
    assert progress.stalled_seconds == 0
    clock[0] += 1
    progress.end()
    assert progress.stalled_seconds == 1
    progress.end()
    clock[0] += 50
    assert progress.stalled_seconds == 1
    progress.step()
    assert progress.stalled_seconds == 0


def test_waiters_that_give_up_in_turn_add_up(clock: list[float]) -> None:
    progress = Progress()
    for _ in range(4):
        progress.begin()
        clock[0] += 10
        progress.end()
        clock[0] += 100
    assert progress.stalled_seconds == 40


def test_work_that_has_all_it_needs_does_not_wait(clock: list[float]) -> None:
    progress = Progress(at_once=2)
    progress.begin()
    progress.begin()
    clock[0] += 50
    assert progress.stalled_seconds == 0
    progress.begin()
    clock[0] += 3
    assert progress.stalled_seconds == 3
    progress.end()
    clock[0] += 50
    assert progress.stalled_seconds == 3
