"""The gallery at one size: enrolment, searches, filters, restarts, compared with an exact scan."""

import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.gallery.drawing import CHUNK, Condition, Drawing, Population, draw
from benchmarks.gallery.embedded import Embedded, TimedSearch
from benchmarks.gallery.ground_truth import Answers, ExactScan
from benchmarks.process import MB, ObjectProcess, cpu_seconds, disk_bytes, drop_from_page_cache, footprint
from benchmarks.report import Report
from service.gallery.records import Filter

_IDLE_SHARE, _IDLE_SECONDS, _MAX_IDLE_WAIT = 0.5, 2.0, 900.0
"""A gallery is idle if its process uses less than this share of a core."""

Rows = NDArray[np.float32]
GalleryArguments = tuple[Path, int, int, int | None]
Opening = tuple[float, float]
"""Seconds of opening a gallery and of its first answer."""


@dataclass(frozen=True)
class MeasurementSettings:
    """Numbers of queries and records; `exact_bytes` None is the gallery's default."""

    queries: int = 1000
    judged: int = 400
    """Number of queries with known true answers."""
    filtered: int = 200
    by_one_thread: int = 500
    """Records enrolled one by one by one thread."""
    by_eight_threads: int = 2000
    seconds: float = 20.0
    """Most seconds for one setting, unless twenty queries take longer."""
    idle_seconds: float = _IDLE_SECONDS
    exact_bytes: int | None = None


_ENROLMENT = (
    "records",
    "bulk, records/s",
    "of it in the gallery's calls",
    "1 thread",
    "8 threads",
    "index at rest after",
)
_MEANWHILE = "searches meanwhile", "of them", "asked", "exact", "median ms", "p99", "most"
_SEARCHES = "records", "engine", "median ms", "p99", "recall@10", "2 threads: median ms", "per s", "exact scan ms"
_RESTARTS = (
    "records", "closed in", "open, first answer", "files not cached", "killed", "RSS most", "reopened", "disk"
)  # fmt: skip
_FILTERS = "rows left", "median ms", "p99", "recall@10", "called exact", "wrong"
_NOTES = {
    _ENROLMENT: (
        "In bulk, 1,024 records are one durable call; the next vectors are drawn on the same cores meanwhile, and a "
        "client searches now and then. One by one, each record is durable before the next one is sent. At rest means "
        "that the index for so many records is complete; records are found from the first one on."
    ),
    _RESTARTS: (
        "Opening is measured inside the process, with Python and its libraries loaded. `killed` is the slower of two "
        "openings after `kill -9`: of a gallery that was never closed, and of one with some thousand replaced records. "
        "The exact scan is FAISS's over the same vectors with all cores; recall is against it, by scores in single "
        "precision. `wrong` counts answers with a row that does not pass the filter, a row twice, or fewer than ten of "
        "them if ten pass."
    ),
}


