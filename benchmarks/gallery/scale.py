"""The gallery at one size: enrolled, searched meanwhile, filtered, closed, opened again, held against a scan."""

import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.gallery.answers import Answers, Truth, recall_of, spoilt
from benchmarks.gallery.embedded import Embedded
from benchmarks.gallery.embeddings import CHUNK, Drawing, draw
from benchmarks.gallery.exact import Flat
from benchmarks.gallery.population import Condition, Population
from benchmarks.gallery.process import Memory, Process, disk_bytes, forget_files
from service.gallery.records import Filter

_QUIET_SHARE, _QUIET_SECONDS, _QUIET_AT_MOST = 0.5, 2.0, 900.0
"""The index is at rest where its process takes so little of a core, which is what the watching client causes."""


@dataclass(frozen=True)
class Effort:
    """How much is asked; ``exact_bytes`` is the gallery's own limit unless given."""

    queries: int = 1000
    judged: int = 400
    """Of these the true answers are known."""
    filtered: int = 200
    alone: int = 500
    """Records that one thread enrols one by one."""
    together: int = 2000
    """Records that eight threads do."""
    seconds: float = 20.0
    """At most for one setting, unless twenty queries take longer."""
    quiet: float = _QUIET_SECONDS
    exact_bytes: int | None = None


@dataclass(frozen=True)
class Filtered:
    """One condition's answers."""

    name: str
    allowed: int
    answers: Answers
    recall: float
    spoilt: int


@dataclass
class Measured:
    """All that was seen at one size; seconds and bytes."""

    count: int
    dimension: int
    bulk: int = 0
    bulk_seconds: float = 0.0
    bulk_inside: float = 0.0
    """Of these spent in the gallery's calls; drawing the vectors takes cores from them all the same."""
    index_seconds: float = 0.0
    """From the last bulk call until the gallery is at rest."""
    alone_rate: float = 0.0
    together_rate: float = 0.0
    while_bulk: list[tuple[float, bool]] = field(default_factory=list)
    while_index: list[tuple[float, bool]] = field(default_factory=list)
    engine: str = ""
    plain: Answers = field(default_factory=Answers)
    two: Answers = field(default_factory=Answers)
    scan: Answers = field(default_factory=Answers)
    recall: float = 0.0
    filtered: list[Filtered] = field(default_factory=list)
    memory: Memory = field(default_factory=lambda: Memory(0, 0))
    reopened_memory: Memory = field(default_factory=lambda: Memory(0, 0))
    closing: float = 0.0
    warm: tuple[float, float] = (0.0, 0.0)
    cold: tuple[float, float] = (0.0, 0.0)
    killed: tuple[float, float] = (0.0, 0.0)
    """The slower of two openings after a kill -9: of what was never closed, and behind some thousand replacements."""
    disk: int = 0
    parts: dict[str, float] = field(default_factory=dict)


def measure_scale(folder: Path, count: int, dimension: int, effort: Effort) -> Measured:
    """Everything at ``count`` records of ``dimension``, in a folder that is removed again.

    Raises:
        SystemExit: the gallery or the scan failed, or lost a record.
    """
    drawing, population = draw(count, dimension), Population(count)
    queries = drawing.queries(effort.queries)
    conditions = population.conditions(_tracklets_of(drawing, count, drawing.query_people(20)))
    seen = Measured(count, dimension)
    clock = _Clock(seen, f"{count:,} x {dimension}")
    arguments = folder, dimension, count, effort.exact_bytes
    try:
        with Process(Embedded, *arguments) as gallery:
            _enrol(gallery, drawing, queries, seen, effort, clock)
            given = _search(gallery, queries, conditions, seen, effort)
            clock.lap("search")
            seen.memory = gallery.memory
            if (kept := gallery.ask("count")) != count:
                raise SystemExit(f"{kept} records are enrolled, not {count}")
            gallery.kill()
        _reopen(arguments, drawing, queries, seen)
        clock.lap("restarts")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    judged = queries[: effort.judged]
    with Process(Flat, dimension, judged, [condition.mask for condition in conditions]) as flat:
        for start, rows in ahead(drawing, count):
            flat.ask("add", start, rows)
        seen.scan = flat.ask("search", effort.seconds)
        truth: Truth = flat.ask("truth")
        for place, (condition, answers) in enumerate(zip(conditions, given, strict=True)):
            numbers = answers.numbers[: effort.judged]
            recall = recall_of(truth, place, numbers, flat.ask("scores", numbers))
            wrong = spoilt(condition.mask, answers.numbers, truth.wanted(place))
            seen.filtered.append(Filtered(condition.name, condition.allowed, answers, recall, wrong))
    seen.recall = seen.filtered[0].recall
    clock.lap("exact scan and truth")
    return seen


