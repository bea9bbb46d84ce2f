"""What a source hands over: one tracklet, and how its crops are cut."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from model.frames import FrameError, crop_box, decode_frame

MARGIN = 0.0
"""Share of a box's width and height that is added on each side before it is cut. The best of those that
`benchmarks.crop_margin` tries, together with 0.05; more takes in background and other people."""
JPEG_QUALITY = 95
MAX_ID = 128


@dataclass(frozen=True, slots=True)
class RelativeBox:
    """The edges of a box as fractions of a picture's width and height, so that they fit a picture of any size."""

    left: float
    top: float
    right: float
    bottom: float

    def __post_init__(self) -> None:
        """Refuse what is no box.

        Raises:
            ValueError: a number is not finite, or the box is empty or outside the picture.
        """
        inside = self.left < 1 and self.top < 1 and self.right > 0 and self.bottom > 0
        if not (self.left < self.right and self.top < self.bottom and inside and self.area < 100):
            edges = f"{self.left:g}, {self.top:g}, {self.right:g}, {self.bottom:g}"
            raise ValueError(f"the box {edges} (left, top, right, bottom) is empty or outside the picture")

    @classmethod
    def from_pixels(cls, edges: Sequence[float], width: float, height: float) -> Self:
        """Return the box of left, top, right and bottom edge in pixels of a picture of this size.

        Raises:
            ValueError: these are not the edges of a box.
        """
        left, top, right, bottom = edges
        if width <= 0 or height <= 0:
            raise ValueError(f"a picture of {width:g}x{height:g} pixels has no boxes")
        return cls(left / width, top / height, right / width, bottom / height)

    @classmethod
    def from_corner(cls, values: Sequence[float]) -> Self:
        """Return the box of relative x, y, width and height.

        Raises:
            ValueError: these are not the numbers of a box.
        """
        x, y, width, height = values
        return cls(x, y, x + width, y + height)

    @property
    def area(self) -> float:
        """Share of the picture that the box covers."""
        return (self.right - self.left) * (self.bottom - self.top)


@dataclass(frozen=True, slots=True)
class Tracklet:
    """The crops of one person that one camera's tracker followed, ready to be enrolled.

    Attributes:
        id: the record's id, from `make_id`. Two tracklets with one id are the same tracklet.
        camera_id: the camera.
        frames: encoded crops (JPEG, PNG, WebP or BMP) in time order.
        start_time: first sight, with a time zone.
        end_time: last sight, with a time zone.
        metadata: a JSON object.
        embedding: a vector of another model instead of frames.
        embedding_space: what the vector is comparable with.
    """

    id: str
    camera_id: str
    frames: tuple[bytes, ...] = field(repr=False)
    start_time: datetime | None = None
    end_time: datetime | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    embedding: tuple[float, ...] = field(default=(), repr=False)
    embedding_space: str | None = None


def make_id(*parts: str) -> str:
    """Return an id that the service accepts: the parts joined by `:`.

    If a part has other characters than letters, digits, `.`, `_` and `-`, or the id is too long, a digest of the exact
    parts is appended, so that two tracks never share an id.
    """
    plain = [re.sub(r"[^A-Za-z0-9._-]", "-", part) for part in parts]
    readable = ":".join(plain)
    if plain == list(parts) and all(parts) and len(readable) <= MAX_ID:
        return readable
    digest = hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:12]
    return f"{readable[: MAX_ID - 13]}-{digest}"


def cut_crop(picture: bytes, box: RelativeBox, margin: float = MARGIN) -> bytes:
    """Cut one person out of a picture and return the crop as a JPEG.

    Args:
        picture: a JPEG, PNG, WebP or BMP file of any size.
        box: where the person is.
        margin: share of the box's width and height that is added on each side.

    Raises:
        FrameError: the picture is empty or cannot be decoded, or almost nothing of the box is in it.
    """
    if not picture:
        raise FrameError("undecodable", "the picture is empty")
    return cut_pixels(decode_frame(picture), box, margin)


def cut_pixels(pixels: NDArray[np.uint8], box: RelativeBox, margin: float = MARGIN) -> bytes:
    """Cut one person out of a decoded picture, RGB `uint8 [h, w, 3]`, as `cut_crop` does.

    Raises:
        FrameError: almost nothing of the box is in the picture.
    """
    height, width = pixels.shape[:2]
    box_width, box_height = box.right - box.left, box.bottom - box.top
    crop = crop_box(
        pixels,
        (box.left - margin * box_width) * width,
        (box.top - margin * box_height) * height,
        (1 + 2 * margin) * box_width * width,
        (1 + 2 * margin) * box_height * height,
    )
    # Colour at full resolution: the network sees what it would see in the picture itself.
    encoded: bytes = simplejpeg.encode_jpeg(
        crop if crop.flags.c_contiguous else crop.copy(), JPEG_QUALITY, colorspace="RGB", colorsubsampling="444"
    )
    return encoded
