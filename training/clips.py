"""Batches of training clips, made in the background while the network works on the one before."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.frames import decode_frame, resize_frame
from training.datasets.tracklet import Tracklet
from training.recipe import Recipe
from training.sampling import CLIP_SAMPLING, PersonSampler

_AHEAD = 4
"""Batches made ahead of the network."""


@dataclass(frozen=True, slots=True)
class Batch:
    """N clips: ``uint8 [N, T, H, W, 3]``, labels ``int64 [N]``, and which frames were erased, ``bool [N, T]``."""

    clips: Tensor
    labels: Tensor
    erased: Tensor


class ClipSource:
    """Training batches of a set of tracklets, the same for the same seed and epoch whatever the number of threads."""

    def __init__(self, tracklets: Sequence[Tracklet], recipe: Recipe, workers: int = 2) -> None:
        self.tracklets = tracklets
        self.recipe = recipe
        self.workers = workers
        self.sampler = PersonSampler(tracklets, recipe.batch.people, recipe.batch.tracklets)
        self.labels = {person: label for label, person in enumerate(self.sampler.persons)}
        self._fill = np.round(255 * np.asarray(recipe.network.mean)).astype(np.uint8)

    def __len__(self) -> int:
        """Batches per epoch."""
        return len(self.labels) // self.recipe.batch.people

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of an epoch (from 1); every clip has a random stream of its own, by seed, epoch and place."""
        batches = list(self.sampler.batches(np.random.default_rng([self.recipe.seed, epoch])))
        with ThreadPoolExecutor(self.workers) as pool:
            pending: list[Future[Batch]] = []
            for number in range(len(batches) + _AHEAD):
                if number < len(batches):
                    pending.append(pool.submit(self._make, epoch, number, batches[number]))
                if number >= _AHEAD:
                    yield pending.pop(0).result()

    def _make(self, epoch: int, number: int, indices: list[int]) -> Batch:
        made = [
            self._clip(self.tracklets[index], epoch, np.random.default_rng([self.recipe.seed, epoch, number, place]))
            for place, index in enumerate(indices)
        ]
        return Batch(
            torch.from_numpy(np.stack([clip for clip, _ in made])),
            torch.tensor([self.labels[self.tracklets[index].person] for index in indices]),
            torch.from_numpy(np.stack([erased for _, erased in made])),
        )

    def _clip(
        self, tracklet: Tracklet, epoch: int, rng: np.random.Generator
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        draw = CLIP_SAMPLING[self.recipe.batch.sampling]
        chosen = draw(len(tracklet.frames), self.recipe.network.clip_length, rng)
        size = self.recipe.frame_size(epoch)
        frames = {i: resize_frame(decode_frame(tracklet.frames[i].read_bytes()), *size) for i in set(chosen.tolist())}
        return self.recipe.augmentation.apply(np.stack([frames[i] for i in chosen.tolist()]), self._fill, rng)


class Normalise:
    """``uint8 [N, T, H, W, 3]`` RGB to normalised float ``[N, T, 3, H, W]`` in channels-last memory."""

    def __init__(self, mean: Sequence[float], std: Sequence[float], device: torch.device) -> None:
        self.device = device
        self.mean = 255 * torch.tensor(mean, device=device)
        self.std = 255 * torch.tensor(std, device=device)

    def __call__(self, clips: Tensor) -> Tensor:
        """See the class."""
        return ((clips.to(self.device, non_blocking=True).float() - self.mean) / self.std).permute(0, 1, 4, 2, 3)
