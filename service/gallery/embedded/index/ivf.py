"""The vectors of a large gallery: clustered lists of 8-bit codes, of which a search reads a few (FAISS's IVF-SQ8)."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from service.gallery.embedded.index.flat import Found, Hold, Read, faiss, selector, unit_rows
from service.gallery.embedded.index.malloc import map_large_blocks

_ITERATIONS = 10
_SAMPLE_PER_LIST = 40
"""k-means needs no more: FAISS warns below 39 points for a list."""
_MOST_LISTS = 16_384

_SPARE = 54
"""Codes rank nearly as vectors do: this many more than wanted are compared in full precision."""
_COMPARED_WHOLE = 512
"""Allowed rows that are all compared in full precision: as many take the database about 10 ms."""
_CODES_READ = 12_500_000
"""Bytes of codes that a search reads at least, in the nearest lists: two to three milliseconds on two cores."""
_CODES_READ_FILTERED = 50_000_000
"""The same, of rows that pass a filter."""
_MOST = 0.7
"""Share of the rows from which on a mask passes for none: what it leaves out are dead rows, or a camera."""

_TOP, _BEHIND = 10, (20, 40)
"""Ranks that are to be found: the best ten, and, for a filter may leave out whom the query shows, those behind them."""
_TARGETS = (0.9975, 0.99)
_PROBES = (8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)


class Stopped(Exception):
    """The training was told to stop."""


def list_count(rows: int) -> int:
    """Lists for so many rows: about the square root, a power of two."""
    return int(min(2 ** round(np.log2(max(rows, 1)) / 2), max(rows // 4, 1), _MOST_LISTS))


def sample_size(lists: int) -> int:
    """Rows that so many lists are trained on."""
    return _SAMPLE_PER_LIST * lists


class IvfVectors:
    """8-bit codes of what each vector differs by from the centre of its list.

    A search reads the lists whose centres are nearest to the query. How many was measured when the lists were made:
    `probes` is the fewest that find 99.75 % of the ten best, `wide` that find 99 % of ranks 21 to 40. A filter may
    leave out the query's own person, and go by cameras and hours, which show in the vectors: under one, lists are read
    until they hold as many rows that pass as `wide` lists hold rows, or all that pass. What is found is a candidate
    only: the caller compares the vectors themselves, which are in the database.
    """

    kind: ClassVar[str] = "ivf-sq8"
    exact = False

    def __init__(
        self, centres: NDArray[np.float32], trained: NDArray[np.float32], probes: int, wide: int, made_for: int
    ) -> None:
        """Empty lists around `centres` `[L, D]`, with what FAISS's quantiser has learnt, the ranges `[2 * D]`.

        `made_for` is how many rows there were when the centres were learnt.
        """
        map_large_blocks()
        lists, self.dimension = centres.shape
        self.probes, self.wide, self.made_for = probes, wide, made_for
        quantiser = faiss.IndexFlatIP(self.dimension)
        quantiser.add(centres)
        self._index = faiss.IndexIVFScalarQuantizer(
            quantiser, self.dimension, lists, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT, True
        )
        faiss.copy_array_to_vector(trained, self._index.sq.trained)
        self._index.is_trained = True
        self._index.parallel_mode = 1  # the threads share one query's lists; by default they share queries
        self._centres, self._trained = centres, trained
        self._list_of: NDArray[np.int16] = np.empty(0, np.int16)  # by position, with room behind
        self._sizes: NDArray[np.int64] = np.zeros(lists, np.int64)

    @classmethod
    def train(cls, sample: NDArray[np.float32], lists: int, made_for: int, stopped: Callable[[], bool]) -> "IvfVectors":
        """Centres by spherical k-means over a sample `[N, D]` of unit vectors, and the quantiser's ranges.

        Raises `Stopped` between two of its iterations.
        """
        dimension = sample.shape[1]
        centres: NDArray[np.float32] | None = None
        for _ in range(_ITERATIONS):
            if stopped():
                raise Stopped
            kmeans = faiss.Kmeans(dimension, lists, niter=1, spherical=True, seed=0, min_points_per_centroid=1)
            kmeans.train(sample, init_centroids=centres)
            centres = kmeans.centroids
        assert centres is not None  # noqa: S101 (there is an iteration)
        quantiser = faiss.IndexFlatIP(dimension)
        quantiser.add(centres)
        scales = faiss.IndexIVFScalarQuantizer(
            quantiser, dimension, lists, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT, True
        )
        scales.train(sample)  # the centres are there, so this is the scalar quantiser's part alone
        trained = faiss.vector_to_array(scales.sq.trained).astype(np.float32)
        return cls(np.ascontiguousarray(centres, np.float32), trained, lists, lists, made_for)

    def __len__(self) -> int:
        return int(self._index.ntotal)

    @property
    def lists(self) -> int:
        """How many lists there are."""
        return int(self._index.nlist)

    @property
    def description(self) -> str:
        """The index in words, for people."""
        return f"approximate FAISS index, {self.probes} of {self.lists} lists of 8-bit codes"

    def append(self, rows: NDArray[np.float32]) -> None:
        """Add rows `[N, D]`, made unit length, at the end."""
        if not len(rows):
            return
        unit = unit_rows(rows)
        _, nearest = self._index.quantizer.search(unit, 1)
        lists = np.ascontiguousarray(nearest[:, 0])
        ids = np.arange(len(self), len(self) + len(rows))
        self._note(ids, lists)
        self._index.add_core(len(rows), *map(faiss.swig_ptr, (unit, ids, lists)))

    def tune(self, queries: NDArray[np.float32], stopped: Callable[[], bool]) -> None:
        """Set `probes` and `wide` to the fewest that find enough of what all lists hold for `queries` `[Q, D]`: rows.

        Raises `Stopped` between two queries.
        """
        ranked = []
        for query in queries:
            if stopped():
                raise Stopped
            ranked.append(self._search(query, min(_BEHIND[1] + 1, len(self)), self.lists, None))
        # Each row finds itself first, which is no merit.
        best = [set(found[1 : _TOP + 1].tolist()) for found in ranked]
        behind = [set(found[_BEHIND[0] + 1 :].tolist()) for found in ranked]
        self.probes = self._fewest(queries, best, _TARGETS[0], stopped)
        self.wide = max(self.probes, self._fewest(queries, behind, _TARGETS[1], stopped))

    def _fewest(
        self, queries: NDArray[np.float32], truth: list[set[int]], target: float, stopped: Callable[[], bool]
    ) -> int:
        """How many lists find that share of the `truth` of each query."""
        count, total = min(_BEHIND[1] + 1, len(self)), sum(map(len, truth))
        for probes in (probes for probes in _PROBES if probes < self.lists):
            if stopped():
                raise Stopped
            found = [set(self._search(query, count, probes, None).tolist()) for query in queries]
            if sum(len(wanted & seen) for wanted, seen in zip(truth, found, strict=True)) >= target * total:
                return probes
        return self.lists

    def nearest(
        self, direction: NDArray[np.float32], wanted: int, allowed: int, mask: NDArray[np.bool_] | None
    ) -> Found:
        """Candidates for the best `wanted` rows; exact where few are allowed or all are wanted."""
        if allowed <= _COMPARED_WHOLE:
            return Found(np.arange(len(self)) if mask is None else np.flatnonzero(mask), None, exact=True)
        fetched = min(max(wanted + _SPARE, 2 * wanted), allowed)
        needed = max(self._rows_in(self.probes), _CODES_READ // self.dimension)
        if allowed < _MOST * len(self):
            needed = max(self._rows_in(self.wide), _CODES_READ_FILTERED // self.dimension)
        held = self._sizes if mask is None else self._allowed_in(mask, allowed)
        # Not by numpy: its product's threads go on spinning, for twenty times as long as it took.
        _, nearest_first = self._index.quantizer.search(direction[None], self.lists)
        reached = np.cumsum(held[nearest_first[0]])
        probes = int(np.searchsorted(reached, min(max(needed, fetched), allowed))) + 1
        chosen = None if mask is None else selector(mask)
        while True:
            positions = self._search(direction, fetched, probes, chosen)
            if len(positions) >= wanted or probes >= self.lists:
                return Found(positions, None, exact=len(positions) == allowed)
            probes = min(2 * probes, self.lists)

    def _rows_in(self, lists: int) -> int:
        """How many rows so many lists hold on average."""
        return len(self) * lists // self.lists

    def _allowed_in(self, mask: NDArray[np.bool_], allowed: int) -> NDArray[np.int64]:
        """How many rows of each list pass `[L]`."""
        list_of = self._list_of[: len(self)]
        if 2 * allowed > len(self):  # the others are fewer to count
            return self._sizes - np.bincount(list_of[~mask], minlength=self.lists)
        return np.bincount(list_of[mask], minlength=self.lists)

    def _search(self, direction: NDArray[np.float32], count: int, probes: int, chosen: Any | None) -> NDArray[np.int64]:
        parameters = faiss.SearchParametersIVF(nprobe=probes, sel=chosen)
        _, positions = self._index.search(direction[None], count, params=parameters)
        return np.asarray(positions[0][positions[0] >= 0], np.int64)

    def kept(self, mask: NDArray[np.bool_], hold: Hold) -> "IvfVectors":
        """A copy of the first positions, as many as the mask has, where it is true; those after a gap move up."""
        copied = IvfVectors(self._centres, self._trained, self.probes, self.wide, self.made_for)
        for number, (ids, codes) in enumerate(self._entries(mask, hold)):
            copied._put(number, ids, codes)
        return copied

    def facts(self) -> dict[str, Any]:
        """What `read` must know beside the bytes."""
        return {"lists": self.lists, "probes": self.probes, "wide": self.wide, "made_for": self.made_for}

    def pieces(self, mask: NDArray[np.bool_], hold: Hold) -> Iterator[bytes]:
        """Centres and ranges, then each list: its length, positions and codes."""
        yield self._centres.astype("<f4").tobytes()
        yield self._trained.astype("<f4").tobytes()
        for ids, codes in self._entries(mask, hold):
            yield len(ids).to_bytes(8, "little") + ids.astype("<i8").tobytes()
            yield codes.tobytes()

    @classmethod
    def read(cls, read: Read, facts: dict[str, Any], dimension: int, rows: int) -> "IvfVectors":
        """What `pieces` gave of so many rows. Raises `ValueError` where it is something else."""
        lists, probes, wide = (int(facts[name]) for name in ("lists", "probes", "wide"))
        if not 0 < lists <= _MOST_LISTS or not 0 < probes <= wide <= lists:
            raise ValueError("its lists make no sense")
        centres = np.frombuffer(read(4 * lists * dimension), "<f4").astype(np.float32).reshape(lists, dimension)
        trained = np.frombuffer(read(8 * dimension), "<f4").astype(np.float32)
        vectors = cls(centres, trained, probes, wide, int(facts["made_for"]))
        seen = np.zeros(rows, np.bool_)
        for number in range(lists):
            count = int.from_bytes(read(8), "little")
            if count > rows:
                raise ValueError("its rows and its vectors do not fit")
            ids = np.frombuffer(read(8 * count), "<i8").astype(np.int64)
            if count and (ids.min() < 0 or ids.max() >= rows):
                raise ValueError("its rows and its vectors do not fit")
            seen[ids] = True
            vectors._put(number, ids, np.frombuffer(read(dimension * count), np.uint8).reshape(count, dimension))
        if len(vectors) != rows or not seen.all():
            raise ValueError("its rows and its vectors do not fit")
        return vectors

    def _entries(self, mask: NDArray[np.bool_], hold: Hold) -> Iterator[tuple[NDArray[np.int64], NDArray[np.uint8]]]:
        """New positions `[n]` and codes `[n, D]` of each list."""
        places = np.cumsum(mask) - 1
        for number in range(self.lists):
            with hold():
                ids, codes = self._view(number)
                kept = ids < len(mask)
                kept[kept] = mask[ids[kept]]
                chosen, rows = places[ids[kept]], codes[kept]
            yield chosen, rows

    def _view(self, number: int) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        """The positions and codes of one list where they lie, valid until the next one is appended."""
        lists, size = self._index.invlists, self._index.invlists.list_size(number)
        if not size:
            return np.empty(0, np.int64), np.empty((0, self.dimension), np.uint8)
        ids = faiss.rev_swig_ptr(lists.get_ids(number), size)
        return ids, faiss.rev_swig_ptr(lists.get_codes(number), size * self.dimension).reshape(size, -1)

    def _put(self, number: int, ids: NDArray[np.int64], codes: NDArray[np.uint8]) -> None:
        if not len(ids):
            return
        self._note(ids, np.full(len(ids), number))
        kept: Sequence[Any] = np.ascontiguousarray(ids), np.ascontiguousarray(codes)
        self._index.invlists.add_entries(number, len(ids), *map(faiss.swig_ptr, kept))
        self._index.ntotal += len(ids)

    def _note(self, ids: NDArray[np.int64], lists: NDArray[np.int64]) -> None:
        """Remember which lists these positions are in."""
        size = int(ids.max()) + 1
        if size > len(self._list_of):
            grown = np.empty(size + size // 4, np.int16)
            grown[: len(self._list_of)] = self._list_of
            self._list_of = grown
        self._list_of[ids] = lists
        self._sizes += np.bincount(lists, minlength=self.lists)
