"""From bytes to frames: the one preprocessing that training, evaluation and serving share.

Nothing is decoded before its header has been read and held against the limits, so a few kilobytes that claim to be
a gigapixel cost nothing. Normalisation by mean and standard deviation is not done here: it is inside the exported
graph.
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
"""Changes whenever the functions of this module give other pixels; part of the embedding space."""

_MAX_SEGMENTS, _MAX_FILL, _MAX_SCANS = 1024, 64, 64
"""What a JPEG may have before its first scan, and how many scans. A progressive one has about ten; each costs the
decoder a pass over all pixels, however few bytes it has."""

FrameStatus = Literal["not_an_image", "undecodable", "too_small", "too_large"]


class FrameError(Not3dError):
    """A frame that cannot be used; ``status`` says of which kind, ``reason`` says why in words."""

    def __init__(self, status: FrameStatus, reason: str) -> None:
        super().__init__(reason)
        self.status: FrameStatus = status
        self.reason = reason


@dataclass(frozen=True, slots=True)
class FrameLimits:
    """Bounds on one encoded image: bytes, pixels (width x height), and pixels on each side."""

    max_bytes: int = 20_000_000
    max_pixels: int = 25_000_000
    max_side: int = 16_384
    min_side: int = 8


DEFAULT_LIMITS = FrameLimits()


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """What an image file says of itself: its format, and its size in pixels.

    Of a JPEG also where its first scan begins (offset in bytes), and whether it has EXIF facts, such as an orientation.
    """

    format: Literal["jpeg", "png", "webp"]
    width: int
    height: int
    scan: int = field(default=0, compare=False)
    exif: bool = field(default=False, compare=False)


def read_header(data: bytes) -> ImageHeader:
    """Reads format and size from the first bytes of a JPEG, PNG or WebP file without decoding anything.

    Raises:
        FrameError: ``not_an_image`` for other content, ``undecodable`` for a header that is cut short.
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
        raise FrameError("undecodable", "the image header is cut short") from None
    raise FrameError("not_an_image", "the content is neither JPEG, PNG nor WebP" if data else "the file is empty")


def decode_frame(data: bytes, limits: FrameLimits = DEFAULT_LIMITS) -> NDArray[np.uint8]:
    """Decodes one JPEG, PNG or WebP image to RGB ``uint8 [height, width, 3]``.

    Size and pixel limits are checked on the header first. EXIF orientation is applied; alpha is dropped.

    Raises:
        FrameError: with the status that says which rule the image broke.
    """
    header = _check_file(data, limits)
    return _decode(data, header, 1)


def read_frame(data: bytes, height: int, width: int, limits: FrameLimits = DEFAULT_LIMITS) -> NDArray[np.uint8]:
    """Decodes one JPEG, PNG or WebP image and resizes it to RGB ``uint8 [height, width, 3]``.

    What the network sees of a crop, in training, evaluation and serving. As ``resize_frame(decode_frame(data))``,
    but a JPEG of at least twice the size on both sides is decoded at a half, a quarter or an eighth of it: its discrete
    cosine transform gives block means in a fraction of the time.

    Raises:
        FrameError: as :func:`decode_frame`.
    """
    header = _check_file(data, limits)
    reduction = 1
    if header.format == "jpeg" and not header.exif:
        while reduction < 8 and header.height >= 2 * reduction * height and header.width >= 2 * reduction * width:
            reduction *= 2
    return resize_frame(_decode(data, header, reduction), height, width)


def check_size(width: int, height: int, limits: FrameLimits = DEFAULT_LIMITS) -> None:
    """Holds a size in pixels against the limits; raises :class:`FrameError` ``too_large`` or ``too_small``."""
    if max(width, height) > limits.max_side or width * height > limits.max_pixels:
        allowed = f"at most {limits.max_pixels} pixels and {limits.max_side} a side are allowed"
        raise FrameError("too_large", f"{width}x{height} pixels, {allowed}")
    if min(width, height) < limits.min_side:
        raise FrameError("too_small", f"{width}x{height} pixels, at least {limits.min_side} a side are needed")


def crop_box(
    frame: NDArray[np.uint8], x: float, y: float, w: float, h: float, min_side: int = DEFAULT_LIMITS.min_side
) -> NDArray[np.uint8]:
    """Cuts the box with corner ``x, y`` and size ``w, h`` (pixels) out of a ``[height, width, 3]`` frame.

    A box that reaches over an edge is clipped to the frame.

    Raises:
        FrameError: ``too_small`` where less than ``min_side`` pixels a side remain inside the frame.
    """
    height, width = frame.shape[:2]
    left, top = max(0, round(x)), max(0, round(y))
    right, bottom = min(width, round(x + w)), min(height, round(y + h))
    if right - left < min_side or bottom - top < min_side:
        box = f"box {x:g},{y:g} {w:g}x{h:g}"
        raise FrameError("too_small", f"{box} leaves under {min_side} pixels a side of the {width}x{height} frame")
    return frame[top:bottom, left:right]


def resize_frame(frame: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Resizes an RGB ``uint8 [h, w, 3]`` frame to ``[height, width, 3]``; the aspect ratio is not kept, as in the
    papers.

    Area averaging where a side shrinks to half or less, since interpolation without a low-pass filter aliases there;
    bilinear above, where the two differ little and averaging takes six times as long; bicubic where pixels are gained.
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
    """Holds everything that can be known without decoding against the limits."""
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
    """Decodes at a size divided by ``reduction`` (1, 2, 4 or 8, rounded up), which only JPEG files can be."""
    size = (-(-header.height // reduction), -(-header.width // reduction))
    image = None
    if header.format == "jpeg" and not header.exif:
        image = _decode_jpeg(data, size)
    if image is None:
        image = _decode_any(data, reduction)
    if image is None:
        raise FrameError("undecodable", f"the {header.format.upper()} data cannot be decoded")
    if sorted(image.shape[:2]) != sorted(size):  # EXIF may turn it by 90 degrees
        raise FrameError("undecodable", "the image has another size than its header says")
    return image


def _decode_jpeg(data: bytes, size: tuple[int, int]) -> NDArray[np.uint8] | None:
    """The same pixels as OpenCV's decoder in two thirds of the time; None for what it does not take, CMYK say."""
    try:
        # Not strict: many cameras' files make the decoder warn, and it goes on.
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
    """Yields (marker, offset of the byte after it) up to and including the start of scan.

    Stricter than decoders, which skip what they do not know: where the two disagreed on what a segment is, a file could
    show us one size and the decoder another.
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
        # 00 and 01 to BF are reserved or have no length, nor have D0 to D9 (restart, start and end of image).
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
    """Whether the file has its end. The decoders fill what is missing with grey and report success."""
    if header.format == "jpeg":
        return data.rfind(b"\xff\xd9") > header.scan
    if header.format == "png":
        return data.rfind(b"IEND") > 0
    return len(data) >= 8 + int(struct.unpack_from("<I", data, 4)[0])
