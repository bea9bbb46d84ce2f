"""Lay transparent pictures on one fixed colour."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

BACKGROUND: Final = 128
"""Mid grey, `(128, 128, 128)` in RGB: what is seen behind transparent pixels, in every format."""
_ROWS: Final = 128
"""Rows that are computed together, so that no full-size copy of 16 bits is needed."""


def lay_on_background(image: NDArray[np.uint8] | NDArray[np.uint16]) -> NDArray[np.uint8]:
    """Blend an image with the background. Opaque pixels keep their colour; that of transparent ones has no effect.

    Args:
        image: blue, green, red (not multiplied by alpha) and alpha, `[H, W, 4]`, `uint8` or `uint16`.

    Returns:
        RGB `uint8 [H, W, 3]`.
    """
    blended = np.empty((*image.shape[:2], 3), np.uint8)
    for top in range(0, len(image), _ROWS):
        rows = image[top : top + _ROWS]
        values = rows >> 8 if image.dtype == np.uint16 else rows.astype(np.uint16)
        alpha = values[..., 3:]
        mixed = values[..., 2::-1] * alpha
        mixed += BACKGROUND * (255 - alpha) + 128
        mixed += mixed >> 8  # with the next shift, a rounded division by 255 that is exact below 65,536
        blended[top : top + _ROWS] = mixed >> 8
    return blended
