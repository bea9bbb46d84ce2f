"""One drawn person who walks through the picture of one camera: a frame and a box for every moment."""

from functools import lru_cache
from math import pi

import cv2
import numpy as np
from numpy.typing import NDArray

from training.datasets.synthetic.dataset import draw_person
from training.datasets.synthetic.walker import View, draw_walker

WIDTH, HEIGHT = 800, 450
"""Of the recordings."""
SECONDS = 8.0
"""From one side to the other."""


class Walk:
    """A walk that begins at `start` (Unix seconds). `person` chooses the clothes."""

    def __init__(self, person: int, start: float, seconds: float = SECONDS) -> None:
        self.person, self.start, self.seconds = person, start, seconds

    def frame(self, at: float) -> NDArray[np.uint8]:
        """Return the picture at a time, RGB `[HEIGHT, WIDTH, 3]`."""
        return _draw(self.person, round((at - self.start) / self.seconds, 4))

    def box(self, at: float) -> tuple[float, float, float, float]:
        """Return left, top, right and bottom edge of the person as shares of the picture."""
        x, y, scale = _place((at - self.start) / self.seconds)
        return (x - 0.22 * scale) / WIDTH, (y - 1.03 * scale) / HEIGHT, (x + 0.22 * scale) / WIDTH, (y + 4) / HEIGHT


def _place(share: float) -> tuple[float, float, float]:
    """Return the point between the feet, and the height of the person, in pixels."""
    return 90 + (WIDTH - 180) * share, 0.75 * HEIGHT + 70 * share, 190 + 60 * share


@lru_cache(256)
def _draw(person: int, share: float) -> NDArray[np.uint8]:
    canvas = _background().copy()
    x, y, scale = _place(share)
    looks = draw_person(np.random.default_rng([21, person]))
    draw_walker(canvas, looks, View(1.2, 0.1, scale, (x, y), 0.0, 0.05), 2 * pi * 6 * share)
    return np.asarray(np.clip(canvas * 255, 0, 255), np.uint8)


@lru_cache(1)
def _background() -> NDArray[np.float32]:
    """A yard that differs at every place, so that a box that is off shows another part of it."""
    random = np.random.default_rng(5)
    coarse = random.uniform(0.2, 0.8, (9, 16, 3)).astype(np.float32)
    return np.asarray(cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR), np.float32)
