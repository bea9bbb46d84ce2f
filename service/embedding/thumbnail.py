"""The small JPEG that is stored with a record if the operator asks for it."""

import cv2
import numpy as np
from numpy.typing import NDArray

from service.embedding.footage import Frame

LONGEST_SIDE = 128
QUALITY = 80
"""Of the JPEG, in percent: a few kilobytes each."""
MAX_HELD = 16


class MiddleFrame:
    """Finds the middle one of a sequence of frames whose length is unknown.

    It is exact for at most 16 frames and near the middle for more: at most 16 frames are held, evenly spaced.
    """

    def __init__(self) -> None:
        self._held: list[Frame] = []
        self._step = 1
        self._count = 0

    def add(self, frame: Frame) -> None:
        """Take the next frame."""
        if self._count % self._step == 0:
            self._held.append(frame)
            if len(self._held) > MAX_HELD:
                self._held = self._held[::2]
                self._step *= 2
        self._count += 1

    def choose(self) -> Frame:
        """Return the middle one of the frames so far, of which there must be at least one."""
        return self._held[self._count // 2 // self._step]


def encode_thumbnail(frame: Frame) -> bytes:
    """Encode an RGB frame `[H, W, 3]` as a JPEG whose longer side has at most 128 pixels; nothing is enlarged."""
    height, width = frame.shape[:2]
    scale = LONGEST_SIDE / max(height, width)
    picture: NDArray[np.uint8] = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR).astype(np.uint8, copy=False)
    if scale < 1:
        size = max(1, round(width * scale)), max(1, round(height * scale))
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
    _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return data.tobytes()
