"""Batches with people of each site, each seen by two cameras: what a model for unseen cameras learns from."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from training.batches.sampling import by_person
from training.datasets.catalog import site_of
from training.datasets.tracklet import Tracklet


class SiteSampler:
    """P x K batches with the same number of people from each site.

    A site is a dataset, or several that share their people (MARS and Market-1501). A person gives K tracklets from two
    cameras, K / 2 of each, some of them several times if a camera has fewer; or all K from one camera, if `cameras` is
    1 or the person has no other. The people of a site are drawn without replacement until all were drawn. An epoch has
    each person of the largest site once, and people of smaller sites several times.

    Raises:
        ValueError: fewer than P people, or P is not a multiple of the number of sites.
    """

    def __init__(self, dataset: Sequence[Tracklet], people: int, tracklets: int, *, cameras: int = 2) -> None:
        self.tracklets, self.cameras = tracklets, cameras
        self._tracklets_of = by_person(dataset, people)
        self._sites: dict[str, list[str]] = defaultdict(list)
        for person in self._tracklets_of:
            self._sites[site_of(person)].append(person)
        if people % len(self._sites):
            raise ValueError(
                f"batch.people must be a multiple of the number of sites, {len(self._sites)} (got {people})"
            )
        self._each = people // len(self._sites)

    def batches(self, rng: np.random.Generator) -> list[list[int]]:
        """Draw an epoch: lists of P * K indices into the dataset, those of one person next to each other."""
        steps = max(len(people) for people in self._sites.values()) // self._each or 1
        orders = [self._order(self._sites[site], steps * self._each, rng) for site in sorted(self._sites)]
        return [
            [
                index
                for order in orders
                for person in order[step * self._each : (step + 1) * self._each]
                for index in self._draw(self._tracklets_of[person], rng)
            ]
            for step in range(steps)
        ]

    @staticmethod
    def _order(people: Sequence[str], length: int, rng: np.random.Generator) -> list[str]:
        """Draw people without replacement, as often as `length` needs."""
        return [people[i] for i in _permutations(len(people), length, rng)]

    def _draw(self, by_camera: dict[str, list[int]], rng: np.random.Generator) -> list[int]:
        cameras = sorted(by_camera)
        chosen = [cameras[i] for i in rng.permutation(len(cameras))[: self.cameras]]
        shares = [self.tracklets] if len(chosen) == 1 else [self.tracklets - self.tracklets // 2, self.tracklets // 2]
        return [
            by_camera[camera][i]
            for camera, share in zip(chosen, shares, strict=True)
            for i in _permutations(len(by_camera[camera]), share, rng)
        ]


def _permutations(count: int, length: int, rng: np.random.Generator) -> list[int]:
    """Return the first `length` numbers of random orders of `range(count)`, one after another."""
    orders = [rng.permutation(count) for _ in range(-(-length // count))]
    return [int(i) for order in orders for i in order][:length]