class ScaleTables:
    """Tables that compare all sizes; they are printed when all sizes are measured."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, ...], list[tuple[str, ...]]] = {
            columns: [] for columns in (_ENROLMENT, _MEANWHILE, _SEARCHES, _RESTARTS)
        }
        self._notes = dict(_NOTES)

    def row(self, columns: tuple[str, ...], *cells: str) -> None:
        self._rows.setdefault(columns, []).append(cells)

    def note(self, columns: tuple[str, ...], text: str) -> None:
        self._notes[columns] = text

    def print(self, report: Report) -> None:
        for columns, rows in self._rows.items():
            report.table(columns, rows)
            if columns in self._notes:
                report.say(self._notes[columns])


def measure_scale(
    report: Report, tables: ScaleTables, folder: Path, count: int, dimension: int, settings: MeasurementSettings
) -> None:
    """Measure everything at `count` records of `dimension`, in a folder that is removed at the end.

    Raises:
        SystemExit: The gallery or the scan failed, or lost a record.
    """
    size = f"{count:,} x {dimension:,}"
    drawing, population = draw(count, dimension), Population(count)
    queries = drawing.queries(settings.queries)
    conditions = population.conditions(_tracklets_of(drawing, count, drawing.query_people(20)))
    clock = _Clock(size)
    arguments = folder, dimension, count, settings.exact_bytes
    try:
        with ObjectProcess(Embedded, *arguments) as gallery:
            bulk, single = _enrol(gallery, tables, size, drawing, count, queries, settings, clock)
            engine = gallery.call("engine")
            some = queries[: settings.filtered]
            answers: list[Answers] = [
                gallery.call("search", some if number else queries, condition.filter, 1, settings.seconds)
                for number, condition in enumerate(conditions)
            ]
            two_threads: Answers = gallery.call("search", queries, Filter(), 2, settings.seconds)
            clock.lap("search")
            memory = footprint(gallery.pid).peak
            if (found := gallery.call("count")) != count:
                raise SystemExit(f"{found} records are enrolled, not {count}")
            gallery.kill()
        slowest = _reopen(tables, size, arguments, drawing, queries, memory)
        clock.lap("restarts")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    plain = answers[0]
    columns = (f"filter, {size}", *_FILTERS)
    scan, recalls, wrong = _judge(tables, columns, drawing, count, queries, conditions, answers, settings)
    clock.lap("exact scan and truth")
    tables.note(columns, clock.summary())
    ratio = scan.median_ms / plain.median_ms
    tables.row(
        _SEARCHES,
        *(size, engine, f"{plain.median_ms:.2f}", f"{plain.p99_ms:.2f}", f"{recalls['none']:.4f}"),
        *(f"{two_threads.median_ms:.2f}", f"{len(two_threads.times) / two_threads.seconds:.0f}"),
        f"{scan.median_ms:.1f} ({ratio:.1f} x)",
    )
    total = sum(len(each.numbers) for each in answers)
    report.target(f"{size}: every answer satisfies its filter", f"{wrong} of {total} do not", met=not wrong)
    recall = recalls.pop("none")
    least = min(recalls, key=recalls.__getitem__)
    report.target(
        f"{size}: recall@10 with any filter at least 0.99",
        f"{recalls[least]:.4f} ({least})",
        met=recalls[least] >= 0.99,
    )
    report.target(f"{size}: recall@10 at least 0.99", f"{recall:.4f}", met=recall >= 0.99)
    report.target(f"{size}: bulk at least 2,000 records/s", f"{bulk:,.0f}", met=bulk >= 2000)
    report.target(f"{size}: one by one at least 200/s", f"{single:,.0f}", met=single >= 200)
    if count < 1_000_000 or dimension < 2048:
        return
    median, p99 = plain.median_ms, plain.p99_ms
    report.target(f"{size}: median search at most 15 ms", f"{median:.1f} ms", met=median <= 15)
    report.target(f"{size}: p99 at most 50 ms", f"{p99:.1f} ms", met=p99 <= 50)
    report.target(f"{size}: at least 20 times faster than the exact scan", f"{ratio:.1f} times", met=ratio >= 20)
    report.target(f"{size}: resident set at most 5 GB", f"{memory / 1e9:.2f} GB", met=memory <= 5e9)
    report.target(f"{size}: ready within 20 s of a restart", f"{slowest:.1f} s", met=slowest <= 20)


def progress(text: str) -> None:
    """Print progress to standard error; the report is on standard output."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


class _Clock:
    """The seconds of each part of the measurement."""

    def __init__(self, size: str) -> None:
        self._size = size
        self._last = time.perf_counter()
        self._parts: dict[str, float] = {}

    def lap(self, part: str) -> None:
        now = time.perf_counter()
        self._parts[part] = now - self._last
        self._last = now
        progress(f"{self._size}: {part}: {self._parts[part]:.1f} s")

    def summary(self) -> str:
        parts = ", ".join(f"{part} {seconds:.0f} s" for part, seconds in self._parts.items())
        return f"{self._size}: {parts}; {sum(self._parts.values()) / 60:.1f} minutes in all."


