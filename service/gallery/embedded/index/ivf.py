"""The vectors of a large gallery: clustered lists of 8-bit codes, a few of which each search reads (FAISS's IVF-SQ8).

This module also returns freed memory to the operating system, because its many growing lists leave gaps.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from service.allocator import map_large_blocks
from service.gallery.embedded.index.columns import enlarged
from service.gallery.embedded.index.flat import (
    Neighbours,
    ReadExactly,
    ReadLock,
    Score,
    Vectors,
    faiss,
    selector,
    unit_rows,
)

_ITERATIONS = 10
_SAMPLE_PER_LIST = 40
"""k-means needs no more: FAISS warns below 39 points for a list."""
_MAX_LISTS = 16_384

_EXTRA_CANDIDATES = 54
"""Codes rank nearly as vectors do: this many more than wanted are compared in full precision."""
_MAX_COMPARED_EXACTLY = 512
"""If at most this many rows pass, all are compared in full precision. The database reads them in about 10 ms."""
_MIN_CODE_BYTES = 12_500_000
"""A search reads at least this many bytes of codes, in the nearest lists: two to three milliseconds on two cores."""
_MIN_CODE_BYTES_FILTERED = 50_000_000
"""The same for rows that pass a filter."""
_CENTRED_FACTOR = 2
"""With centred scores, lists must hold this many times as many rows: they are near a query by the raw vectors."""
_UNFILTERED_SHARE = 0.7
"""If at least this share of the rows pass, search as if unfiltered: the others are dead or of one camera."""

# What `tune` measures: the share of the ten best rows that must be found, and the share of ranks 21 to 40. The latter
# stand for a search with a filter, which may leave out the person in the query.
_TOP, _TOP_RECALL = 10, 0.9975
_LOWER_RANKS, _LOWER_RECALL = (20, 40), 0.99
_PROBES = (8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)

_BAD_SIZES = "its number of rows does not match its vectors"


class BuildCancelled(Exception):
    """The gallery is closing, so a new index is not needed any more."""


def list_count(rows: int) -> int:
    """Return how many lists suit so many rows: about the square root, a power of two."""
    return int(min(2 ** round(np.log2(max(rows, 1)) / 2), max(rows // 4, 1), _MAX_LISTS))


def sample_size(lists: int) -> int:
    """Return how many rows are needed to train so many lists."""
    return _SAMPLE_PER_LIST * lists


class IvfVectors(Vectors):
    """8-bit codes of the difference between each vector and the centre of its list.

    A search reads the lists whose centres are nearest to the query. `tune` measures how many: `probes` lists find
    99.75 % of the ten best rows, and `filtered_probes` lists find 99 % of ranks 21 to 40. A filter often goes by camera
    or hour, which also show in the vectors. With a filter, lists are therefore read until they hold as many passing
    rows as `filtered_probes` average lists hold rows, or all passing rows. The rows found are only candidates: the
    caller compares their full vectors, which are in the database.
    """

    kind: ClassVar[str] = "ivf-sq8"
    exact = False

    def __init__(
        self,
        centres: NDArray[np.float32],
        trained: NDArray[np.float32],
        probes: int,
        filtered_probes: int,
        trained_for: int,
    ) -> None:
        """Make empty lists with centres `[L, D]` and the ranges `trained` `[2 * D]` of FAISS's scalar quantiser.

        `trained_for` is the number of rows in the gallery when the centres were learnt.
        """
        map_large_blocks()
        lists, self.dimension = centres.shape
        self.probes, self.filtered_probes, self.trained_for = probes, filtered_probes, trained_for
        self._index = _empty_index(centres)
        faiss.copy_array_to_vector(trained, self._index.sq.trained)
        self._index.is_trained = True
        self._index.parallel_mode = 1  # the threads share one query's lists; by default they share queries
        self._centres, self._trained = centres, trained
        self._list_of: NDArray[np.int16] = np.empty(0, np.int16)  # by position; longer than needed
        self._list_sizes: NDArray[np.int64] = np.zeros(lists, np.int64)

    @classmethod
    def train(
        cls, sample: NDArray[np.float32], lists: int, trained_for: int, cancelled: Callable[[], bool]
    ) -> "IvfVectors":
        """Learn centres by spherical k-means over a sample `[N, D]` of unit vectors, and the quantiser's ranges.

        Raises:
            BuildCancelled: `cancelled` returned true before one of the iterations.
        """
        centres: NDArray[np.float32] | None = None
        for _ in range(_ITERATIONS):
            if cancelled():
                raise BuildCancelled
            kmeans = faiss.Kmeans(sample.shape[1], lists, niter=1, spherical=True, seed=0, min_points_per_centroid=1)
            kmeans.train(sample, init_centroids=centres)
            centres = kmeans.centroids
        assert centres is not None  # noqa: S101 (there is at least one iteration)
        index = _empty_index(centres)
        index.train(sample)  # trains only the scalar quantiser, because the centres are set
        trained = faiss.vector_to_array(index.sq.trained).astype(np.float32)
        return cls(np.ascontiguousarray(centres, np.float32), trained, lists, lists, trained_for)

    @override
    def __len__(self) -> int:
        return int(self._index.ntotal)

    @property
    def lists(self) -> int:
        """How many lists there are."""
        return int(self._index.nlist)

    @property
    @override
    def description(self) -> str:
        return f"approximate FAISS index, {self.probes} of {self.lists} lists of 8-bit codes"

    @override
    def append(self, rows: NDArray[np.float32]) -> None:
        if not len(rows):
            return
        unit = unit_rows(rows)
        _, nearest = self._index.quantizer.search(unit, 1)
        lists = np.ascontiguousarray(nearest[:, 0])
        positions = np.arange(len(self), len(self) + len(rows))
        self._record_lists(positions, lists)
        self._index.add_core(len(rows), *map(faiss.swig_ptr, (unit, positions, lists)))

    def tune(self, queries: NDArray[np.float32], cancelled: Callable[[], bool]) -> None:
        """Set `probes` and `filtered_probes` to the fewest lists that reach the recall for rows `[Q, D]` of this index.

        Raises:
            BuildCancelled: `cancelled` returned true before one of the queries.
        """
        ranked = []
        for query in queries:
            if cancelled():
                raise BuildCancelled
            ranked.append(self._search(query, min(_LOWER_RANKS[1] + 1, len(self)), self.lists, None))
        # The first is left out: each row finds itself.
        top = [set(found[1 : _TOP + 1].tolist()) for found in ranked]
        lower = [set(found[_LOWER_RANKS[0] + 1 :].tolist()) for found in ranked]
        self.probes = self._fewest_probes(queries, top, _TOP_RECALL, cancelled)
        self.filtered_probes = max(self.probes, self._fewest_probes(queries, lower, _LOWER_RECALL, cancelled))

    def _fewest_probes(
        self, queries: NDArray[np.float32], truth: list[set[int]], recall: float, cancelled: Callable[[], bool]
    ) -> int:
        count, total = min(_LOWER_RANKS[1] + 1, len(self)), sum(map(len, truth))
        for probes in (probes for probes in _PROBES if probes < self.lists):
            if cancelled():
                raise BuildCancelled
            found = [set(self._search(query, count, probes, None).tolist()) for query in queries]
            if sum(len(wanted & seen) for wanted, seen in zip(truth, found, strict=True)) >= recall * total:
                return probes
        return self.lists

    @override
    def nearest(
        self, query: NDArray[np.float32], wanted: int, allowed: int, mask: NDArray[np.bool_] | None
    ) -> Neighbours:
        if allowed <= _MAX_COMPARED_EXACTLY:
            return Neighbours(np.arange(len(self)) if mask is None else np.flatnonzero(mask), None, exact=True)
        fetched = min(max(wanted + _EXTRA_CANDIDATES, 2 * wanted), allowed)
        probes = self._lists_to_read(query, fetched, allowed, mask)
        chosen = None if mask is None else selector(mask)
        while True:
            positions = self._search(query, fetched, probes, chosen)
            if len(positions) >= wanted or probes >= self.lists:
                return Neighbours(positions, None, exact=len(positions) == allowed)
            probes = min(2 * probes, self.lists)

    @override
    def products(
        self, query: NDArray[np.float32], mask: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        return self._products(query, self.lists, selector(mask))

    @override
    def nearest_centred(
        self, query: NDArray[np.float32], wanted: int, allowed: int, mask: NDArray[np.bool_] | None, score: Score
    ) -> Neighbours:
        # Lists are near a query by the products alone, but of the lists that are read every row gets its own score.
        if allowed <= _MAX_COMPARED_EXACTLY:
            return Neighbours(np.arange(len(self)) if mask is None else np.flatnonzero(mask), None, exact=True)
        fetched = min(max(wanted + _EXTRA_CANDIDATES, 2 * wanted), allowed)
        probes = self._lists_to_read(query, fetched, allowed, mask, _CENTRED_FACTOR)
        chosen = None if mask is None else selector(mask)
        while True:
            positions, products = self._products(query, probes, chosen)
            if len(positions) >= wanted or probes >= self.lists:
                break
            probes = min(2 * probes, self.lists)
        if len(positions) > fetched:
            scores, _ = score(positions, products)
            positions = positions[np.argpartition(-scores, fetched - 1)[:fetched]]
        return Neighbours(positions, None, exact=len(positions) == allowed)

    def _lists_to_read(
        self,
        query: NDArray[np.float32],
        fetched: int,
        allowed: int,
        mask: NDArray[np.bool_] | None,
        factor: int = 1,
    ) -> int:
        """Return how many of the nearest lists hold `factor` times as many rows that pass as are needed."""
        needed = max(self._average_rows(self.probes), _MIN_CODE_BYTES // self.dimension)
        if allowed < _UNFILTERED_SHARE * len(self):
            needed = max(self._average_rows(self.filtered_probes), _MIN_CODE_BYTES_FILTERED // self.dimension)
        passing = self._list_sizes if mask is None else self._passing_in_lists(mask, allowed)
        # Not with numpy: the threads of its product spin for twenty times as long as the product takes.
        _, nearest_first = self._index.quantizer.search(query[None], self.lists)
        reached = np.cumsum(passing[nearest_first[0]])
        return int(np.searchsorted(reached, min(max(factor * needed, fetched), allowed))) + 1

    def _average_rows(self, lists: int) -> int:
        return len(self) * lists // self.lists

    def _passing_in_lists(self, mask: NDArray[np.bool_], allowed: int) -> NDArray[np.int64]:
        """Count the rows of each list that pass `[L]`."""
        list_of = self._list_of[: len(self)]
        if 2 * allowed > len(self):  # fewer rows fail than pass, so count those
            return self._list_sizes - np.bincount(list_of[~mask], minlength=self.lists)
        return np.bincount(list_of[mask], minlength=self.lists)

    def _search(self, query: NDArray[np.float32], count: int, probes: int, chosen: Any | None) -> NDArray[np.int64]:
        parameters = faiss.SearchParametersIVF(nprobe=probes, sel=chosen)
        _, positions = self._index.search(query[None], count, params=parameters)
        return np.asarray(positions[0][positions[0] >= 0], np.int64)

    def _products(
        self, query: NDArray[np.float32], probes: int, chosen: Any | None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return position and product with the query of each row in the nearest lists."""
        parameters = faiss.SearchParametersIVF(nprobe=probes, sel=chosen)
        _, products, positions = self._index.range_search(query[None], -np.inf, params=parameters)
        return np.asarray(positions, np.int64), products

    @override
    def subset(self, mask: NDArray[np.bool_], read_lock: ReadLock) -> "IvfVectors":
        copy = IvfVectors(self._centres, self._trained, self.probes, self.filtered_probes, self.trained_for)
        for number, (positions, codes) in enumerate(self._subset_of_lists(mask, read_lock)):
            copy._append_codes(number, positions, codes)
        return copy

    @override
    def parameters(self) -> dict[str, Any]:
        # The keys are part of the file format.
        return {
            "lists": self.lists,
            "probes": self.probes,
            "wide": self.filtered_probes,
            "made_for": self.trained_for,
        }

    @override
    def serialise(self, mask: NDArray[np.bool_], read_lock: ReadLock) -> Iterator[bytes]:
        # Centres and ranges, then of each list its length, positions and codes.
        yield self._centres.astype("<f4").tobytes()
        yield self._trained.astype("<f4").tobytes()
        for positions, codes in self._subset_of_lists(mask, read_lock):
            yield len(positions).to_bytes(8, "little") + positions.astype("<i8").tobytes()
            yield codes.tobytes()

    @override
    @classmethod
    def deserialise(cls, read: ReadExactly, parameters: dict[str, Any], dimension: int, rows: int) -> "IvfVectors":
        lists, probes, filtered_probes = (int(parameters[name]) for name in ("lists", "probes", "wide"))
        if not 0 < lists <= _MAX_LISTS or not 0 < probes <= filtered_probes <= lists:
            raise ValueError(
                f"its numbers of lists are invalid ({lists} lists, of which searches read {probes} and "
                f"{filtered_probes}; at most {_MAX_LISTS})"
            )
        centres = np.frombuffer(read(4 * lists * dimension), "<f4").astype(np.float32).reshape(lists, dimension)
        trained = np.frombuffer(read(8 * dimension), "<f4").astype(np.float32)
        vectors = cls(centres, trained, probes, filtered_probes, int(parameters["made_for"]))
        seen = np.zeros(rows, np.bool_)
        for number in range(lists):
            count = int.from_bytes(read(8), "little")
            if count > rows:
                raise ValueError(_BAD_SIZES)
            positions = np.frombuffer(read(8 * count), "<i8").astype(np.int64)
            if count and (positions.min() < 0 or positions.max() >= rows):
                raise ValueError(_BAD_SIZES)
            seen[positions] = True
            codes = np.frombuffer(read(dimension * count), np.uint8).reshape(count, dimension)
            vectors._append_codes(number, positions, codes)
        if len(vectors) != rows or not seen.all():
            raise ValueError(_BAD_SIZES)
        return vectors

    def _subset_of_lists(
        self, mask: NDArray[np.bool_], read_lock: ReadLock
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.uint8]]]:
        """Yield the new positions `[n]` and the codes `[n, D]` of each list."""
        new_positions = np.cumsum(mask) - 1
        for number in range(self.lists):
            with read_lock():
                positions, codes = self._view(number)
                chosen = positions < len(mask)
                chosen[chosen] = mask[positions[chosen]]
                result = new_positions[positions[chosen]], codes[chosen]
            yield result

    def _view(self, number: int) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        """Return the positions and codes of one list without a copy, valid until the next append."""
        lists, size = self._index.invlists, self._index.invlists.list_size(number)
        if not size:
            return np.empty(0, np.int64), np.empty((0, self.dimension), np.uint8)
        positions = faiss.rev_swig_ptr(lists.get_ids(number), size)
        return positions, faiss.rev_swig_ptr(lists.get_codes(number), size * self.dimension).reshape(size, -1)

    def _append_codes(self, number: int, positions: NDArray[np.int64], codes: NDArray[np.uint8]) -> None:
        if not len(positions):
            return
        self._record_lists(positions, np.full(len(positions), number))
        # The names keep the arrays alive while FAISS reads through their pointers.
        arrays: Sequence[Any] = np.ascontiguousarray(positions), np.ascontiguousarray(codes)
        self._index.invlists.add_entries(number, len(positions), *map(faiss.swig_ptr, arrays))
        self._index.ntotal += len(positions)

    def _record_lists(self, positions: NDArray[np.int64], lists: NDArray[np.int64]) -> None:
        """Remember which lists these positions are in."""
        size = int(positions.max()) + 1
        if size > len(self._list_of):
            self._list_of = enlarged(self._list_of, size + size // 4)
        self._list_of[positions] = lists
        self._list_sizes += np.bincount(lists, minlength=self.lists)


def _empty_index(centres: NDArray[np.float32]) -> Any:
    lists, dimension = centres.shape
    quantiser = faiss.IndexFlatIP(dimension)
    quantiser.add(centres)
    return faiss.IndexIVFScalarQuantizer(
        quantiser, dimension, lists, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT, True
    )
