"""Which frames of a tracklet form a training clip, and which tracklets form a batch."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from training.datasets.tracklet import Tracklet

ClipSampling = Literal["restricted", "consecutive", "consecutive_code", "random"]
BatchSampling = Literal["person", "luo", "sites"]


def restricted_random_frames(frame_count: int, clip_length: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw one frame from each of `clip_length` equal segments (restricted random sampling).

    As in the later code of the author of not3d: segments of `max(n // T, 1)` frames; the last segment extends to the
    end of the tracklet, and indices after the end become the last frame.

    Returns:
        Frame indices, `int64 [clip_length]`.

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
    """Draw `clip_length` consecutive frames from a random start; short tracklets repeat their last frame.

    As in fantastic, whose paper says "four frames selected randomly". `drop_last` draws the start as its code does,
    from `[0, max(0, n - T - 1)]`, which never reaches the last frame of a longer tracklet.

    Returns:
        Frame indices, `int64 [clip_length]`.

    Raises:
        ValueError: a count is below 1.
    """
    _check(frame_count, clip_length)
    start = int(rng.integers(0, max(frame_count - clip_length - drop_last, 0) + 1))
    return np.minimum(start + np.arange(clip_length, dtype=np.int64), frame_count - 1)


def random_frames(frame_count: int, clip_length: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw `clip_length` different frames of the tracklet, in time order.

    This is the text of the not3d paper, "choosing random frames", taken literally. A shorter tracklet gives all its
    frames, some of them several times.

    Returns:
        Frame indices, `int64 [clip_length]`.

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
"""Clip samplers by their name in a recipe."""


def _check(frame_count: int, clip_length: int) -> None:
    if frame_count < 1 or clip_length < 1:
        raise ValueError(f"counts must be at least 1 (got frame_count={frame_count}, clip_length={clip_length})")


class Sampler(Protocol):
    """Draws P x K batches from the tracklets of a dataset."""

    def batches(self, rng: np.random.Generator) -> list[list[int]]:
        """Draw an epoch: lists of P * K indices into the dataset, those of one person next to each other."""
        ...


class PersonSampler:
    """P x K batches with each person once per epoch, as in the published code of fantastic and of not3d's author.

    The tracklets of a person are drawn at random, with replacement if the person has fewer than K. With
    `spread_cameras` (ours), they come from different cameras as long as possible, so that a batch holds cross-camera
    pairs. An incomplete last batch is dropped: MARS has 78 batches of 8 x 4.

    Raises:
        ValueError: fewer than P people.
    """

    def __init__(self, dataset: Sequence[Tracklet], people: int, tracklets: int, *, spread_cameras: bool = True):
        self.people, self.tracklets, self.spread_cameras = people, tracklets, spread_cameras
        self._tracklets_of = by_person(dataset, people)

    def batches(self, rng: np.random.Generator) -> list[list[int]]:
        """Draw an epoch."""
        draw = self._draw_spread if self.spread_cameras else self._draw
        persons = list(self._tracklets_of)
        order = rng.permutation(len(persons))
        return [
            [index for i in order[start : start + self.people] for index in draw(self._tracklets_of[persons[i]], rng)]
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
    """P x K batches of all tracklets (Luo et al., 2019; VID-Trans-ReID): persons with more tracklets occur more often.

    The tracklets of each person are shuffled and cut into groups of K; the remainder is dropped, and a person with
    fewer than K tracklets forms one group, drawn with replacement. A batch takes one group of each of P persons, drawn
    from those who have groups left, until fewer than P persons have any. The number of batches of an epoch therefore
    varies slightly; on MARS an epoch has at most 7,532 tracklets.

    Raises:
        ValueError: fewer than P people.
    """

    def __init__(self, dataset: Sequence[Tracklet], people: int, tracklets: int):
        self.people, self.tracklets = people, tracklets
        self._tracklets_of = by_person(dataset, people)

    def batches(self, rng: np.random.Generator) -> list[list[int]]:
        """Draw an epoch."""
        groups = [
            self._groups([i for indices in by_camera.values() for i in indices], rng)
            for by_camera in self._tracklets_of.values()
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
    """Return the sorted ids of the people; the index of an id is its class label."""
    return sorted({tracklet.person for tracklet in dataset})


def by_person(dataset: Sequence[Tracklet], people: int) -> dict[str, dict[str, list[int]]]:
    """Return the indices of the tracklets by person (sorted) and camera."""
    found: dict[str, dict[str, list[int]]] = {person: defaultdict(list) for person in persons_of(dataset)}
    if len(found) < people:
        raise ValueError(
            f"a batch needs {people} people (batch.people), but the training set has {len(found)}"
            ": give more people, or lower batch.people"
        )
    for index, tracklet in enumerate(dataset):
        found[tracklet.person][tracklet.camera].append(index)
    return found
