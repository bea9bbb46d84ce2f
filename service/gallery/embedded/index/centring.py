"""Centred scores: the mean vector of its camera is subtracted from each vector before two are compared.

A camera's light, angle and distance move all vectors of its records in one direction. The mean of a camera with few
records says more about the people it saw than about the camera. So with `n` records it is drawn towards the mean `g`
of the gallery, and that towards zero:

    g = (sum of all vectors) / (N + SHRINKAGE)
    m = (sum of the camera's vectors + SHRINKAGE * g) / (n + SHRINKAGE)

Both are shorter than 1, so a unit vector minus a mean is never zero. A record or query without a camera, or of a camera
without records, gets `g`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.gallery.embedded.index.columns import Columns, enlarged
from service.gallery.embedded.index.flat import Score, Vectors, unit_rows

SHRINKAGE = 100.0
"""As many records of the mean of all cameras count in the mean of one camera; docs/figures/centring.md."""
TOLERANCE = 0.01
"""A mean in use is replaced when it is further than this from the mean of the records."""
_FIXED_POINT = 2.0**32
"""Vectors are summed as integers, so that a sum does not depend on the order and a removed vector leaves no trace."""


class CameraSums:
    """Number and sum of the unit vectors of each camera's records. `None` stands for records without a camera."""

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension
        self._sums: dict[str | None, tuple[int, NDArray[np.int64]]] = {}
        self._total = (0, np.zeros(dimension, np.int64))

    @property
    def cameras(self) -> set[str | None]:
        """The cameras that have records here."""
        return set(self._sums)

    def add(self, camera_id: str | None, vectors: NDArray[np.float32]) -> None:
        """Add records of one camera with their vectors `[N, D]`."""
        scaled = np.rint(unit_rows(vectors).astype(np.float64) * _FIXED_POINT)
        self._change(camera_id, len(vectors), np.add.reduce(scaled, axis=0).astype(np.int64))

    def add_all(self, camera_ids: Sequence[str | None], vectors: NDArray[np.float32]) -> None:
        """Add records of several cameras with their vectors `[N, D]`."""
        positions: dict[str | None, list[int]] = {}
        for position, camera_id in enumerate(camera_ids):
            positions.setdefault(camera_id, []).append(position)
        for camera_id, own in positions.items():
            self.add(camera_id, vectors[own])

    def add_sums(self, other: "CameraSums") -> None:
        """Add the records of other sums."""
        for camera_id, (count, total) in other._sums.items():
            self._change(camera_id, count, total)

    def subtract(self, other: "CameraSums") -> None:
        """Remove records that were added before."""
        for camera_id, (count, total) in other._sums.items():
            self._change(camera_id, -count, -total)

    def mean_of_all(self) -> NDArray[np.float64]:
        """Return the mean of all records `[D]`, drawn towards zero."""
        count, total = self._total
        mean: NDArray[np.float64] = total / (_FIXED_POINT * (count + SHRINKAGE))
        return mean

    def mean_of(self, camera_id: str | None) -> NDArray[np.float64]:
        """Return the mean of a camera `[D]`, drawn towards that of all records; without a camera, that of all."""
        mean = self.mean_of_all()
        if camera_id is None or camera_id not in self._sums:
            return mean
        count, total = self._sums[camera_id]
        own: NDArray[np.float64] = (total / _FIXED_POINT + SHRINKAGE * mean) / (count + SHRINKAGE)
        return own

    def _change(self, camera_id: str | None, count: int, total: NDArray[np.int64]) -> None:
        known = self._sums.get(camera_id, (0, 0))
        changed = (known[0] + count, known[1] + total)
        if changed[0]:
            self._sums[camera_id] = changed
        else:
            self._sums.pop(camera_id, None)
        self._total = (self._total[0] + count, self._total[1] + total)


@dataclass(frozen=True, slots=True)
class Means:
    """The means in use, `table` `[cameras + 1, D]` by the codes of `Columns`: the last one is that of all records.

    Never changed, so that a search can use it after the index has gone on.
    """

    table: NDArray[np.float64]

    def centre(self, vectors: NDArray[np.float32], codes: NDArray[np.int32]) -> NDArray[np.float64]:
        """Subtract from unit vectors `[N, D]` the means of their cameras `[N]`, and scale them to unit length."""
        rest = vectors.astype(np.float64) - self.table[codes]
        unit: NDArray[np.float64] = rest / np.sqrt(np.add.reduce(rest * rest, axis=1, keepdims=True))
        return unit


