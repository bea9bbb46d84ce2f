"""The `Vectors` protocol, which every kind of vector storage in the index follows, and the exact kind."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

import faiss as untyped_faiss
import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

# FAISS's own stubs lack most of its Python additions, such as arrays for pointers.
faiss: Any = untyped_faiss

ReadLock = Callable[[], AbstractContextManager[object]]
"""Makes a context in which nothing is appended. Long work enters it many times, so that writers get their turn."""
ReadExactly = Callable[[int], bytes]
"""Returns exactly so many next bytes of a file; raises `ValueError` if there are fewer."""

Score = Callable[[NDArray[np.int64], NDArray[np.float32]], tuple[NDArray[np.float32], NDArray[np.float32]]]
"""Takes positions `[n]` and their products with a centred query. Returns their centred scores, and the inverse lengths
of their centred vectors. See `Centring.scorer`."""

_EXTRA_CANDIDATES = 32
"""Candidates fetched beyond those wanted, so that ties at the cut-off rarely need a second scan."""
_ROWS_AT_ONCE = 4096


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Candidates for the nearest rows.

    `vectors` `[n, D]` are those at the `positions` `[n]`, or `None` if they are not in memory. `exact` says that no
    better row was left out.
    """

    positions: NDArray[np.int64]
    vectors: NDArray[np.float32] | None
    exact: bool