def _enrol(
    gallery: ObjectProcess,
    tables: ScaleTables,
    size: str,
    drawing: Drawing,
    count: int,
    queries: Rows,
    settings: MeasurementSettings,
    clock: _Clock,
) -> tuple[float, float]:
    """Return the records per second in bulk and one by one."""
    one, eight = (min(wanted, count // 8) for wanted in (settings.by_one_thread, settings.by_eight_threads))
    bulk = count - one - eight
    in_calls = seconds = 0.0
    began = time.perf_counter()
    rest: list[Rows] = []
    for start, rows in draw_ahead(drawing, count):
        now = rows[: max(0, bulk - start)]
        rest.append(rows[len(now) :].copy())  # a view would keep the full array alive
        if len(now):
            in_calls += gallery.call("enrol", start, now)
            seconds = time.perf_counter() - began
        if not start:  # an empty gallery would answer immediately
            gallery.call("start_searches", queries)
    _add_searches(tables, size, "bulk enrolment", gallery.call("take_searches"))
    clock.lap("bulk enrolment")
    idle = wait_until_idle(gallery, settings.idle_seconds)
    _add_searches(tables, size, "index made", gallery.call("take_searches"))
    gallery.call("stop_searches")
    clock.lap("index")
    last = np.concatenate(rest)
    by_one = one / gallery.call("add", bulk, last[:one], 1)
    by_eight = eight / gallery.call("add", bulk + one, last[one:], 8)
    wait_until_idle(gallery, settings.idle_seconds)
    clock.lap("one by one")
    rates = (bulk / seconds, bulk / in_calls, by_one, by_eight)
    tables.row(_ENROLMENT, size, *(f"{rate:,.0f}" for rate in rates), f"{idle:.1f} s")
    return bulk / seconds, by_one


def _add_searches(tables: ScaleTables, size: str, during: str, searches: Sequence[TimedSearch]) -> None:
    if searches:
        times = [1000 * search.seconds for search in searches]
        exact = np.mean([search.exact for search in searches])
        spread = (f"{value:.1f}" for value in (np.median(times), np.percentile(times, 99), max(times)))
        tables.row(_MEANWHILE, size, during, str(len(times)), f"{100 * exact:.0f} %", *spread)


def _reopen(
    tables: ScaleTables, size: str, arguments: GalleryArguments, drawing: Drawing, queries: Rows, memory: int
) -> float:
    """Open the gallery after a kill, with cached files, without them, and after a kill that follows many changes.

    Returns the seconds of the slowest opening with its first answer.
    """
    with ObjectProcess(Embedded, *arguments) as gallery:
        never_closed: Opening = gallery.call("first_answer", queries[0])
        closing = gallery.call("close")
    disk = disk_bytes(arguments[0])
    with ObjectProcess(Embedded, *arguments) as gallery:
        cached: Opening = gallery.call("first_answer", queries[0])
        gallery.call("search", queries[:100], Filter(), 1, 5.0)
        reopened = footprint(gallery.pid).resident
        gallery.call("close")
    drop_from_page_cache(arguments[0])
    with ObjectProcess(Embedded, *arguments) as gallery:
        not_cached: Opening = gallery.call("first_answer", queries[0])
        gallery.call("enrol", 0, drawing.chunk(0)[: arguments[2]])  # replaces the same records
        gallery.kill()
    with ObjectProcess(Embedded, *arguments) as gallery:
        killed = max(never_closed, gallery.call("first_answer", queries[0]), key=sum)
        gallery.call("close")
    openings = (cached, not_cached, killed)
    tables.row(
        _RESTARTS,
        *(size, f"{closing:.1f} s"),
        *(f"{opening:.2f} + {first:.2f} s" for opening, first in openings),
        *(f"{value / MB:,.0f} MB" for value in (memory, reopened, disk)),
    )
    return max(map(sum, openings))


def _judge(
    tables: ScaleTables,
    columns: tuple[str, ...],
    drawing: Drawing,
    count: int,
    queries: Rows,
    conditions: Sequence[Condition],
    answers: Sequence[Answers],
    settings: MeasurementSettings,
) -> tuple[Answers, dict[str, float], int]:
    """Return the exact scan's answers, recall@10 under each condition, and the number of wrong answers."""
    recalls, total = {}, 0
    masks = [condition.mask for condition in conditions]
    with exact_scan(drawing, count, queries[: settings.judged], masks) as exact:
        scan: Answers = exact.call("search", settings.seconds)
        for number, (condition, given) in enumerate(zip(conditions, answers, strict=True)):
            recall, wrong = exact.call("judge", number, given.numbers)
            tables.row(
                columns,
                *(condition.name, f"{condition.mask.sum():,}", f"{given.median_ms:.2f}", f"{given.p99_ms:.2f}"),
                *(f"{recall:.4f}", f"{given.exact} of {len(given.numbers)}", str(wrong)),
            )
            recalls[condition.name] = recall
            total += wrong
    return scan, recalls, total


@contextmanager
def exact_scan(drawing: Drawing, count: int, queries: Rows, masks: list[NDArray[np.bool_]]) -> Iterator[ObjectProcess]:
    """Run an exact scan over the first `count` drawn rows in a separate process."""
    with ObjectProcess(ExactScan, drawing.dimension, queries, masks) as exact:
        for start, rows in draw_ahead(drawing, count):
            exact.call("add", start, rows)
        yield exact


def draw_ahead(drawing: Drawing, count: int) -> Iterator[tuple[int, Rows]]:
    """Yield the first row's number and rows; the next rows are drawn in the background."""
    chunks = drawing.rows(count)
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, chunks, None)
        for start in range(0, count, CHUNK):
            rows = coming.result()
            coming = pool.submit(next, chunks, None)
            assert rows is not None
            yield start, rows


def wait_until_idle(gallery: ObjectProcess, seconds: float) -> float:
    """Return the seconds until the gallery's process is idle for `seconds`."""
    stat = Path(f"/proc/{gallery.pid}/stat")
    began = time.perf_counter()
    while True:
        since, used = time.perf_counter(), cpu_seconds(stat)
        time.sleep(seconds)
        idle = cpu_seconds(stat) - used < _IDLE_SHARE * (time.perf_counter() - since)
        if idle and not gallery.call("is_building"):
            return since - began
        if since - began > _MAX_IDLE_WAIT:
            raise SystemExit(f"the gallery is still building {_MAX_IDLE_WAIT:g} s after the last record")


def _tracklets_of(drawing: Drawing, count: int, people: NDArray[np.int64]) -> list[int]:
    found = [
        np.flatnonzero(np.isin(drawing.people_of(chunk), people)) + chunk * CHUNK for chunk in range(-(-count // CHUNK))
    ]
    return [int(number) for number in np.concatenate(found) if number < count]
