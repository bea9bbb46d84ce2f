"""Damaged image files: does the decoder stay within its memory and its time, and silent?

    python -m benchmarks.image_fuzz --files 20000 --seed 1

Each file is decoded in two processes, whose unwritten memory has two different contents. A file fails if it raises
anything but a `FrameError`, takes too long, or gives different pixels in the two processes. A process fails if it
writes to standard error or needs more memory than its limit.
"""

import argparse
import hashlib
import io
import json
import os
import random
import resource
import struct
import subprocess
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from model.frames import FrameError, FrameLimits, decode_frame

LIMITS = FrameLimits(max_pixels=1_000_000)
MEMORY_MIB = 64
"""Address space of a process, in addition to what it uses after its imports; 1 megapixel needs 11 MB."""
MAX_SECONDS = 1.0
_CONTENTS = (17, 238)
"""Values of the two processes' unwritten memory (`MALLOC_PERTURB_`)."""
_NUMBERS = (0, 1, 2, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x10000, 0xFFFFFF, 0x7FFFFFFF, 0x80000000, 0xECFFFFFF, 0xFFFFFFFF)


def main() -> None:
    """Decode the files and print what happened, as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--memory-mib", type=int, default=MEMORY_MIB)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        json.dump(_decode_all(arguments.files, arguments.seed, arguments.memory_mib), sys.stdout)
        return
    report = run(arguments.files, arguments.seed, arguments.memory_mib)
    print(json.dumps(report, indent=1))
    sys.exit(1 if report["failures"] else 0)


def run(files: int, seed: int, memory_mib: int = MEMORY_MIB) -> dict[str, Any]:
    """Return the numbers of a run; `failures` says what must not happen."""
    command = [sys.executable, "-m", "benchmarks.image_fuzz", "--child", "--files", str(files), "--seed", str(seed)]
    command += ["--memory-mib", str(memory_mib)]
    runs, failures = [], []
    for content in _CONTENTS:
        environment = os.environ | {"MALLOC_PERTURB_": str(content), "OPENBLAS_NUM_THREADS": "1"}
        process = subprocess.run(command, capture_output=True, env=environment, check=False)
        if process.stderr:
            failures.append(f"standard error: {process.stderr[-2000:].decode(errors='replace')}")
        if process.returncode:
            return {"failures": [*failures, f"the process ended with {process.returncode}"]}
        runs.append(json.loads(process.stdout))
    first, second = runs
    for one, other in zip(first["outcomes"], second["outcomes"], strict=True):
        if one != other:
            failures.append(f"unwritten memory: {one} is {other} in another process")
    kinds: Counter[str] = Counter(outcome.split(" ")[2] for outcome in first["outcomes"])
    return {
        "files": files,
        "seed": seed,
        "outcomes": dict(kinds),
        "longest_ms": round(1000 * max(first["longest"], second["longest"]), 1),
        "peak_growth_mib": round(max(first["growth"], second["growth"]), 1),
        "memory_limit_mib": memory_mib,
        "failures": [*failures, *first["failures"], *second["failures"]][:20],
    }


def _decode_all(files: int, seed: int, memory_mib: int) -> dict[str, Any]:
    sources = make_sources()
    for data in sources.values():
        decode_frame(data, LIMITS)  # loads what is loaded at the first use
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    allowed = used + memory_mib * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (allowed, allowed))
    before = _peak_mib()
    outcomes, failures, longest = [], [], 0.0
    for number, (name, data) in enumerate(make_files(sources, files, seed)):
        begin = time.perf_counter()
        try:
            frame = decode_frame(data, LIMITS)
            outcome = f"decoded {frame.shape} {hashlib.sha256(frame.tobytes()).hexdigest()}"
        except FrameError as error:
            outcome = f"{error.status} {error.reason}"
        except Exception as error:  # noqa: BLE001 - what must not happen
            outcome = f"failed {type(error).__name__}: {error}"
            failures.append(f"file {number} ({name}): {outcome}")
        seconds = time.perf_counter() - begin
        longest = max(longest, seconds)
        if seconds > MAX_SECONDS:
            failures.append(f"file {number} ({name}): {seconds:.1f} seconds")
        outcomes.append(f"{number} {name} {outcome}")
    growth = _peak_mib() - before
    return {"outcomes": outcomes, "failures": failures, "longest": longest, "growth": growth}


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def make_sources() -> dict[str, bytes]:
    """Return valid files of all kinds that are read, of the same drawn person."""
    rows, columns = np.mgrid[0:96, 0:48]
    colours = np.stack([columns * 4, rows * 2, rows + columns], axis=-1).astype(np.uint8)
    colours[8:30, 12:36] = (230, 40, 60)
    picture = Image.fromarray(colours)
    alpha = Image.fromarray(np.clip(rows * 4, 0, 255).astype(np.uint8))
    transparent = picture.copy()
    transparent.putalpha(alpha)
    exif = Image.Exif()
    exif[0x0112] = 6
    grey = picture.convert("L")
    return {
        "jpeg": _save(picture, "JPEG", quality=90),
        "jpeg-exif": _save(picture, "JPEG", exif=exif, comment=b"a comment"),
        "jpeg-progressive": _save(picture, "JPEG", progressive=True, quality=70),
        "jpeg-restarts": _save(picture, "JPEG", restart_marker_rows=1),
        "jpeg-grey": _save(grey, "JPEG"),
        "jpeg-cmyk": _save(picture.convert("CMYK"), "JPEG"),
        "png": _save(picture, "PNG"),
        "png-metadata": _save(picture, "PNG", exif=exif, dpi=(72, 72), icc_profile=bytes(200)),
        "png-alpha": _save(transparent, "PNG"),
        "png-grey-alpha": _save(transparent.convert("LA"), "PNG"),
        "png-palette": _save(picture.quantize(40), "PNG", transparency=3),
        "png-bits": _save(picture.convert("1"), "PNG"),
        "png-grey-key": _save(grey, "PNG", transparency=7),
        "png-16": _save(Image.fromarray(colours[..., 0].astype(np.uint16) * 257), "PNG"),
        "png-interlaced": make_png(colours, interlaced=True),
        "png-two-chunks": make_png(colours, pieces=7),
        "webp": _save(picture, "WEBP", quality=80),
        "webp-alpha": _save(transparent, "WEBP", quality=80, exif=exif),
        "webp-lossless": _save(picture, "WEBP", lossless=True),
        "webp-lossless-alpha": _save(transparent, "WEBP", lossless=True),
        "bmp": _save(picture, "BMP"),
        "bmp-palette": _save(picture.quantize(40), "BMP"),
        "bmp-alpha": _save(transparent, "BMP"),
    }


def make_files(sources: dict[str, bytes], files: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Yield damaged files with the names of their sources; the same ones for the same seed."""
    draw = random.Random(seed)
    names = list(sources)
    for _ in range(files):
        name = draw.choice(names)
        data = bytearray(sources[name])
        for _ in range(draw.choice((1, 1, 1, 2, 3, 8))):
            draw.choice(_DAMAGES)(data, draw, sources)
        if draw.random() < 0.6:
            data = _repair(bytes(data))
        yield name, bytes(data)


