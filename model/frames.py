"""Decode and resize frames: the preprocessing of training, evaluation and serving.

The header of an image is checked against the limits before the image is decoded, so a small file that declares a
gigapixel costs nothing. The modules of `model.images` read the formats. Normalisation by mean and standard deviation is
part of the exported graph, not of this module.
"""

import math
import struct
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from model.images import FrameError, FrameStatus, ImageHeader, bmp, jpeg, png, webp
from model.images.exif import apply_orientation
from model.images.header import other_format
from model.pillow_bicubic import Resampling, resize_like_pillow

__all__ = [
    "DEFAULT_LIMITS",
    "PREPROCESSING_VERSION",
    "FrameError",
    "FrameLimits",
    "FrameStatus",
    "ImageHeader",
    "SizedFrame",
    "check_size",
    "crop_box",
    "decode_frame",
    "read_frame",
    "read_header",
    "read_sized_frame",
    "resize_frame",
]

PREPROCESSING_VERSION = "2"
"""Changes whenever an opaque, undamaged frame gives different pixels; part of the embedding space."""


@dataclass(frozen=True, slots=True)
class FrameLimits:
    """Limits for one encoded image: bytes, pixels (width x height), and pixels per side."""

    max_bytes: int = 20_000_000
    max_pixels: int = 25_000_000
    max_side: int = 16_384
    min_side: int = 8


DEFAULT_LIMITS = FrameLimits()


@dataclass(frozen=True, slots=True)
class SizedFrame:
    """A frame of the model's size, `pixels` RGB `uint8 [height, width, 3]`, and the size of its picture.

    Attributes:
        pixels: the frame.
        source_height: of the upright picture, in pixels.
        source_width: of the upright picture, in pixels.
    """

    pixels: NDArray[np.uint8]
    source_height: int
    source_width: int


def read_header(data: bytes) -> ImageHeader:
    """Read the format and the size of a JPEG, PNG, WebP or BMP file without decoding it.

    Raises:
        FrameError: `not_an_image` for other content, `unsupported` for other image formats, `undecodable` for a
            truncated or damaged header.
    """
    try:
        if data[:3] == b"\xff\xd8\xff":
            return jpeg.read_header(data)
        if data[:8] == png.SIGNATURE:
            return png.read_header(data)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return webp.read_header(data)
        if data[:2] == b"BM":
            return bmp.read_header(data)
    except (struct.error, IndexError):
        raise FrameError("undecodable", "the image header is truncated") from None
    raise other_format(data)


def decode_frame(data: bytes, limits: FrameLimits = DEFAULT_LIMITS) -> NDArray[np.uint8]:
    """Decode one JPEG, PNG, WebP or BMP image to RGB `uint8 [height, width, 3]`.

    EXIF orientation is applied, and a transparent picture is laid on mid grey (`model.images.transparency`).

    Raises:
        FrameError: the image is over a limit, incomplete, or cannot be decoded.
    """
    header = _check_file(data, limits)
    return _decode(data, header, 1)


def read_frame(
    data: bytes, height: int, width: int, limits: FrameLimits = DEFAULT_LIMITS, *, resampling: Resampling = "opencv"
) -> NDArray[np.uint8]:
    """Decode one JPEG, PNG, WebP or BMP image and resize it to RGB `uint8 [height, width, 3]`.

    Training, evaluation and serving read crops with this function. The result is that of `decode_frame` and
    `resize_frame`, except that a JPEG of at least twice the size on both sides is decoded at 1/2, 1/4 or 1/8 of its
    size. The decoder then takes the means of blocks from the discrete cosine transform, in a fraction of the time. With
    the pixels of Pillow, each image is decoded in full size.

    Raises:
        FrameError: as `decode_frame`.
    """
    return read_sized_frame(data, height, width, limits, resampling=resampling).pixels


def read_sized_frame(
    data: bytes, height: int, width: int, limits: FrameLimits = DEFAULT_LIMITS, *, resampling: Resampling = "opencv"
) -> SizedFrame:
    """Return what `read_frame` returns, and the size of the picture.

    Raises:
        FrameError: as `decode_frame`.
    """
    header = _check_file(data, limits)
    reduction = 1
    if header.format == "jpeg" and not header.exif and resampling == "opencv":
        while reduction < 8 and header.height >= 2 * reduction * height and header.width >= 2 * reduction * width:
            reduction *= 2
    image = _decode(data, header, reduction)
    sides = (header.height, header.width) if reduction > 1 else image.shape[:2]  # EXIF may have turned it
    return SizedFrame(resize_frame(image, height, width, resampling), *sides)


