"""Batches of training clips, made in the background while the network works on the one before."""

import hashlib
import os
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.batches.frame_cache import FrameCache
from training.batches.sampling import CLIP_SAMPLING, PersonSampler, Sampler, TrackletSampler, persons_of
from training.datasets.tracklet import Tracklet
from training.recipe import Recipe

_CACHE = 2**30
"""Bytes of decoded frames kept in memory, of all processes of a machine together."""


@dataclass(frozen=True, slots=True)
class Batch:
    """N clips: ``uint8 [N, T, H, W, 3]``, labels ``int64 [N]``, and which frames were erased, ``bool [N, T]``."""

    clips: Tensor
    labels: Tensor
    erased: Tensor


class ClipSource:
    """Training batches of a set of tracklets, the same for the same seed and epoch whatever the number of threads.

    Of ``parts`` processes, each makes its part of every batch: what it makes together is the batch of one process.
    Batches for a GPU are put into pinned memory, from where they are copied while it computes.

    Raises:
        ValueError: too few people for a batch, or one that cannot be divided into ``parts``.
    """

    def __init__(
        self,
        tracklets: Sequence[Tracklet],
        recipe: Recipe,
        *,
        part: int = 0,
        parts: int = 1,
        pinned: bool = False,
        workers: int | None = None,
    ) -> None:
        self.tracklets, self.recipe, self.part, self.parts, self.pinned = tracklets, recipe, part, parts, pinned
        self.workers = workers or max(2, len(os.sched_getaffinity(0)) // parts)
        size = recipe.batch.people * recipe.batch.tracklets
        if size % parts:
            raise ValueError(f"a batch of {size} clips cannot be divided among {parts} processes")
        self.labels = {person: label for label, person in enumerate(persons_of(tracklets))}
        self._sampler = _sampler(tracklets, recipe)
        self._cache = FrameCache(_CACHE // parts)
        self._fill = recipe.augmentation.fill(recipe.network.mean, recipe.network.std)

    def digest(self) -> str:
        """A hash of the tracklets' names and sizes: a run can only go on with the data that it began with."""
        content = "\n".join(f"{t.person} {t.camera} {t.name} {len(t.frames)}" for t in self.tracklets)
        return hashlib.sha256(content.encode()).hexdigest()

    def plan(self, epoch: int) -> list[list[int]]:
        """The tracklets of each batch of an epoch (from 1), for all processes."""
        return self._sampler.batches(np.random.default_rng([self.recipe.seed, epoch]))

    def batches(self, epoch: int, step: int, epochs: int) -> Generator[Batch]:
        """The batches from a step (from 0) of an epoch (from 1) to the end of the last epoch.

        They are made ahead across the ends of epochs, so that none begins with a wait. Every clip has a random stream
        of its own, by seed, epoch and place.
        """
        pending: deque[Future[Batch]] = deque()
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="clips")
        try:
            for at in range(epoch, epochs + 1):
                for number, indices in enumerate(self.plan(at)):
                    if at == epoch and number < step:
                        continue
                    pending.append(pool.submit(self._make, at, number, indices))
                    if len(pending) > 2 * self.workers:
                        yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _make(self, epoch: int, number: int, indices: list[int]) -> Batch:
        share = len(indices) // self.parts
        places = range(self.part * share, (self.part + 1) * share)
        made = [
            self._clip(
                self.tracklets[indices[place]], epoch, np.random.default_rng([self.recipe.seed, epoch, number, place])
            )
            for place in places
        ]
        clips = torch.from_numpy(np.stack([clip for clip, _ in made]))
        return Batch(
            clips.pin_memory() if self.pinned else clips,
            torch.tensor([self.labels[self.tracklets[indices[place]].person] for place in places]),
            torch.from_numpy(np.stack([erased for _, erased in made])),
        )

    def _clip(
        self, tracklet: Tracklet, epoch: int, rng: np.random.Generator
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        draw = CLIP_SAMPLING[self.recipe.batch.sampling]
        chosen = draw(len(tracklet.frames), self.recipe.network.clip_length, rng)
        size = self.recipe.frame_size(epoch)
        frames = np.stack([self._cache.read(tracklet.frames[i], *size) for i in chosen.tolist()])
        return self.recipe.augmentation.apply(frames, self._fill, rng)


class Normalise:
    """``uint8 [N, T, H, W, 3]`` RGB to normalised float ``[N, T, 3, H, W]`` in channels-last memory."""

    def __init__(self, mean: Sequence[float], std: Sequence[float], device: torch.device) -> None:
        self.device = device
        self.mean = 255 * torch.tensor(mean, device=device)
        self.std = 255 * torch.tensor(std, device=device)

    def __call__(self, clips: Tensor) -> Tensor:
        """See the class."""
        return ((clips.to(self.device, non_blocking=True).float() - self.mean) / self.std).permute(0, 1, 4, 2, 3)


def _sampler(tracklets: Sequence[Tracklet], recipe: Recipe) -> Sampler:
    batch = recipe.batch
    if batch.sampler == "luo":
        return TrackletSampler(tracklets, batch.people, batch.tracklets)
    return PersonSampler(tracklets, batch.people, batch.tracklets, spread_cameras=batch.spread_cameras)
