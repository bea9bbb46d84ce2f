"""Compute features of tracklets with the frames, clips and averaging of the service."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from model.frames import read_frame
from model.tracklet import mean_embedding, split_into_clips
from training.datasets.tracklet import Tracklet
from training.evaluation.protocols import ClipChoice

EmbedClips = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Clips `uint8 [N, T, H, W, 3]` to clip embeddings `[N, D]`: a network, or a bundle's engine."""

_BATCH = 16
"""Clips per call."""


def embed_tracklets(
    embed: EmbedClips,
    tracklets: Sequence[Tracklet],
    *,
    frame_size: tuple[int, int],
    clip_length: int,
    max_clips: int | None = None,
    clip_choice: ClipChoice = "even",
    progress: Callable[[], None] | None = None,
) -> NDArray[np.float32]:
    """Return the means of clip embeddings `[len(tracklets), D]`, not of unit length.

    `progress` is called after each tracklet.
    """
    features = []
    for tracklet in tracklets:
        clips = read_clips(
            tracklet, frame_size=frame_size, clip_length=clip_length, max_clips=max_clips, clip_choice=clip_choice
        )
        parts = [embed(clips[start : start + _BATCH]) for start in range(0, len(clips), _BATCH)]
        features.append(mean_embedding(np.concatenate(parts)))
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
) -> NDArray[np.uint8]:
    """Read the clips `uint8 [C, T, H, W, 3]` of a tracklet: all, or `max_clips`, spread evenly or the first."""
    indices = split_into_clips(len(tracklet.frames), clip_length, max_clips if clip_choice == "even" else None)
    indices = indices[:max_clips]
    frames = {i: read_frame(tracklet.frames[i].read_bytes(), *frame_size) for i in np.unique(indices)}
    return np.stack([[frames[i] for i in clip] for clip in indices])
