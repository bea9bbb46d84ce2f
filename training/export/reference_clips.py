"""The clips that an export is judged on: of a dataset, or of drawn people."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.frames import read_frame
from model.spec import BundleSpec
from model.tracklet import split_into_clips
from training.datasets.catalog import read_training
from training.datasets.folder import read_tracklets
from training.datasets.market1501 import is_market1501
from training.datasets.mars import is_mars
from training.datasets.synthetic.dataset import write_synthetic
from training.datasets.tracklet import Tracklet


def read_clips(source: Path, spec: BundleSpec, *, limit: int) -> NDArray[np.uint8]:
    """Read the first clip of up to ``limit`` tracklets spread evenly over a dataset: uint8 ``[N, T, H, W, 3]``.

    ``source`` is MARS or Market-1501 (their training people), or any folder of tracklets.

    Raises:
        ValueError: nothing there that is understood, or a frame that is no image.
    """
    if not source.exists():
        raise ValueError(f"{source} does not exist")
    labelled = is_mars(source) or is_market1501(source)
    tracklets = read_training([source]) if labelled else read_tracklets(source)
    if not tracklets:
        raise ValueError(f"{source} holds no tracklets")
    chosen = np.unique(np.linspace(0, len(tracklets) - 1, limit).round().astype(int))
    return _first_clips([tracklets[index] for index in chosen], spec)


def draw_clips(spec: BundleSpec, *, people: int, seed: int) -> NDArray[np.uint8]:
    """Draw one clip of each of ``people`` invented people: uint8 ``[people, T, H, W, 3]``; nobody real is in them."""
    with tempfile.TemporaryDirectory() as folder:
        size = (spec.frame_height, spec.frame_width)
        drawn = write_synthetic(Path(folder), people=people, cameras=1, frames=spec.clip_length, seed=seed, size=size)
        return _first_clips(drawn, spec)


def _first_clips(tracklets: Sequence[Tracklet], spec: BundleSpec) -> NDArray[np.uint8]:
    return np.stack([_first_clip(tracklet, spec) for tracklet in tracklets])


def _first_clip(tracklet: Tracklet, spec: BundleSpec) -> NDArray[np.uint8]:
    indices = split_into_clips(len(tracklet.frames), spec.clip_length)[0]
    size = (spec.frame_height, spec.frame_width)
    return np.stack([read_frame(tracklet.frames[index].read_bytes(), *size) for index in indices])
