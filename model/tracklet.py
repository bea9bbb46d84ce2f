"""How the frames of a tracklet become clips, and the embeddings of clips the video feature.

With numpy only, so that evaluation and serving run the same code.
"""

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

ClipWeights = Literal["equal", "frames"]
"""Weights of the clips of a tracklet in its video feature: equal, as in the papers, or the number of different frames.

They differ if the last clip is short and repeats its frames. With equal weights, the fifth of five frames counts as
much as the other four together.
"""


def split_into_clips(frame_count: int, clip_length: int, max_clips: int | None = None) -> NDArray[np.int64]:
    """Return the frame indices `int64 [clips, clip_length]` of the consecutive clips that cover a tracklet.

    A short last clip repeats its own frames: 6 frames and T = 4 give `[[0, 1, 2, 3], [4, 5, 4, 5]]` (the "dense" test
    sampling in the published code of Not 3D Re-ID and Fantastic Techniques).

    Args:
        frame_count: frames of the tracklet, at least 1.
        clip_length: frames per clip (T), at least 1.
        max_clips: return at most this many clips, evenly spaced over the tracklet; None returns all.

    Raises:
        ValueError: an argument is below 1.
    """
    if frame_count < 1 or clip_length < 1 or (max_clips is not None and max_clips < 1):
        message = f"counts must be at least 1: frame_count={frame_count}, clip_length={clip_length}"
        raise ValueError(message if max_clips is None else f"{message}, max_clips={max_clips}")
    clips = -(-frame_count // clip_length)
    indices = np.arange(clips * clip_length, dtype=np.int64).reshape(clips, clip_length)
    remainder = frame_count - (clips - 1) * clip_length
    indices[-1] = (clips - 1) * clip_length + np.arange(clip_length) % remainder
    if max_clips is not None and clips > max_clips:
        # The middle clip of each of max_clips equal stretches; of two middle clips the earlier one, because the later
        # one may be the short last clip: with one clip of two, that was 3 points of mAP worse on validation people.
        middles = (2 * np.arange(max_clips) + 1) * clips
        indices = indices[(middles - 1) // (2 * max_clips)]
    return indices


def choose_frames(frame_count: int, clip_length: int, max_clips: int | None = None) -> NDArray[np.int64]:
    """Return the indices `int64 [frames]` of the frames that `split_into_clips` uses, each once, in time order.

    Splitting only these frames, without `max_clips`, gives the same clips: only the last clip of a tracklet is short,
    and if it is chosen, it is also the last of the chosen clips.

    Args:
        frame_count: frames of the tracklet.
        clip_length: frames per clip.
        max_clips: as in `split_into_clips`.

    Raises:
        ValueError: an argument is below 1.
    """
    return np.unique(split_into_clips(frame_count, clip_length, max_clips))


def weigh_clips(indices: NDArray[np.int64], weights: ClipWeights) -> NDArray[np.int64] | None:
    """Return the weights `int64 [clips]` of clips with these frame indices `[clips, T]`; None if they are equal."""
    if weights == "equal":
        return None
    counts: NDArray[np.int64] = 1 + np.count_nonzero(np.diff(np.sort(indices, axis=1), axis=1), axis=1)
    return counts


def normalise(vectors: ArrayLike) -> NDArray[np.float32]:
    """Scale the last axis to unit L2 length, as float32; a zero vector stays zero."""
    array = np.asarray(vectors, dtype=np.float32)
    length = np.linalg.norm(array, axis=-1, keepdims=True)
    unit: NDArray[np.float32] = np.divide(array, length, out=np.zeros_like(array), where=length > 0)
    return unit


def mean_embedding(clip_embeddings: ArrayLike, weights: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
    """Return the mean `float32 [D]` of clip embeddings `[C, D]`, which are not normalised before (Not 3D Re-ID).

    Args:
        clip_embeddings: `[C, D]`
        weights: of the clips, `[C]`, from `weigh_clips`; None for equal weights

    Raises:
        ValueError: not a `[C, D]` array with at least one clip.
    """
    array = np.asarray(clip_embeddings, dtype=np.float32)
    if array.ndim != 2 or array.shape[0] < 1:
        raise ValueError(f"clip embeddings must have shape [clips, dimension], not {list(array.shape)}")
    if weights is None:
        mean: NDArray[np.float32] = array.mean(axis=0)
    else:
        mean = np.average(array, axis=0, weights=weights).astype(np.float32)
    return mean


def video_feature(clip_embeddings: ArrayLike, weights: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
    """Return the video feature, `float32 [D]` of unit length: the normalised mean of clip embeddings `[C, D]`.

    Raises:
        ValueError: not a `[C, D]` array with at least one clip.
    """
    return normalise(mean_embedding(clip_embeddings, weights))
