"""The project's gallery through the methods that the service calls, for a process of its own."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

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
_PAUSES = 4
"""The watching client waits this many times its last answer's time, so it adds little load."""
_LEAST_PAUSE = 0.02
_REBUILDER = "gallery-rebuilder"
"""The gallery's thread that builds indexes."""


class Embedded:
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
        self._watch: _Watch | None = None

    def first_answer(self, query: NDArray[np.float32]) -> tuple[float, float]:
        """Return the seconds of opening and of the first search."""
        began = time.perf_counter()
        self._gallery.search(query, TOP)
        return self.opened, time.perf_counter() - began

    def enrol(self, start: int, rows: NDArray[np.float32]) -> float:
        records = self._population.records(start, rows)
        began = time.perf_counter()
        for place in range(0, len(records), BATCH):
            self._gallery.enrol(records[place : place + BATCH], "replace")
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

    def watch(self, queries: NDArray[np.float32]) -> None:
        self._watch = _Watch(lambda query: self.find(query, Filter()), queries)

    def watched(self) -> list[tuple[float, bool]]:
        """Return seconds and exactness of each search since `watch` or the last call of this method."""
        assert self._watch is not None
        return self._watch.take()

    def unwatch(self) -> None:
        assert self._watch is not None
        self._watch.stop()

    def at_work(self) -> bool:
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


class _Watch:
    """A client that searches now and then in a thread."""

    def __init__(
        self, search: Callable[[NDArray[np.float32]], tuple[list[int], bool]], queries: NDArray[np.float32]
    ) -> None:
        self._search, self._queries = search, queries
        self._seen: list[tuple[float, bool]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def take(self) -> list[tuple[float, bool]]:
        seen, self._seen = self._seen, []
        return seen

    def stop(self) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        turn, took = 0, 0.0
        while not self._over.wait(max(_LEAST_PAUSE, _PAUSES * took)):
            began = time.perf_counter()
            _, exact = self._search(self._queries[turn % len(self._queries)])
            took = time.perf_counter() - began
            self._seen.append((took, exact))
            turn += 1
