"""Drawn pictures and videos of every accepted format, and damaged copies of them."""

import random
import re
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

Random = random.Random

NUMBERS: Final = (0, 1, 7, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
"""Values at which sizes, counts and offsets overflow."""
PNG_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
RANDOM_NUMBERS: Final = re.compile(rb"(?<=\x73\xa4\x90).{16}|(?<=[\x63\x73]\xc5\x88).{8}|(?<=\xbf\x84).{4}", re.DOTALL)
"""Ids that FFmpeg draws for each Matroska file, and the checksums over them."""
VIDEO_SIZE: Final = (96, 128)
VIDEO_FRAMES: Final = 12


def draw_person(shirt: Sequence[int], height: int = 96, width: int = 48) -> NDArray[np.uint8]:
    """Return a picture of a person, RGB `[height, width, 3]`; `shirt` is a colour."""
    image: NDArray[np.uint8] = np.full((height, width, 3), 120, dtype=np.uint8)
    image[height // 5 : height // 2, width // 4 : 3 * width // 4] = shirt
    image[height // 2 :, width // 4 : 3 * width // 4] = [shirt[2], shirt[0], shirt[1]]
    cv2.circle(image, (width // 2, height // 9), height // 12, (200, 170, 150), -1)
    return image


def picture_seeds() -> dict[str, bytes]:
    """Return intact files of each format, and of three that are refused, by name."""
    image = draw_person((200, 40, 60))
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    alpha = np.dstack([image, np.full(grey.shape, 90, dtype=np.uint8)])
    jpeg, png, webp = ".jpg", ".png", ".webp"
    return {
        "jpeg": _encode(jpeg, image, cv2.IMWRITE_JPEG_QUALITY, 80),
        "jpeg progressive": _encode(jpeg, image, cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
        "jpeg restarts": _encode(jpeg, image, cv2.IMWRITE_JPEG_RST_INTERVAL, 2),
        "jpeg grey": _encode(jpeg, grey),
        "png": _encode(png, image),
        "png 16 bit": _encode(png, image.astype(np.uint16) * 257),
        "png alpha": _encode(png, alpha),
        "png 1 bit": _encode(png, grey, cv2.IMWRITE_PNG_BILEVEL, 1),
        "webp": _encode(webp, image, cv2.IMWRITE_WEBP_QUALITY, 80),
        "webp lossless": _encode(webp, image, cv2.IMWRITE_WEBP_QUALITY, 101),
        "webp alpha": _encode(webp, alpha),
        "bmp": _encode(".bmp", image),
        "tiff": _encode(".tiff", image),
        "gif": b"GIF89a" + bytes.fromhex("0100010080000000 0000ffffff2c00000000010001000002024401003b"),
    }


def video_seeds(folder: Path) -> dict[str, bytes]:
    """Return intact videos of each container and codec that OpenCV can write here, by name."""
    found = {}
    for suffix, codec in ((".avi", "MJPG"), (".avi", "XVID"), (".avi", "FFV1"), (".mp4", "mp4v"), (".mkv", "mp4v"),
                          (".webm", "VP80"), (".webm", "VP90"), (".mov", "mp4v")):  # fmt: skip
        path = folder / f"{codec}{suffix}"
        height, width = VIDEO_SIZE
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), 10.0, (width, height))
        if writer.isOpened():
            for step in range(VIDEO_FRAMES):
                frame: NDArray[np.uint8] = np.full((height, width, 3), 90, dtype=np.uint8)
                frame[:, 10 + step : 58 + step] = draw_person((40, 60, 200))
                writer.write(frame)
            writer.release()
            if written := path.read_bytes():
                found[path.name] = RANDOM_NUMBERS.sub(lambda match: bytes(len(match[0])), written)
        writer.release()
    return found


def damage(source: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Return a copy of a file with one to four changes; the checksums of a PNG are usually repaired."""
    for _ in range(source.choice((1, 1, 2, 4))):
        data = source.choice(CHANGES)(source, data, source.choice(others))
        if not data:
            return data
    return _repair_png(data) if data.startswith(PNG_SIGNATURE) and source.random() < 0.8 else data


def _flip(source: Random, data: bytes, _other: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(source.choice((1, 4, 32))):
        changed[_place(source, data)] ^= 1 << source.randrange(8)
    return bytes(changed)


def _write_number(source: Random, data: bytes, _: bytes) -> bytes:
    at, size = _place(source, data), source.choice("BHIQ")
    number = source.choice(NUMBERS) & (2 ** (8 * struct.calcsize(size)) - 1)
    packed = struct.pack(source.choice("<>") + size, number)
    return data[:at] + packed + data[at + len(packed) :]


def _cut_end(source: Random, data: bytes, _: bytes) -> bytes:
    return data[: _place(source, data)]


def _remove(source: Random, data: bytes, _: bytes) -> bytes:
    at = _place(source, data)
    return data[:at] + data[at + source.choice((1, 2, 64, 512)) :]


def _repeat(source: Random, data: bytes, _: bytes) -> bytes:
    at, size = _place(source, data), source.choice((1, 8, 64, 512))
    return data[:at] + data[at : at + size] * source.choice((2, 3, 40)) + data[at + size :]


def _insert(source: Random, data: bytes, _: bytes) -> bytes:
    at = _place(source, data)
    return data[:at] + source.randbytes(source.choice((1, 16, 300))) + data[at:]


def _splice(source: Random, data: bytes, other: bytes) -> bytes:
    at = _place(source, data)
    return data[:at] + other[_place(source, other) :]


def _append(_: Random, data: bytes, other: bytes) -> bytes:
    return data + other


CHANGES: Final[tuple[Callable[[Random, bytes, bytes], bytes], ...]] = (
    _flip, _flip, _write_number, _write_number, _write_number, _cut_end, _remove, _repeat, _insert, _splice, _append
)  # fmt: skip


def _place(source: Random, data: bytes) -> int:
    """Return an offset; half of them are in the first 128 bytes, where sizes are declared."""
    return source.randrange(min(len(data), 128) if source.random() < 0.5 else len(data))


def _repair_png(data: bytes) -> bytes:
    """Return a PNG with the checksum of each chunk that it has in full."""
    fixed, at = bytearray(data[:8]), 8
    while at + 12 <= len(data):
        (size,) = struct.unpack_from(">I", data, at)
        if at + 12 + size > len(data):
            break
        chunk = data[at + 4 : at + 8 + size]
        fixed += data[at : at + 8 + size] + struct.pack(">I", zlib.crc32(chunk))
        at += 12 + size
    return bytes(fixed) + data[at:]


def _encode(suffix: str, image: NDArray[Any], *options: int) -> bytes:
    if image.ndim == 3:
        image = image[..., [2, 1, 0, 3][: image.shape[2]]]
    written, data = cv2.imencode(suffix, image, list(options))
    if not written:
        raise RuntimeError(f"OpenCV wrote no {suffix}")
    return bytes(data)
