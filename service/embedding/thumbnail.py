"""The small picture that is kept with a record where an operator asks for it."""

import cv2
import numpy as np
from numpy.typing import NDArray

Frame = NDArray[np.uint8]

LONGEST_SIDE = 128
QUALITY = 80
"""Of a JPEG, in percent: some kilobytes each."""
MOST_HELD = 16


class MiddleFrame:
    """The middle one of frames that come one after the other, nobody knows how many.

    Of at most 16 it is the very middle, of more one near it: at most so many are held, evenly spaced.
    """

    def __init__(self) -> None:
        self._held: list[Frame] = []
        self._step = 1
        self._count = 0

    def see(self, frame: Frame) -> None:
        """Take the next frame."""
        if self._count % self._step == 0:
            self._held.append(frame)
            if len(self._held) > MOST_HELD:
                self._held = self._held[::2]
                self._step *= 2
        self._count += 1

    def choose(self) -> Frame:
        """The one in the middle of those that came, at least one."""
        return self._held[self._count // 2 // self._step]


def encode_thumbnail(frame: Frame) -> bytes:
    """A JPEG of an RGB frame `[H, W, 3]`, at most 128 pixels on its longer side; a smaller frame stays as it is."""
    height, width = frame.shape[:2]
    scale = LONGEST_SIDE / max(height, width)
    picture: NDArray[np.uint8] = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR).astype(np.uint8, copy=False)
    if scale < 1:
        size = max(1, round(width * scale)), max(1, round(height * scale))
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
    _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return data.tobytes()
