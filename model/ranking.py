"""Ranking: cosine scores, and k-reciprocal re-ranking (Zhong et al., CVPR 2017)."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from model.tracklet import normalise

_BLOCK = 1024
"""Rows computed at a time, so that temporary memory grows with the gallery and not with its square."""


def cosine_scores(query: ArrayLike, gallery: ArrayLike) -> NDArray[np.float32]:
    """Return the cosine similarity `float32 [Q, G]` of the rows of `query [Q, D]` and `gallery [G, D]`."""
    scores: NDArray[np.float32] = normalise(query) @ normalise(gallery).T
    return scores


def k_reciprocal_rerank(
    query: ArrayLike, gallery: ArrayLike, k1: int = 20, k2: int = 6, lambda_value: float = 0.3
) -> NDArray[np.float32]:
    """Return the re-ranked distances `float32 [Q, G]` of queries against a gallery; lower is nearer.

    "Re-ranking Person Re-identification with k-reciprocal Encoding": the squared Euclidean distance of unit vectors,
    divided by the largest in each row, is mixed as `lambda * original + (1 - lambda) * Jaccard`. The Jaccard distance
    compares k-reciprocal neighbour sets (equations 1 to 10), expanded by the sets of half size that overlap by more
    than two thirds (equation 3), and averaged over the `k2` nearest rows (equation 11).

    Neighbour lists and encodings are sparse (at most a few times `k1` entries per row), and distances are computed
    block by block.

    Args:
        query: `[Q, D]`.
        gallery: `[G, D]`.
        k1: size of the neighbour sets.
        k2: rows of the local query expansion.
        lambda_value: weight of the original distance, 0 to 1.

    Raises:
        ValueError: query or gallery is empty, the dimensions differ, or a parameter is out of range.
    """
    queries, galleries = normalise(query), normalise(gallery)
    if queries.ndim != 2 or galleries.ndim != 2 or queries.shape[1] != galleries.shape[1]:
        raise ValueError(f"shapes {list(queries.shape)} and {list(galleries.shape)} are not [Q, D] and [G, D]")
    if not len(queries) or not len(galleries):
        raise ValueError("query and gallery must each have at least one row")
    if k1 < 1 or k2 < 1 or not 0 <= lambda_value <= 1:
        raise ValueError(f"k1={k1} and k2={k2} must be at least 1, lambda_value={lambda_value} in 0..1")
    rows = np.concatenate([queries, galleries])
    neighbours, largest = _nearest(rows, max(k1 + 1, k2))
    indices, weights = _encode(rows, neighbours, largest, k1)
    if k2 > 1:
        indices, weights = _average(indices, weights, neighbours[:, :k2])
    jaccard = _jaccard(indices, weights, len(queries), len(rows))
    original = np.maximum(0.0, 2.0 - 2.0 * (queries @ galleries.T)) / largest[: len(queries), None]
    mixed: NDArray[np.float32] = (lambda_value * original + (1.0 - lambda_value) * jaccard).astype(np.float32)
    return mixed


def _nearest(rows: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the `k` nearest rows `[N, k]` of each row, itself first, and the largest squared distance `[N]`."""
    count = len(rows)
    k = min(k, count)
    neighbours = np.empty((count, k), np.int64)
    largest = np.empty(count, np.float32)
    for start in range(0, count, _BLOCK):
        block = slice(start, min(start + _BLOCK, count))
        distances = np.maximum(0.0, 2.0 - 2.0 * (rows[block] @ rows.T))
        largest[block] = np.maximum(distances.max(axis=1), np.float32(1e-12))
        own = np.arange(block.start, block.stop)
        distances[own - start, own] = -1.0  # itself first, even if another row is identical
        nearest = np.argpartition(distances, k - 1, axis=1)[:, :k]
        order = np.lexsort((nearest, np.take_along_axis(distances, nearest, axis=1)), axis=1)
        neighbours[block] = np.take_along_axis(nearest, order, axis=1)
    return neighbours, largest


def _reciprocal(neighbours: NDArray[np.int64], row: int, k: int) -> NDArray[np.int64]:
    """Return R(row, k): those of the `k` nearest rows (and itself) that have `row` among their own (equation 2)."""
    near = neighbours[row, : k + 1]
    mutual: NDArray[np.int64] = near[(neighbours[near, : k + 1] == row).any(axis=1)]
    return mutual


def _encode(
    rows: NDArray[np.float32], neighbours: NDArray[np.int64], largest: NDArray[np.float32], k1: int
) -> tuple[list[NDArray[np.int64]], list[NDArray[np.float32]]]:
    """Return the k-reciprocal feature of each row as indices and weights of sum 1 (equations 3, 5 and 7)."""
    half = round(k1 / 2)
    halves = [_reciprocal(neighbours, row, half) for row in range(len(rows))]
    indices, weights = [], []
    for row in range(len(rows)):
        near = _reciprocal(neighbours, row, k1)
        expanded = [near]
        for candidate in near:
            other = halves[candidate]
            if np.isin(other, near, assume_unique=True).sum() > 2 / 3 * len(other):
                expanded.append(other)
        members = np.unique(np.concatenate(expanded))
        distances = np.maximum(0.0, 2.0 - 2.0 * (rows[members] @ rows[row])) / largest[row]
        closeness = np.exp(-distances)
        indices.append(members)
        weights.append((closeness / closeness.sum()).astype(np.float32))
    return indices, weights


def _average(
    indices: list[NDArray[np.int64]], weights: list[NDArray[np.float32]], neighbours: NDArray[np.int64]
) -> tuple[list[NDArray[np.int64]], list[NDArray[np.float32]]]:
    """Replace the feature of each row by the mean of its nearest rows' features (local query expansion)."""
    new_indices, new_weights = [], []
    for near in neighbours:
        members, inverse = np.unique(np.concatenate([indices[j] for j in near]), return_inverse=True)
        total = np.bincount(inverse, np.concatenate([weights[j] for j in near]))
        new_indices.append(members)
        new_weights.append((total / len(near)).astype(np.float32))
    return new_indices, new_weights


def _jaccard(
    indices: list[NDArray[np.int64]], weights: list[NDArray[np.float32]], query_count: int, row_count: int
) -> NDArray[np.float32]:
    """Return the Jaccard distance `[Q, G]` of sparse features, with an inverted list of the gallery (equation 10)."""
    gallery_count = row_count - query_count
    owner = np.repeat(np.arange(gallery_count), [len(i) for i in indices[query_count:]])
    column = np.concatenate(indices[query_count:])
    value = np.concatenate(weights[query_count:])
    order = np.argsort(column, kind="stable")
    owner, value = owner[order], value[order]
    start = np.searchsorted(column[order], np.arange(row_count + 1))
    jaccard = np.empty((query_count, gallery_count), np.float32)
    for row in range(query_count):
        overlap = np.zeros(gallery_count, np.float32)
        for member, weight in zip(indices[row], weights[row], strict=True):
            holders = slice(start[member], start[member + 1])
            overlap[owner[holders]] += np.minimum(weight, value[holders])
        jaccard[row] = 1.0 - overlap / (2.0 - overlap)
    return jaccard
