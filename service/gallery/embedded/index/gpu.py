"""A copy of the vectors on a GPU, for the searches that it answers correctly."""

import logging
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.gallery.embedded.index.flat import faiss

log = logging.getLogger(__name__)

_BYTES_PER_VALUE = 2
_MAX_FETCHED = 2048
"""The most rows that FAISS's GPU indexes return."""
_ROWS_AT_ONCE = 16_384


class GpuMirror:
    """All rows in half precision, which a GPU compares with a query in a few milliseconds.

    FAISS's plain GPU indexes ignore a filter. So the mirror fetches more rows than wanted and drops those that do not
    pass; the rest are the best rows that pass. If too few are left, it returns `None` and the CPU has to search. If its
    memory is used up or the GPU fails, it logs a warning and is not used any more.
    """

    def __init__(self, make: Callable[[], Any], dimension: int, max_bytes: int) -> None:
        """`make` returns an empty FAISS index of inner products; the rows may take `max_bytes`."""
        self._make = make
        self._index = make()
        self._max_rows = max_bytes // (_BYTES_PER_VALUE * dimension)
        self._numbers: NDArray[np.int64] = np.empty(0, np.int64)
        self._lock = threading.Lock()  # two threads must not use a GPU's resources at the same time
        self._disabled = False

    @property
    def in_use(self) -> bool:
        """Whether it answers searches and has to be kept up to date."""
        return not self._disabled

    def append(self, numbers: NDArray[np.int64], rows: NDArray[np.float32]) -> None:
        """Add rows `[N, D]` of unit length, whose numbers `[N]` are greater than all numbers so far."""
        with self._lock:
            if self._disabled or not len(numbers):
                return
            if len(self._numbers) + len(numbers) > self._max_rows:
                self._disable(f"it has memory for {self._max_rows} records only: set NOT3D_GALLERY_GPU_MB to more")
                return
            try:
                self._index.add(rows)
            except (RuntimeError, MemoryError) as error:
                self._disable(str(error) or "no memory is left")
                return
            self._numbers = np.concatenate([self._numbers, numbers])

    def retain(self, numbers: NDArray[np.int64]) -> None:
        """Remove all rows except these `[N]`, ascending."""
        with self._lock:
            if self._disabled:
                return
            retained = np.flatnonzero(np.isin(self._numbers, numbers))
            if len(retained) == len(self._numbers):
                return
            try:
                rows = [
                    self._index.reconstruct_n(start, min(_ROWS_AT_ONCE, len(self._numbers) - start))
                    for start in range(0, len(self._numbers), _ROWS_AT_ONCE)
                ]
                self._index = self._make()
                self._index.add(np.concatenate(rows)[retained])
            except (RuntimeError, MemoryError) as error:  # the index works without its mirror
                self._disable(str(error) or "no memory is left")
                return
            self._numbers = self._numbers[retained]

    def nearest(
        self, query: NDArray[np.float32], wanted: int, passes: Callable[[NDArray[np.int64]], NDArray[np.bool_]]
    ) -> NDArray[np.int64] | None:
        """Return the numbers of at least `wanted` best rows for a unit vector `[D]`, or `None` to let the CPU search.

        `passes` returns which of some row numbers may be found.
        """
        with self._lock:
            fetched = min(4 * wanted + 64, _MAX_FETCHED, len(self._numbers))
            if self._disabled or fetched < wanted:
                return None
            try:
                _, positions = self._index.search(query[None], fetched)
            except RuntimeError as error:
                self._disable(str(error))
                return None
            numbers = self._numbers[positions[0]]
        chosen = numbers[passes(numbers)]
        # Half precision ranks nearly as single precision does: the last wanted row may be a little further down.
        return chosen if len(chosen) >= min(2 * wanted, wanted + 54) or fetched == len(self._numbers) else None

    def _disable(self, reason: str) -> None:
        self._disabled = True
        self._index = None
        log.warning("GPU not used for searches any more: %s", reason)


def open_mirror(dimension: int, max_bytes: int) -> GpuMirror | None:
    """Make a mirror on the first GPU, or return `None` if FAISS was built without GPUs or finds none."""
    if not hasattr(faiss, "StandardGpuResources") or not faiss.get_num_gpus():
        return None
    resources = faiss.StandardGpuResources()
    options = faiss.GpuIndexFlatConfig()
    options.useFloat16 = True
    return GpuMirror(lambda: faiss.GpuIndexFlatIP(resources, dimension, options), dimension, max_bytes)
