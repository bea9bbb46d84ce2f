"""Video features of tracklets, with the frames, clips and averaging that the service uses."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from model.frames import decode_frame, resize_frame
from model.tracklet import split_into_clips, video_feature
from training.datasets.tracklet import Tracklet

EmbedClips = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""``uint8 [N, T, H, W, 3]`` to clip embeddings ``[N, D]``: a network, or a bundle's engine."""

_BATCH = 16
"""Clips per call."""


def embed_tracklets(
    embed: EmbedClips,
    tracklets: Sequence[Tracklet],
    *,
    frame_size: tuple[int, int],
    clip_length: int,
    max_clips: int | None = None,
    progress: Callable[[], None] | None = None,
) -> NDArray[np.float32]:
    """Unit-length video features ``[len(tracklets), D]``; ``progress`` is called after each tracklet."""
    features = []
    for tracklet in tracklets:
        clips = read_clips(tracklet, frame_size=frame_size, clip_length=clip_length, max_clips=max_clips)
        parts = [embed(clips[start : start + _BATCH]) for start in range(0, len(clips), _BATCH)]
        features.append(video_feature(np.concatenate(parts)))
        if progress:
            progress()
    return np.stack(features)


def read_clips(
    tracklet: Tracklet, *, frame_size: tuple[int, int], clip_length: int, max_clips: int | None = None
) -> NDArray[np.uint8]:
    """All clips ``uint8 [C, T, H, W, 3]`` of a tracklet."""
    indices = split_into_clips(len(tracklet.frames), clip_length, max_clips)
    frames = {i: resize_frame(decode_frame(tracklet.frames[i].read_bytes()), *frame_size) for i in np.unique(indices)}
    return np.stack([[frames[i] for i in clip] for clip in indices])
