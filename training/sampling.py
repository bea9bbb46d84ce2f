"""Which frames of a tracklet make a training clip, and which tracklets make a batch."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from training.datasets.tracklet import Tracklet

ClipSampling = Literal["restricted", "consecutive"]


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


def consecutive_frames(frame_count: int, clip_length: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """``clip_length`` consecutive frames from a random start, ``int64 [clip_length]``; short tracklets repeat the last.

    System B. Its code never draws the last start, so that a tracklet's last frame is never seen; every start is drawn
    here.

    Raises:
        ValueError: a count is below 1.
    """
    _check(frame_count, clip_length)
    start = int(rng.integers(0, max(frame_count - clip_length, 0) + 1))
    return np.minimum(start + np.arange(clip_length, dtype=np.int64), frame_count - 1)


CLIP_SAMPLING = {"restricted": restricted_random_frames, "consecutive": consecutive_frames}
"""Training clip samplers by the name a recipe gives them."""


def _check(frame_count: int, clip_length: int) -> None:
    if frame_count < 1 or clip_length < 1:
        raise ValueError(f"counts must be at least 1: frame_count={frame_count}, clip_length={clip_length}")


@dataclass(frozen=True)
class PersonSampler:
    """P x K batches: ``people`` persons with ``tracklets`` tracklets each; every person once per epoch, as in systems A
    and B.

    A person's tracklets are drawn from different cameras while there are any left, so that a batch holds cross-camera
    pairs; with replacement where the person has fewer. An incomplete last batch is dropped.
    """

    dataset: Sequence[Tracklet]
    people: int
    tracklets: int

    def __post_init__(self) -> None:
        if len(self.persons) < self.people:
            raise ValueError(f"a batch needs {self.people} people, the training set has {len(self.persons)}")

    @property
    def persons(self) -> list[str]:
        """The people's ids, sorted; their places are the class labels."""
        return sorted({tracklet.person for tracklet in self.dataset})

    def batches(self, rng: np.random.Generator) -> Iterator[list[int]]:
        """One epoch: lists of ``people * tracklets`` indices into the dataset, a person's side by side."""
        owned: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        for index, tracklet in enumerate(self.dataset):
            owned[tracklet.person][tracklet.camera].append(index)
        persons = self.persons
        order = rng.permutation(len(persons))
        for start in range(0, len(persons) - self.people + 1, self.people):
            chosen = (persons[i] for i in order[start : start + self.people])
            yield [index for person in chosen for index in self._draw(owned[person], rng)]

    def _draw(self, by_camera: dict[str, list[int]], rng: np.random.Generator) -> list[int]:
        pools = [list(rng.permutation(by_camera[camera])) for camera in sorted(by_camera)]
        pools = [pools[i] for i in rng.permutation(len(pools))]
        drawn: list[int] = []
        while len(drawn) < self.tracklets and any(pools):
            for pool in pools:
                if pool and len(drawn) < self.tracklets:
                    drawn.append(int(pool.pop()))
        have = len(drawn)
        return drawn + [drawn[int(i)] for i in rng.integers(0, have, self.tracklets - have)]
