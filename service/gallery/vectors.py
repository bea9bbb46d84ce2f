"""The vectors in memory, scanned exactly by FAISS: the only module that knows FAISS."""

from collections.abc import Callable
from typing import Any

import faiss as untyped_faiss
import numpy as np
from numpy.typing import NDArray

# FAISS's own stubs lack most of its Python additions, such as arrays for pointers.
faiss: Any = untyped_faiss


class Vectors:
    """Float32 unit vectors of length `dimension` at positions 0, 1, 2, ... Not safe for threads while it changes.

    An approximate index would be another class of this shape, with `exact` false.
    """

    exact = True

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension
        self._index = faiss.IndexFlatIP(dimension)

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def append(self, rows: NDArray[np.float32]) -> None:
        """Add rows `[N, D]`, made unit length, at the end."""
        if len(rows):
            self._index.add(unit_rows(rows))

    def keep(self, mask: NDArray[np.bool_]) -> None:
        """Remove the positions where the mask is false; those after them move up."""
        if not mask.all():
            self._index.remove_ids(_selector(~mask))

    def copy(self) -> "Vectors":
        """A copy that later changes of this one do not reach."""
        copied = Vectors(self.dimension)
        copied._index = faiss.clone_index(self._index)
        return copied

    def take(self, positions: NDArray[np.int64]) -> NDArray[np.float32]:
        """The rows at these positions `[n, D]`."""
        rows: NDArray[np.float32] = self._index.reconstruct_batch(positions)
        return rows

    def nearest(
        self, direction: NDArray[np.float32], count: int, mask: NDArray[np.bool_] | None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Scores and positions of the best `count` rows for a unit vector `[D]`, best first, where the mask is true.

        The scores are single precision products, off by less than `doubt`.
        """
        scores, positions = self._index.search(direction[None], count, params=_parameters(mask))
        return scores[0], positions[0]

    def above(
        self, direction: NDArray[np.float32], threshold: float, mask: NDArray[np.bool_] | None
    ) -> NDArray[np.int64]:
        """The positions of all rows that score above the threshold, in no order."""
        _, _, positions = self._index.range_search(direction[None], threshold, params=_parameters(mask))
        return np.asarray(positions, np.int64)

    @property
    def doubt(self) -> float:
        """How far a score may be off: D roundings, each of half the spacing of float32 numbers at 1."""
        return self.dimension * 2.0**-24

    def write(self, write: Callable[[bytes], int]) -> None:
        """Serialise, piece by piece."""
        faiss.write_index(self._index, faiss.PyCallbackIOWriter(write))

    @classmethod
    def read(cls, read: Callable[[int], bytes]) -> "Vectors":
        """Deserialise what `write` gave. Raises `ValueError` where it is something else."""
        try:
            index = faiss.read_index(faiss.PyCallbackIOReader(read))
        except RuntimeError as error:
            raise ValueError("this version of FAISS cannot read it") from error
        if not isinstance(index, faiss.IndexFlatIP):
            raise ValueError(f"it holds a {type(index).__name__}")
        vectors = cls(index.d)
        vectors._index = index
        return vectors


def unit_rows(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows `[N, D]` divided by their lengths; the same row gives the same bits in any company."""
    wide = vectors.astype(np.float64)
    lengths = np.sqrt(np.add.reduce(wide * wide, axis=1, keepdims=True))
    return np.ascontiguousarray((wide / lengths).astype(np.float32))


def _parameters(mask: NDArray[np.bool_] | None) -> Any:
    return None if mask is None else faiss.SearchParameters(sel=_selector(mask))


def _selector(mask: NDArray[np.bool_]) -> Any:
    return faiss.IDSelectorBitmap(np.packbits(mask, bitorder="little"))
