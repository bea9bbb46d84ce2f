"""Image files that the tests damage."""

import io
import struct
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from model.frames import FrameError, decode_frame


def _draw() -> NDArray[np.uint8]:
    rows, columns = np.mgrid[0:96, 0:48]
    picture = np.stack([columns * 4, rows * 2, rows + columns], axis=-1).astype(np.uint8)
    picture[20:50, 10:38] = (230, 40, 60)
    return picture


PERSON = _draw()
"""RGB `[96, 48, 3]`."""


def save(picture: NDArray[np.uint8] | Image.Image, format_: str, **options: Any) -> bytes:
    """Return an image file that Pillow writes."""
    file = io.BytesIO()
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(file, format_, **options)
    return file.getvalue()


def segment(marker: int, body: bytes) -> bytes:
    """Return a segment of a JPEG file."""
    return bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body


def error_of(data: bytes) -> FrameError:
    """Return the error of a file that is refused."""
    with pytest.raises(FrameError) as error:
        decode_frame(data)
    return error.value
