"""A teacher that looks at the crops of each batch as they are augmented.

Stored features (`training.loop.teacher`) say what the teacher thinks of each training crop, and there are few of them.
A live teacher answers for every mirrored, zoomed and mixed crop, so the network learns the teacher's function and not
only its values at the training crops: Beyer et al., "Knowledge distillation: A good teacher is patient and consistent",
CVPR 2022.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from model.bundle import Bundle
from model.tracklet import normalise
from training.datasets.tracklet import Tracklet
from training.importing.onnx_module import open_module
from training.loop.teacher import Features, TeacherError, TeacherSettings, chosen_frames, fit_features, person_means

_BATCH = 64


class LiveTeacher:
    """The network of a bundle, and what makes targets of its features.

    Args:
        bundle: of ONNX, with clips of one frame
        settings: how features become targets
        device: runs the network

    Raises:
        TeacherError: clips of the bundle have several frames.
        BundleError, ExportError, SelfTestError: the bundle cannot be read, or PyTorch cannot run its network.
    """

    def __init__(self, bundle: Path, settings: TeacherSettings, device: torch.device) -> None:
        loaded = Bundle.load(bundle)
        if loaded.spec.clip_length != 1:
            raise TeacherError(f"{bundle} takes clips, a live teacher single frames: import it with --clip-length 1")
        self.space = loaded.embedding_space
        self.size = loaded.spec.frame_height, loaded.spec.frame_width
        self.dimension = loaded.spec.dimension
        self.people: dict[str, Features] = {}
        """the mean target `[D]` of each person"""
        self._settings, self._device = settings, device
        self._network = open_module(bundle).to(device).requires_grad_(False).eval()
        self._offsets = self._person_targets = torch.empty(0)
        self._matrix: Tensor | None = None

    def fit(self, tracklets: Sequence[Tracklet], crop: Callable[[int, Sequence[int]], Tensor]) -> None:
        """Measure the means of cameras and people, and the covariance within people.

        Args:
            tracklets: of the training people
            crop: returns crops `[N, 3, H, W]` of a tracklet, by its number and those of its frames

        Raises:
            TeacherError: the settings do not fit the data.
        """
        chosen = [chosen_frames(len(tracklet.frames), self._settings.crops) for tracklet in tracklets]
        owner = np.repeat(np.arange(len(tracklets)), [len(frames) for frames in chosen])
        crops = (F.interpolate(crop(i, frames), self.size, mode="bilinear") for i, frames in enumerate(chosen))
        parts, waiting = [], []
        for part in crops:
            waiting.append(part)
            if sum(map(len, waiting)) >= _BATCH:
                parts.append(self._features(torch.cat(waiting)))
                waiting = []
        parts += [self._features(torch.cat(waiting))] if waiting else []
        values = normalise(torch.cat(parts).cpu().numpy())
        found = fit_features(tracklets, owner, values, self._settings)
        targets = found.apply(values, owner)
        means = np.stack([targets[owner == i].mean(axis=0) for i in range(len(tracklets))])
        self.people = person_means(tracklets, means)
        self._offsets = torch.from_numpy(found.offsets).to(self._device)
        self._matrix = None if found.matrix is None else torch.from_numpy(found.matrix).to(self._device)
        self._person_targets = torch.from_numpy(np.stack([self.people[p] for p in sorted(self.people)])).to(
            self._device
        )

    def targets(self, crops: Tensor, owner: Tensor, shares: Tensor, labels: Tensor) -> Tensor:
        """Return targets of unit length for crops, some of which are mixtures of two.

        Args:
            crops: `[N, 3, H, W]` of values from 0 to 255, at the size of the teacher; first those with a label
            owner: tracklets `[L + 2 M]` of the crops: of the L with a label, of the first parts of the M = N - L
                mixtures, and of their second parts
            shares: weights `[N]` of the first parts
            labels: `[L]`, in the order of the sorted ids of the people

        Returns:
            `float32 [N, D]`.
        """
        count = len(labels)
        offsets = self._offsets[owner]
        first, second = offsets[count:].chunk(2)
        weight = shares[count:, None]
        offsets = torch.cat([offsets[:count], weight * first + (1 - weight) * second])
        values = F.normalize(self._features(crops), dim=1) - offsets
        values = F.normalize(values if self._matrix is None else values @ self._matrix, dim=1)
        share = self._settings.person_share
        own = (1 - share) * values[:count] + share * self._person_targets[labels]
        return torch.cat([F.normalize(own, dim=1), values[count:]])

    @torch.no_grad()
    def _features(self, crops: Tensor) -> Tensor:
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._device.type == "cuda"):
            features: Tensor = self._network(crops.permute(0, 2, 3, 1)[:, None])
        return features.float()
