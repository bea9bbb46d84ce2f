"""The vectors in memory: what the index asks of them, and the kind that FAISS scans whole."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

import faiss as untyped_faiss
import numpy as np
from numpy.typing import NDArray

# FAISS's own stubs lack most of its Python additions, such as arrays for pointers.
faiss: Any = untyped_faiss

Hold = Callable[[], AbstractContextManager[object]]
"""Makes a block in which nothing is appended; a long piece of work enters it again and again, to let others in."""
Read = Callable[[int], bytes]
"""The next bytes of a file, exactly so many; raises `ValueError` where there are fewer."""

_SPARE = 32
"""Candidates fetched beyond those wanted, so that ties at the cut-off rarely need a second scan."""
_ROWS_AT_ONCE = 4096


@dataclass(frozen=True, slots=True)
class Found:
    """Candidates: positions, their vectors `[n, D]` where they are in memory, and whether none better was left out."""

    positions: NDArray[np.int64]
    rows: NDArray[np.float32] | None
    exact: bool


class Vectors(Protocol):
    """Unit vectors of length `dimension` at positions 0, 1, 2, ... Not safe for threads while they change.

    Positions only ever grow: a row that is gone is left out by a mask, until `kept` makes a copy without it.
    """

    kind: ClassVar[str]
    """Names the class in a saved file."""
    dimension: int

    def __len__(self) -> int:
        """How many positions there are."""
        ...

    @property
    def exact(self) -> bool:
        """Whether a search without a filter looks at every row."""
        ...

    @property
    def description(self) -> str:
        """The index in words, for people."""
        ...

    def append(self, rows: NDArray[np.float32]) -> None:
        """Add rows `[N, D]`, made unit length, at the end."""
        ...

    def nearest(
        self, direction: NDArray[np.float32], wanted: int, allowed: int, mask: NDArray[np.bool_] | None
    ) -> Found:
        """Candidates for the best `wanted` rows for a unit vector `[D]`: at least so many, in no order.

        `mask` says which positions may be found, `allowed` how many those are, at least `wanted`; without a mask all.
        """
        ...

    def kept(self, mask: NDArray[np.bool_], hold: Hold) -> Self:
        """A copy of the first positions, as many as the mask has, where it is true; those after a gap move up."""
        ...

    def facts(self) -> dict[str, Any]:
        """What `read` must know beside the bytes, as JSON."""
        ...

    def pieces(self, mask: NDArray[np.bool_], hold: Hold) -> Iterator[bytes]:
        """What `kept` would copy, serialised."""
        ...

    @classmethod
    def read(cls, read: Read, facts: dict[str, Any], dimension: int, rows: int) -> Self:
        """What `pieces` gave of so many rows. Raises `ValueError` where it is something else."""
        ...


class FlatVectors:
    """Float32 vectors, every one of which is compared with each query."""

    kind: ClassVar[str] = "flat"
    exact = True
    description = "exact FAISS index"

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension
        self._index = faiss.IndexFlatIP(dimension)

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def append(self, rows: NDArray[np.float32]) -> None:
        """Add rows `[N, D]`, made unit length, at the end."""
        if len(rows):
            self._index.add(unit_rows(rows))

    def nearest(
        self, direction: NDArray[np.float32], wanted: int, allowed: int, mask: NDArray[np.bool_] | None
    ) -> Found:
        """Positions that hold the best `wanted` rows for certain, whatever single precision has rounded."""
        fetched = min(wanted + _SPARE, allowed)
        parameters = None if mask is None else faiss.SearchParameters(sel=selector(mask))
        all_scores, all_positions = self._index.search(direction[None], fetched, params=parameters)
        scores, positions = all_scores[0], all_positions[0]
        # The true last one may score less by one doubt, and one that belongs before it may look worse by another.
        threshold = float(scores[wanted - 1]) - 2 * self._doubt
        if fetched < allowed and scores[-1] >= threshold:
            _, _, found = self._index.range_search(direction[None], threshold, params=parameters)
            positions = np.asarray(found, np.int64)
        rows: NDArray[np.float32] = self._index.reconstruct_batch(positions)
        return Found(positions, rows, exact=True)

    @property
    def _doubt(self) -> float:
        """How far a score may be off: D roundings, each of half the spacing of float32 numbers at 1."""
        return self.dimension * 2.0**-24

    def kept(self, mask: NDArray[np.bool_], hold: Hold) -> "FlatVectors":
        """A copy of the first positions, as many as the mask has, where it is true; those after a gap move up."""
        copied = FlatVectors(self.dimension)
        for rows in self._rows(mask, hold):
            copied._index.add(rows)
        return copied

    def facts(self) -> dict[str, Any]:
        """What `read` must know beside the bytes: nothing."""
        return {}

    def pieces(self, mask: NDArray[np.bool_], hold: Hold) -> Iterator[bytes]:
        """The rows that `kept` would copy, as little-endian float32."""
        for rows in self._rows(mask, hold):
            yield rows.astype("<f4").tobytes()

    @classmethod
    def read(cls, read: Read, facts: dict[str, Any], dimension: int, rows: int) -> "FlatVectors":  # noqa: ARG003
        """What `pieces` gave of so many rows. Raises `ValueError` where it is something else."""
        vectors = cls(dimension)
        for start in range(0, rows, _ROWS_AT_ONCE):
            count = min(_ROWS_AT_ONCE, rows - start)
            values = np.frombuffer(read(4 * dimension * count), "<f4").astype(np.float32)
            vectors._index.add(values.reshape(count, dimension))
        return vectors

    def _rows(self, mask: NDArray[np.bool_], hold: Hold) -> Iterator[NDArray[np.float32]]:
        for start in range(0, len(mask), _ROWS_AT_ONCE):
            part = mask[start : start + _ROWS_AT_ONCE]
            with hold():
                rows = self._index.reconstruct_n(start, len(part))[part]
            yield np.ascontiguousarray(rows)


def unit_rows(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows `[N, D]` divided by their lengths; the same row gives the same bits in any company."""
    wide = vectors.astype(np.float64)
    lengths = np.sqrt(np.add.reduce(wide * wide, axis=1, keepdims=True))
    return np.ascontiguousarray((wide / lengths).astype(np.float32))


def selector(mask: NDArray[np.bool_]) -> Any:
    """The mask in FAISS's terms."""
    return faiss.IDSelectorBitmap(np.packbits(mask, bitorder="little"))
