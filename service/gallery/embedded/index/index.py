"""The search index: vectors and columns of the rows of one version of the database, for many threads."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from service.gallery.embedded.index.centring import CameraSums, Centring, Means
from service.gallery.embedded.index.columns import Columns, FilterValues, RowFilter
from service.gallery.embedded.index.flat import Neighbours, Vectors, unit_rows
from service.gallery.embedded.index.gpu import GpuMirror
from service.gallery.records import CameraSummary, GalleryBroken, GalleryError

ReadVectors = Callable[[NDArray[np.int64]], NDArray[np.float32]]
"""Returns the vectors `[n, D]` of rows `[n]` from the snapshot that is searched."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """Row numbers with their scores, best first: at least the wanted number, and all that tie with the last one.

    `searched` counts the rows that passed the filter. `exact` is false if a better row may have been missed. If scores
    are centred, `centred` `[n, D]` and `centred_query` `[D]` are the unit vectors that were compared.
    """

    numbers: NDArray[np.int64]
    scores: NDArray[np.float64]
    searched: int
    exact: bool
    centred: NDArray[np.float64] | None = None
    centred_query: NDArray[np.float64] | None = None


@dataclass(frozen=True, slots=True)
class _CentredQuery:
    """A centred query `[D]` of unit length, and the means in use when it was made."""

    query: NDArray[np.float64]
    means: Means

    @classmethod
    def of(cls, query: NDArray[np.float32], camera_id: str | None, means: Means, columns: Columns) -> "_CentredQuery":
        code = np.array([columns.camera_code(camera_id)], np.int32)
        return cls(means.centre(query[None], code)[0], means)


class Index:
    """Cosine search, if wanted of centred vectors, over all rows of one version of the database, safe for threads.

    Searches run at the same time; a change waits for them and they for it. The version is that of the last change. A
    search names the version it wants, so that its result can be read from a snapshot of the same version of the
    database.
    """

    def __init__(
        self,
        vectors: Vectors,
        columns: Columns,
        version: int,
        mirror: GpuMirror | None = None,
        centring: Centring | None = None,
    ) -> None:
        """Take over unit vectors, the columns of the same rows in the same order, and their copy on a GPU.

        With `centring`, scores are centred; a copy on a GPU is then of no use.
        """
        self._centring = centring
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
        """Return how many rows are enrolled, including expired rows that are not removed yet."""
        return self._columns.live

    def count(self, now: int) -> int:
        """Count the rows that have not expired at this time, in microseconds."""
        with self.read_lock():
            return self._columns.count_unexpired(now)

    def cameras(self, now: int) -> list[CameraSummary]:
        """Return each camera of the rows that have not expired at this time, in microseconds."""
        with self.read_lock():
            return self._columns.summarise_cameras(now)

    def check(self) -> None:
        """Raise `GalleryBroken` if a change was lost, so that the index differs from the database."""
        if self._broken:
            raise GalleryBroken("the search index failed and no longer follows the database: restart the service")

    def fail(self) -> None:
        """Refuse all later calls, and end waits for a version that will not come."""
        with self._condition:
            self._broken = True
            self._condition.notify_all()

    @property
    def vectors(self) -> Vectors:
        """What is searched now; `replace` may change it at any time."""
        return self._vectors

    @property
    def centred(self) -> bool:
        """Whether scores are centred."""
        return self._centring is not None

    @property
    def dead(self) -> int:
        """How many removed rows still use memory."""
        return self._columns.size - self._columns.live

    @property
    def description(self) -> str:
        """How rows are searched, for people."""
        mirrored = self._mirror is not None and self._mirror.in_use
        return self._vectors.description + (", mirrored on a GPU" if mirrored else "")

    def apply(
        self,
        version: int,
        added: Sequence[FilterValues],
        vectors: NDArray[np.float32],
        removed: Sequence[int],
        removed_sums: CameraSums | None = None,
    ) -> None:
        """Follow a committed change: add rows with their vectors `[N, D]`, then remove row numbers.

        `removed_sums` are those of the removed rows; centred scores need them.
        """
        with self._write_lock():
            if added:
                self._vectors.append(vectors)
                if self._mirror is not None:
                    self._mirror.append(np.array([row.number for row in added], np.int64), unit_rows(vectors))
                self._columns.append(added)
            if removed:
                self._columns.remove(removed)
            if self._centring is not None:
                self._follow(self._centring, added, vectors, removed_sums)
            self._version = version

    def _follow(
        self,
        centring: Centring,
        added: Sequence[FilterValues],
        vectors: NDArray[np.float32],
        removed_sums: CameraSums | None,
    ) -> None:
        changed = {row.camera_id for row in added}
        if added:
            centring.append(vectors, self._columns)
        if removed_sums is not None:
            centring.sums.subtract(removed_sums)
            changed |= removed_sums.cameras
        if changed:
            centring.follow(changed, self._vectors, self._columns)

    def replace(self, vectors: Vectors, numbers: NDArray[np.int64]) -> None:
        """Search other vectors of the same rows `[N]`, ascending, from now on; dead rows may be missing.

        Raises:
            GalleryError: a live row is missing. Nothing has changed.
        """
        old = self._columns
        columns = old.subset(numbers)
        if columns.live != self._columns.live or len(vectors) != columns.size:
            raise GalleryError("the new index does not have the rows of the old one")
        with self._write_lock():
            self._vectors, self._columns = vectors, columns
            if self._mirror is not None:
                self._mirror.retain(numbers)
            if self._centring is not None:
                self._centring.subset(np.searchsorted(old.numbers, numbers))

    def search(
        self,
        query: NDArray[np.float32],
        top_k: int,
        row_filter: RowFilter,
        version: int,
        read_vectors: ReadVectors,
        camera_id: str | None = None,
        *,
        plain: bool = False,
    ) -> Candidates | None:
        """Find the best `top_k` rows for a query `[D]` of a camera, which only centred scores use.

        With `plain`, scores are not centred.

        Scores are cosines, computed row by row in double precision, so equal vectors have equal scores. Single
        precision, or less, only picks the candidates.

        Returns:
            The candidates, or `None` if the index is already past `version`.
        """
        query = unit_rows(query[None])[0]
        with self._reading(version) as current:
            if not current:
                return None
            mask = self._columns.mask(row_filter)
            searched = self._columns.size if mask is None else int(np.count_nonzero(mask))
            if not searched:
                return Candidates(np.empty(0, np.int64), np.empty(0, np.float64), 0, exact=True)
            wanted = min(top_k, searched)
            if self._centring is None or plain:
                centred = None
                found = self._nearest(query, wanted, searched, mask)
            else:
                centred = _CentredQuery.of(query, camera_id, self._centring.means, self._columns)
                score = self._centring.scorer(centred.query, self._columns)
                found = self._vectors.nearest_centred(centred.query.astype(np.float32), wanted, searched, mask, score)
                codes = self._columns.cameras[found.positions]
            numbers = self._columns.numbers[found.positions]
        vectors = read_vectors(numbers) if found.vectors is None else found.vectors
        if centred is None:
            compared, direction = vectors.astype(np.float64), query.astype(np.float64)
        else:
            unit = unit_rows(vectors) if found.vectors is None else vectors
            compared, direction = centred.means.centre(unit, codes), centred.query
        scores = np.clip(np.add.reduce(compared * direction, axis=1), -1.0, 1.0)
        best_first = np.argsort(-scores, kind="stable")
        best_first = best_first[scores[best_first] >= scores[best_first[wanted - 1]]]
        candidates = Candidates(numbers[best_first], scores[best_first], searched, found.exact)
        if centred is None:
            return candidates
        return replace(candidates, centred=compared[best_first], centred_query=direction)

    def _nearest(
        self, query: NDArray[np.float32], wanted: int, searched: int, mask: NDArray[np.bool_] | None
    ) -> Neighbours:
        # Half precision is never exact, so the CPU searches what it can compare exactly.
        if self._mirror is not None and self._mirror.in_use and not self._vectors.exact:
            known = self._columns.numbers

            def passes(numbers: NDArray[np.int64]) -> NDArray[np.bool_]:
                positions = np.minimum(np.searchsorted(known, numbers), len(known) - 1)
                found: NDArray[np.bool_] = known[positions] == numbers
                return found if mask is None else found & mask[positions]

            numbers = self._mirror.nearest(query, wanted, passes)
            if numbers is not None:
                return Neighbours(np.searchsorted(known, numbers), None, exact=False)
        return self._vectors.nearest(query, wanted, searched, mask)

    def live_rows(self) -> tuple[Vectors, NDArray[np.bool_], NDArray[np.int64]]:
        """Return the vectors, which of their positions hold a live row, and the numbers of those rows.

        More vectors may be appended after these positions: read them inside `read_lock`.
        """
        with self.read_lock():
            alive = self._columns.alive.copy()
            return self._vectors, alive, self._columns.numbers[alive]

    def read_lock(self) -> AbstractContextManager[object]:
        """Make a context in which nothing changes; searches go on."""
        return self._reading(None)

    @contextmanager
    def _write_lock(self) -> Iterator[None]:
        """Make a context without searches. The `Writer` makes one change at a time."""
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
        """Make a context without changes, once `version` is reached; yield false if the index is past it."""
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
        # A waiting change goes first, otherwise a stream of searches would block it forever.
        return self._changing or self._change_waiting or (version is not None and self._version < version)
