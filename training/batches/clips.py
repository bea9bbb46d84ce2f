"""Batches of training clips, made in the background while the network computes."""

import hashlib
import os
import threading
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.pillow_bicubic import Resampling
from training.batches.sampling import CLIP_SAMPLING, PersonSampler, Sampler, TrackletSampler, persons_of
from training.batches.site_sampling import SiteSampler
from training.datasets.pictures import read_picture
from training.datasets.tracklet import Tracklet
from training.loop.teacher import TeacherTargets
from training.recipe import Recipe

UNLABELLED = -1
"""The label of a composite, which shows no person of the training set."""

_CACHE_BYTES = 2 * 2**30
"""Memory for decoded frames, of all processes of a machine together."""


@dataclass(frozen=True, slots=True)
class Batch:
    """N clips `[N, T, H, W, 3]` of values from 0 to 255, their labels `int64 [N]`, and erased frames `bool [N, T]`.

    The label of a composite is `UNLABELLED`.
    """

    clips: Tensor
    labels: Tensor
    erased: Tensor
    teacher: Tensor | None = None
    """targets `float32 [N, E]` of a teacher"""


class BatchPlan:
    """Which tracklets each batch of a training has; seed and epoch decide it.

    Args:
        tracklets: the training set
        recipe: seed and batch

    Raises:
        ValueError: too few people for a batch.
    """

    def __init__(self, tracklets: Sequence[Tracklet], recipe: Recipe) -> None:
        self.tracklets, self.recipe = tracklets, recipe
        self.labels = {person: label for label, person in enumerate(persons_of(tracklets))}
        self._sampler = _sampler(tracklets, recipe)
        self._seed = recipe.seed if recipe.batch.seed is None else recipe.batch.seed

    def digest(self) -> str:
        """Return a hash of the names and sizes of the tracklets; a run must be resumed with the same data."""
        content = "\n".join(f"{t.person} {t.camera} {t.name} {len(t.frames)}" for t in self.tracklets)
        return hashlib.sha256(content.encode()).hexdigest()

    def people_digest(self) -> str:
        """Return a hash of the ids of the training people, in the order of their labels."""
        return hashlib.sha256("\n".join(self.labels).encode()).hexdigest()

    def plan(self, epoch: int) -> list[list[int]]:
        """Return the indices of the tracklets of each batch of an epoch (from 1), for all processes."""
        return self._draw(np.random.default_rng([self._seed, epoch]))

    def _draw(self, rng: np.random.Generator) -> list[list[int]]:
        batches = self._sampler.batches(rng)
        steps = self.recipe.schedule.steps
        if steps is not None:
            while len(batches) < steps:
                batches += self._sampler.batches(rng)
            batches = batches[:steps]
        return batches


