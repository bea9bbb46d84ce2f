"""Ranking: cosine scores, and k-reciprocal re-ranking (Zhong et al., CVPR 2017)."""

from collections.abc import Iterator
from typing import Literal, Protocol, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from model.tracklet import normalise

RerankForm = Literal["unit", "published"]
RERANK_FORMS: tuple[RerankForm, ...] = get_args(RerankForm)

_Rows = NDArray[np.int64] | slice

_BLOCK = 1024
"""Rows computed at a time, so that temporary memory grows with the gallery and not with its square."""


def cosine_scores(query: ArrayLike, gallery: ArrayLike) -> NDArray[np.float32]:
    """Return the cosine similarity `float32 [Q, G]` of the rows of `query [Q, D]` and `gallery [G, D]`."""
    scores: NDArray[np.float32] = normalise(query) @ normalise(gallery).T
    return scores


def k_reciprocal_rerank(
    query: ArrayLike,
    gallery: ArrayLike,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
    *,
    form: RerankForm = "unit",
) -> NDArray[np.float32]:
    """Return the re-ranked distances `float32 [Q, G]` of queries against a gallery; lower is nearer.

    "Re-ranking Person Re-identification with k-reciprocal Encoding": the squared Euclidean distance, divided by the
    largest in each row, is mixed as `lambda * original + (1 - lambda) * Jaccard`. The Jaccard distance compares
    k-reciprocal neighbour sets (equations 1 to 10), expanded by the sets of half size that overlap by more than two
    thirds (equation 3), and averaged over the `k2` nearest rows (equation 11).

    Neighbour lists and encodings are sparse (at most a few times `k1` entries per row), and distances are computed
    block by block.

    Args:
        query: `[Q, D]`.
        gallery: `[G, D]`.
        k1: size of the neighbour sets.
        k2: rows of the local query expansion.
        lambda_value: weight of the original distance, 0 to 1.
        form: `unit` compares unit vectors in float32. `published` does what the program of fantastic does: the
            features as they are, with distances and encodings in half precision.

    Raises:
        ValueError: query or gallery is empty, the dimensions differ, a parameter is out of range, or the features are
            too long for half precision.
    """
    if form not in RERANK_FORMS:
        raise ValueError(f"form={form!r} must be one of {', '.join(RERANK_FORMS)}")
    queries, galleries = np.asarray(query, np.float32), np.asarray(gallery, np.float32)
    if queries.ndim != 2 or galleries.ndim != 2 or queries.shape[1] != galleries.shape[1]:
        raise ValueError(f"shapes {list(queries.shape)} and {list(galleries.shape)} are not [Q, D] and [G, D]")
    if not len(queries) or not len(galleries):
        raise ValueError("query and gallery must each have at least one row")
    if k1 < 1 or k2 < 1 or not 0 <= lambda_value <= 1:
        raise ValueError(f"k1={k1} and k2={k2} must be at least 1, lambda_value={lambda_value} in 0..1")
    rows = np.concatenate([queries, galleries])
    distances = _UnitDistances(rows) if form == "unit" else _PublishedDistances(rows)
    neighbours = _nearest(distances, max(k1 + 1, k2))
    indices, weights = _encode(distances, neighbours, k1)
    if k2 > 1:
        indices, weights = _average(indices, weights, neighbours[:, :k2])
    jaccard = _jaccard(indices, weights, len(queries), len(rows))
    original = distances.between(np.arange(len(queries)), np.arange(len(queries), len(rows)))
    number = jaccard.dtype.type
    mixed: NDArray[np.float32] = (number(lambda_value) * original + number(1 - lambda_value) * jaccard).astype(
        np.float32
    )
    return mixed


class _Distances(Protocol):
    """Squared Euclidean distances between rows, each divided by the largest distance of its row.

    The largest distances are known once `blocks` was read to its end.
    """

    count: int

    def blocks(self) -> Iterator[tuple[slice, NDArray[np.floating]]]:
        """Yield blocks of rows, and their distances to all rows `[block, N]`."""
        ...

    def between(self, some: NDArray[np.int64], others: NDArray[np.int64]) -> NDArray[np.floating]:
        """Return the distances `[len(some), len(others)]`."""
        ...


class _UnitDistances:
    """Distances of unit vectors in float32."""

    def __init__(self, rows: NDArray[np.float32]) -> None:
        self._rows, self.count = normalise(rows), len(rows)
        self._largest = np.empty(self.count, np.float32)

    def blocks(self) -> Iterator[tuple[slice, NDArray[np.floating]]]:
        for block in _blocks(self.count):
            squares = self._squares(self._rows[block], self._rows)
            self._largest[block] = np.maximum(squares.max(axis=1), 1e-12)
            yield block, squares / self._largest[block, None]

    def between(self, some: NDArray[np.int64], others: NDArray[np.int64]) -> NDArray[np.floating]:
        return self._squares(self._rows[some], self._rows[others]) / self._largest[some, None]

    @staticmethod
    def _squares(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float32]:
        squares: NDArray[np.float32] = np.maximum(np.float32(0), 2 - 2 * (one @ other.T))
        return squares


