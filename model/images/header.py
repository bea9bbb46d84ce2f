"""What the first bytes of an image file say, and the names of the formats that are refused."""

from dataclasses import dataclass, field
from typing import Literal

from model.images.errors import FrameError

ImageFormat = Literal["jpeg", "png", "webp", "bmp"]
FORMATS = "JPEG, PNG, WebP or BMP"
"""The accepted formats, for messages."""

_OTHER_FORMATS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"GIF8", "GIF"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (0, b"II+\0", "BigTIFF"),
    (0, b"MM\0+", "BigTIFF"),
    (0, b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (0, b"\0\0\0\x0cJXL ", "JPEG XL"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\x8aMNG", "MNG"),
    (0, b"#?RADIANCE", "Radiance HDR"),
    (0, b"#?RGBE", "Radiance HDR"),
    (0, b"\x76\x2f\x31\x01", "OpenEXR"),
    (0, b"\x59\xa6\x6a\x95", "Sun raster"),
    (0, b"8BPS", "Photoshop"),
    (0, b"qoif", "QOI"),
    (0, b"DDS ", "DDS"),
    (0, b"\0\0\1\0", "icon"),
    (0, b"%PDF", "PDF"),
    (0, b"<svg", "SVG"),
    *(
        (0, b"P" + kind + space, "PNM")
        for kind in (b"1", b"2", b"3", b"4", b"5", b"6", b"7")
        for space in (b"\n", b" ")
    ),
    (0, b"PF\n", "PFM"),
    (0, b"Pf\n", "PFM"),
)
"""Offset and bytes that identify a format, and its name."""
_HEIC_BRANDS = frozenset(b"mif1 msf1 heic heix heim heis hevc hevx hevm hevs".split())
_MAX_BRANDS = 256
"""Bytes in which the brands of a file are looked for."""


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """The header of an image file: its format and its size in pixels, as stored.

    Attributes:
        format: decides which module of `model.images` reads it.
        width: before an orientation is applied.
        height: before an orientation is applied.
        pixel_bytes: bytes of memory that decoding needs for each pixel, at most.
        exif: whether a JPEG has an APP1 segment: EXIF, such as an orientation, or XMP.
    """

    format: ImageFormat
    width: int
    height: int
    pixel_bytes: int = field(default=0, compare=False)
    exif: bool = field(default=False, compare=False)

    @property
    def decoding_bytes(self) -> int:
        """Bytes of memory that decoding needs, at most."""
        return self.width * self.height * self.pixel_bytes


def other_format(data: bytes) -> FrameError:
    """Return the error of a file that is neither JPEG, PNG, WebP nor BMP; it names the format if it is known."""
    if not data:
        return FrameError("not_an_image", "the file is empty")
    names = [name for offset, mark, name in _OTHER_FORMATS if data[offset : offset + len(mark)] == mark]
    if name := _name_by_brands(data) or (names[0] if names else ""):
        return FrameError("unsupported", f"{name} files are not read: send {FORMATS}")
    return FrameError("not_an_image", f"the content is not {FORMATS}")


def _name_by_brands(data: bytes) -> str:
    """Return the name of an image in a container like that of MP4, whose brands say what is in it; "" if it is none."""
    if data[4:8] != b"ftyp":
        return ""
    end = min(int.from_bytes(data[:4], "big"), _MAX_BRANDS)
    brands = {data[at : at + 4] for at in (8, *range(16, end, 4))}
    if brands & {b"avif", b"avis"}:
        return "AVIF"
    return "HEIC" if brands & _HEIC_BRANDS else ""
