"""What has become of the tracklets so far: counts, pace, and why some were refused."""

import json
import re
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self, TextIO

from not3d.enrol.enrolment import Outcome, Result

WINDOW = 30.0
"""Seconds over which the pace is taken."""
_KINDS = 1000
"""Kinds of reasons that are told apart."""


@dataclass
class Reason:
    """Why tracklets were refused: the first of them, its reason, and how many there are like it."""

    first: Outcome
    count: int = 0


@dataclass
class Tally:
    """Counts of ``total`` tracklets; those known to be enrolled before anything is sent are ``skipped`` at once."""

    total: int
    skipped: int = 0
    counts: Counter[Result] = field(default_factory=Counter)
    left_out: int = 0
    refused: dict[str, Reason] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._started = time.monotonic()
        self._sent = 0
        self._marks = deque([(self._started, 0)])
        self.counts[Result.SKIPPED] = self.skipped

    @property
    def done(self) -> int:
        """Tracklets that need nothing more."""
        return self.counts.total()

    def add(self, outcome: Outcome) -> None:
        """One more is done."""
        self.counts[outcome.result] += 1
        self.left_out += outcome.left_out
        self._sent += 1
        if outcome.result is Result.REFUSED:
            # Numbers and the id are the tracklet's own; without them the same trouble reads the same.
            kind = re.sub(r"\d+", "#", outcome.reason.replace(outcome.id, "").replace(outcome.source, ""))
            if kind not in self.refused and len(self.refused) >= _KINDS:
                kind = ""
            self.refused.setdefault(kind, Reason(outcome)).count += 1

    def pace(self) -> float:
        """Tracklets answered per second of late, over half a minute; those skipped unsent do not count."""
        now = time.monotonic()
        if now - self._marks[-1][0] >= 1:
            self._marks.append((now, self._sent))
        while len(self._marks) > 2 and now - self._marks[1][0] > WINDOW:
            self._marks.popleft()
        since, sent = self._marks[0]
        return (self._sent - sent) / max(now - since, 1e-3)

    def seconds_left(self) -> float | None:
        """How long the rest takes at this pace, where there is one."""
        pace = self.pace()
        return (self.total - self.done) / pace if pace > 0 else None

    def describe(self) -> str:
        """The counts in words."""
        return ", ".join(f"{self.counts[result]} {result}" for result in Result if self.counts[result]) or "nothing yet"


class RefusalReport:
    """A file of JSON lines, one for each refused tracklet: ``id``, ``source``, ``status``, ``reason``.

    Lines are there as soon as they are written, also where the run is killed. Each run begins the file anew.
    """

    def __init__(self, path: Path | None) -> None:
        self._file: TextIO | None = None if path is None else path.open("w", encoding="utf-8", buffering=1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file:
            self._file.close()

    def add(self, outcome: Outcome) -> None:
        """Write the outcome down where it is a refusal."""
        if self._file and outcome.result is Result.REFUSED:
            line = {"id": outcome.id, "source": outcome.source, "status": outcome.status, "reason": outcome.reason}
            self._file.write(json.dumps(line) + "\n")
