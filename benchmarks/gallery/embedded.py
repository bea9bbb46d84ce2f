"""The project's gallery through the methods that the service calls, for a separate process."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.gallery.drawing import Population, number_of
from benchmarks.gallery.ground_truth import TOP, Answers, ask
from service.gallery.embedded.gallery import EmbeddedGallery
from service.gallery.embedded.index.rebuild import EXACT_BYTES
from service.gallery.records import Filter

SPACE = "0123456789abcdef"
BATCH = 1024
"""Records per call."""
_REBUILDER = "gallery-rebuilder"
"""The gallery's thread that builds indexes."""


class TimedSearch(NamedTuple):
    seconds: float
    exact: bool


class Embedded:
    """The gallery; its searches return numbers of rows."""

    def __init__(self, folder: Path, dimension: int, count: int, exact_bytes: int | None) -> None:
        self._population = Population(count)
        began = time.perf_counter()
        self._gallery = EmbeddedGallery.open(
            folder,
            embedding_space=SPACE,
            dimension=dimension,
            model_name="drawn",
            exact_bytes=EXACT_BYTES if exact_bytes is None else exact_bytes,
        )
        self.opened = time.perf_counter() - began
        self._searcher: _BackgroundSearcher | None = None

    def first_answer(self, query: NDArray[np.float32]) -> tuple[float, float]:
        """Return the seconds of opening and of the first search."""
        began = time.perf_counter()
        self._gallery.search(query, TOP)
        return self.opened, time.perf_counter() - began

    def enrol(self, start: int, rows: NDArray[np.float32]) -> float:
        records = self._population.records(start, rows)
        began = time.perf_counter()
        for first in range(0, len(records), BATCH):
            self._gallery.enrol(records[first : first + BATCH], "replace")
        return time.perf_counter() - began

    def add(self, start: int, rows: NDArray[np.float32], threads: int) -> float:
        records = self._population.records(start, rows)
        with ThreadPoolExecutor(threads) as pool:
            began = time.perf_counter()
            list(pool.map(self._gallery.add, records))
            return time.perf_counter() - began

    def search(self, queries: NDArray[np.float32], filter: Filter, threads: int, seconds: float) -> Answers:
        """Ask all queries, or at least twenty if `seconds` are over."""
        return ask(lambda query: self.find(query, filter), queries, threads, seconds)

    def start_searches(self, queries: NDArray[np.float32]) -> None:
        """Search now and then in the background."""
        self._searcher = _BackgroundSearcher(lambda query: self.find(query, Filter()), queries)

    def take_searches(self) -> list[TimedSearch]:
        """Return the searches since the start or the last call of this method."""
        assert self._searcher is not None
        return self._searcher.take()

    def stop_searches(self) -> None:
        assert self._searcher is not None
        self._searcher.stop()

    def is_building(self) -> bool:
        """Return whether an index is being built in the background."""
        return any(thread.name == _REBUILDER for thread in threading.enumerate())

    def engine(self) -> str:
        return self._gallery.engine

    def count(self) -> int:
        return self._gallery.count()

    def close(self) -> float:
        began = time.perf_counter()
        self._gallery.close()
        return time.perf_counter() - began

    def find(self, query: NDArray[np.float32], filter: Filter) -> tuple[list[int], bool]:
        """Return the numbers of the ten best rows and whether the answer is exact."""
        result = self._gallery.search(query, TOP, filter)
        return [number_of(hit.record.id) for hit in result.hits], result.exact


class _BackgroundSearcher:
    """Searches in a thread; waits four times the last answer's time after each, so it adds little load."""

    def __init__(
        self, search: Callable[[NDArray[np.float32]], tuple[list[int], bool]], queries: NDArray[np.float32]
    ) -> None:
        self._search, self._queries = search, queries
        self._searches: list[TimedSearch] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def take(self) -> list[TimedSearch]:
        searches, self._searches = self._searches, []
        return searches

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        seconds = 0.0
        for query in cycle(self._queries):
            if self._stop.wait(max(0.02, 4 * seconds)):
                return
            began = time.perf_counter()
            _, exact = self._search(query)
            seconds = time.perf_counter() - began
            self._searches.append(TimedSearch(seconds, exact))