class Vectors(Protocol):
    """Unit vectors of length `dimension` at positions 0, 1, 2, ... Not safe for threads while they change.

    Rows are only ever appended. A mask leaves a removed row out of searches until `subset` makes a copy without it.
    """

    kind: ClassVar[str]
    """Names the class in a saved file."""
    dimension: int

    def __len__(self) -> int:
        """Return the number of positions."""
        ...

    @property
    def exact(self) -> bool:
        """Whether a search without a filter compares every row."""
        ...

    @property
    def description(self) -> str:
        """What the index is, for people."""
        ...

    def append(self, rows: NDArray[np.float32]) -> None:
        """Scale rows `[N, D]` to unit length and add them at the end."""
        ...

    def nearest(
        self, query: NDArray[np.float32], wanted: int, allowed: int, mask: NDArray[np.bool_] | None
    ) -> Neighbours:
        """Find candidates for the nearest rows.

        Args:
            query: a unit vector `[D]`.
            wanted: how many of the best rows must be among the candidates; more may be returned, in any order.
            allowed: how many positions the mask lets pass, at least `wanted`.
            mask: which positions may be found; `None` for all.
        """
        ...

    def products(
        self, query: NDArray[np.float32], mask: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return the positions `[n]` that the mask lets pass, and the inner products `[n]` of their rows with a query.

        The products are as exact as what is in memory.
        """
        ...

    def nearest_centred(
        self, query: NDArray[np.float32], wanted: int, allowed: int, mask: NDArray[np.bool_] | None, score: Score
    ) -> Neighbours:
        """Find candidates for the rows with the best centred scores; the arguments are those of `nearest`."""
        ...

    def subset(self, mask: NDArray[np.bool_], read_lock: ReadLock) -> Self:
        """Copy the rows for which the mask is true, in order. Positions beyond the mask are not copied."""
        ...

    def parameters(self) -> dict[str, Any]:
        """Return what `deserialise` needs besides the bytes, as JSON."""
        ...

    def serialise(self, mask: NDArray[np.bool_], read_lock: ReadLock) -> Iterator[bytes]:
        """Yield the bytes of what `subset` would copy."""
        ...

    @classmethod
    def deserialise(cls, read: ReadExactly, parameters: dict[str, Any], dimension: int, rows: int) -> Self:
        """Rebuild the vectors of `rows` rows from what `serialise` yielded. Raises `ValueError` for other bytes."""
        ...


class FlatVectors(Vectors):
    """Float32 vectors, every one of which is compared with each query."""

    kind: ClassVar[str] = "flat"
    exact = True
    description = "exact FAISS index"

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension
        self._index = faiss.IndexFlatIP(dimension)

    @override
    def __len__(self) -> int:
        return int(self._index.ntotal)

    @override
    def append(self, rows: NDArray[np.float32]) -> None:
        if len(rows):
            self._index.add(unit_rows(rows))

    @override
    def nearest(
        self, query: NDArray[np.float32], wanted: int, allowed: int, mask: NDArray[np.bool_] | None
    ) -> Neighbours:
        fetched = min(wanted + _EXTRA_CANDIDATES, allowed)
        parameters = None if mask is None else faiss.SearchParameters(sel=selector(mask))
        all_scores, all_positions = self._index.search(query[None], fetched, params=parameters)
        scores, positions = all_scores[0], all_positions[0]
        # D roundings, each of half the spacing of float32 numbers at 1. Both the last wanted score and the score of a
        # row that belongs before it may be off by this much.
        rounding_error = self.dimension * 2.0**-24
        threshold = float(scores[wanted - 1]) - 2 * rounding_error
        if fetched < allowed and scores[-1] >= threshold:
            _, _, found = self._index.range_search(query[None], threshold, params=parameters)
            positions = np.asarray(found, np.int64)
        vectors: NDArray[np.float32] = self._index.reconstruct_batch(positions)
        return Neighbours(positions, vectors, exact=True)

    @override
    def products(
        self, query: NDArray[np.float32], mask: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        positions = np.flatnonzero(mask)
        if 4 * len(positions) > len(self):  # reading the rows one after the other is faster than jumping
            return positions, self._all_products(query)[positions]
        found = np.empty(len(positions), np.float32)
        arrays = (found, query, self._index.get_xb(), positions, self.dimension, 1, len(positions))
        if len(positions):
            faiss.fvec_inner_products_by_idx(*(faiss.swig_ptr(a) if isinstance(a, np.ndarray) else a for a in arrays))
        return positions, found

    @override
    def nearest_centred(
        self, query: NDArray[np.float32], wanted: int, allowed: int, mask: NDArray[np.bool_] | None, score: Score
    ) -> Neighbours:
        if mask is None:
            positions, products = np.arange(len(self)), self._all_products(query)
        else:
            positions, products = self.products(query, mask)
        scores, factors = score(positions, products)
        errors = _centred_errors(factors, self.dimension)
        threshold = -np.partition(errors - scores, wanted - 1)[wanted - 1]
        positions = positions[scores + errors >= threshold]
        vectors: NDArray[np.float32] = self._index.reconstruct_batch(positions)
        return Neighbours(positions, vectors, exact=True)

    def _all_products(self, query: NDArray[np.float32]) -> NDArray[np.float32]:
        # Not with numpy: the threads of its product spin for twenty times as long as the product takes.
        found = np.empty(len(self), np.float32)
        if len(self):
            pointers = faiss.swig_ptr(found), faiss.swig_ptr(query), self._index.get_xb()
            faiss.fvec_inner_products_ny(*pointers, self.dimension, len(self))
        return found

    @override
    def subset(self, mask: NDArray[np.bool_], read_lock: ReadLock) -> "FlatVectors":
        copy = FlatVectors(self.dimension)
        for rows in self._rows(mask, read_lock):
            copy._index.add(rows)
        return copy

    @override
    def parameters(self) -> dict[str, Any]:
        return {}

    @override
    def serialise(self, mask: NDArray[np.bool_], read_lock: ReadLock) -> Iterator[bytes]:
        for rows in self._rows(mask, read_lock):
            yield rows.astype("<f4").tobytes()

    @override
    @classmethod
    def deserialise(cls, read: ReadExactly, parameters: dict[str, Any], dimension: int, rows: int) -> "FlatVectors":
        vectors = cls(dimension)
        for start in range(0, rows, _ROWS_AT_ONCE):
            count = min(_ROWS_AT_ONCE, rows - start)
            values = np.frombuffer(read(4 * dimension * count), "<f4").astype(np.float32)
            vectors._index.add(values.reshape(count, dimension))
        return vectors

    def _rows(self, mask: NDArray[np.bool_], read_lock: ReadLock) -> Iterator[NDArray[np.float32]]:
        for start in range(0, len(mask), _ROWS_AT_ONCE):
            part = mask[start : start + _ROWS_AT_ONCE]
            with read_lock():
                rows = self._index.reconstruct_n(start, len(part))[part]
            yield np.ascontiguousarray(rows)


def _centred_errors(factors: NDArray[np.float32], dimension: int) -> NDArray[np.float32]:
    """Return by how much scores with these inverse lengths may be off.

    A product is off by at most D roundings, and a squared length by twice that. With an inverse length f this moves the
    score by f and f * f times as much. Where little of a vector is left, so that its length is not known, the score may
    be anything.
    """
    rounding = np.float32((dimension + 16) * 2.0**-24)
    errors = np.float32(1.5) * rounding * factors * (1 + factors)
    errors[8 * rounding * factors * factors > 1] = 4
    return errors


def unit_rows(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Divide rows `[N, D]` by their lengths. Equal rows give equal bits, whatever other rows are beside them."""
    wide = vectors.astype(np.float64)
    lengths = np.sqrt(np.add.reduce(wide * wide, axis=1, keepdims=True))
    return np.ascontiguousarray((wide / lengths).astype(np.float32))


def selector(mask: NDArray[np.bool_]) -> Any:
    """Return the mask as FAISS's bitmap of positions that may be found."""
    return faiss.IDSelectorBitmap(np.packbits(mask, bitorder="little"))
