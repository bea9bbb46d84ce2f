"""Damaged files of all formats: memory, time, standard error, and what was in the memory before."""

import struct
import zlib

import numpy as np
import pytest

from benchmarks.image_fuzz import make_sources, png_chunk, run
from model.frames import FrameError, decode_frame
from tests.model.images.samples import PERSON, save

FILES = 700


def test_damaged_files_stay_within_memory_and_time_and_write_nothing() -> None:
    report = run(FILES, seed=20)
    assert not report["failures"]
    assert report["outcomes"]["undecodable"] > FILES / 4
    assert report["outcomes"]["decoded"] > FILES / 20


@pytest.mark.parametrize("name", list(make_sources()))
def test_no_pixel_of_another_person_is_shown(name: str) -> None:
    """A truncated file is refused, although the memory of the decoder holds a picture of the same size."""
    data = make_sources()[name]
    other = save(np.full_like(PERSON, (255, 0, 255)), "PNG")
    own = decode_frame(data)
    first = data.index(b"IDAT") + 8 if name.startswith("png") else len(data) // 3
    for length in range(first, len(data), max(1, len(data) // 60)):
        shorter = data[:length]
        if name.startswith("png"):
            at = shorter.index(b"IDAT") - 4
            body = shorter[at + 8 :]
            pixels = zlib.decompressobj().decompress(body)
            stream = zlib.compress(pixels) if pixels else b""
            shorter = shorter[:at] + png_chunk(b"IDAT", stream) + png_chunk(b"IEND", b"")
        elif name.startswith("webp"):
            shorter = shorter[:4] + struct.pack("<I", length - 8) + shorter[8:]
        elif name.startswith("jpeg"):
            shorter += b"\xff\xd9"
        for _ in range(3):
            decode_frame(other)
        try:
            frame = decode_frame(shorter)
        except FrameError:
            continue
        # Only what follows the pixels was cut off: nothing, or the orientation.
        assert np.array_equal(frame, own) or np.array_equal(np.rot90(frame, -1), own)
