"""What a new bundle is compared with: the network it was made from, on clips of a dataset or of drawn people."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.engines import Engine
from model.spec import BundleSpec
from model.tracklet import normalise
from training.datasets.catalog import kind_of, read_training
from training.datasets.folder import read_tracklets
from training.datasets.synthetic.dataset import write_synthetic
from training.datasets.tracklet import DatasetError, Tracklet
from training.evaluation.embed import read_clips

_BATCH = 8
_MAX_CLIPS = 48
_DRAWN_SEED, _DRAWN_PEOPLE = 1, 16


@dataclass(frozen=True)
class Reference:
    """A network that a bundle must reproduce."""

    name: str
    """for messages and the model card, such as "PyTorch in fp32" """
    embed: Callable[[NDArray[np.uint8]], NDArray[np.float32]]
    """clips `uint8 [N, T, H, W, 3]` to unit-length embeddings `float32 [N, D]`"""


@dataclass(frozen=True)
class Difference:
    """The largest difference of one engine from the reference, over unit-length embeddings."""

    engine: str
    precision: str
    max_difference: float
    """of a component"""
    min_cosine: float


def measure_difference(engine: Engine, clips: NDArray[np.uint8], expected: NDArray[np.float32]) -> Difference:
    """Compare an engine's embeddings of clips `uint8 [N, T, H, W, 3]` with unit-length embeddings `[N, D]`."""
    found = normalise(np.concatenate([engine.embed(batch) for batch in batches(clips)]))
    return Difference(
        engine.name,
        engine.precision,
        float(np.abs(found - expected).max()),
        float((found * expected).sum(axis=1).min()),
    )


def batches(clips: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    """Yield one clip alone and the others in batches: two sizes show an axis that the export has fixed."""
    yield clips[:1]
    for start in range(1, len(clips), _BATCH):
        yield clips[start : start + _BATCH]


def choose_reference_clips(spec: BundleSpec, crops: Path | None) -> tuple[NDArray[np.uint8], str]:
    """Return clips `uint8 [N, T, H, W, 3]` of a dataset, or of drawn people if `crops` is None, and what they show.

    Raises:
        DatasetError, FrameError: `crops` cannot be read.
    """
    if crops is None:
        return draw_clips(spec, people=_DRAWN_PEOPLE, seed=_DRAWN_SEED), "people drawn by the project"
    return read_dataset_clips(crops, spec, limit=_MAX_CLIPS), crops.name


def read_dataset_clips(source: Path, spec: BundleSpec, *, limit: int) -> NDArray[np.uint8]:
    """Read the first clip of up to `limit` tracklets, spread evenly over a dataset.

    Args:
        source: MARS, Market-1501 or CUHK03 (their training people), or any folder of tracklets
        spec: gives frame size and clip length
        limit: of tracklets

    Returns:
        Clips `uint8 [N, T, H, W, 3]`.

    Raises:
        DatasetError, FrameError: `source` cannot be read.
    """
    if not source.exists():
        raise DatasetError(f"{source} does not exist")
    labelled = kind_of(source) in ("mars", "market1501", "cuhk03")
    tracklets = read_training([source]) if labelled else read_tracklets(source)
    if not tracklets:
        raise DatasetError(f"{source} contains no tracklets")
    chosen = np.unique(np.linspace(0, len(tracklets) - 1, limit).round().astype(int))
    return _first_clips([tracklets[index] for index in chosen], spec)


def draw_clips(spec: BundleSpec, *, people: int, seed: int) -> NDArray[np.uint8]:
    """Draw one clip of each of `people` invented people: `uint8 [people, T, H, W, 3]`."""
    with tempfile.TemporaryDirectory() as folder:
        size = (spec.frame_height, spec.frame_width)
        drawn = write_synthetic(Path(folder), people=people, cameras=1, frames=spec.clip_length, seed=seed, size=size)
        return _first_clips(drawn, spec)


def _first_clips(tracklets: Sequence[Tracklet], spec: BundleSpec) -> NDArray[np.uint8]:
    size = (spec.frame_height, spec.frame_width)
    return np.concatenate(
        [
            read_clips(
                tracklet,
                frame_size=size,
                clip_length=spec.clip_length,
                max_clips=1,
                clip_choice="first",
                resampling=spec.preprocessing.resampling,
            )
            for tracklet in tracklets
        ]
    )
