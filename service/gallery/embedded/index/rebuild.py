"""Choose the kind of index by the number of rows, and replace the index in a thread while the gallery is in use."""

import logging
import os
import threading
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from service.allocator import trim_memory
from service.gallery.embedded.database import Readers
from service.gallery.embedded.index.flat import FlatVectors, Vectors, faiss
from service.gallery.embedded.index.index import Index
from service.gallery.embedded.index.ivf import BuildCancelled, IvfVectors, list_count, sample_size
from service.gallery.embedded.rows import vectors_after, vectors_of
from service.gallery.embedded.writer import Writer
from service.gallery.records import GalleryError

log = logging.getLogger(__name__)

EXACT_BYTES = 128 * 2**20
"""Up to this many bytes of float32 vectors, every search compares all of them: about 8 ms on two cores."""
ROWS_AT_ONCE = 4096
"""Number of rows in one read from the database."""
_MAX_GROWTH = 8
"""Lists are trained again when there are more than this many times the rows that they were trained for."""
_MIN_DEAD_TO_COMPACT = 1024
_MAX_ROWS_WHILE_PAUSED = 2048
_CHUNKS_BETWEEN_TRIMS = 32
_TUNING_QUERIES = 96
"""Number of queries with which the tuning measures how many lists to read."""
_NICENESS = 5
_RETRY_AFTER = 60.0
"""Seconds after a failure before the next try."""


Sample = Callable[[int], NDArray[np.float32]]
"""Returns the vectors `[n, D]` of at most this many live rows, drawn at random."""
ReadRows = Callable[[NDArray[np.int64]], tuple[NDArray[np.int64], NDArray[np.float32]]]
"""Takes row numbers. Returns the numbers `[n]` and the vectors `[n, D]` of the rows that still exist."""