class ClipSource(BatchPlan):
    """Training batches of a set of tracklets; seed and epoch decide them, not the number of threads.

    Args:
        tracklets: the training set
        recipe: seed, batch, frame sizes and augmentation
        part: number of this process; it makes this part of each batch
        parts: number of processes, whose parts together are the batch of one process
        pinned: put batches into pinned memory, from which a GPU copies them while it computes
        workers: number of threads; by default one for each CPU, and at least 2
        teacher: targets of a teacher for the tracklets

    Raises:
        ValueError: too few people for a batch, a batch that cannot be divided into `parts`, or no composites for it.
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
        teacher: TeacherTargets | None = None,
    ) -> None:
        self.part, self.parts, self.pinned = part, parts, pinned
        self.teacher = teacher
        self._drawn = [*tracklets, *(() if teacher is None else teacher.composites)]
        self.workers = workers or max(2, len(os.sched_getaffinity(0)) // parts)
        size = recipe.batch.people * recipe.batch.tracklets + recipe.batch.composites
        if recipe.batch.composites and len(self._drawn) == len(tracklets):
            raise ValueError("batch.composites needs a teacher that sees composites: set teacher.composites")
        if size % parts:
            raise ValueError(f"a batch of {size} clips cannot be divided among {parts} processes")
        super().__init__(tracklets, recipe)
        self._cache = FrameCache(_CACHE_BYTES // parts, recipe.network.resampling)
        self._fill = recipe.augmentation.fill(recipe.network.mean, recipe.network.std)

    def plan(self, epoch: int) -> list[list[int]]:
        """Return the indices of the tracklets of each batch of an epoch (from 1), for all processes."""
        rng = np.random.default_rng([self._seed, epoch])
        batches = self._draw(rng)
        if extra := self.recipe.batch.composites:
            first, end = len(self.tracklets), len(self._drawn)
            batches = [[*batch, *rng.integers(first, end, size=extra).tolist()] for batch in batches]
        return batches

    def batches(self, epoch: int, step: int, epochs: int) -> Generator[Batch]:
        """Yield the batches from a step (from 0) of an epoch (from 1) to the end of the last epoch.

        Batches are made ahead, also those of the next epoch, so that no epoch begins with a wait. Each clip has its
        own random stream, from seed, epoch, batch and position.
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

    def sample(self, epoch: int, clips: int) -> Batch:
        """Return at most this number of clips from the first batch of an epoch (from 1); batches do not change."""
        return self._make(epoch, 0, self.plan(epoch)[0][: self.parts * clips])

    def _make(self, epoch: int, number: int, indices: list[int]) -> Batch:
        share = len(indices) // self.parts
        positions = range(self.part * share, (self.part + 1) * share)
        made = [self._clip(indices[i], epoch, np.random.default_rng([self._seed, epoch, number, i])) for i in positions]
        clips = torch.from_numpy(np.stack([clip for clip, _, _ in made]))
        targets = [target for _, _, target in made if target is not None]
        return Batch(
            clips.pin_memory() if self.pinned else clips,
            torch.tensor([self.labels.get(self._drawn[indices[i]].person, UNLABELLED) for i in positions]),
            torch.from_numpy(np.stack([erased for _, erased, _ in made])),
            torch.from_numpy(np.stack(targets)) if targets else None,
        )

    def _clip(
        self, index: int, epoch: int, rng: np.random.Generator
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_], NDArray[np.float32] | None]:
        """Return a clip of a tracklet, which frames were erased, and the target of the teacher, if there is one."""
        tracklet, draw = self._drawn[index], CLIP_SAMPLING[self.recipe.batch.sampling]
        length = self.recipe.batch.clip_length or self.recipe.network.clip_length
        chosen = draw(len(tracklet.frames), length, rng)
        size = self.recipe.frame_size(epoch)
        frames = np.stack([self._cache.read(tracklet.frames[i], *size) for i in chosen.tolist()])
        clip, erased = self.recipe.augmentation.apply(frames, self._fill, rng)
        return clip, erased, None if self.teacher is None else self.teacher.of(index, chosen.tolist())


class FrameCache:
    """Decoded frames in memory, for several threads; later epochs of a small dataset do not decode them again.

    Holds frames of one size at a time, up to `limit` bytes. A full cache accepts no more frames: each frame is equally
    likely to be read again, so replacing one by another gains nothing.
    """

    def __init__(self, limit: int, resampling: Resampling = "opencv") -> None:
        self.limit, self.resampling = limit, resampling
        self.used = 0
        self._size = (0, 0)
        self._frames: dict[Path, NDArray[np.uint8]] = {}
        self._lock = threading.Lock()

    def read(self, path: Path, height: int, width: int) -> NDArray[np.uint8]:
        """Return a frame as read-only `uint8 [height, width, 3]` RGB.

        Raises:
            FrameError, OSError: the file is not an image, or cannot be read.
        """
        size = (height, width)
        with self._lock:
            if size != self._size:
                self._size, self._frames, self.used = size, {}, 0
            found = self._frames.get(path)
        if found is not None:
            return found
        frame = read_picture(path, height, width, resampling=self.resampling)
        frame.flags.writeable = False
        with self._lock:
            # When the frame size changes between two epochs, threads read both sizes.
            if size == self._size and path not in self._frames and self.used + frame.nbytes <= self.limit:
                self._frames[path] = frame
                self.used += frame.nbytes
        return frame


class Normalise:
    """Turns `uint8 [N, T, H, W, 3]` RGB into normalised float `[N, T, 3, H, W]` in channels-last memory."""

    def __init__(self, mean: Sequence[float], std: Sequence[float], device: torch.device) -> None:
        self.device = device
        self.mean = 255 * torch.tensor(mean, device=device)
        self.std = 255 * torch.tensor(std, device=device)

    def __call__(self, clips: Tensor) -> Tensor:
        """Normalise clips and move them to the device."""
        return ((clips.to(self.device, non_blocking=True).float() - self.mean) / self.std).permute(0, 1, 4, 2, 3)


def _sampler(tracklets: Sequence[Tracklet], recipe: Recipe) -> Sampler:
    batch = recipe.batch
    if batch.sampler == "sites":
        return SiteSampler(tracklets, batch.people, batch.tracklets, cameras=batch.cameras)
    if batch.sampler == "luo":
        return TrackletSampler(tracklets, batch.people, batch.tracklets)
    return PersonSampler(tracklets, batch.people, batch.tracklets, spread_cameras=batch.spread_cameras)
