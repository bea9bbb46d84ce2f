"""Compute features of tracklets with the frames, clips and averaging of the service."""

import zlib
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from model.errors import Not3dError
from model.pillow_bicubic import Resampling
from model.tracklet import ClipWeights, mean_embedding, split_into_clips, weigh_clips
from training.datasets.pictures import read_picture
from training.datasets.tracklet import Tracklet
from training.evaluation.protocols import ClipChoice

EmbedClips = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Clips `uint8 [N, T, H, W, 3]` to clip embeddings `[N, D]`: a network, or a bundle's engine."""

_BATCH = 16
"""Clips per call."""


class FeatureError(Not3dError):
    """A model gives features that are not numbers, so nothing can be measured or fitted with it."""


def embed_tracklets(
    embed: EmbedClips,
    tracklets: Sequence[Tracklet],
    *,
    frame_size: tuple[int, int],
    clip_length: int,
    clip_weights: ClipWeights,
    max_clips: int | None = None,
    clip_choice: ClipChoice = "even",
    clip_seed: int = 1,
    resampling: Resampling = "opencv",
    progress: Callable[[], None] | None = None,
) -> NDArray[np.float32]:
    """Return the means of clip embeddings `[len(tracklets), D]`, not of unit length.

    `progress` is called after each tracklet.

    Raises:
        FeatureError: a feature is not finite.
    """
    features = []
    for tracklet in tracklets:
        clips = read_clips(
            tracklet,
            frame_size=frame_size,
            clip_length=clip_length,
            max_clips=max_clips,
            clip_choice=clip_choice,
            clip_seed=clip_seed,
            resampling=resampling,
        )
        parts = [embed(clips[start : start + _BATCH]) for start in range(0, len(clips), _BATCH)]
        indices = _choose_clips(tracklet, clip_length, max_clips, clip_choice, clip_seed)
        feature = mean_embedding(np.concatenate(parts), weigh_clips(indices, clip_weights))
        if not np.isfinite(feature).all():
            raise FeatureError(
                f"the model's feature of {tracklet.frames[0].parent} is not finite: its training diverged, or its file "
                "is damaged; use another model"
            )
        features.append(feature)
        if progress:
            progress()
    return np.stack(features)


def read_clips(
    tracklet: Tracklet,
    *,
    frame_size: tuple[int, int],
    clip_length: int,
    max_clips: int | None = None,
    clip_choice: ClipChoice = "even",
    clip_seed: int = 1,
    resampling: Resampling = "opencv",
) -> NDArray[np.uint8]:
    """Read the clips `uint8 [C, T, H, W, 3]` of a tracklet: all, or the `max_clips` that `clip_choice` selects."""
    indices = _choose_clips(tracklet, clip_length, max_clips, clip_choice, clip_seed)
    chosen = np.unique(indices)
    frames = {i: read_picture(tracklet.frames[i], *frame_size, resampling=resampling) for i in chosen}
    return np.stack([[frames[i] for i in clip] for clip in indices])


def _choose_clips(
    tracklet: Tracklet, clip_length: int, max_clips: int | None, clip_choice: ClipChoice, clip_seed: int
) -> NDArray[np.int64]:
    """Return the frame indices `[C, T]` of the clips."""
    count = len(tracklet.frames)
    if clip_choice == "random" and max_clips is not None:
        # A stream for each tracklet, so that its clips do not depend on the tracklets that were read before.
        name = "\n".join([tracklet.person, tracklet.camera, tracklet.name, *(path.name for path in tracklet.frames)])
        rng = np.random.default_rng([clip_seed, zlib.crc32(name.encode("utf-8", "surrogateescape"))])
        return random_clips(count, clip_length, max_clips, rng)
    return split_into_clips(count, clip_length, max_clips if clip_choice == "even" else None)[:max_clips]


def random_clips(frame_count: int, clip_length: int, clips: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw clips of consecutive frames that do not overlap, as aas_rfu does; each arrangement is equally likely.

    A tracklet that is too short for all clips gives as many as fit, and one that is shorter than a clip gives the one
    clip of `split_into_clips`.

    Returns:
        Frame indices in time order, `int64 [at most clips, clip_length]`.

    Raises:
        ValueError: an argument is below 1.
    """
    if frame_count < 1 or clip_length < 1 or clips < 1:
        raise ValueError(f"counts must be at least 1 (got {frame_count=}, {clip_length=}, {clips=})")
    fitting = min(clips, frame_count // clip_length)
    if fitting == 0:
        return split_into_clips(frame_count, clip_length)
    # Each clip counts as one slot among the frames that are in no clip: choosing slots chooses an arrangement.
    slots = frame_count - fitting * (clip_length - 1)
    chosen = np.sort(rng.choice(slots, fitting, replace=False))
    starts = chosen + np.arange(fitting) * (clip_length - 1)
    return (starts[:, None] + np.arange(clip_length)).astype(np.int64)
