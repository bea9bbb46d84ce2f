"""A copy of the vectors on a GPU, for the searches that it answers correctly."""

import logging
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.gallery.embedded.index.flat import faiss

log = logging.getLogger(__name__)

_BYTES_A_NUMBER = 2
_MOST_FETCHED = 2048
"""What FAISS's GPU indexes give at most."""
_ROWS_AT_ONCE = 16_384


class GpuMirror:
    """All rows once more, in half precision, compared by a GPU in a few milliseconds.

    FAISS's plain GPU indexes ignore a filter, so none is given to them: more rows are fetched than wanted, those that
    do not pass are dropped, and where too few are left the answer is `None` and the CPU's. What is left is right: the
    best of all rows that pass are the best that pass. Once its memory is used up, or the GPU fails, it is given up
    for good, with a warning.
    """

    def __init__(self, make: Callable[[], Any], dimension: int, memory: int) -> None:
        """`make` gives an empty index of inner products, `memory` is how many bytes its rows may take."""
        self._make = make
        self._index = make()
        self._most = memory // (_BYTES_A_NUMBER * dimension)
        self._numbers: NDArray[np.int64] = np.empty(0, np.int64)
        self._lock = threading.Lock()  # a GPU's resources are not for two threads at once
        self._given_up = False

    @property
    def in_use(self) -> bool:
        """Whether it answers, and has to be kept up to date."""
        return not self._given_up

    def append(self, numbers: NDArray[np.int64], rows: NDArray[np.float32]) -> None:
        """Add rows `[N, D]` of unit length whose numbers are greater than all before."""
        with self._lock:
            if self._given_up or not len(numbers):
                return
            if len(self._numbers) + len(numbers) > self._most:
                self._give_up(f"it has room for {self._most} records")
                return
            try:
                self._index.add(rows)
            except (RuntimeError, MemoryError) as error:
                self._give_up(str(error) or "no memory is left")
                return
            self._numbers = np.concatenate([self._numbers, numbers])

    def keep(self, numbers: NDArray[np.int64]) -> None:
        """Forget all rows but these, ascending."""
        with self._lock:
            if self._given_up:
                return
            kept = np.flatnonzero(np.isin(self._numbers, numbers))
            if len(kept) == len(self._numbers):
                return
            try:
                rows = [
                    self._index.reconstruct_n(start, min(_ROWS_AT_ONCE, len(self._numbers) - start))
                    for start in range(0, len(self._numbers), _ROWS_AT_ONCE)
                ]
                self._index = self._make()
                self._index.add(np.concatenate(rows)[kept])
            except (RuntimeError, MemoryError) as error:  # the copy is only a help: the index must not break for it
                self._give_up(str(error) or "no memory is left")
                return
            self._numbers = self._numbers[kept]

    def nearest(
        self, direction: NDArray[np.float32], wanted: int, passes: Callable[[NDArray[np.int64]], NDArray[np.bool_]]
    ) -> NDArray[np.int64] | None:
        """Numbers of the best rows for a unit vector `[D]`, at least `wanted`, all of which pass; `None`: ask the CPU.

        `passes` says which of some numbers may be found.
        """
        with self._lock:
            fetched = min(4 * wanted + 64, _MOST_FETCHED, len(self._numbers))
            if self._given_up or fetched < wanted:
                return None
            try:
                _, places = self._index.search(direction[None], fetched)
            except RuntimeError as error:
                self._give_up(str(error))
                return None
            numbers = self._numbers[places[0]]
        chosen = numbers[passes(numbers)]
        # Half precision ranks nearly as single does: the last of those wanted may be a little further down.
        return chosen if len(chosen) >= min(2 * wanted, wanted + 54) or fetched == len(self._numbers) else None

    def _give_up(self, reason: str) -> None:
        self._given_up = True
        self._index = None
        log.warning("the gallery is searched without the GPU from now on: %s", reason)


def open_mirror(dimension: int, memory: int) -> GpuMirror | None:
    """A mirror on the first GPU, or `None` where FAISS was built without GPUs or finds none."""
    if not hasattr(faiss, "StandardGpuResources") or not faiss.get_num_gpus():
        return None
    resources = faiss.StandardGpuResources()
    options = faiss.GpuIndexFlatConfig()
    options.useFloat16 = True
    return GpuMirror(lambda: faiss.GpuIndexFlatIP(resources, dimension, options), dimension, memory)
