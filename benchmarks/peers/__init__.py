"""Alternatives to the service: the same route and network on other server software."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.frames import read_frame
from model.spec import BundleSpec
from model.tracklet import split_into_clips, video_feature, weigh_clips

__all__ = ["answer_of", "clips_of", "weights_of"]


def clips_of(images: Sequence[bytes], spec: BundleSpec) -> NDArray[np.uint8]:
    """Return clips `uint8 [C, T, H, W, 3]` of a tracklet's encoded frames, prepared as in the service."""
    frames = np.stack([read_frame(image, spec.frame_height, spec.frame_width) for image in images])
    return frames[split_into_clips(len(frames), spec.clip_length)]


def answer_of(frames: int, rows: NDArray[np.float32], spec: BundleSpec) -> dict[str, object]:
    """Return the answer to a tracklet from its clip embeddings `[C, D]`."""
    weights = weigh_clips(split_into_clips(frames, spec.clip_length), spec.clip_weights)
    return {"frames": frames, "clips": len(rows), "embedding": video_feature(rows, weights).tolist()}


def weights_of(folder: Path) -> Path:
    """Return the path of the PyTorch weights of a benchmark's bundle, beside the bundle."""
    return folder.with_name(f"{folder.name}.pt")
