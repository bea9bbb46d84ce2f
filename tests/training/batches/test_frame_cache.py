"""Frames come out as decoded, once, and never more of them than the limit."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from model.frames import FrameError, read_frame
from training.batches.frame_cache import FrameCache


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{number}.jpg" for number in range(3)]
    for number, path in enumerate(paths):
        noise = np.random.default_rng(number).integers(0, 255, (64, 32, 3), dtype=np.uint8)
        assert cv2.imwrite(str(path), noise)
    return paths


def test_frames_are_those_decoded_and_read_once(pictures: list[Path]) -> None:
    cache = FrameCache(10**6)
    wanted = [read_frame(path.read_bytes(), 32, 16) for path in pictures]
    first = [cache.read(path, 32, 16) for path in pictures]
    for path in pictures:
        path.unlink()
    again = [cache.read(path, 32, 16) for path in pictures]
    assert all(np.array_equal(a, b) for a, b in zip(wanted, first, strict=True))
    assert all(a is b for a, b in zip(first, again, strict=True))
    assert cache.used == 3 * 32 * 16 * 3
    with pytest.raises(ValueError, match="read-only"):
        again[0][0] = 0


def test_a_full_cache_takes_no_more_and_another_size_empties_it(pictures: list[Path]) -> None:
    each = 32 * 16 * 3
    cache = FrameCache(2 * each + 1)
    frames = [cache.read(path, 32, 16) for path in pictures]
    assert cache.used == 2 * each
    assert cache.read(pictures[0], 32, 16) is frames[0]
    assert cache.read(pictures[2], 32, 16) is not frames[2]
    assert cache.read(pictures[0], 16, 8).shape == (16, 8, 3)
    assert cache.used == 16 * 8 * 3


def test_what_is_no_picture_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "no.jpg").write_bytes(b"no")
    with pytest.raises(FrameError):
        FrameCache(10**6).read(tmp_path / "no.jpg", 8, 8)
