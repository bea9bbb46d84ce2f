"""Pairs of tracklets from two cameras of one site, with their scores: what a calibration is fitted and measured on."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from training.datasets.catalog import site_of
from training.evaluation.metrics import codes

MAX_NON_MATED = 2_000_000
"""More pairs of two people than this are thinned out at random."""

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Pairs:
    """P pairs. A pair is mated if both tracklets show one person.

    Attributes:
        scores: `[P]`, higher is more similar.
        same: `[P]`: whether the pair is mated.
        first: `[P]`: number of the one person. Pairs whose people are unknown have a number each.
        second: `[P]`: number of the other person; -1 if the people are unknown.
        cameras: number of cameras; 0 if unknown.
    """

    scores: Floats
    same: Flags
    first: Integers
    second: Integers
    cameras: int = 0

    @property
    def named(self) -> bool:
        """Return whether the people are known."""
        return bool((self.second >= 0).all())

    @property
    def people(self) -> int:
        """Return the number of people; 0 if they are unknown."""
        return len(np.unique(np.concatenate([self.first, self.second]))) if self.named else 0

    @property
    def mated(self) -> int:
        """Return the number of pairs of one person."""
        return int(self.same.sum())

    @property
    def non_mated(self) -> int:
        """Return the number of pairs of two people."""
        return len(self.same) - self.mated

    @property
    def mated_people(self) -> int:
        """Return the number of people who have a mated pair; of mated pairs, if the people are unknown."""
        return len(np.unique(self.first[self.same]))

    @property
    def people_pairs(self) -> int:
        """Return the number of pairs of two people; of non-mated pairs, if the people are unknown."""
        return len(np.unique(self._clusters()[~self.same]))

    def weights(self, drawn: ArrayLike | None = None) -> Floats:
        """Return weights `[P]` that sum to 1 over the mated pairs and to 1 over the others.

        Each person counts the same among the mated pairs, and each pair of people among the others, however many
        tracklets they have.

        Args:
            drawn: how often a bootstrap drew each person, by number; by default once.
        """
        weights = self._base
        if drawn is not None:
            times = np.append(np.asarray(drawn, np.float64), 1.0)  # the last for -1: people who are unknown
            weights = weights * times[self.first] * np.where(self.same, 1.0, times[self.second])
        totals = [weights[kind].sum() for kind in (~self.same, self.same)]
        return np.asarray(weights / np.where(self.same, totals[1] or 1.0, totals[0] or 1.0), np.float64)

    @cached_property
    def _base(self) -> Floats:
        _, inverse, counts = np.unique(self._clusters(), return_inverse=True, return_counts=True)
        return np.asarray(1.0 / counts[inverse], np.float64)

    def subset(self, kept: Flags) -> "Pairs":
        """Return the pairs `kept [P]`."""
        return Pairs(self.scores[kept], self.same[kept], self.first[kept], self.second[kept], self.cameras)

    def ordered(self) -> "Pairs":
        """Return the pairs in the order of their scores, lowest first."""
        order = np.argsort(self.scores, kind="stable")
        return Pairs(self.scores[order], self.same[order], self.first[order], self.second[order], self.cameras)

    def of_people(self, people: ArrayLike) -> "Pairs":
        """Return the pairs both of whose people are among the numbers `people`."""
        wanted = np.asarray(people)
        return self.subset(np.isin(self.first, wanted) & (np.isin(self.second, wanted) | (self.second < 0)))

    def _clusters(self) -> Integers:
        low, high = np.minimum(self.first, self.second), np.maximum(self.first, self.second)
        # Unknown people (-1) leave a number for each pair.
        return np.asarray((low + 1) * (int(high.max(initial=0)) + 1) + high, np.int64)


def pairs_of_matrix(
    scores: ArrayLike,
    query_ids: Sequence[str] | ArrayLike,
    gallery_ids: Sequence[str] | ArrayLike,
    query_cameras: Sequence[str] | ArrayLike,
    gallery_cameras: Sequence[str] | ArrayLike,
    *,
    gallery_begins_with_queries: bool = False,
    seed: int = 1,
) -> Pairs:
    """Return the pairs of a query and a gallery tracklet from different cameras of one site.

    Pairs from one camera are left out, because the background makes them similar. Pairs of people from different sites
    are left out too: no search compares them.

    Args:
        scores: `[Q, G]`, higher is more similar.
        query_ids: person ids `[Q]`.
        gallery_ids: person ids `[G]`.
        query_cameras: camera ids `[Q]`.
        gallery_cameras: camera ids `[G]`.
        gallery_begins_with_queries: the first Q gallery rows are the queries; each pair of them is taken once.
        seed: of the thinning, if there are more than `MAX_NON_MATED` pairs of two people.
    """
    matrix = np.asarray(scores)
    q_id, g_id, q_cam, g_cam = (np.asarray(a) for a in (query_ids, gallery_ids, query_cameras, gallery_cameras))
    q_site, g_site = sites_of(q_id, g_id)
    (q_id, g_id), (q_cam, g_cam) = codes(q_id, g_id), codes(q_cam, g_cam)
    usable = (q_cam[:, None] != g_cam[None]) & (q_site[:, None] == g_site[None]) & np.isfinite(matrix)
    if gallery_begins_with_queries:
        usable &= np.arange(len(g_id))[None] > np.arange(len(q_id))[:, None]
    same = q_id[:, None] == g_id[None]
    different = int((usable & ~same).sum())
    if different > MAX_NON_MATED:
        random = np.random.default_rng(seed)
        usable &= same | (random.random(matrix.shape, np.float32) < MAX_NON_MATED / different)
    rows, columns = np.nonzero(usable)
    cameras = len(np.unique(np.concatenate([q_cam[rows], g_cam[columns]])))
    return Pairs(matrix[rows, columns].astype(np.float64), same[rows, columns], q_id[rows], g_id[columns], cameras)


def pairs_of_features(features: ArrayLike, people: Sequence[str], cameras: Sequence[str], *, seed: int = 1) -> Pairs:
    """Return the pairs of N tracklets with the cosine of their features `[N, D]`; see `pairs_of_matrix`."""
    rows = np.asarray(features, np.float64)
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    both = (people, people, cameras, cameras)
    return pairs_of_matrix(rows @ rows.T, *both, gallery_begins_with_queries=True, seed=seed)


def sites_of(query_ids: NDArray[Any], gallery_ids: NDArray[Any]) -> tuple[Integers, Integers]:
    """Return the sites `[Q]` and `[G]` of people as numbers (see `training.datasets.catalog.site_of`)."""
    ids, inverse = np.unique(np.concatenate([query_ids, gallery_ids]), return_inverse=True)
    numbers = np.unique([site_of(str(person)) for person in ids], return_inverse=True)[1][inverse].astype(np.int64)
    return numbers[: len(query_ids)], numbers[len(query_ids) :]
