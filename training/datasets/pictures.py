"""Read the pictures of a dataset, with errors that name the file."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.frames import FrameError, read_frame
from model.pillow_bicubic import Resampling


def read_picture(path: Path, height: int, width: int, *, resampling: Resampling = "opencv") -> NDArray[np.uint8]:
    """Return a picture as `uint8 [height, width, 3]` RGB.

    Raises:
        FrameError: the file is not a picture, or is damaged; the message names it.
        OSError: the file cannot be read.
    """
    try:
        return read_frame(path.read_bytes(), height, width, resampling=resampling)
    except FrameError as error:
        raise FrameError(error.status, f"{path}: {error.reason}") from None
