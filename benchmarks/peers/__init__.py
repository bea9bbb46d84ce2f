"""What one would run in place of the service: the same route around the same network, on other software."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.frames import read_frame
from model.spec import BundleSpec
from model.tracklet import split_into_clips, video_feature

__all__ = ["Embed", "answer_of", "clips_of", "weights_of"]

Embed = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


def clips_of(images: Sequence[bytes], spec: BundleSpec) -> NDArray[np.uint8]:
    """The clips uint8 ``[C, T, H, W, 3]`` of a tracklet's encoded frames, prepared as the service does."""
    frames = np.stack([read_frame(image, spec.frame_height, spec.frame_width) for image in images])
    return frames[split_into_clips(len(frames), spec.clip_length)]


def answer_of(frames: int, rows: NDArray[np.float32]) -> dict[str, object]:
    """The answer to a tracklet whose clips have the embeddings ``[C, D]``."""
    return {"frames": frames, "clips": len(rows), "embedding": video_feature(rows).tolist()}


def weights_of(folder: Path) -> Path:
    """Where PyTorch weights of a bundle that a benchmark made are: beside it, since it holds what the service reads."""
    return folder.with_name(f"{folder.name}.pt")
