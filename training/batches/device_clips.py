"""Batches of single crops that are made on the device that trains: all crops are in its memory, decoded."""

import os
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.pillow_bicubic import Resampling
from training.batches.clips import UNLABELLED, Batch, BatchPlan
from training.batches.device_augmentation import DeviceAugmentation, Mixture, place
from training.datasets.pictures import read_picture
from training.datasets.tracklet import Tracklet
from training.loop.live_teacher import LiveTeacher
from training.recipe import Recipe

_UPLOAD = 2048
"""Crops that are decoded before they are copied to the device."""


class DeviceClipSource(BatchPlan):
    """Training batches of clips of one frame, augmented on the device; seed and epoch decide them.

    Each batch has composites of its own (`batch.composites`). Only the losses of a teacher use them.

    Args:
        tracklets: the training set
        recipe: seed, batch, frame sizes and augmentation
        device: holds all crops, as bytes at the final frame size of the recipe
        teacher: looks at the crops of each batch, if the recipe's losses need one

    Raises:
        ValueError: too few people for a batch, or settings that cannot be used on a device.
        FrameError, OSError: a crop cannot be read.
    """

    def __init__(
        self,
        tracklets: Sequence[Tracklet],
        recipe: Recipe,
        device: torch.device,
        teacher: LiveTeacher | None = None,
    ) -> None:
        super().__init__(tracklets, recipe)
        self.device, self.teacher = device, teacher
        self._augmentation = DeviceAugmentation(recipe.augmentation)
        spec = recipe.network
        self._crops = _upload(tracklets, (spec.frame_height, spec.frame_width), spec.resampling, device)
        self._first = list(accumulate((len(t.frames) for t in tracklets), initial=0))
        self._fill = torch.from_numpy(recipe.augmentation.fill(spec.mean, spec.std)).to(device).float()
        owner = np.repeat(np.arange(len(tracklets)), [len(t.frames) for t in tracklets])
        self._owner = torch.from_numpy(owner).to(device)
        self._label = torch.tensor([self.labels[tracklets[int(i)].person] for i in owner], device=device)
        if recipe.batch.composites and teacher is None:
            raise ValueError("batch.composites needs a teacher: set it to 0, or a weight for losses.distillation")
        if teacher is not None:
            teacher.fit(tracklets, self.crop)

    def crop(self, tracklet: int, frames: Sequence[int]) -> Tensor:
        """Return crops of a tracklet without augmentation: `[N, 3, H, W]` of values from 0 to 255."""
        first = self._first[tracklet]
        return self._crops[[first + frame for frame in frames]].float()

    def batches(self, epoch: int, step: int, epochs: int) -> Generator[Batch]:
        """Yield the batches from a step (from 0) of an epoch (from 1) to the end of the last epoch."""
        for at in range(epoch, epochs + 1):
            for number, indices in enumerate(self.plan(at)):
                if at > epoch or number >= step:
                    yield self._make(at, number, indices, self.recipe.batch.composites)

    def sample(self, epoch: int, clips: int) -> Batch:
        """Return at most this number of clips from the first batch of an epoch (from 1); batches do not change."""
        return self._make(epoch, 0, self.plan(epoch)[0][:clips], 0)

    @torch.no_grad()
    def _make(self, epoch: int, number: int, indices: Sequence[int], composites: int) -> Batch:
        rng = np.random.default_rng([self._seed, epoch, number])
        generator = torch.Generator(self.device).manual_seed(int(rng.integers(2**62)))
        rows = self._draw_rows(indices, rng)
        count, size = len(rows), self.recipe.frame_size(epoch)
        mixed = rng.integers(len(self._crops), size=2 * composites)
        chosen = torch.from_numpy(np.concatenate([rows, mixed])).to(self.device)
        crops = self._crops[chosen].float()
        maps = self._augmentation.geometry(len(chosen), size, generator)
        mixture = Mixture.draw(composites, generator) if composites else None
        shown = _mixed(place(crops, maps, size), count, mixture)
        targets = None
        if self.teacher is not None:
            seen = _mixed(place(crops, maps, self.teacher.size), count, mixture)
            owner, shares = self._owner[chosen], torch.ones(count, device=self.device)
            if mixture is not None:
                shares = torch.cat([shares, mixture.weights(size[0]).mean(dim=1)])
            targets = self.teacher.targets(seen, owner, shares, self._label[chosen[:count]])
        shown = self._augmentation.photometry(shown, generator, rng)
        shown, erased = self._augmentation.erase(shown, self._fill, generator)
        labels = torch.full((len(shown),), UNLABELLED, device=self.device)
        labels[:count] = self._label[chosen[:count]]
        return Batch(shown.permute(0, 2, 3, 1)[:, None], labels, erased[:, None], targets)

    def _draw_rows(self, indices: Sequence[int], rng: np.random.Generator) -> NDArray[np.int64]:
        """Draw one frame of each tracklet."""
        return np.array([rng.integers(self._first[i], self._first[i + 1]) for i in indices], np.int64)


def _mixed(crops: Tensor, count: int, mixture: Mixture | None) -> Tensor:
    """Return the first `count` crops, and then the mixtures of the first half of the others with the second half."""
    if mixture is None:
        return crops
    first, second = crops[count:].chunk(2)
    return torch.cat([crops[:count], mixture.apply(first, second)])


def _upload(
    tracklets: Sequence[Tracklet], size: tuple[int, int], resampling: Resampling, device: torch.device
) -> Tensor:
    """Decode all crops and return them as `uint8 [M, 3, height, width]`."""
    paths = [path for tracklet in tracklets for path in tracklet.frames]
    crops = torch.empty((len(paths), 3, *size), dtype=torch.uint8, device=device)
    with ThreadPoolExecutor(max(2, len(os.sched_getaffinity(0)))) as pool:
        for start in range(0, len(paths), _UPLOAD):
            part = paths[start : start + _UPLOAD]
            frames = np.stack(list(pool.map(lambda p: read_picture(p, *size, resampling=resampling), part)))
            crops[start : start + len(part)] = torch.from_numpy(frames).to(device).permute(0, 3, 1, 2)
    return crops
