"""Another index in place of the one in use, made in the background while searches and changes go on."""

import logging
import os
import threading
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from service.gallery.embedded.index.flat import FlatVectors, Vectors, faiss
from service.gallery.embedded.index.index import Index
from service.gallery.embedded.index.ivf import IvfVectors, Stopped, list_count, sample_size
from service.gallery.embedded.index.malloc import give_back_freed
from service.gallery.embedded.readers import Readers
from service.gallery.embedded.stored_vectors import read_after, read_some
from service.gallery.embedded.writer import Writer
from service.gallery.records import GalleryError

log = logging.getLogger(__name__)

EXACT_BYTES = 128 * 2**20
"""Of float32 vectors, up to which every search compares them all: about 8 ms on two cores."""
_GROWTH = 8
"""Lists made for so many rows serve up to eight times as many."""
_FEWEST_DEAD_TO_SWEEP = 1024
_ROWS_AT_ONCE = 4096
_ROWS_WHILE_PAUSED = 2048
_CHUNKS_BETWEEN_TRIMS = 32
_QUERIES = 96
"""Rows that the number of lists to read is measured with."""
_NICENESS = 5
_PATIENCE = 60.0
"""Seconds after a failure in which it is not tried again."""


Sample = Callable[[int], NDArray[np.float32]]
"""So many vectors of living rows `[n, D]`, drawn at random, or all of them where there are fewer."""


