"""The search index: the rows of one version of the database, for many threads."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.gallery.columns import Columns, Entry, Selection
from service.gallery.records import GalleryError
from service.gallery.vectors import Vectors, unit_rows

# Candidates fetched beyond top_k, so that ties at the cut-off rarely need a second scan.
_SPARE = 32
# Dead rows are swept out once they are more than this and more than a quarter of all.
_FEWEST_DEAD_TO_SWEEP = 1024


@dataclass(frozen=True, slots=True)
class Candidates:
    """Row numbers with their scores, best first: at least the asked-for number, and all that tie with the last one.

    `searched` counts the rows that passed the selection.
    """

    numbers: NDArray[np.int64]
    scores: NDArray[np.float64]
    searched: int


class Index:
    """Cosine search over all rows of one version of the database, safe for threads.

    Many may search at once; a change waits for them and they for it. `version` is the database's after the change
    applied last, and a search names the version it wants, so that what it finds can be read from a snapshot of the
    database of that very version.
    """

    def __init__(self, vectors: Vectors, columns: Columns, version: int) -> None:
        """Take over unit vectors and the columns of the same rows, in the same order."""
        self._vectors = vectors
        self._columns = columns
        self._version = version
        self._broken = False
        self._condition = threading.Condition()
        self._searching = 0
        self._change_waiting = False
        self._changing = False

    def __len__(self) -> int:
        """How many rows can be found."""
        return self._columns.living

    def check(self) -> None:
        """Raises `GalleryError` where a change failed half-way, so that the index is no longer the database's."""
        if self._broken:
            raise GalleryError("the search index failed and no longer follows the database: restart the service")

    @property
    def exact(self) -> bool:
        """Whether a search looks at every row."""
        return self._vectors.exact

    def apply(self, version: int, added: Sequence[Entry], vectors: NDArray[np.float32], removed: Sequence[int]) -> None:
        """Follow a committed change: rows `added` with their vectors `[N, D]`, then numbers `removed`."""
        with self._changed():
            if added:
                self._vectors.append(vectors)
                self._columns.append(added)
            if removed:
                self._columns.remove(removed)
                dead = self._columns.size - self._columns.living
                if dead > max(_FEWEST_DEAD_TO_SWEEP, self._columns.size // 4):
                    self._vectors.keep(self._columns.alive)
                    self._columns.compact()
            self._version = version

    def search(self, query: NDArray[np.float32], top_k: int, selection: Selection, version: int) -> Candidates | None:
        """The best `top_k` rows for a query `[D]`, or `None` where the index is past `version` already.

        Scores are cosines computed in double precision row by row, so equal vectors score equal wherever they lie;
        single precision only picks the candidates.
        """
        direction = unit_rows(query[None])[0]
        with self._reading(version) as current:
            if not current:
                return None
            mask = self._columns.mask(selection)
            searched = int(np.count_nonzero(mask))
            if not searched:
                return Candidates(np.empty(0, np.int64), np.empty(0, np.float64), 0)
            wanted = min(top_k, searched)
            positions = self._nearest(direction, wanted, searched, mask if searched < len(mask) else None)
            rows = self._vectors.take(positions)
            numbers = self._columns.numbers[positions]
        products = rows.astype(np.float64) * direction.astype(np.float64)
        scores = np.clip(np.add.reduce(products, axis=1), -1.0, 1.0)
        best_first = np.argsort(-scores, kind="stable")
        numbers, scores = numbers[best_first], scores[best_first]
        kept = scores >= scores[wanted - 1]
        return Candidates(numbers[kept], scores[kept], searched)

    def _nearest(
        self, direction: NDArray[np.float32], wanted: int, searched: int, mask: NDArray[np.bool_] | None
    ) -> NDArray[np.int64]:
        """Positions that hold the best `wanted` rows for certain, whatever single precision has rounded."""
        fetched = min(wanted + _SPARE, searched)
        scores, positions = self._vectors.nearest(direction, fetched, mask)
        # The true last one may score less by one doubt, and one that belongs before it may look worse by another.
        threshold = float(scores[wanted - 1]) - 2 * self._vectors.doubt
        if fetched < searched and scores[-1] >= threshold:
            return self._vectors.above(direction, threshold, mask)
        return positions

    def copy(self) -> tuple[Vectors, NDArray[np.int64]]:
        """The living rows' vectors and their numbers `[N]`, for saving while the index goes on changing."""
        with self._reading(None):
            vectors = self._vectors.copy()
            alive = self._columns.alive.copy()
            numbers = self._columns.numbers[alive]
        vectors.keep(alive)
        return vectors, numbers

    @contextmanager
    def _changed(self) -> Iterator[None]:
        """Keep everyone else out. The writer lets in one change at a time."""
        with self._condition:
            self._change_waiting = True
            while self._searching:
                self._condition.wait()
            self._change_waiting = False
            self._changing = True
        complete = False
        try:
            yield
            complete = True
        finally:
            with self._condition:
                self._broken = self._broken or not complete
                self._changing = False
                self._condition.notify_all()

    @contextmanager
    def _reading(self, version: int | None) -> Iterator[bool]:
        """Keep changes out, from `version` on; false where that version is past."""
        with self._condition:
            while not self._broken and self._must_wait(version):
                self._condition.wait()
            self.check()
            self._searching += 1
        try:
            yield version is None or version == self._version
        finally:
            with self._condition:
                self._searching -= 1
                self._condition.notify_all()

    def _must_wait(self, version: int | None) -> bool:
        # A waiting change goes first, or a stream of searches would keep it out for ever.
        return self._changing or self._change_waiting or (version is not None and self._version < version)
