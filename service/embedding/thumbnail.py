"""The small JPEGs that are stored with a record if the operator asks for them."""

import cv2
import numpy as np
from numpy.typing import NDArray

from service.embedding.footage import Frame

LONGEST_SIDE = 128
QUALITY = 80
"""Of the JPEG, in percent: a few kilobytes each."""
MAX_HELD = 16


class EvenFrames:
    """Finds some evenly spaced frames of a sequence whose length is unknown.

    They are exact for at most 16 frames and nearly evenly spaced for more: at most 16 frames are held.
    """

    def __init__(self, wanted: int) -> None:
        """`wanted` is their number, at most 8; it is the middle frame if it is 1."""
        self._wanted = wanted
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

    def choose(self) -> list[Frame]:
        """Return the wanted number of the frames so far in their order; fewer if there are fewer."""
        places = [(2 * part + 1) * self._count // (2 * self._wanted) // self._step for part in range(self._wanted)]
        return [self._held[place] for place in dict.fromkeys(places) if place < len(self._held)]


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