def make_png(colours: np.ndarray[Any, Any], *, interlaced: bool = False, pieces: int = 1) -> bytes:
    """Return an RGB PNG file with its compressed data in several chunks, perhaps interlaced."""
    height, width = colours.shape[:2]
    steps = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    raw = b""
    for left, top, across, down in steps if interlaced else [(0, 0, 1, 1)]:
        raw += b"".join(b"\0" + row.tobytes() for row in colours[top::down, left::across])
    data = zlib.compress(raw)
    size = -(-len(data) // pieces)
    body = b"".join(png_chunk(b"IDAT", data[at : at + size]) for at in range(0, len(data), size))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, interlaced)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + body + png_chunk(b"IEND", b"")


def png_chunk(kind: bytes, body: bytes) -> bytes:
    """Return a chunk of a PNG file with its length and checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _save(image: Image.Image, name: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, name, **options)
    return file.getvalue()


_Damage = Callable[[bytearray, random.Random, dict[str, bytes]], None]


def _at(data: bytearray, draw: random.Random) -> int:
    """Return an offset; half of them are in the first 64 bytes, where the headers are."""
    return draw.randrange(min(64, len(data)) if draw.random() < 0.5 else len(data))


def _flip(data: bytearray, draw: random.Random, _: dict[str, bytes]) -> None:
    if data:
        data[_at(data, draw)] ^= 1 << draw.randrange(8)


def _set(data: bytearray, draw: random.Random, _: dict[str, bytes]) -> None:
    if data:
        data[_at(data, draw)] = draw.choice((0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)))


def _number(data: bytearray, draw: random.Random, _: dict[str, bytes]) -> None:
    size = draw.choice((2, 4))
    if len(data) > size:
        at = _at(data, draw)
        value = draw.choice(_NUMBERS) & ((1 << 8 * size) - 1)
        data[at : at + size] = value.to_bytes(size, draw.choice(("big", "little")))


def _cut(data: bytearray, draw: random.Random, _: dict[str, bytes]) -> None:
    del data[draw.randrange(len(data) + 1) :]


def _remove(data: bytearray, draw: random.Random, _: dict[str, bytes]) -> None:
    if data:
        at = _at(data, draw)
        del data[at : at + draw.choice((1, 4, 16, 200))]


def _repeat(data: bytearray, draw: random.Random, _: dict[str, bytes]) -> None:
    if data:
        at = _at(data, draw)
        piece = data[at : at + draw.choice((1, 12, 64, 500))]
        data[at:at] = piece * draw.choice((1, 2, 40))


def _splice(data: bytearray, draw: random.Random, sources: dict[str, bytes]) -> None:
    other = sources[draw.choice(list(sources))]
    at = draw.randrange(len(other))
    data[draw.randrange(len(data) + 1) :] = other[at:]


@dataclass(frozen=True)
class _Insert:
    """Inserts bytes that mean something."""

    pieces: tuple[bytes, ...]

    def __call__(self, data: bytearray, draw: random.Random, _: dict[str, bytes]) -> None:
        at = draw.randrange(len(data) + 1) if draw.random() < 0.5 else 33
        data[at:at] = draw.choice(self.pieces)


_DAMAGES: tuple[_Damage, ...] = (
    *(_flip, _flip, _set, _number, _number, _cut, _remove, _repeat, _splice),
    _Insert(
        (
            b"\xff\xd9",
            b"\xff\xd8\xff",
            b"\xff\xda\x00\x0c\x03\x01\x00\x02\x11\x03\x11\x00\x3f\x00",
            b"\xff\xc0\x00\x11\x08\x40\x00\x40\x00\x03\x01\x22\x00\x02\x11\x01\x03\x11\x01",
            b"\xec\xff\xff\xffiCCP",
            png_chunk(b"tRNS", bytes(6)),
            png_chunk(b"PLTE", bytes(48)),
            png_chunk(b"acTL", struct.pack(">II", 3, 0)),
            png_chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(100_000))),
            b"ALPH\x10\0\0\0" + bytes(16),
            b"ANMF\xff\xff\xff\xff",
        )
    ),
)


def _repair(data: bytes) -> bytearray:
    """Correct the checksums of a PNG file and the length of a WebP file, so that the damage passes the first checks."""
    made = bytearray(data)
    if data[:4] == b"RIFF" and len(data) >= 8:
        struct.pack_into("<I", made, 4, max(0, len(data) - 8))
    elif data[:8] == b"\x89PNG\r\n\x1a\n":
        at = 8
        while at + 12 <= len(made):
            (length,) = struct.unpack_from(">I", made, at)
            if at + 12 + length > len(made):
                break
            struct.pack_into(">I", made, at + 8 + length, zlib.crc32(made[at + 4 : at + 8 + length]))
            at += 12 + length
    elif data[:2] == b"\xff\xd8":
        made += b"\xff\xd9"
    return made


if __name__ == "__main__":
    main()
