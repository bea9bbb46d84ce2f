"""Small videos to cut people out of."""

from pathlib import Path

import cv2
import numpy as np


def write_video(path: Path, *, frames: int, height: int = 96, width: int = 128, rate: float = 10.0) -> Path:
    """A video of frames that differ: frame `i` (below 23) has grey `20 + 10 i`, and a red square moves."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), rate, (width, height))
    assert writer.isOpened()
    for index in range(frames):
        image = np.full((height, width, 3), 20 + 10 * (index % 23), dtype=np.uint8)
        image[20:60, 4 * (index % 23) : 4 * (index % 23) + 30] = (0, 0, 220)
        writer.write(image)
    writer.release()
    return path