class Centring:
    """What centred scores need beside the vectors of an index. Not safe for threads.

    Each change of the gallery is in `sums` at once. The means in use are replaced by the same change if they are then
    further than `TOLERANCE` from those of the sums. For each position of the index it keeps the inverse length of
    vector minus mean, so that the score of any row is one product, one difference and one factor.
    """

    def __init__(self, sums: CameraSums) -> None:
        self.sums = sums
        self.means = Means(sums.mean_of_all()[None])
        self._inverse: NDArray[np.float32] = np.empty(0, np.float32)  # by position; longer than needed

    def start(self, vectors: Vectors, columns: Columns) -> None:
        """Use the means of the sums for the rows of an index that was just loaded."""
        self._inverse = np.ones(columns.size, np.float32)
        self._make_table(columns)
        self._renew(range(-1, len(columns.camera_ids)), vectors, columns)

    def append(self, added: NDArray[np.float32], columns: Columns) -> None:
        """Add the vectors `[N, D]` of the last rows of the columns."""
        first = columns.size - len(added)
        codes = columns.cameras[first:]
        names = columns.camera_ids
        self.sums.add_all([None if code < 0 else names[code] for code in codes], added)
        if len(self.means.table) <= len(names):
            self._make_table(columns)
        if columns.size > len(self._inverse):
            self._inverse = enlarged(self._inverse, columns.size + columns.size // 4 + 1024)
        rest = unit_rows(added).astype(np.float64) - self.means.table[codes]
        self._inverse[first : columns.size] = 1 / np.sqrt(np.add.reduce(rest * rest, axis=1))

    def follow(self, changed: set[str | None], vectors: Vectors, columns: Columns) -> None:
        """Replace the means that are too far from those of the sums, after the records of some cameras changed."""
        # Half, because the mean of all may have been off by as much when another camera's mean was replaced. That mean
        # has since moved only with the mean of all, and less than it.
        if self._is_far(-1, None, TOLERANCE / 2):
            self._renew(range(-1, len(columns.camera_ids)), vectors, columns)
            return
        known = [(columns.camera_code(name), name) for name in changed if name is not None]
        far = [code for code, name in known if self._is_far(code, name, TOLERANCE)]
        if far:
            self._renew(far, vectors, columns)

    def subset(self, positions: NDArray[np.int64]) -> None:
        """Keep these positions of the index, in this order."""
        self._inverse = self._inverse[positions]

    def scorer(self, direction: NDArray[np.float64], columns: Columns) -> Score:
        """Return a function from positions and their products with a centred query to scores and inverse lengths."""
        shifts = (self.means.table @ direction).astype(np.float32)
        cameras, inverse = columns.cameras, self._inverse

        def score(
            positions: NDArray[np.int64], products: NDArray[np.float32]
        ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
            factors = inverse[positions]
            return (products - shifts[cameras[positions]]) * factors, factors

        return score

    def _is_far(self, code: int, camera_id: str | None, tolerance: float) -> bool:
        change = self.sums.mean_of(camera_id) - self.means.table[code]
        return bool(change @ change > tolerance**2)

    def _make_table(self, columns: Columns) -> None:
        """Give cameras that are new in the columns the mean of all records."""
        mean = self.means.table[-1]
        table = np.tile(mean, (len(columns.camera_ids) + 1, 1))
        table[: len(self.means.table) - 1] = self.means.table[:-1]
        self.means = Means(table)

    def _renew(self, codes: Iterable[int], vectors: Vectors, columns: Columns) -> None:
        table, names = self.means.table.copy(), columns.camera_ids
        for code in codes:
            table[code] = self.sums.mean_of(None if code < 0 else names[code])
        self.means = Means(table)
        for code in codes:
            mask = columns.cameras == code
            mask &= columns.alive
            if not mask.any():
                continue
            positions, products = vectors.products(table[code].astype(np.float32), mask)
            squares = 1 - 2 * products.astype(np.float64) + table[code] @ table[code]
            self._inverse[positions] = 1 / np.sqrt(np.maximum(squares, 1e-9))