def make_vectors(
    rows: int, dimension: int, exact_bytes: int, sample: Sample, cancelled: Callable[[], bool] = lambda: False
) -> Vectors:
    """Make an empty index of the right kind for this many rows, and train it if needed. Raises `BuildCancelled`."""
    if fits_exact(rows, dimension, exact_bytes):
        return FlatVectors(dimension)
    lists = list_count(rows * _MAX_GROWTH // 2)
    log.info("training an index of %d lists for %d records", lists, rows)
    return IvfVectors.train(sample(sample_size(lists)), lists, rows, cancelled)


def tune_vectors(vectors: Vectors, sample: Sample, cancelled: Callable[[], bool] = lambda: False) -> None:
    """Measure how many lists of a filled index a search must read. Raises `BuildCancelled`."""
    if isinstance(vectors, IvfVectors):
        vectors.tune(sample(_TUNING_QUERIES), cancelled)


def fits_exact(rows: int, dimension: int, exact_bytes: int) -> bool:
    """Return whether there are so few rows that a search compares all of them."""
    return rows * 4 * dimension <= exact_bytes


def chunks(numbers: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Split row numbers into parts of `ROWS_AT_ONCE`."""
    return [numbers[start : start + ROWS_AT_ONCE] for start in range(0, len(numbers), ROWS_AT_ONCE)]


def read_sample(numbers: NDArray[np.int64], count: int, dimension: int, read: ReadRows) -> NDArray[np.float32]:
    """Read the vectors `[n, D]` of `count` rows, drawn at random, or of all rows if there are fewer."""
    if count < len(numbers):
        numbers = np.sort(np.random.default_rng(0).choice(numbers, count, replace=False))
    sample = np.empty((len(numbers), dimension), np.float32)
    filled = 0
    for part in chunks(numbers):
        _, rows = read(part)
        sample[filled : filled + len(rows)] = rows
        filled += len(rows)
    return sample[:filled]


class Rebuilder:
    """Checks after each change whether the index still suits the rows, and replaces it if not.

    Up to `exact_bytes` of vectors it uses `FlatVectors`. Above that it uses `IvfVectors`, which it trains again when
    there are eight times as many rows. If more than a quarter of the positions are dead, it copies the live rows.

    A thread of low priority reads the rows from the database, in snapshots so short that the write-ahead log can be
    emptied between them. It stops the writers only for the last few rows. It logs a failure and tries again at the
    first change after a minute; until then the old index is used.
    """

    def __init__(
        self,
        index: Index,
        readers: Readers,
        writer: Writer,
        dimension: int,
        exact_bytes: int,
        on_replaced: Callable[[], None],
    ) -> None:
        """`on_replaced` is called after each replacement, so that the new index is saved soon."""
        self._on_replaced = on_replaced
        self._index, self._readers, self._writer = index, readers, writer
        self._dimension = dimension
        self._exact_bytes = exact_bytes
        self._condition = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._not_before = 0.0

    def on_commit(self) -> None:
        """Start the thread if the index has to be replaced. Returns at once."""
        if not self._is_due():
            return
        with self._condition:
            if self._closed or self._thread is not None:
                return
            thread = threading.Thread(target=self._run, name="gallery-rebuilder", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # the change is committed, so its caller must not see an error
                self._log_failure(error)
                return
            self._thread = thread

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until no replacement is running. Return false if that takes longer than `timeout` seconds."""
        with self._condition:
            return self._condition.wait_for(lambda: self._thread is None, timeout)

    def close(self) -> None:
        """Cancel a running replacement at its next step, and wait for it."""
        with self._condition:
            self._closed = True
        self.wait()

    def _is_due(self) -> bool:
        return time.monotonic() >= self._not_before and (self._is_unsuitable() or self._is_sparse())

    def _is_unsuitable(self) -> bool:
        """Return whether there are too many or too few rows for this kind of index."""
        live, vectors = len(self._index), self._index.vectors
        if isinstance(vectors, IvfVectors):
            # Half the limit, so that a gallery near the limit is not rebuilt with every record.
            return live > _MAX_GROWTH * vectors.trained_for or fits_exact(2 * live, self._dimension, self._exact_bytes)
        return not fits_exact(live, self._dimension, self._exact_bytes)

    def _is_sparse(self) -> bool:
        dead = self._index.dead
        return dead > max(_MIN_DEAD_TO_COMPACT, (len(self._index) + dead) // 4)

    def _run(self) -> None:
        try:
            _lower_priority()
            while not self._closed and self._is_due():
                try:
                    self._replace()
                except (GalleryError, MemoryError, RuntimeError) as error:  # FAISS raises RuntimeError
                    self._log_failure(error)
        except BuildCancelled:
            log.debug("index rebuild cancelled: the gallery is closing")
        finally:
            with self._condition:
                self._thread = None
                self._condition.notify_all()

    def _log_failure(self, error: Exception) -> None:
        self._not_before = time.monotonic() + _RETRY_AFTER
        log.warning("index could not be rebuilt, the old one is still used: %s", error)

    def _replace(self) -> None:
        if self._is_unsuitable():
            vectors = make_vectors(len(self._index), self._dimension, self._exact_bytes, self._sample, self._is_closed)
            numbers = np.empty(0, np.int64)
        else:
            old, alive, numbers = self._index.live_rows()
            vectors = old.subset(alive, self._index.read_lock)
        trim_memory()
        self._fill_and_swap(vectors, numbers)
        trim_memory()
        self._on_replaced()
        log.info("index rebuilt for %d records: %s", len(self._index), vectors.description)

    def _fill_and_swap(self, vectors: Vectors, numbers: NDArray[np.int64]) -> None:
        """Append the rows after `numbers`, then put these vectors in use."""
        known = [numbers]
        self._append_most(vectors, known)
        tune_vectors(vectors, self._sample, self._is_closed)
        self._append_most(vectors, known)  # what was enrolled during the tuning
        with self._writer.paused():
            while len(added := self._append_next(vectors, known)):
                known.append(added)
            self._index.replace(vectors, np.concatenate(known))

    def _append_most(self, vectors: Vectors, known: list[NDArray[np.int64]]) -> None:
        """Append the rows after the `known` ones until few are left, and add their numbers to `known`."""
        while True:
            if self._closed:
                raise BuildCancelled
            added = self._append_next(vectors, known)
            known.append(added)
            if len(known) % _CHUNKS_BETWEEN_TRIMS == 0:
                trim_memory()
            if len(added) < _MAX_ROWS_WHILE_PAUSED:
                return

    def _append_next(self, vectors: Vectors, known: list[NDArray[np.int64]]) -> NDArray[np.int64]:
        last = max((int(part[-1]) for part in known if len(part)), default=0)
        with self._readers.snapshot() as connection:
            numbers, rows = vectors_after(connection, last, ROWS_AT_ONCE, self._dimension)
        vectors.append(rows)
        return numbers

    def _sample(self, count: int) -> NDArray[np.float32]:
        _, _, numbers = self._index.live_rows()
        return read_sample(numbers, count, self._dimension, self._read)

    def _read(self, numbers: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        if self._closed:
            raise BuildCancelled
        with self._readers.snapshot() as connection:
            return vectors_of(connection, numbers, self._dimension)

    def _is_closed(self) -> bool:
        return self._closed


def _lower_priority() -> None:
    """Let this thread use one core only, with a lower priority than other threads."""
    faiss.omp_set_num_threads(1)  # applies only to the calling thread
    if hasattr(os, "setpriority"):
        try:
            os.setpriority(
                os.PRIO_PROCESS, threading.get_native_id(), _NICENESS
            )  # on Linux, this is the priority of one thread
        except OSError as error:
            log.debug("priority of the rebuilder not lowered: %s", error)
