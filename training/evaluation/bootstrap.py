"""Confidence intervals by bootstrap over people: queries of one person are alike, so people are what is drawn."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray


def people_bootstrap(
    values: ArrayLike, people: Sequence[str] | ArrayLike, *, seed: int = 1, draws: int = 2000, level: float = 0.95
) -> NDArray[np.float64]:
    """Percentile intervals ``[M, 2]`` of the means of M figures per query.

    Cluster bootstrap (Davison & Hinkley, "Bootstrap Methods and their Application", section 3.8): people are drawn with
    replacement, each with all of their queries; the gallery stays.

    Args:
        values: ``[M, V]``: a figure of each of V queries
        people: ``[V]``: the queries' person ids
        seed: of the draws
        draws: how many
        level: share of the draws inside

    Raises:
        ValueError: shapes disagree, or there are no queries.
    """
    matrix = np.asarray(values, dtype=np.float64)
    ids = np.asarray(people)
    if matrix.ndim != 2 or matrix.shape[1] != len(ids) or not len(ids):
        raise ValueError(f"values {list(matrix.shape)} do not belong to {len(ids)} queries")
    _, places = np.unique(ids, return_inverse=True)
    count = int(places.max()) + 1
    sizes = np.bincount(places, minlength=count)
    sums = np.stack([np.bincount(places, row, minlength=count) for row in matrix])
    weights = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=draws)
    means = (weights @ sums.T) / (weights @ sizes)[:, None]
    tail = 100 * (1 - level) / 2
    return np.percentile(means, [tail, 100 - tail], axis=0).T