def check_size(width: int, height: int, limits: FrameLimits = DEFAULT_LIMITS) -> None:
    """Check a size in pixels.

    Raises:
        FrameError: `too_large` or `too_small`.
    """
    if max(width, height) > limits.max_side or width * height > limits.max_pixels:
        allowed = f"at most {limits.max_pixels} pixels and {limits.max_side} per side are allowed"
        raise FrameError("too_large", f"{width}x{height} pixels, {allowed}")
    if min(width, height) < limits.min_side:
        raise FrameError("too_small", f"{width}x{height} pixels, at least {limits.min_side} per side are needed")


def crop_box(
    frame: NDArray[np.uint8], x: float, y: float, w: float, h: float, min_side: int = DEFAULT_LIMITS.min_side
) -> NDArray[np.uint8]:
    """Return the part of a frame `[height, width, 3]` inside a box, as a view; the box is clipped to the frame.

    Args:
        frame: the full frame.
        x: left edge of the box, in pixels.
        y: top edge.
        w: width.
        h: height.
        min_side: minimum width and height of the part.

    Raises:
        FrameError: `bad_box` for numbers that are no box, `too_small` if the part is smaller.
    """
    height, width = frame.shape[:2]
    box = f"box {x:g},{y:g} {w:g}x{h:g}"
    edges = x, y, x + w, y + h
    if not all(map(math.isfinite, edges)):
        raise FrameError("bad_box", f"{box} has a number that is not finite")
    left, top = max(0, round(x)), max(0, round(y))
    right, bottom = min(width, round(x + w)), min(height, round(y + h))
    if right - left < min_side or bottom - top < min_side:
        raise FrameError(
            "too_small", f"{box} has fewer than {min_side} pixels per side inside the {width}x{height} frame"
        )
    return frame[top:bottom, left:right]


def resize_frame(
    frame: NDArray[np.uint8], height: int, width: int, resampling: Resampling = "opencv"
) -> NDArray[np.uint8]:
    """Resize an RGB `uint8 [h, w, 3]` frame to `[height, width, 3]`; as in the papers, the aspect ratio changes.

    `opencv`: bicubic if the frame gains pixels. Bilinear if both sides shrink to more than half. Otherwise area
    averaging, because interpolation without a low-pass filter aliases there; it takes six times as long as bilinear,
    and above half the size the two differ little. `pil-bicubic`: see `model.pillow_bicubic`.
    """
    if resampling == "pil-bicubic":
        return resize_like_pillow(frame, height, width)
    if frame.shape[:2] == (height, width):
        return np.ascontiguousarray(frame)
    if frame.shape[0] * frame.shape[1] <= height * width:
        interpolation = cv2.INTER_CUBIC
    elif frame.shape[0] < 2 * height and frame.shape[1] < 2 * width:
        interpolation = cv2.INTER_LINEAR
    else:
        interpolation = cv2.INTER_AREA
    return np.asarray(cv2.resize(frame, (width, height), interpolation=interpolation), dtype=np.uint8)


def _check_file(data: bytes, limits: FrameLimits) -> ImageHeader:
    """Apply all limits that need no decoding."""
    if len(data) > limits.max_bytes:
        raise FrameError("too_large", f"{len(data)} bytes, at most {limits.max_bytes} are allowed")
    header = read_header(data)
    check_size(header.width, header.height, limits)
    return header


def _decode(data: bytes, header: ImageHeader, reduction: int) -> NDArray[np.uint8]:
    """Decode at the size divided by `reduction` (1, 2, 4 or 8, rounded up); above 1 for JPEG files only."""
    if header.format == "jpeg":
        image, orientation = jpeg.decode(data, header, reduction)
    else:
        image, orientation = _MODULES[header.format].decode(data, header)
    if image.shape != (-(-header.height // reduction), -(-header.width // reduction), 3):
        raise FrameError("undecodable", "the size of the image differs from its header")
    return image if orientation == 1 else apply_orientation(image, orientation)


_MODULES: Final = {"png": png, "webp": webp, "bmp": bmp}
