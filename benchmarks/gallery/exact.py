"""The exact scan: every row compared in single precision, by FAISS, and what the true answers are."""

import numpy as np
from numpy.typing import NDArray

from benchmarks.gallery.answers import TOP, Answers, Truth
from benchmarks.gallery.embedded import ask
from service.gallery.embedded.index.flat import faiss


class Flat:
    """FAISS's ``IndexFlatIP``, which uses all cores for a query, and the truth about the same rows."""

    def __init__(self, dimension: int, queries: NDArray[np.float32], masks: list[NDArray[np.bool_]]) -> None:
        self._index = faiss.IndexFlatIP(dimension)
        self._queries = queries
        self._truth = Truth(queries, masks)

    def add(self, start: int, rows: NDArray[np.float32]) -> None:
        """The next rows ``[n, D]``."""
        self._truth.add(start, rows)
        self._index.add(rows)

    def truth(self) -> Truth:
        """What the answers are held against."""
        return self._truth

    def search(self, seconds: float) -> Answers:
        """The time of a scan."""
        return ask(self._ask, self._queries, 1, seconds, least=5)

    def scores(self, answers: list[list[int]]) -> list[list[float]]:
        """Exact scores of the rows that were answered to each query."""
        return [
            [float(self._index.reconstruct(number) @ query) for number in numbers]
            for numbers, query in zip(answers, self._queries, strict=False)
        ]

    def _ask(self, query: NDArray[np.float32]) -> tuple[list[int], bool]:
        _, numbers = self._index.search(query[None], TOP)
        return numbers[0].tolist(), True
