"""Answers as a contender gave them, and how good and how fast they were."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

TOP = 10
_EQUAL = 1e-6
"""Scores that differ by less are the same: single precision sums in any order."""


@dataclass
class Answers:
    """Of one setting: row numbers for each query, and seconds each took."""

    numbers: list[list[int]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    exact: int = 0
    """How many of the answers called themselves exact."""
    seconds: float = 0.0
    """From the first question to the last answer."""

    @property
    def median_ms(self) -> float:
        """Of a query's time."""
        return 1000 * float(np.median(self.times))

    @property
    def p99_ms(self) -> float:
        """Of a query's time."""
        return 1000 * float(np.percentile(self.times, 99))

    @property
    def most_ms(self) -> float:
        """The slowest."""
        return 1000 * max(self.times)


class Truth:
    """The scores of the ten best rows that pass each condition, for queries ``[Q, D]``, gathered chunk by chunk.

    ``masks`` ``[C][N]`` say which rows pass.
    """

    def __init__(self, queries: NDArray[np.float32], masks: Sequence[NDArray[np.bool_]]) -> None:
        self._queries, self._masks = queries, masks
        self._best = np.full((len(masks), len(queries), TOP), -np.inf, np.float32)
        self._counts = [int(mask.sum()) for mask in masks]

    def add(self, start: int, rows: NDArray[np.float32]) -> None:
        """Rows ``[n, D]`` from number ``start`` on."""
        scores = self._queries @ rows.T
        for place, mask in enumerate(self._masks):
            best = self._best[place]
            better = scores > best[:, :1]
            better &= mask[start : start + len(rows)]
            for query in np.flatnonzero(better.any(axis=1)):
                # Ascending: the first is the one to beat.
                best[query] = np.sort(np.concatenate([best[query], scores[query, better[query]]]))[-TOP:]

    def threshold(self, condition: int, query: int) -> float:
        """The score of the tenth best row that passes, or of the last where there are fewer."""
        kept = min(TOP, self._counts[condition])
        return float(self._best[condition, query, TOP - kept])

    def wanted(self, condition: int) -> int:
        """How many answers there should be."""
        return min(TOP, self._counts[condition])


def recall_of(
    truth: Truth, condition: int, answers: Sequence[Sequence[int]], scores: Sequence[Sequence[float]]
) -> float:
    """The share of the ten best that was found: answers whose exact score is as good as the tenth's."""
    found = 0
    for query, (numbers, values) in enumerate(zip(answers, scores, strict=True)):
        least = truth.threshold(condition, query) - _EQUAL
        found += len({number for number, value in zip(numbers, values, strict=True) if value >= least})
    return found / max(1, truth.wanted(condition) * len(answers))


def spoilt(mask: NDArray[np.bool_], answers: Sequence[Sequence[int]], wanted: int) -> int:
    """Answers that hold a row that does not pass, a row twice, or fewer or more rows than wanted."""
    return sum(
        len(numbers) != wanted or len(set(numbers)) != wanted or not mask[list(numbers)].all() for numbers in answers
    )
