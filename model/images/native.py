"""Decode a checked file with OpenCV."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from model.images.errors import FrameError


def decode_with_opencv(file: bytes, name: str, *, transparent: bool = False) -> NDArray[Any]:
    """Decode a file that holds nothing but checked pixels.

    Args:
        file: a PNG or WebP file without metadata.
        name: of the format, for messages.
        transparent: keep the alpha channel, and the depth of 16 bits.

    Returns:
        RGB `uint8 [H, W, 3]`. If `transparent`: BGR with alpha `[H, W, 4]`, or `[H, W]` for grey, of 8 or 16 bits.

    Raises:
        FrameError: `undecodable`.
    """
    # IMREAD_UNCHANGED keeps the alpha channel. Both ignore the orientation, which was removed with the metadata.
    flag = cv2.IMREAD_UNCHANGED if transparent else cv2.IMREAD_COLOR_RGB
    try:
        image: NDArray[Any] | None = cv2.imdecode(np.frombuffer(file, np.uint8), flag)
    except cv2.error:
        image = None
    if image is None or (transparent and image.shape[2:] not in {(), (4,)}):
        raise FrameError("undecodable", f"the {name} data cannot be decoded")
    return image
