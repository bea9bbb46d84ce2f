"""Answers of a gallery or library, the true answers by an exact scan, recall and times."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.gallery.embedded.index.flat import faiss

TOP = 10
_EQUAL = 1e-6
"""Scores that differ by less are equal: single precision sums depend on the order."""


@dataclass(frozen=True)
class Answers:
    """Answers with one setting: row numbers and seconds of each query."""

    numbers: list[list[int]]
    times: list[float]
    exact: int
    """Number of answers that were marked exact."""
    seconds: float
    """Seconds from the first query to the last answer."""

    @property
    def median_ms(self) -> float:
        return 1000 * float(np.median(self.times))

    @property
    def p99_ms(self) -> float:
        return 1000 * float(np.percentile(self.times, 99))


def ask(
    search: Callable[[NDArray[np.float32]], tuple[list[int], bool]],
    queries: NDArray[np.float32],
    threads: int,
    seconds: float,
    least: int = 20,
) -> Answers:
    """Answer queries one after the other on each thread; the first three are asked once before, unmeasured."""
    for query in queries[:3]:
        search(query)
    lock, numbers_left = threading.Lock(), iter(range(len(queries)))
    answers: dict[int, tuple[list[int], bool, float]] = {}
    began = time.perf_counter()

    def run() -> None:
        while True:
            with lock:
                number = next(numbers_left, None)
            if number is None or (number >= least and time.perf_counter() - began > seconds):
                return
            start = time.perf_counter()
            numbers, exact = search(queries[number])
            answers[number] = numbers, exact, time.perf_counter() - start

    with ThreadPoolExecutor(threads) as pool:
        for future in [pool.submit(run) for _ in range(threads)]:
            future.result()
    took = time.perf_counter() - began
    ordered = [answers[number] for number in sorted(answers)]
    return Answers([item[0] for item in ordered], [item[2] for item in ordered], sum(i[1] for i in ordered), took)


class Truth:
    """The scores of the ten best rows that pass each condition, for queries `[Q, D]`, collected chunk by chunk.

    `masks` `[C][N]` say which rows pass.
    """

    def __init__(self, queries: NDArray[np.float32], masks: Sequence[NDArray[np.bool_]]) -> None:
        self._queries, self._masks = queries, masks
        self._best = np.full((len(masks), len(queries), TOP), -np.inf, np.float32)
        self._counts = [int(mask.sum()) for mask in masks]

    def add(self, start: int, rows: NDArray[np.float32]) -> None:
        """Add rows `[n, D]`, numbered from `start`."""
        scores = self._queries @ rows.T
        for mask, best in zip(self._masks, self._best, strict=True):
            better = scores > best[:, :1]
            better &= mask[start : start + len(rows)]
            for query in np.flatnonzero(better.any(axis=1)):
                # Ascending: the first is the smallest of the ten.
                best[query] = np.sort(np.concatenate([best[query], scores[query, better[query]]]))[-TOP:]

    def threshold(self, condition: int, query: int) -> float:
        """Return the score of the tenth best row that passes, or of the last if fewer pass."""
        return float(self._best[condition, query, TOP - self.wanted(condition)])

    def wanted(self, condition: int) -> int:
        return min(TOP, self._counts[condition])


def recall_of(
    truth: Truth, condition: int, answers: Sequence[Sequence[int]], scores: Sequence[Sequence[float]]
) -> float:
    """Return recall@10: the share of answers whose exact score reaches that of the tenth best row."""
    found = 0
    for query, (numbers, values) in enumerate(zip(answers, scores, strict=True)):
        least = truth.threshold(condition, query) - _EQUAL
        found += len({number for number, value in zip(numbers, values, strict=True) if value >= least})
    return found / max(1, truth.wanted(condition) * len(answers))


def count_wrong(mask: NDArray[np.bool_], answers: Sequence[Sequence[int]], wanted: int) -> int:
    """Count the answers with a row that does not pass, a duplicate row, or a wrong number of rows."""
    return sum(
        len(numbers) != wanted or len(set(numbers)) != wanted or not mask[list(numbers)].all() for numbers in answers
    )


class ExactScan:
    """FAISS's `IndexFlatIP`, which uses all cores for a query, and the true answers for the same rows."""

    def __init__(self, dimension: int, queries: NDArray[np.float32], masks: list[NDArray[np.bool_]]) -> None:
        self._index = faiss.IndexFlatIP(dimension)
        self._queries, self._masks = queries, masks
        self._truth = Truth(queries, masks)

    def add(self, start: int, rows: NDArray[np.float32]) -> None:
        """Add the next rows `[n, D]`."""
        self._truth.add(start, rows)
        self._index.add(rows)

    def search(self, seconds: float) -> Answers:
        return ask(self._search, self._queries, 1, seconds, least=5)

    def judge(self, condition: int, answers: list[list[int]]) -> tuple[float, int]:
        """Return recall@10 of the answers to the queries with known true answers, and the number of wrong answers."""
        judged = answers[: len(self._queries)]
        scores = [
            [float(self._index.reconstruct(number) @ query) for number in numbers]
            for numbers, query in zip(judged, self._queries, strict=False)
        ]
        wrong = count_wrong(self._masks[condition], answers, self._truth.wanted(condition))
        return recall_of(self._truth, condition, judged, scores), wrong

    def _search(self, query: NDArray[np.float32]) -> tuple[list[int], bool]:
        _, numbers = self._index.search(query[None], TOP)
        return numbers[0].tolist(), True
