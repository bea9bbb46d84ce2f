"""Walk and decode JPEG files."""

import re
import struct
from collections.abc import Iterator

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from model.images.errors import FrameError
from model.images.exif import read_directory, read_orientation
from model.images.header import ImageHeader

_MAX_SEGMENTS, _MAX_FILL, _MAX_SCANS = 1024, 64, 32
"""Limits for a JPEG: segments, fill bytes before a segment, and scans. A progressive JPEG has 10 scans, in CMYK 18.
For each scan the decoder processes all pixels, even if the scan has few bytes."""

_SOS, _EOI, _APP0, _APP1, _APP2 = 0xDA, 0xD9, 0xE0, 0xE1, 0xE2
_NOT_FRAMES = frozenset({0xC4, 0xC8, 0xCC})
"""Huffman tables, an extension and arithmetic conditioning; the other markers from C0 to CF start a frame."""
_CODINGS = frozenset({0xC0, 0xC1, 0xC2, 0xC9, 0xCA})
"""Baseline, extended and progressive with Huffman or arithmetic coding."""
_PROGRESSIVE = frozenset({0xC2, 0xCA})

_MARKER = re.compile(rb"\xff(?=[^\x00\xd0-\xd7\xff])")
"""In the data of a scan, FF 00 is the byte FF, and D0 to D7 are restart markers."""
_HARMLESS = re.compile("extraneous bytes before marker 0xd9")
"""The decoder's warning if unused bytes follow a scan, as in the files of many cameras; all pixels are there."""
_SUBSAMPLING = "subsampling"
"""In the decoder's error for sampling factors that no usual JPEG has, such as 3 x 1."""

_MPF = b"MPF\0"
_MP_ENTRIES = 0xB002
_MAX_PICTURES = 64
_AUXILIARY_MARKS = (b"hdrgm", b"21496", b":aux:")
"""In the headers of gain maps, depth maps and mattes of phones: parts of one photo and no further picture."""
_CONTAINER = b"http://ns.google.com/photos/1.0/container/"
"""In the header of a photo whose further parts (maps, a short video) follow it."""
_HEADER_BYTES = 65_536


def read_header(data: bytes) -> ImageHeader:
    """Read the size without decoding.

    Raises:
        FrameError: `undecodable` for a truncated or damaged header, `unsupported` for a coding that is not read.
    """
    size, exif, components, progressive = None, False, 0, False
    for marker, at in _segments(data):
        if _is_frame(marker) and size is None:
            precision, height, width, components = struct.unpack_from(">BHHB", data, at + 2)
            if marker not in _CODINGS:
                coding = "a lossless JPEG" if marker == 0xC3 else f"a JPEG of an unusual coding (marker FF{marker:02X})"
                raise FrameError("unsupported", f"{coding} is not read: send a baseline or progressive JPEG")
            if precision != 8:
                raise FrameError("unsupported", f"a JPEG of {precision} bits is not read: send a JPEG of 8 bits")
            if height == 0:
                raise FrameError("unsupported", "a JPEG whose height follows its pixels (marker DNL) is not read")
            size, progressive = (width, height), marker in _PROGRESSIVE
        exif = exif or marker == _APP1
        if marker == _SOS and size is not None:
            # A progressive JPEG is held as coefficients of 16 bits. The decoder converts four components, and an
            # orientation needs a second picture.
            pixel_bytes = 3 + 3 * exif + 2 * components * progressive + 4 * (components > 3)
            return ImageHeader("jpeg", *size, pixel_bytes=pixel_bytes, exif=exif)
    raise FrameError("undecodable", "the JPEG file is truncated before its image")