def make_vectors(
    rows: int, dimension: int, exact_bytes: int, sample: Sample, stopped: Callable[[], bool] = lambda: False
) -> Vectors:
    """An empty index of the kind that suits so many rows, trained where it has to be. Raises `Stopped`."""
    if fits_exact(rows, dimension, exact_bytes):
        return FlatVectors(dimension)
    lists = list_count(rows * _GROWTH // 2)
    log.info("training an index of %d lists for %d records", lists, rows)
    return IvfVectors.train(sample(sample_size(lists)), lists, rows, stopped)


def tune_vectors(vectors: Vectors, sample: Sample, stopped: Callable[[], bool] = lambda: False) -> None:
    """Measure how much of a filled index has to be read. Raises `Stopped`."""
    if isinstance(vectors, IvfVectors):
        vectors.tune(sample(_QUERIES), stopped)


def fits_exact(rows: int, dimension: int, exact_bytes: int) -> bool:
    """Whether so many rows are few enough to compare all of them."""
    return rows * 4 * dimension <= exact_bytes


class Rebuilder:
    """Looks after each change whether the index still suits the rows, and replaces it where it does not.

    Up to `exact_bytes` of vectors every search compares them all; above, an `IvfVectors` is trained, and trained anew
    whenever the rows have become eight times as many. Where more than a quarter of the positions are dead, the living
    are copied together. A thread of low priority does it from the database, in reads short enough not to hold up its
    log; the writers are stopped for the last few rows only. What fails is logged and tried
    again at the first change after a minute; until then the old index goes on.
    """

    def __init__(
        self,
        index: Index,
        readers: Readers,
        writer: Writer,
        dimension: int,
        exact_bytes: int,
        replaced: Callable[[], None] = lambda: None,
    ) -> None:
        """`replaced` is called after each exchange: a new index should be saved before it has to be made again."""
        self._replaced = replaced
        self._index, self._readers, self._writer = index, readers, writer
        self._dimension = dimension
        self._exact_bytes = exact_bytes
        self._condition = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._not_before = 0.0

    def note(self) -> None:
        """Look whether anything is due after a change; returns at once."""
        if not self._is_due():
            return
        with self._condition:
            if self._closed or self._thread is not None:
                return
            thread = threading.Thread(target=self._run, name="gallery-rebuilder", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # the change that led here is committed, and must not look as if it failed
                self._not_before = time.monotonic() + _PATIENCE
                log.warning("the index could not be rebuilt; the old one goes on: %s", error)
                return
            self._thread = thread

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until nothing is under way; false where that takes longer than `timeout` seconds."""
        with self._condition:
            return self._condition.wait_for(lambda: self._thread is None, timeout)

    def close(self) -> None:
        """Give up what is under way, at its next step."""
        with self._condition:
            self._closed = True
        self.wait()

    def _is_due(self) -> bool:
        return time.monotonic() >= self._not_before and (self._is_unsuitable() or self._is_sparse())

    def _is_unsuitable(self) -> bool:
        """Whether the rows have become too many, or too few, for the kind of index."""
        living, vectors = len(self._index), self._index.vectors
        if isinstance(vectors, IvfVectors):
            # Half: a gallery about this size shall not change its mind with every record.
            return living > _GROWTH * vectors.made_for or fits_exact(2 * living, self._dimension, self._exact_bytes)
        return not fits_exact(living, self._dimension, self._exact_bytes)

    def _is_sparse(self) -> bool:
        dead = self._index.dead
        return dead > max(_FEWEST_DEAD_TO_SWEEP, (len(self._index) + dead) // 4)

    def _run(self) -> None:
        try:
            _step_back()
            while not self._closed and self._is_due():
                try:
                    self._replace()
                except (GalleryError, MemoryError, RuntimeError) as error:  # RuntimeError is FAISS's
                    self._not_before = time.monotonic() + _PATIENCE
                    log.warning("the index could not be rebuilt; the old one goes on: %s", error)
        except Stopped:
            log.debug("the index is not rebuilt, because the gallery closes")
        finally:
            with self._condition:
                self._thread = None
                self._condition.notify_all()

    def _replace(self) -> None:
        if self._is_unsuitable():
            vectors = make_vectors(len(self._index), self._dimension, self._exact_bytes, self._sample, self._is_closed)
            numbers = np.empty(0, np.int64)
        else:
            old, alive, numbers = self._index.living()
            vectors = old.kept(alive, self._index.hold)
        give_back_freed()
        self._catch_up(vectors, numbers)
        give_back_freed()
        self._replaced()
        log.info("%d records are searched by: %s", len(self._index), vectors.description)

    def _catch_up(self, vectors: Vectors, numbers: NDArray[np.int64]) -> None:
        """Append the rows behind `numbers`, and search these vectors from then on."""
        known = [numbers]
        self._read_on(vectors, known)
        tune_vectors(vectors, self._sample, self._is_closed)
        self._read_on(vectors, known)  # what came while it was tuned
        with self._writer.paused():
            while len(added := self._append(vectors, _last(known), _ROWS_AT_ONCE)):
                known.append(added)
            self._index.replace(vectors, np.concatenate(known))

    def _read_on(self, vectors: Vectors, known: list[NDArray[np.int64]]) -> None:
        """Append what is behind the rows that are `known`, until little is left."""
        while True:
            self._check_open()
            added = self._append(vectors, _last(known), _ROWS_AT_ONCE)
            known.append(added)
            if len(known) % _CHUNKS_BETWEEN_TRIMS == 0:
                give_back_freed()
            if len(added) < _ROWS_WHILE_PAUSED:
                return

    def _append(self, vectors: Vectors, last: int, limit: int) -> NDArray[np.int64]:
        with self._readers.snapshot() as connection:
            numbers, rows = read_after(connection, last, limit, self._dimension)
        vectors.append(rows)
        return numbers

    def _sample(self, count: int) -> NDArray[np.float32]:
        """Vectors of so many living rows, drawn at random, or of all."""
        _, _, numbers = self._index.living()
        numbers = draw(numbers, count)
        sample = np.empty((len(numbers), self._dimension), np.float32)
        filled = 0
        for start in range(0, len(numbers), _ROWS_AT_ONCE):
            self._check_open()
            with self._readers.snapshot() as connection:
                _, rows = read_some(connection, numbers[start : start + _ROWS_AT_ONCE], self._dimension)
            sample[filled : filled + len(rows)] = rows
            filled += len(rows)
        return sample[:filled]

    def _is_closed(self) -> bool:
        return self._closed

    def _check_open(self) -> None:
        if self._closed:
            raise Stopped


def _last(known: list[NDArray[np.int64]]) -> int:
    return max((int(part[-1]) for part in known if len(part)), default=0)


def draw(numbers: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """So many of the rows at random, ascending, or all of them."""
    if count >= len(numbers):
        return numbers
    return np.sort(np.random.default_rng(0).choice(numbers, count, replace=False))


def _step_back() -> None:
    """From now on this thread computes on one core, and after all others that want it."""
    faiss.omp_set_num_threads(1)  # for parallel regions of the calling thread alone
    if hasattr(os, "setpriority"):
        try:
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)  # Linux: of this thread
        except OSError as error:
            log.debug("the rebuilder keeps its priority: %s", error)
