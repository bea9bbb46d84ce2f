"""Drawn people: head, shirt and trousers in the colours of the person, and camera noise."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray


def draw(person: int, seed: int = 0, height: int = 128, width: int = 64) -> NDArray[np.uint8]:
    """Return one frame of a person, RGB `[height, width, 3]`."""
    shirt, trousers = np.random.default_rng(person).integers(0, 256, (2, 3))
    frame = np.full((height, width, 3), 128, np.float64)
    frame[: height // 5] = (200, 160, 130)
    frame[height // 5 : height * 3 // 5] = shirt
    frame[height * 3 // 5 :] = trousers
    noise = np.random.default_rng(seed).normal(0, 6, frame.shape)
    return np.clip(frame + noise, 0, 255).astype(np.uint8)


def encode(frame: NDArray[np.uint8], extension: str = ".jpg") -> bytes:
    """Encode an RGB frame."""
    done, data = cv2.imencode(extension, frame[:, :, ::-1])
    assert done
    return data.tobytes()


def tracklet(person: int, frames: int = 6, seed: int = 0, extension: str = ".jpg") -> list[bytes]:
    """Return encoded frames of a person."""
    return [encode(draw(person, 1000 * seed + frame), extension) for frame in range(frames)]


def form(frames: list[bytes]) -> list[tuple[str, tuple[str, bytes, str]]]:
    """Return frames as `files` for httpx."""
    return [("frames", (f"{index}.jpg", data, "image/jpeg")) for index, data in enumerate(frames)]


def write_video(path: Path, frames: list[NDArray[np.uint8]], codec: str = "mp4v") -> bytes:
    """Write RGB frames as a video and return its bytes."""
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), 10, (width, height))
    assert writer.isOpened()
    for frame in frames:
        writer.write(frame[:, :, ::-1])
    writer.release()
    return path.read_bytes()
