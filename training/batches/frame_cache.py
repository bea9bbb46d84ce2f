"""Decoded frames in memory, so that later epochs of a small dataset do not decode them again."""

import threading
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.frames import read_frame


class FrameCache:
    """Frames at one size at a time, up to a number of bytes; for several threads.

    Full, it takes no more: each frame is as likely to be asked for again as any other, so that none is worth another's
    place.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self._size = (0, 0)
        self._frames: dict[Path, NDArray[np.uint8]] = {}
        self._lock = threading.Lock()

    def read(self, path: Path, height: int, width: int) -> NDArray[np.uint8]:
        """A frame as ``uint8 [height, width, 3]`` RGB, which is not to be written to.

        Raises:
            FrameError, OSError: the file is no picture, or cannot be read.
        """
        size = (height, width)
        with self._lock:
            if size != self._size:
                self._size, self._frames, self.used = size, {}, 0
            found = self._frames.get(path)
        if found is not None:
            return found
        frame = read_frame(path.read_bytes(), height, width)
        frame.flags.writeable = False
        with self._lock:
            # Where epochs of two sizes meet, threads ask for both.
            if size == self._size and path not in self._frames and self.used + frame.nbytes <= self.limit:
                self._frames[path] = frame
                self.used += frame.nbytes
        return frame
