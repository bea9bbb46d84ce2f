"""The gallery at one size: enrolment, searches, filters, restarts, compared with an exact scan."""

import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.gallery.drawing import CHUNK, Condition, Drawing, Population, draw
from benchmarks.gallery.embedded import Embedded
from benchmarks.gallery.ground_truth import Answers, Flat, Truth, recall_of, spoilt
from benchmarks.gallery.process import Memory, Process, disk_bytes, forget_files
from benchmarks.serving.process import MB
from benchmarks.serving.report import Report
from service.gallery.records import Filter

_QUIET_SHARE, _QUIET_SECONDS, _QUIET_AT_MOST = 0.5, 2.0, 900.0
"""The index is at rest if its process uses less than this share of a core."""


@dataclass(frozen=True)
class Effort:
    """Size of the measurement; `exact_bytes` None is the gallery's default."""

    queries: int = 1000
    judged: int = 400
    """Number of queries with known true answers."""
    filtered: int = 200
    alone: int = 500
    """Records enrolled one by one by one thread."""
    together: int = 2000
    """Records enrolled one by one by eight threads."""
    seconds: float = 20.0
    """Most seconds for one setting, unless twenty queries take longer."""
    quiet: float = _QUIET_SECONDS
    exact_bytes: int | None = None


@dataclass(frozen=True)
class Filtered:
    name: str
    allowed: int
    answers: Answers
    recall: float
    spoilt: int


@dataclass
class Measured:
    """Measurements at one size, in seconds and bytes."""

    count: int
    dimension: int
    bulk: int = 0
    bulk_seconds: float = 0.0
    bulk_inside: float = 0.0
    """Part of `bulk_seconds` inside the gallery's calls; drawing vectors competes for the same cores."""
    index_seconds: float = 0.0
    """Seconds from the last bulk call until the gallery is at rest."""
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
    """The slower of two openings after kill -9: of a gallery never closed, and after thousands of replacements."""
    disk: int = 0
    parts: dict[str, float] = field(default_factory=dict)


def measure_scale(folder: Path, count: int, dimension: int, effort: Effort) -> Measured:
    """Measure everything at `count` records of `dimension`, in a folder that is removed at the end.

    Raises:
        SystemExit: The gallery or the scan failed, or lost a record.
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
    """Print progress to standard error; the report is on standard output."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


class _Clock:
    def __init__(self, seen: Measured, name: str) -> None:
        self._seen, self._name = seen, name
        self._last = time.perf_counter()

    def lap(self, part: str) -> None:
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
        rest.append(rows[len(now) :].copy())  # a view would keep the full array alive
        if len(now):
            seen.bulk_inside += gallery.ask("enrol", start, now)
            seen.bulk_seconds = time.perf_counter() - began
        if not watching:  # an empty gallery would answer immediately
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
    """Return the answers for each condition; the first condition passes all rows."""
    seen.plain = gallery.ask("search", queries, Filter(), 1, effort.seconds)
    seen.two = gallery.ask("search", queries, Filter(), 2, effort.seconds)
    some = queries[: effort.filtered]
    filtered = [gallery.ask("search", some, condition.filter, 1, effort.seconds) for condition in conditions[1:]]
    return [seen.plain, *filtered]


def _reopen(
    arguments: tuple[Path, int, int, int | None], drawing: Drawing, queries: NDArray[np.float32], seen: Measured
) -> None:
    """Open the gallery after a kill, with cached files, without them, and after a kill that follows many changes."""
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
        gallery.ask("enrol", 0, drawing.chunk(0)[: seen.bulk])  # replaces the same records
        gallery.kill()
    with Process(Embedded, *arguments) as gallery:
        seen.killed = max(never_closed, gallery.ask("first_answer", queries[0]), key=sum)
        gallery.ask("close")


def ahead(drawing: Drawing, count: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Yield the first row's number and rows; the next rows are drawn in the background."""
    chunks = drawing.rows(count)
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, chunks, None)
        for start in range(0, count, CHUNK):
            rows = coming.result()
            coming = pool.submit(next, chunks, None)
            assert rows is not None
            yield start, rows


def until_quiet(gallery: Process, quiet: float) -> float:
    """Return the seconds until the gallery's process is at rest."""
    began = time.perf_counter()
    while True:
        since, used = time.perf_counter(), gallery.cpu_seconds
        time.sleep(quiet)
        little = gallery.cpu_seconds - used < _QUIET_SHARE * (time.perf_counter() - since)
        if little and not gallery.ask("at_work"):
            return since - began
        if since - began > _QUIET_AT_MOST:
            raise SystemExit(f"the gallery is still building {_QUIET_AT_MOST:g} s after the last record")