class _PublishedDistances:
    """Distances of features of any length, rounded to half precision where the program of fantastic rounds.

    The features, the distances, their squares and the quotients are rounded. A millionth is added to each quotient.
    """

    def __init__(self, rows: NDArray[np.float32]) -> None:
        with np.errstate(over="ignore"):
            self._rows = rows.astype(np.float16).astype(np.float64)
        self._lengths, self.count = np.square(self._rows).sum(axis=1), len(rows)
        self._largest = np.empty(self.count, np.float16)

    def blocks(self) -> Iterator[tuple[slice, NDArray[np.floating]]]:
        for block in _blocks(self.count):
            squares = self._squares(block, slice(None))
            self._largest[block] = np.maximum(squares.max(axis=1), np.finfo(np.float16).tiny)
            if not np.isfinite(self._largest[block]).all():
                raise ValueError(
                    "the features are too long for the half precision of form='published': squared distances must be "
                    "below 65,504; scale the features, or use form='unit'"
                )
            yield block, squares / self._largest[block, None] + np.float16(1e-6)

    def between(self, some: NDArray[np.int64], others: NDArray[np.int64]) -> NDArray[np.floating]:
        return self._squares(some, others) / self._largest[some, None] + np.float16(1e-6)

    def _squares(self, some: _Rows, others: _Rows) -> NDArray[np.float16]:
        squares = self._lengths[some, None] + self._lengths[others] - 2 * (self._rows[some] @ self._rows[others].T)
        with np.errstate(over="ignore", invalid="ignore"):
            rounded: NDArray[np.float16] = np.square(np.sqrt(np.maximum(squares, 0)).astype(np.float16))
        return rounded


def _blocks(count: int) -> Iterator[slice]:
    return (slice(start, min(start + _BLOCK, count)) for start in range(0, count, _BLOCK))


def _nearest(distances: _Distances, k: int) -> NDArray[np.int64]:
    """Return the `k` nearest rows `[N, k]` of each row, itself first; of equal distances the lower row first."""
    k = min(k, distances.count)
    neighbours = np.empty((distances.count, k), np.int64)
    for block, found in distances.blocks():
        own = np.arange(block.start, block.stop)
        found[own - block.start, own] = -1.0  # itself first, even if another row is identical
        # Sorted by distance, then by row: with half precision, many distances are equal.
        kth = np.partition(found, k - 1, axis=1)[:, k - 1]
        for row, (line, limit) in enumerate(zip(found, kth, strict=True), block.start):
            near = np.flatnonzero(line <= limit)
            neighbours[row] = near[np.argsort(line[near], kind="stable")[:k]]
    return neighbours


def _reciprocal(neighbours: NDArray[np.int64], row: int, k: int) -> NDArray[np.int64]:
    """Return R(row, k): those of the `k` nearest rows (and itself) that have `row` among their own (equation 2)."""
    near = neighbours[row, : k + 1]
    mutual: NDArray[np.int64] = near[(neighbours[near, : k + 1] == row).any(axis=1)]
    return mutual


def _encode(
    distances: _Distances, neighbours: NDArray[np.int64], k1: int
) -> tuple[list[NDArray[np.int64]], list[NDArray[np.floating]]]:
    """Return the k-reciprocal feature of each row as indices and weights of sum 1 (equations 3, 5 and 7)."""
    half = round(k1 / 2)
    halves = [_reciprocal(neighbours, row, half) for row in range(distances.count)]
    indices, weights = [], []
    is_near = np.zeros(distances.count, bool)
    for row in range(distances.count):
        near = _reciprocal(neighbours, row, k1)
        is_near[near] = True
        expanded = [near]
        for candidate in near:
            other = halves[candidate]
            if np.count_nonzero(is_near[other]) > 2 / 3 * len(other):
                expanded.append(other)
        is_near[near] = False
        members = np.unique(np.concatenate(expanded))
        closeness = np.exp(-distances.between(np.array([row]), members)[0])
        indices.append(members)
        weights.append(closeness / closeness.sum())
    return indices, weights


def _average(
    indices: list[NDArray[np.int64]], weights: list[NDArray[np.floating]], neighbours: NDArray[np.int64]
) -> tuple[list[NDArray[np.int64]], list[NDArray[np.floating]]]:
    """Replace the feature of each row by the mean of its nearest rows' features (local query expansion)."""
    new_indices, new_weights = [], []
    for near in neighbours:
        members, inverse = np.unique(np.concatenate([indices[j] for j in near]), return_inverse=True)
        total = np.bincount(inverse, np.concatenate([weights[j] for j in near]))
        new_indices.append(members)
        new_weights.append((total / len(near)).astype(weights[0].dtype))
    return new_indices, new_weights


def _jaccard(
    indices: list[NDArray[np.int64]], weights: list[NDArray[np.floating]], query_count: int, row_count: int
) -> NDArray[np.floating]:
    """Return the Jaccard distance `[Q, G]` of sparse features, with an inverted list of the gallery (equation 10)."""
    gallery_count = row_count - query_count
    owner = np.repeat(np.arange(gallery_count), [len(i) for i in indices[query_count:]])
    column = np.concatenate(indices[query_count:])
    value = np.concatenate(weights[query_count:])
    order = np.argsort(column, kind="stable")
    owner, value = owner[order], value[order]
    start = np.searchsorted(column[order], np.arange(row_count + 1))
    jaccard = np.empty((query_count, gallery_count), value.dtype)
    for row in range(query_count):
        overlap = np.zeros(gallery_count, value.dtype)
        for member, weight in zip(indices[row], weights[row], strict=True):
            holders = slice(start[member], start[member + 1])
            overlap[owner[holders]] += np.minimum(weight, value[holders])
        jaccard[row] = 1 - overlap / (2 - overlap)
    return jaccard
