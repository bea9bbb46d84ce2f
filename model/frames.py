"""Decode and resize frames: the preprocessing of training, evaluation and serving.

The header of an image is checked against the limits before the image is decoded, so a small file that declares a
gigapixel costs nothing. Normalisation by mean and standard deviation is part of the exported graph, not of this module.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from model.errors import Not3dError

PREPROCESSING_VERSION = "2"
"""Changes whenever the functions of this module return different pixels; part of the embedding space."""

_MAX_SEGMENTS, _MAX_FILL, _MAX_SCANS = 1024, 64, 64
"""Limits for a JPEG: segments and fill bytes before its first scan, and scans. A progressive JPEG has about ten scans.
For each scan the decoder processes all pixels, even if the scan has few bytes."""

FrameStatus = Literal["not_an_image", "undecodable", "too_small", "too_large"]


class FrameError(Not3dError):
    """A frame that cannot be used: `status` for programs, `reason` for people."""

    def __init__(self, status: FrameStatus, reason: str) -> None:
        super().__init__(reason)
        self.status: FrameStatus = status
        self.reason = reason


@dataclass(frozen=True, slots=True)
class FrameLimits:
    """Limits for one encoded image: bytes, pixels (width x height), and pixels per side."""

    max_bytes: int = 20_000_000
    max_pixels: int = 25_000_000
    max_side: int = 16_384
    min_side: int = 8


DEFAULT_LIMITS = FrameLimits()


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """The header of an image file: its format and its size in pixels.

    For a JPEG also the offset of its first scan in bytes, and whether it has EXIF data, such as an orientation.
    """

    format: Literal["jpeg", "png", "webp"]
    width: int
    height: int
    scan: int = field(default=0, compare=False)
    exif: bool = field(default=False, compare=False)


def read_header(data: bytes) -> ImageHeader:
    """Read the format and the size of a JPEG, PNG or WebP file without decoding it.

    Raises:
        FrameError: `not_an_image` for other content, `undecodable` for a truncated or damaged header.
    """
    try:
        if data[:3] == b"\xff\xd8\xff":
            return _read_jpeg(data)
        if data[:8] == b"\x89PNG\r\n\x1a\n":
            if data[12:16] != b"IHDR":
                raise FrameError("undecodable", "the PNG file does not begin with its header")
            width, height = struct.unpack_from(">II", data, 16)
            return ImageHeader("png", width, height)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _read_webp(data)
    except (struct.error, IndexError):
        raise FrameError("undecodable", "the image header is truncated") from None
    raise FrameError("not_an_image", "the content is neither JPEG, PNG nor WebP" if data else "the file is empty")


def decode_frame(data: bytes, limits: FrameLimits = DEFAULT_LIMITS) -> NDArray[np.uint8]:
    """Decode one JPEG, PNG or WebP image to RGB `uint8 [height, width, 3]`.

    EXIF orientation is applied, and an alpha channel is dropped.

    Raises:
        FrameError: the image is over a limit, incomplete, or cannot be decoded.
    """
    header = _check_file(data, limits)
    return _decode(data, header, 1)


def read_frame(data: bytes, height: int, width: int, limits: FrameLimits = DEFAULT_LIMITS) -> NDArray[np.uint8]:
    """Decode one JPEG, PNG or WebP image and resize it to RGB `uint8 [height, width, 3]`.

    Training, evaluation and serving read crops with this function. The result is that of `decode_frame` and
    `resize_frame`, except that a JPEG of at least twice the size on both sides is decoded at 1/2, 1/4 or 1/8 of its
    size. The decoder then takes the means of blocks from the discrete cosine transform, in a fraction of the time.

    Raises:
        FrameError: as `decode_frame`.
    """
    header = _check_file(data, limits)
    reduction = 1
    if header.format == "jpeg" and not header.exif:
        while reduction < 8 and header.height >= 2 * reduction * height and header.width >= 2 * reduction * width:
            reduction *= 2
    return resize_frame(_decode(data, header, reduction), height, width)


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
        FrameError: `too_small` if the part is smaller.
    """
    height, width = frame.shape[:2]
    left, top = max(0, round(x)), max(0, round(y))
    right, bottom = min(width, round(x + w)), min(height, round(y + h))
    if right - left < min_side or bottom - top < min_side:
        box = f"box {x:g},{y:g} {w:g}x{h:g}"
        raise FrameError(
            "too_small", f"{box} has fewer than {min_side} pixels per side inside the {width}x{height} frame"
        )
    return frame[top:bottom, left:right]


