"""Counting what became of tracklets."""

import json
from pathlib import Path

import pytest

from not3d.commands.progress import clock, describe
from not3d.enrol.counts import EnrolmentCounts, RefusalReport
from not3d.enrol.enrolment import Outcome, Result


def refuse(name: str, reason: str) -> Outcome:
    return Outcome(name, f"/footage/{name}", Result.REFUSED, reason, 422)


def test_equal_reasons_are_counted_together() -> None:
    tally = EnrolmentCounts(10, skipped=2)
    for number in range(3):
        tally.add(refuse(f"t{number}", f"frame {number} of /footage/t{number}: no image"))
    tally.add(refuse("t9", "too large"))
    tally.add(Outcome("t8", "", Result.ENROLLED, left_out=3, warnings=("full frames",)))
    assert [(reason.first.id, reason.count) for reason in tally.refused.values()] == [("t0", 3), ("t9", 1)]
    assert (tally.done, tally.left_out) == (7, 3)
    assert tally.first_warned
    assert (tally.warned, tally.first_warned.id) == (1, "t8")
    assert tally.describe() == "1 enrolled, 2 skipped, 4 refused"


def test_pace_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    tally = EnrolmentCounts(10_000, skipped=1000)
    assert tally.seconds_left() is None
    for second in range(100):
        now[0] += 1
        for _ in range(10 if second < 50 else 20):
            tally.add(Outcome("t", "", Result.ENROLLED))
        pace = tally.pace()
    # Of late it is twice as fast as it was at first.
    assert pace == pytest.approx(20, rel=0.05)
    assert tally.seconds_left() == pytest.approx((10_000 - 1000 - 1500) / 20, rel=0.05)
    assert describe(tally) == "1500 enrolled, 1000 skipped; 20.0/s, 0:06:15 left"
    assert clock(3723) == "1:02:03"


def test_each_line_of_the_report_is_written_at_once(tmp_path: Path) -> None:
    path = tmp_path / "refused.jsonl"
    with RefusalReport(path) as report:
        report.add(refuse("t1", "too large"))
        report.add(Outcome("t2", "", Result.ENROLLED))
        (line,) = path.read_text().splitlines()
    assert json.loads(line) == {"id": "t1", "source": "/footage/t1", "status": 422, "reason": "too large"}
    with RefusalReport(None) as nowhere:
        nowhere.add(refuse("t1", "too large"))
