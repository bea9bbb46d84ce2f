"""Bicubic resizing with the pixels of Pillow, for weights that were trained on such pixels.

Pillow widens the bicubic kernel (a = -0.5) where it shrinks an image, so that each source pixel counts. It resizes rows
and columns one after the other, with weights in fixed point, and rounds to 8 bits after each. Rows come first, except
that Pillow 13 begins with the columns if the height loses more than twice as many pixels as the width. Crops of MARS,
256x128, lose 32 and 16 pixels for frames of 224x112, so their pixels are those of every release.
"""

from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Resampling = Literal["opencv", "pil-bicubic"]
"""Whose pixels resizing gives; see `model.frames.resize_frame`."""

_FIXED_BITS = 22
"""Binary digits of a weight after the point: 32, without 8 for the pixel and 2 for the sign and overshoot."""

_CACHED_SIZES = 256


def resize_like_pillow(frame: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Resize a frame `uint8 [h, w, 3]` to `uint8 [height, width, 3]` as `Image.resize` with `BICUBIC` does."""
    own_height, own_width = frame.shape[:2]
    lost_rows, lost_columns = own_height - height, own_width - width
    columns_first = lost_rows > 0 and lost_rows > 2 * lost_columns
    for columns in (columns_first, not columns_first):
        if columns and own_height != height:
            frame = _resample(frame, height)
        elif not columns and own_width != width:
            frame = _resample(frame.transpose(1, 0, 2), width).transpose(1, 0, 2)
    return np.ascontiguousarray(frame)


def _resample(lines: NDArray[np.uint8], target: int) -> NDArray[np.uint8]:
    """Mix lines `[n, m, 3]` to `[target, m, 3]`."""
    sources, weights = _plan(len(lines), target)
    # In one piece and without new memory for each weight: five times as fast.
    flat = np.ascontiguousarray(lines, np.int32).reshape(len(lines), -1)
    mixed = np.full((target, flat.shape[1]), 1 << (_FIXED_BITS - 1), np.int32)
    part = np.empty_like(mixed)
    for source, weight in zip(sources.T, weights.T, strict=True):
        np.take(flat, source, axis=0, out=part, mode="clip")
        part *= weight[:, None]
        mixed += part
    mixed >>= _FIXED_BITS
    np.clip(mixed, 0, 255, out=mixed)
    return mixed.astype(np.uint8).reshape(target, *lines.shape[1:])


@lru_cache(_CACHED_SIZES)
def _plan(source: int, target: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Return the source pixels of each target pixel and their weights in fixed point, both `[target, taps]`."""
    scale = source / target
    stretch = max(scale, 1.0)
    support = 2.0 * stretch
    taps = 2 * int(np.ceil(support)) + 1
    sources, weights = np.zeros((target, taps), np.int64), np.zeros((target, taps), np.int32)
    for index in range(target):
        centre = (index + 0.5) * scale
        first, last = max(int(centre - support + 0.5), 0), min(int(centre + support + 0.5), source)
        values = _bicubic((np.arange(first, last) - centre + 0.5) / stretch)
        values *= 1 / values.sum()  # as Pillow does, which rounds otherwise than a division
        sources[index, : last - first] = np.arange(first, last)
        weights[index, : last - first] = np.trunc(values * (1 << _FIXED_BITS) + np.copysign(0.5, values))
    return sources, weights


def _bicubic(x: NDArray[np.floating], a: float = -0.5) -> NDArray[np.floating]:
    """Return the cubic convolution kernel (Keys, 1981) at distances of source pixels."""
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))