def resize_frame(frame: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Resize an RGB `uint8 [h, w, 3]` frame to `[height, width, 3]`; as in the papers, the aspect ratio changes.

    Bicubic if the frame gains pixels. Bilinear if both sides shrink to more than half. Otherwise area averaging,
    because interpolation without a low-pass filter aliases there; it takes six times as long as bilinear, and above
    half the size the two differ little.
    """
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
    if not _is_complete(header, data):
        raise FrameError("undecodable", f"the {header.format.upper()} file is truncated")
    if header.format == "jpeg" and data.count(b"\xff\xda") > _MAX_SCANS:
        raise FrameError("undecodable", f"the JPEG file has more than {_MAX_SCANS} scans")
    return header


def _decode(data: bytes, header: ImageHeader, reduction: int) -> NDArray[np.uint8]:
    """Decode at the size divided by `reduction` (1, 2, 4 or 8, rounded up); above 1 for JPEG files only."""
    size = (-(-header.height // reduction), -(-header.width // reduction))
    image = None
    if header.format == "jpeg" and not header.exif:
        image = _decode_jpeg(data, size)
    if image is None:
        image = _decode_any(data, reduction)
    if image is None:
        raise FrameError("undecodable", f"the {header.format.upper()} data cannot be decoded")
    if sorted(image.shape[:2]) != sorted(size):  # EXIF may turn it by 90 degrees
        raise FrameError("undecodable", "the size of the image differs from its header")
    return image


def _decode_jpeg(data: bytes, size: tuple[int, int]) -> NDArray[np.uint8] | None:
    """Return the same pixels as OpenCV in two thirds of the time; None if simplejpeg cannot decode them (CMYK)."""
    try:
        # Not strict, because the decoder warns about files of many cameras that it can decode.
        image = simplejpeg.decode_jpeg(data, "RGB", min_height=size[0], min_width=size[1], strict=False)
    except ValueError:
        return None
    return np.asarray(image, dtype=np.uint8)


_REDUCED = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}


def _decode_any(data: bytes, reduction: int) -> NDArray[np.uint8] | None:
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), _REDUCED[reduction])
    except cv2.error:
        return None
    if image is None:
        return None
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def _read_jpeg(data: bytes) -> ImageHeader:
    size, exif = None, False
    for marker, at in _jpeg_segments(data):
        # Start-of-frame markers; C4, C8 and CC are Huffman tables, an extension and arithmetic conditioning.
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and size is None:
            size = struct.unpack_from(">HH", data, at + 3)
        exif = exif or marker == 0xE1
        if marker == 0xDA and size is not None:
            return ImageHeader("jpeg", size[1], size[0], scan=at, exif=exif)
    raise FrameError("undecodable", "the JPEG file is truncated before its image")


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield (marker, offset of the byte after it) up to and including the start of the first scan.

    This is stricter than decoders, which skip unknown data. Otherwise a file could declare one size to this function
    and another to the decoder.
    """
    at, fill = 2, 0
    for _ in range(_MAX_SEGMENTS + _MAX_FILL):
        if at + 4 > len(data):
            return
        marker = data[at + 1]
        if data[at] == 0xFF and marker == 0xFF and fill < _MAX_FILL:
            at, fill = at + 1, fill + 1
            continue
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        # 00 to BF are reserved or have no length; D0 to D9 (restart, start and end of image) have none either.
        if data[at] != 0xFF or marker < 0xC0 or 0xD0 <= marker <= 0xD9 or marker == 0xFF or length < 2:
            raise FrameError("undecodable", "the JPEG file has a damaged segment")
        yield marker, at + 2
        if marker == 0xDA:
            return
        at += 2 + length
    raise FrameError("undecodable", f"the JPEG file has more than {_MAX_SEGMENTS} segments before its image")


def _read_webp(data: bytes) -> ImageHeader:
    kind = data[12:16]
    if kind == b"VP8X":
        width = 1 + int.from_bytes(data[24:27], "little")
        height = 1 + int.from_bytes(data[27:30], "little")
    elif kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    elif kind == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    else:
        raise FrameError("undecodable", "the WebP file has an unknown first chunk")
    return ImageHeader("webp", width, height)


def _is_complete(header: ImageHeader, data: bytes) -> bool:
    """Return whether the file is not truncated. Decoders fill missing parts with grey and report success."""
    if header.format == "jpeg":
        return data.rfind(b"\xff\xd9") > header.scan
    if header.format == "png":
        return data.rfind(b"IEND") > 0
    return len(data) >= 8 + int(struct.unpack_from("<I", data, 4)[0])
