"""The gallery beside other libraries: the same vectors, the same queries, one process after the other."""

import importlib.util
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.gallery.answers import Answers, Truth, recall_of, spoilt
from benchmarks.gallery.contenders import CONTENDERS, Contender
from benchmarks.gallery.embeddings import draw
from benchmarks.gallery.exact import Flat
from benchmarks.gallery.population import TEAM, Population
from benchmarks.gallery.process import Process, disk_bytes
from benchmarks.gallery.scale import Effort, ahead, progress, until_quiet
from benchmarks.serving.process import MB
from benchmarks.serving.report import Report

_WANTED = 0.99


class _Judge:
    """Knows the true answers; in a process of its own while others are measured, at rest."""

    def __init__(self, flat: Process, truth: Truth, mask: NDArray[np.bool_]) -> None:
        self._flat, self._truth, self._mask = flat, truth, mask

    def recall(self, answers: Answers, *, filtered: bool) -> float:
        """Of answers to the first queries."""
        return recall_of(self._truth, int(filtered), answers.numbers, self._flat.ask("scores", answers.numbers))

    def wrong(self, answers: Answers) -> int:
        """Filtered answers that hold what does not pass, or too little."""
        return spoilt(self._mask, answers.numbers, self._truth.wanted(1))


def measure_peers(
    report: Report, folder: Path, count: int, dimension: int, effort: Effort, names: Sequence[str] | None
) -> None:
    """One table of ``count`` records; ``names`` are first words of those wanted."""
    drawing = draw(count, dimension)
    queries = drawing.queries(effort.judged)
    mask = Population(count).teams(0, count) == TEAM
    report.head(
        f"{count:,} x {dimension:,}", "built in", "RSS, of it before", "disk", "setting", "recall@10", "median ms",
        "p99", f"filter of {100 * mask.mean():.1f} %: recall@10", "median ms", "p99", "wrong",
    )  # fmt: skip
    with Process(Flat, dimension, queries, [np.ones(count, np.bool_), mask]) as flat:
        for start, rows in ahead(drawing, count):
            flat.ask("add", start, rows)
        judge = _Judge(flat, flat.ask("truth"), mask)
        for contender in CONTENDERS:
            title = contender.name.strip("*").lower()
            if names and not any(title.startswith(name.lower()) for name in names):
                continue
            if importlib.util.find_spec(contender.module.partition(".")[0]) is None:
                report.row(contender.name, f"{contender.module} is not installed")
                continue
            place = folder / contender.__name__.lower()
            try:
                began = time.perf_counter()
                _measure(report, contender, judge, place, drawing, count, queries, effort)
                progress(f"{contender.name}: {time.perf_counter() - began:.1f} s in all")
            finally:
                shutil.rmtree(place, ignore_errors=True)
    report.end_table()
    report.say(
        "Each is alone in a process of its own and asked one query at a time. Its own choice of the knob first, then "
        f"the least that finds {_WANTED:.0%}, with which it is filtered. not3d, LanceDB and Milvus Lite keep what they "
        "were given on disk, the others in memory only; resident sets include the Python process and its libraries."
    )


def _measure(
    report: Report,
    contender: type[Contender],
    judge: _Judge,
    folder: Path,
    drawing: Any,
    count: int,
    queries: NDArray[np.float32],
    effort: Effort,
) -> None:
    with Process(contender, folder, drawing.dimension, count) as process:
        before = process.memory.now
        built = 0.0
        for start, rows in ahead(drawing, count):
            began = time.perf_counter()
            process.ask("add", start, rows)
            built += time.perf_counter() - began
        began = time.perf_counter()
        process.ask("finish")
        built += time.perf_counter() - began + until_quiet(process, effort.quiet)
        size = f"{disk_bytes(folder) / MB:,.0f} MB" if contender.durable else "none"
        first = True
        for setting in contender.settings:
            answers: Answers = process.ask("search", queries, setting, False, effort.seconds)
            recall = judge.recall(answers, filtered=False)
            enough = recall >= _WANTED or setting == contender.settings[-1]
            if not (first or enough):
                continue
            told = [contender.name if first else "", f"{built:.1f} s" if first else ""]
            memory = process.memory
            told.append(f"{memory.now / MB:,.0f} MB, {before / MB:,.0f}" if first else "")
            told += [size if first else "", f"{contender.knob} {setting}" if contender.knob else ""]
            told += [f"{recall:.4f}", f"{answers.median_ms:.2f}", f"{answers.p99_ms:.2f}"]
            report.row(*told, *(_filtered(process, contender, judge, setting, queries, effort) if enough else [""] * 4))
            first = False
            if enough:
                return


def _filtered(
    process: Process,
    contender: type[Contender],
    judge: _Judge,
    setting: int,
    queries: NDArray[np.float32],
    effort: Effort,
) -> list[str]:
    if not contender.filters:
        return ["cannot filter", "", "", ""]
    answers: Answers = process.ask("search", queries[: effort.filtered], setting, True, effort.seconds)
    recall = judge.recall(answers, filtered=True)
    return [f"{recall:.4f}", f"{answers.median_ms:.2f}", f"{answers.p99_ms:.2f}", str(judge.wrong(answers))]