def progress(text: str) -> None:
    """What is under way, on standard error: the report is on standard output."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


class _Clock:
    """What each part took."""

    def __init__(self, seen: Measured, name: str) -> None:
        self._seen, self._name = seen, name
        self._last = time.perf_counter()

    def lap(self, part: str) -> None:
        """A part is over."""
        now = time.perf_counter()
        self._seen.parts[part] = now - self._last
        self._last = now
        progress(f"{self._name}: {part}: {self._seen.parts[part]:.1f} s")


def _enrol(
    gallery: Process, drawing: Drawing, queries: NDArray[np.float32], seen: Measured, effort: Effort, clock: _Clock
) -> None:
    alone, together = (min(wanted, seen.count // 8) for wanted in (effort.alone, effort.together))
    seen.bulk = seen.count - alone - together
    began = time.perf_counter()
    rest: list[NDArray[np.float32]] = []
    watching = False
    for start, rows in ahead(drawing, seen.count):
        now = rows[: max(0, seen.bulk - start)]
        rest.append(rows[len(now) :].copy())  # a part alone would keep all of it
        if len(now):
            seen.bulk_inside += gallery.ask("enrol", start, now)
            seen.bulk_seconds = time.perf_counter() - began
        if not watching:  # an empty gallery answers at once
            gallery.ask("watch", queries)
            watching = True
    seen.while_bulk = gallery.ask("watched")
    clock.lap("bulk enrolment")
    seen.index_seconds = until_quiet(gallery, effort.quiet)
    seen.while_index = gallery.ask("watched")
    gallery.ask("unwatch")
    clock.lap("index")
    last = np.concatenate(rest)
    seen.alone_rate = alone / gallery.ask("add", seen.bulk, last[:alone], 1)
    seen.together_rate = together / gallery.ask("add", seen.bulk + alone, last[alone:], 8)
    until_quiet(gallery, effort.quiet)
    seen.engine = gallery.ask("engine")
    clock.lap("one by one")


def _search(
    gallery: Process, queries: NDArray[np.float32], conditions: Sequence[Condition], seen: Measured, effort: Effort
) -> list[Answers]:
    """The answers of each condition, the first of which lets all through."""
    seen.plain = gallery.ask("search", queries, Filter(), 1, effort.seconds)
    seen.two = gallery.ask("search", queries, Filter(), 2, effort.seconds)
    some = queries[: effort.filtered]
    filtered = [gallery.ask("search", some, condition.filter, 1, effort.seconds) for condition in conditions[1:]]
    return [seen.plain, *filtered]


def _reopen(
    arguments: tuple[Path, int, int, int | None], drawing: Drawing, queries: NDArray[np.float32], seen: Measured
) -> None:
    """Opened after a kill, with its files in memory, with none of them, and after a kill that follows many changes."""
    with Process(Embedded, *arguments) as gallery:
        never_closed = gallery.ask("first_answer", queries[0])
        seen.closing = gallery.ask("close")
    seen.disk = disk_bytes(arguments[0])
    with Process(Embedded, *arguments) as gallery:
        seen.warm = gallery.ask("first_answer", queries[0])
        gallery.ask("search", queries[:100], Filter(), 1, 5.0)
        seen.reopened_memory = gallery.memory
        gallery.ask("close")
    forget_files(arguments[0])
    with Process(Embedded, *arguments) as gallery:
        seen.cold = gallery.ask("first_answer", queries[0])
        gallery.ask("enrol", 0, drawing.chunk(0)[: seen.bulk])  # in place of the same records
        gallery.kill()
    with Process(Embedded, *arguments) as gallery:
        seen.killed = max(never_closed, gallery.ask("first_answer", queries[0]), key=sum)
        gallery.ask("close")


def ahead(drawing: Drawing, count: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Number of the first row and rows, the next of which are drawn meanwhile."""
    chunks = drawing.rows(count)
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, chunks, None)
        for start in range(0, count, CHUNK):
            rows = coming.result()
            coming = pool.submit(next, chunks, None)
            assert rows is not None
            yield start, rows


def until_quiet(gallery: Process, quiet: float) -> float:
    """Seconds until the gallery's process is at rest, those of looking left out."""
    began = time.perf_counter()
    while True:
        since, used = time.perf_counter(), gallery.cpu_seconds
        time.sleep(quiet)
        little = gallery.cpu_seconds - used < _QUIET_SHARE * (time.perf_counter() - since)
        if little and not gallery.ask("at_work"):
            return since - began
        if since - began > _QUIET_AT_MOST:
            raise SystemExit(f"the gallery is still at work {_QUIET_AT_MOST:g} s after the last record")


def _tracklets_of(drawing: Drawing, count: int, people: NDArray[np.int64]) -> list[int]:
    """Numbers of the rows that are of some people."""
    found = [
        np.flatnonzero(np.isin(drawing.people_of(chunk), people)) + chunk * CHUNK for chunk in range(-(-count // CHUNK))
    ]
    return [int(number) for number in np.concatenate(found) if number < count]
