"""The search index: the rows of one version of the database, for many threads."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.gallery.embedded.index.columns import Columns, Entry, RowFilter
from service.gallery.embedded.index.flat import Found, Vectors, unit_rows
from service.gallery.embedded.index.gpu import GpuMirror
from service.gallery.records import GalleryBroken, GalleryError

Fetch = Callable[[NDArray[np.int64]], NDArray[np.float32]]
"""The vectors `[n, D]` of rows `[n]`, from the snapshot that is searched."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """Row numbers with their scores, best first: at least the asked-for number, and all that tie with the last one.

    `searched` counts the rows that passed the selection; `exact` is false where a better one may have been missed.
    """

    numbers: NDArray[np.int64]
    scores: NDArray[np.float64]
    searched: int
    exact: bool


class Index:
    """Cosine search over all rows of one version of the database, safe for threads.

    Many may search at once; a change waits for them and they for it. `version` is the database's after the change
    applied last, and a search names the version it wants, so that what it finds can be read from a snapshot of the
    database of that very version.
    """

    def __init__(self, vectors: Vectors, columns: Columns, version: int, mirror: GpuMirror | None = None) -> None:
        """Take over unit vectors, the columns of the same rows, in the same order, and a GPU's copy of them."""
        self._vectors = vectors
        self._mirror = mirror
        self._columns = columns
        self._version = version
        self._broken = False
        self._condition = threading.Condition()
        self._searching = 0
        self._change_waiting = False
        self._changing = False

    def __len__(self) -> int:
        """How many rows are enrolled, expired ones included until they are removed."""
        return self._columns.living

    def count(self, now: int) -> int:
        """How many rows can be found at this time, in microseconds."""
        with self._reading(None):
            return self._columns.unexpired(now)

    def check(self) -> None:
        """Raises `GalleryBroken` where a change failed half-way, so that the index is no longer the database's."""
        if self._broken:
            raise GalleryBroken("the search index failed and no longer follows the database: restart the service")

    def fail(self) -> None:
        """Give up following the database: whoever waits for a version that will not come is told, as are all later."""
        with self._condition:
            self._broken = True
            self._condition.notify_all()

    @property
    def vectors(self) -> Vectors:
        """What is searched now; it may be replaced at any time."""
        return self._vectors

    @property
    def dead(self) -> int:
        """How many removed rows still take their place."""
        return self._columns.size - self._columns.living

    def apply(self, version: int, added: Sequence[Entry], vectors: NDArray[np.float32], removed: Sequence[int]) -> None:
        """Follow a committed change: rows `added` with their vectors `[N, D]`, then numbers `removed`."""
        with self._changed():
            if added:
                self._vectors.append(vectors)
                if self._mirror is not None:
                    self._mirror.append(np.array([entry.number for entry in added], np.int64), unit_rows(vectors))
                self._columns.append(added)
            if removed:
                self._columns.remove(removed)
            self._version = version

    def replace(self, vectors: Vectors, numbers: NDArray[np.int64]) -> None:
        """Search other vectors from now on: of the same rows, those of `numbers` `[N]`, ascending; dead ones may lack.

        Raises `GalleryError`, and changes nothing, where a living row lacks.
        """
        columns = self._columns.at(numbers)
        if columns.living != self._columns.living or len(vectors) != columns.size:
            raise GalleryError("the new index does not have the rows of the old one")
        with self._changed():
            self._vectors, self._columns = vectors, columns
            if self._mirror is not None:
                self._mirror.keep(numbers)

    def search(
        self, query: NDArray[np.float32], top_k: int, selection: RowFilter, version: int, fetch: Fetch
    ) -> Candidates | None:
        """The best `top_k` rows for a query `[D]`, or `None` where the index is past `version` already.

        Scores are cosines computed in double precision row by row, so equal vectors score equal wherever they lie;
        single precision, or less, only picks the candidates.
        """
        direction = unit_rows(query[None])[0]
        with self._reading(version) as current:
            if not current:
                return None
            mask = self._columns.mask(selection)
            searched = self._columns.size if mask is None else int(np.count_nonzero(mask))
            if not searched:
                return Candidates(np.empty(0, np.int64), np.empty(0, np.float64), 0, exact=True)
            wanted = min(top_k, searched)
            found = self._nearest(direction, wanted, searched, mask)
            numbers = self._columns.numbers[found.positions]
        rows = fetch(numbers) if found.rows is None else found.rows
        products = rows.astype(np.float64) * direction.astype(np.float64)
        scores = np.clip(np.add.reduce(products, axis=1), -1.0, 1.0)
        best_first = np.argsort(-scores, kind="stable")
        numbers, scores = numbers[best_first], scores[best_first]
        kept = scores >= scores[wanted - 1]
        return Candidates(numbers[kept], scores[kept], searched, found.exact)

    def _nearest(
        self, direction: NDArray[np.float32], wanted: int, searched: int, mask: NDArray[np.bool_] | None
    ) -> Found:
        # Half precision proves nothing: rows that are few enough to be compared exactly are the CPU's.
        if self._mirror is not None and self._mirror.in_use and not self._vectors.exact:
            known = self._columns.numbers

            def passes(numbers: NDArray[np.int64]) -> NDArray[np.bool_]:
                places = np.minimum(np.searchsorted(known, numbers), len(known) - 1)
                there: NDArray[np.bool_] = known[places] == numbers
                return there if mask is None else there & mask[places]

            numbers = self._mirror.nearest(direction, wanted, passes)
            if numbers is not None:
                return Found(np.searchsorted(known, numbers), None, exact=False)
        return self._vectors.nearest(direction, wanted, searched, mask)

    @property
    def description(self) -> str:
        """How rows are searched, in words, for people."""
        mirrored = self._mirror is not None and self._mirror.in_use
        return self._vectors.description + (", mirrored on a GPU" if mirrored else "")

    def living(self) -> tuple[Vectors, NDArray[np.bool_], NDArray[np.int64]]:
        """The vectors, which of their positions hold a living row, and the numbers of those rows, as of now.

        The vectors go on growing behind these positions: read them in blocks of `hold`.
        """
        with self._reading(None):
            alive = self._columns.alive.copy()
            return self._vectors, alive, self._columns.numbers[alive]

    def hold(self) -> AbstractContextManager[object]:
        """A block in which nothing changes; searches go on."""
        return self._reading(None)

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
