"""What became of the tracklets so far: counts, pace, and why some were refused."""

import json
import re
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self, TextIO

from not3d.enrol.enrolment import Outcome, Result

WINDOW = 30.0
"""Seconds over which the pace is measured."""
_MAX_KINDS = 1000
"""Kinds of reasons that are counted separately."""


@dataclass
class Refusal:
    """A kind of refusal: the first tracklet with it, and how many there are."""

    first: Outcome
    count: int = 0


@dataclass
class EnrolmentCounts:
    """Counts of `total` tracklets; those that are enrolled before anything is sent are `skipped` at once."""

    total: int
    skipped: int = 0
    by_result: Counter[Result] = field(default_factory=Counter)
    left_out: int = 0
    warned: int = 0
    first_warned: Outcome | None = None
    refused: dict[str, Refusal] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._started = time.monotonic()
        self._sent = 0
        self._marks = deque([(self._started, 0)])
        self.by_result[Result.SKIPPED] = self.skipped

    @property
    def done(self) -> int:
        """Tracklets whose outcome is known."""
        return self.by_result.total()

    def add(self, outcome: Outcome) -> None:
        """Count one more outcome."""
        self.by_result[outcome.result] += 1
        self.left_out += outcome.left_out
        if outcome.warnings:
            self.warned += 1
            self.first_warned = self.first_warned or outcome
        self._sent += 1
        if outcome.result is Result.REFUSED:
            # Without numbers, id and path, equal reasons have equal texts.
            kind = re.sub(r"\d+", "#", outcome.reason.replace(outcome.id, "").replace(outcome.source, ""))
            if kind not in self.refused and len(self.refused) >= _MAX_KINDS:
                kind = ""
            self.refused.setdefault(kind, Refusal(outcome)).count += 1

    def pace(self) -> float:
        """Return the tracklets answered per second over the last half minute; those never sent do not count."""
        now = time.monotonic()
        if now - self._marks[-1][0] >= 1:
            self._marks.append((now, self._sent))
        while len(self._marks) > 2 and now - self._marks[1][0] > WINDOW:
            self._marks.popleft()
        since, sent = self._marks[0]
        return (self._sent - sent) / max(now - since, 1e-3)

    def seconds_left(self) -> float | None:
        """Return how long the rest takes at this pace; `None` before the first answer."""
        pace = self.pace()
        return (self.total - self.done) / pace if pace > 0 else None

    def describe(self) -> str:
        """Return the counts in words."""
        return (
            ", ".join(f"{self.by_result[result]} {result}" for result in Result if self.by_result[result])
            or "nothing yet"
        )


class RefusalReport:
    """A file of JSON lines, one for each refused tracklet: `id`, `source`, `status`, `reason`.

    Each line is written at once, so a killed run keeps it. Each run replaces the file.
    """

    def __init__(self, path: Path | None) -> None:
        self._file: TextIO | None = None if path is None else path.open("w", encoding="utf-8", buffering=1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file:
            self._file.close()

    def add(self, outcome: Outcome) -> None:
        """Write the outcome if it is a refusal."""
        if self._file and outcome.result is Result.REFUSED:
            line = {"id": outcome.id, "source": outcome.source, "status": outcome.status, "reason": outcome.reason}
            self._file.write(json.dumps(line) + "\n")