def _tracklets_of(drawing: Drawing, count: int, people: NDArray[np.int64]) -> list[int]:
    found = [
        np.flatnonzero(np.isin(drawing.people_of(chunk), people)) + chunk * CHUNK for chunk in range(-(-count // CHUNK))
    ]
    return [int(number) for number in np.concatenate(found) if number < count]


_LARGE, _LARGE_DIMENSION = 1_000_000, 2048
_GB = 1e9


def show_scale(report: Report, seen: Sequence[Measured]) -> None:
    """Print tables of all sizes: enrolment, searches meanwhile, searches, restarts, memory, filters."""
    report.head(
        "records", "bulk, records/s", "of it in the gallery's calls", "1 thread", "8 threads", "index at rest after"
    )
    for item in seen:
        report.row(
            _name(item),
            f"{item.bulk / item.bulk_seconds:,.0f}",
            f"{item.bulk / item.bulk_inside:,.0f}",
            f"{item.alone_rate:,.0f}",
            f"{item.together_rate:,.0f}",
            f"{item.index_seconds:.1f} s",
        )
    report.end_table()
    report.say(
        "In bulk, 1,024 records are one durable call; the next vectors are drawn on the same cores meanwhile, and a "
        "client searches now and then. One by one, each record is durable before the next one is sent. At rest means "
        "that the index for so many records is complete; records are found from the first one on."
    )
    report.head("searches meanwhile", "of them", "asked", "exact", "median ms", "p99", "most")
    for item in seen:
        for name, times in (("bulk enrolment", item.while_bulk), ("index made", item.while_index)):
            if times:
                report.row(_name(item), name, str(len(times)), _exact(times), *_spread([took for took, _ in times]))
    report.end_table()
    report.head("records", "engine", "median ms", "p99", "recall@10", "2 threads: median ms", "per s", "exact scan ms")
    for item in seen:
        report.row(
            _name(item),
            item.engine,
            f"{item.plain.median_ms:.2f}",
            f"{item.plain.p99_ms:.2f}",
            f"{item.recall:.4f}",
            f"{item.two.median_ms:.2f}",
            f"{len(item.two.times) / item.two.seconds:.0f}",
            f"{item.scan.median_ms:.1f} ({item.scan.median_ms / item.plain.median_ms:.1f} x)",
        )
    report.end_table()
    report.head(
        "records", "closed in", "open, first answer", "files not cached", "killed", "RSS most", "reopened", "disk"
    )
    for item in seen:
        report.row(
            _name(item),
            f"{item.closing:.1f} s",
            *(f"{opened:.2f} + {first:.2f} s" for opened, first in (item.warm, item.cold, item.killed)),
            *(f"{value / MB:,.0f} MB" for value in (item.memory.most, item.reopened_memory.now, item.disk)),
        )
    report.end_table()
    report.say(
        "Opening is measured inside the process, with Python and its libraries loaded. `killed` is the slower of two "
        "openings after `kill -9`: of a gallery that was never closed, and of one with some thousand replaced records. "
        "The exact scan is FAISS's over the same vectors with all cores; recall is against it, by scores in single "
        "precision. `wrong` counts answers with a row that does not pass the filter, a row twice, or not ten of them "
        "where ten pass."
    )
    for item in seen:
        _show_filters(report, item)
        parts = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in item.parts.items())
        report.say(f"{_name(item)}: {parts}; {sum(item.parts.values()) / 60:.1f} minutes in all.")


def judge(report: Report, item: Measured) -> None:
    """Add the targets: some at each size, all at a million of 2,048."""
    name = _name(item)
    answers = sum(len(part.answers.numbers) for part in item.filtered)
    wrong = sum(part.spoilt for part in item.filtered)
    report.target(f"{name}: every answer satisfies its filter", f"{wrong} of {answers} do not", met=not wrong)
    least = min(item.filtered[1:], key=lambda part: part.recall)
    asked = f"{name}: recall@10 with any filter at least 0.99"
    report.target(asked, f"{least.recall:.4f} ({least.name})", met=least.recall >= 0.99)
    report.target(f"{name}: recall@10 at least 0.99", f"{item.recall:.4f}", met=item.recall >= 0.99)
    bulk = item.bulk / item.bulk_seconds
    report.target(f"{name}: bulk at least 2,000 records/s", f"{bulk:,.0f}", met=bulk >= 2000)
    report.target(f"{name}: one by one at least 200/s", f"{item.alone_rate:,.0f}", met=item.alone_rate >= 200)
    if item.count < _LARGE or item.dimension < _LARGE_DIMENSION:
        return
    median, p99 = item.plain.median_ms, item.plain.p99_ms
    report.target(f"{name}: median search at most 15 ms", f"{median:.1f} ms", met=median <= 15)
    report.target(f"{name}: p99 at most 50 ms", f"{p99:.1f} ms", met=p99 <= 50)
    ratio = item.scan.median_ms / median
    report.target(f"{name}: at least 20 times faster than the exact scan", f"{ratio:.1f} times", met=ratio >= 20)
    most = max(item.memory.most, item.reopened_memory.most)
    report.target(f"{name}: resident set at most 5 GB", f"{most / _GB:.2f} GB", met=most <= 5 * _GB)
    slowest = max(sum(times) for times in (item.warm, item.cold, item.killed))
    report.target(f"{name}: ready within 20 s of a restart", f"{slowest:.1f} s", met=slowest <= 20)


def _show_filters(report: Report, item: Measured) -> None:
    report.head(f"filter, {_name(item)}", "rows left", "median ms", "p99", "recall@10", "called exact", "wrong")
    for part in item.filtered:
        asked = len(part.answers.numbers)
        report.row(
            part.name,
            f"{part.allowed:,}",
            f"{part.answers.median_ms:.2f}",
            f"{part.answers.p99_ms:.2f}",
            f"{part.recall:.4f}",
            f"{part.answers.exact} of {asked}",
            str(part.spoilt),
        )
    report.end_table()


def _name(item: Measured) -> str:
    return f"{item.count:,} x {item.dimension:,}"


def _exact(times: Sequence[tuple[float, bool]]) -> str:
    return f"{100 * np.mean([exact for _, exact in times]):.0f} %"


def _spread(times: Sequence[float]) -> tuple[str, str, str]:
    values = 1000 * np.asarray(times)
    return f"{np.median(values):.1f}", f"{np.percentile(values, 99):.1f}", f"{values.max():.1f}"
