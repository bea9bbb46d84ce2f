"""The vectors of a large gallery: clustered lists of 8-bit codes, of which a search reads a few (FAISS's IVF-SQ8)."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from service.gallery.freed import map_large_blocks
from service.gallery.vectors import Found, Hold, Read, faiss, selector, unit_rows

__all__ = ["IvfVectors", "Stopped", "list_count", "sample_size"]

_ITERATIONS = 10
_SAMPLE_PER_LIST = 40
"""k-means needs no more: FAISS warns below 39 points for a list."""
_MOST_LISTS = 16_384

_SPARE = 54
"""Codes rank nearly as vectors do: this many more than wanted are compared in full precision."""
_COMPARED_WHOLE = 512
"""Allowed rows that are all compared in full precision: as many take the database about 10 ms."""
_CODES_AT_MOST = 50_000_000
"""Bytes of codes of allowed rows that are read whichever list they are in: about 10 ms on two cores."""
_CAUTION = 2
"""Times as many lists for a filter than its share of the rows asks for: who passes may be of other lists than most."""

_TARGET_RECALL = 0.9975
_TOP = 10
_PROBES = (8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)


class Stopped(Exception):  # noqa: N818 (nothing went wrong)
    """The training was told to stop."""


def list_count(rows: int) -> int:
    """Lists for so many rows: about the square root, a power of two."""
    return int(min(2 ** round(np.log2(max(rows, 1)) / 2), max(rows // 4, 1), _MOST_LISTS))


def sample_size(lists: int) -> int:
    """Rows that so many lists are trained on."""
    return _SAMPLE_PER_LIST * lists


class IvfVectors:
    """8-bit codes of what each vector differs by from the centre of its list.

    A search reads the lists whose centres are nearest to the query, `probes` of them, measured when the lists were
    made: the fewest that find 99.75 % of the ten best. Where a filter leaves few rows, those are all read, wherever
    they are; in between, more lists are read in proportion. What is found is a candidate only: the caller compares the
    vectors themselves, which are in the database.
    """

    kind: ClassVar[str] = "ivf-sq8"
    exact = False

    def __init__(self, centres: NDArray[np.float32], trained: NDArray[np.float32], probes: int, made_for: int) -> None:
        """Empty lists around `centres` `[L, D]`, with what FAISS's quantiser has learnt, the ranges `[2 * D]`.

        `made_for` is how many rows there were when the centres were learnt.
        """
        map_large_blocks()
        lists, self.dimension = centres.shape
        self.probes, self.made_for = probes, made_for
        quantiser = faiss.IndexFlatIP(self.dimension)
        quantiser.add(centres)
        self._index = faiss.IndexIVFScalarQuantizer(
            quantiser, self.dimension, lists, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT, True
        )
        faiss.copy_array_to_vector(trained, self._index.sq.trained)
        self._index.is_trained = True
        self._index.parallel_mode = 1  # the threads share one query's lists; by default they share queries
        self._centres, self._trained = centres, trained

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
        return cls(np.ascontiguousarray(centres, np.float32), trained, min(_PROBES[0], lists), made_for)

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
        if len(rows):
            self._index.add(unit_rows(rows))

    def tune(self, queries: NDArray[np.float32], stopped: Callable[[], bool]) -> None:
        """Set `probes` to the fewest that find enough of what all lists hold for `queries` `[Q, D]`, which are rows.

        Raises `Stopped` between two queries.
        """
        count = min(_TOP + 1, len(self))  # each row finds itself, which is no merit
        truth = []
        for query in queries:
            if stopped():
                raise Stopped
            truth.append(set(self._search(query, count, self.lists, None)))
        total = sum(map(len, truth))
        for probes in (*(probes for probes in _PROBES if probes < self.lists), self.lists):
            if stopped():
                raise Stopped
            found = sum(
                len(best & set(self._search(query, count, probes, None)))
                for query, best in zip(queries, truth, strict=True)
            )
            self.probes = probes
            if found - len(queries) >= _TARGET_RECALL * (total - len(queries)):
                return

    def nearest(
        self, direction: NDArray[np.float32], wanted: int, allowed: int, mask: NDArray[np.bool_] | None
    ) -> Found:
        """Candidates for the best `wanted` rows; exact where few are allowed or all are wanted."""
        if mask is None and allowed <= _COMPARED_WHOLE:
            return Found(np.arange(len(self)), None, exact=True)
        if mask is not None and allowed <= _COMPARED_WHOLE:
            return Found(np.flatnonzero(mask), None, exact=True)
        fetched = min(max(wanted + _SPARE, 2 * wanted), allowed)
        probes = self.probes if allowed == len(self) else -(-_CAUTION * self.probes * len(self) // allowed)
        probes = min(probes, self.lists)
        if allowed * self.dimension <= _CODES_AT_MOST:
            probes = self.lists
        chosen = None if mask is None else selector(mask)
        while True:
            positions = self._search(direction, fetched, probes, chosen)
            if len(positions) >= wanted or probes == self.lists:
                return Found(positions, None, exact=len(positions) == allowed)
            probes = min(2 * probes, self.lists)

    def _search(self, direction: NDArray[np.float32], count: int, probes: int, chosen: Any | None) -> NDArray[np.int64]:
        parameters = faiss.SearchParametersIVF(nprobe=probes, sel=chosen)
        _, positions = self._index.search(direction[None], count, params=parameters)
        return np.asarray(positions[0][positions[0] >= 0], np.int64)

    def kept(self, mask: NDArray[np.bool_], hold: Hold) -> "IvfVectors":
        """A copy of the first positions, as many as the mask has, where it is true; those after a gap move up."""
        copied = IvfVectors(self._centres, self._trained, self.probes, self.made_for)
        for number, (ids, codes) in enumerate(self._entries(mask, hold)):
            copied._put(number, ids, codes)
        return copied

    def facts(self) -> dict[str, Any]:
        """What `read` must know beside the bytes."""
        return {"lists": self.lists, "probes": self.probes, "made_for": self.made_for}

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
        lists, probes = int(facts["lists"]), int(facts["probes"])
        if not 0 < lists <= _MOST_LISTS or not 0 < probes <= lists:
            raise ValueError("its lists make no sense")
        centres = np.frombuffer(read(4 * lists * dimension), "<f4").astype(np.float32).reshape(lists, dimension)
        vectors = cls(
            centres, np.frombuffer(read(8 * dimension), "<f4").astype(np.float32), probes, int(facts["made_for"])
        )
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
        kept: Sequence[Any] = np.ascontiguousarray(ids), np.ascontiguousarray(codes)
        self._index.invlists.add_entries(number, len(ids), *map(faiss.swig_ptr, kept))
        self._index.ntotal += len(ids)