def decode(data: bytes, header: ImageHeader, reduction: int = 1) -> tuple[NDArray[np.uint8], int]:
    """Decode to RGB `uint8 [height, width, 3]` as stored, and return it with its EXIF orientation.

    Args:
        data: the file.
        header: the result of `read_header`.
        reduction: 1, 2, 4 or 8: the divisor of the size, which is rounded up.

    Raises:
        FrameError: `undecodable` if the file is truncated or damaged, `unsupported` if it holds several pictures.
    """
    scans, orientation, progress = 0, None, _Progress()
    index: int | None = None
    for marker, at in _segments(data, to_end=True):
        body = data[at + 2 : at + int.from_bytes(data[at : at + 2], "big")] if marker != _EOI else b""
        scans += marker == _SOS
        if scans > _MAX_SCANS:
            raise FrameError("undecodable", f"the JPEG file has more than {_MAX_SCANS} scans")
        if marker == _SOS or _is_frame(marker):
            progress.add(marker, body)
        if marker == _APP1 and orientation is None and body[:6] == b"Exif\0\0":
            orientation = read_orientation(body[6:])
        elif marker == _APP2 and body[:4] == _MPF:
            index = at + 2 + len(_MPF)
        elif marker == _APP0 and body[:5] == b"JFIF\0" and len(body) > 6 and body[5] not in {1, 2}:
            data = data[: at + 7] + b"\1" + data[at + 8 :]  # the decoder refuses other versions of JFIF, viewers do not
        elif marker == _EOI:
            progress.check_complete()
            _check_single(data, at, index)
    size = (-(-header.height // reduction), -(-header.width // reduction))
    return _decode(data, size), orientation or 1


def _is_frame(marker: int) -> bool:
    return 0xC0 <= marker <= 0xCF and marker not in _NOT_FRAMES


class _Progress:
    """Which bits of each component's 64 coefficients the scans have brought.

    A file that was cut between two scans is valid for the decoder, which shows a coarse or colourless picture.
    """

    def __init__(self) -> None:
        self._missing: dict[int, list[int]] = {}

    def add(self, marker: int, body: bytes) -> None:
        """Take the start of a frame or of a scan."""
        if marker == _SOS:
            count = body[0] if body else 0
            parameters = body[1 + 2 * count : 4 + 2 * count]
            if len(parameters) < 3:
                raise FrameError("undecodable", "the JPEG file has a damaged scan")
            first, last, bits = parameters
            places = range(64)[first : last + 1]
            for missing in map(self._missing.get, body[1 : 1 + 2 * count : 2]):
                if missing:
                    missing[places.start : places.stop] = [bits & 15] * len(places)
        else:
            for component in body[6::3]:
                self._missing[component] = [16] * 64

    def check_complete(self) -> None:
        """Raise `FrameError` if scans are missing."""
        if any(any(missing) for missing in self._missing.values()):
            raise FrameError("undecodable", "the JPEG file is truncated: scans are missing")


def _decode(data: bytes, size: tuple[int, int]) -> NDArray[np.uint8]:
    strict = True
    while True:
        try:
            # Strict, because the decoder fills missing pixels with grey and only warns.
            image = simplejpeg.decode_jpeg(data, "RGB", min_height=size[0], min_width=size[1], strict=strict)
        except ValueError as error:
            if strict and _HARMLESS.search(str(error)):
                strict = False
                continue
            if _SUBSAMPLING in str(error):
                raise FrameError("unsupported", "a JPEG of this chroma subsampling is not read: send 4:2:0") from None
            raise FrameError("undecodable", f"the JPEG data is damaged: {error}") from None
        return np.asarray(image, dtype=np.uint8)


def _segments(data: bytes, *, to_end: bool = False) -> Iterator[tuple[int, int]]:
    """Yield (marker, offset of the byte after it) up to and including the first scan, or the end of the image.

    This is stricter than decoders, which skip unknown data. Otherwise a file could declare one size to this function
    and another to the decoder.
    """
    at, fill, scanned = 2, 0, False
    for _ in range(_MAX_SEGMENTS + _MAX_FILL):
        marker = data[at + 1] if at + 1 < len(data) else None
        if marker == _EOI and scanned and data[at] == 0xFF:
            yield marker, at + 2
            return
        if marker is None or at + 4 > len(data):
            break
        if data[at] == 0xFF and marker == 0xFF and fill < _MAX_FILL:
            at, fill = at + 1, fill + 1
            continue
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        # 00 to BF are reserved or have no length; D0 to D9 (restart, start and end of image) have none either.
        if data[at] != 0xFF or marker < 0xC0 or 0xD0 <= marker <= 0xD9 or marker == 0xFF or length < 2:
            raise FrameError("undecodable", "the JPEG file has a damaged segment")
        yield marker, at + 2
        at += 2 + length
        if marker == _SOS:
            if not to_end:
                return
            scanned = True
            found = _MARKER.search(data, at)
            if found is None:
                break
            at = found.start()
    else:
        raise FrameError("undecodable", f"the JPEG file has more than {_MAX_SEGMENTS} segments")
    if to_end:
        raise FrameError("undecodable", "the JPEG file is truncated")


def _check_single(data: bytes, end: int, index: int | None) -> None:
    """Refuse a file of several pictures (MPO, or JPEG files one after the other).

    Previews, and the gain and depth maps of phones, belong to the one picture.

    Args:
        data: the file.
        end: offset after the first picture.
        index: offset of the TIFF header of the multi-picture index, if the file has one.
    """
    if _CONTAINER in data[:_HEADER_BYTES]:
        return
    starts = [_after_padding(data, end)] if index is None else _find_pictures(data, index)
    for start in starts:
        head = data[start : start + _HEADER_BYTES]
        if head.startswith(b"\xff\xd8\xff") and not any(mark in head for mark in _AUXILIARY_MARKS):
            message = "the file holds several JPEG pictures (MPO, MJPEG): send each picture as a frame of its own"
            raise FrameError("unsupported", message)


def _after_padding(data: bytes, at: int) -> int:
    while data[at : at + 1] == b"\0":
        at += 1
    return at


def _find_pictures(data: bytes, index: int) -> list[int]:
    """Return the offsets of the further pictures in a multi-picture index, without previews."""
    tiff = data[index : index + _HEADER_BYTES]
    order = "<" if tiff[:2] == b"II" else ">"
    for tag, _, length, value in read_directory(tiff):
        if tag == _MP_ENTRIES:
            (at,) = struct.unpack(order + "I", value)
            entries = [tiff[at + 16 * n : at + 16 * n + 16] for n in range(1, min(length // 16, _MAX_PICTURES))]
            fields = [struct.unpack(order + "IIIHH", entry) for entry in entries if len(entry) == 16]
            return [index + offset for kind, _, offset, _, _ in fields if kind & 0xFF0000 != 0x010000]
    return []
