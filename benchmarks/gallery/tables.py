"""What was measured of the gallery, as tables, and the targets."""

from collections.abc import Sequence

import numpy as np

from benchmarks.gallery.scale import Measured
from benchmarks.serving.process import MB
from benchmarks.serving.report import Report

_LARGE, _LARGE_DIMENSION = 1_000_000, 2048
_GB = 1e9


def show_scale(report: Report, seen: Sequence[Measured]) -> None:
    """Tables of all sizes: enrolment, searches meanwhile, searches, restarts, memory; then filters of each."""
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
        "In bulk, 1,024 records are one durable call; the next vectors are drawn meanwhile on the same cores, and a "
        "client searches now and then. One by one, each record is durable before the next is given. At rest means that "
        "the index for so many records is in place; the records are searched from the first one on."
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
        "Opening is measured inside the process, Python and its libraries loaded; `killed` is the slower of two "
        "openings after a kill -9: of a gallery that was never closed, and behind some thousand replaced records. The "
        "exact scan is FAISS's over the same vectors with all cores; recall is against it, by scores in single "
        "precision. `wrong` counts answers with a row that does not pass the filter, a row twice, or not ten of them "
        "where ten pass."
    )
    for item in seen:
        _show_filters(report, item)
        parts = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in item.parts.items())
        report.say(f"{_name(item)}: {parts}; {sum(item.parts.values()) / 60:.1f} minutes in all.")


def judge(report: Report, item: Measured) -> None:
    """The targets: some of any size, all of them at a million of 2,048."""
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
