"""Which frames of a tracklet make a training clip, and which tracklets make a batch."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from training.datasets.tracklet import Tracklet

ClipSampling = Literal["restricted", "consecutive", "consecutive_code", "random"]
BatchSampling = Literal["person", "luo"]


def restricted_random_frames(frame_count: int, clip_length: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Restricted random sampling, ``int64 [clip_length]``: one frame from each of ``clip_length`` equal stretches.

    As in the published successors of system A: stretches of ``max(n // T, 1)`` frames, the last one reaching to the
    end, indices past the end becoming the last frame.

    Raises:
        ValueError: a count is below 1.
    """
    _check(frame_count, clip_length)
    each = max(frame_count // clip_length, 1)
    first = np.arange(clip_length) * each
    last = first + each - 1
    last[-1] = max(frame_count - 1, first[-1])
    return np.minimum(rng.integers(first, last + 1), frame_count - 1)


def consecutive_frames(
    frame_count: int, clip_length: int, rng: np.random.Generator, *, drop_last: bool = False
) -> NDArray[np.int64]:
    """``clip_length`` consecutive frames from a random start, ``int64 [clip_length]``; short tracklets repeat the last.

    System B, whose paper says "four frames selected randomly" (D-B3). ``drop_last`` draws the start as its code does,
    in ``[0, max(0, n - T - 1)]``: the last frame of a longer tracklet is never seen. By default every start is drawn.

    Raises:
        ValueError: a count is below 1.
    """
    _check(frame_count, clip_length)
    start = int(rng.integers(0, max(frame_count - clip_length - drop_last, 0) + 1))
    return np.minimum(start + np.arange(clip_length, dtype=np.int64), frame_count - 1)


def random_frames(frame_count: int, clip_length: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """``clip_length`` different frames from anywhere, in time order, ``int64 [clip_length]``.

    Paper A's "choosing random frames", taken by the word. A tracklet that has fewer gives all of them, some again.

    Raises:
        ValueError: a count is below 1.
    """
    _check(frame_count, clip_length)
    again = rng.integers(0, frame_count, max(clip_length - frame_count, 0))
    drawn = rng.permutation(frame_count)[:clip_length]
    return np.sort(np.concatenate([drawn, again])).astype(np.int64)


CLIP_SAMPLING: dict[str, Callable[[int, int, np.random.Generator], NDArray[np.int64]]] = {
    "restricted": restricted_random_frames,
    "consecutive": consecutive_frames,
    "consecutive_code": partial(consecutive_frames, drop_last=True),
    "random": random_frames,
}
"""Training clip samplers by the name a recipe gives them."""


def _check(frame_count: int, clip_length: int) -> None:
    if frame_count < 1 or clip_length < 1:
        raise ValueError(f"counts must be at least 1: frame_count={frame_count}, clip_length={clip_length}")


class Sampler(Protocol):
    """Makes P x K batches of a dataset's tracklets."""

    def batches(self, rng: np.random.Generator) -> list[list[int]]:
        """One epoch: lists of P * K indices into the dataset, a person's side by side."""
        ...


class PersonSampler:
    """P x K batches, every person once per epoch, as in the published code of system B and of system A's kin.

    A person's tracklets are drawn at random, with replacement where the person has fewer than K. With
    ``spread_cameras``, which is ours, they are of different cameras while there are any left, so that a batch holds
    cross-camera pairs. An incomplete last batch is dropped: 78 batches of 8 x 4 on MARS.

    Raises:
        ValueError: fewer than P people.
    """

    def __init__(self, dataset: Sequence[Tracklet], people: int, tracklets: int, *, spread_cameras: bool = True):
        self.people, self.tracklets, self.spread_cameras = people, tracklets, spread_cameras
        self._owned = _by_person(dataset, people)

    def batches(self, rng: np.random.Generator) -> list[list[int]]:
        """See :class:`Sampler`."""
        draw = self._draw_spread if self.spread_cameras else self._draw
        persons = list(self._owned)
        order = rng.permutation(len(persons))
        return [
            [index for i in order[start : start + self.people] for index in draw(self._owned[persons[i]], rng)]
            for start in range(0, len(persons) - self.people + 1, self.people)
        ]

    def _draw(self, by_camera: dict[str, list[int]], rng: np.random.Generator) -> list[int]:
        indices = [index for camera in sorted(by_camera) for index in by_camera[camera]]
        return [int(i) for i in rng.choice(indices, self.tracklets, replace=len(indices) < self.tracklets)]

    def _draw_spread(self, by_camera: dict[str, list[int]], rng: np.random.Generator) -> list[int]:
        pools = [list(rng.permutation(by_camera[camera])) for camera in sorted(by_camera)]
        pools = [pools[i] for i in rng.permutation(len(pools))]
        drawn: list[int] = []
        while len(drawn) < self.tracklets and any(pools):
            for pool in pools:
                if pool and len(drawn) < self.tracklets:
                    drawn.append(int(pool.pop()))
        have = len(drawn)
        return drawn + [drawn[int(i)] for i in rng.integers(0, have, self.tracklets - have)]


class TrackletSampler:
    """P x K batches of all tracklets (Luo et al., 2019; VID-Trans-ReID): persons with many come more often.

    Each person's tracklets, shuffled, are cut into groups of K; one who has fewer than K makes a group with
    replacement, and what is left over of the others is dropped. A batch takes a group of P persons drawn from those
    who still have one, until fewer than P are left, so that an epoch's number of batches varies a little: at most 7,532
    tracklets on MARS.

    Raises:
        ValueError: fewer than P people.
    """

    def __init__(self, dataset: Sequence[Tracklet], people: int, tracklets: int):
        self.people, self.tracklets = people, tracklets
        self._owned = _by_person(dataset, people)

    def batches(self, rng: np.random.Generator) -> list[list[int]]:
        """See :class:`Sampler`."""
        groups = [
            self._groups([i for indices in by_camera.values() for i in indices], rng)
            for by_camera in self._owned.values()
        ]
        batches: list[list[int]] = []
        left = list(range(len(groups)))
        while len(left) >= self.people:
            chosen = [left[int(i)] for i in rng.choice(len(left), self.people, replace=False)]
            batches.append([index for person in chosen for index in groups[person].pop()])
            left = [person for person in left if groups[person]]
        return batches

    def _groups(self, indices: list[int], rng: np.random.Generator) -> list[list[int]]:
        if len(indices) < self.tracklets:
            return [[int(i) for i in rng.choice(indices, self.tracklets)]]
        shuffled = [int(i) for i in rng.permutation(indices)]
        starts = range(0, len(shuffled) - self.tracklets + 1, self.tracklets)
        return [shuffled[start : start + self.tracklets] for start in starts]


def persons_of(dataset: Iterable[Tracklet]) -> list[str]:
    """The people's ids, sorted; their places are the class labels."""
    return sorted({tracklet.person for tracklet in dataset})


def _by_person(dataset: Sequence[Tracklet], people: int) -> dict[str, dict[str, list[int]]]:
    """Indices of the tracklets by person (sorted) and camera."""
    owned: dict[str, dict[str, list[int]]] = {person: defaultdict(list) for person in persons_of(dataset)}
    if len(owned) < people:
        raise ValueError(f"a batch needs {people} people, the training set has {len(owned)}")
    for index, tracklet in enumerate(dataset):
        owned[tracklet.person][tracklet.camera].append(index)
    return owned
