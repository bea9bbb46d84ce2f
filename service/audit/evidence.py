"""What a search was asked with, as the audit log records it: digests, never pictures or vectors."""

import asyncio
import hashlib

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from service.embedding.tracklet import Footage

_MAX_INLINE = 64 * 1024
"""Bytes of frames that are digested in the event loop, because starting a thread takes longer."""


async def describe_footage(footage: Footage) -> dict[str, JsonValue]:
    """Return the number of frames (absent for a video) and `sha256`.

    For one frame or a video that is what `sha256sum` prints for the file. For several frames it is the SHA-256 of their
    digests, one after the other.
    """
    if footage.video is None and sum(map(len, footage.frames)) <= _MAX_INLINE:
        return _describe(footage)
    return await asyncio.to_thread(_describe, footage)


def describe_vector(vector: NDArray[np.float32]) -> dict[str, JsonValue]:
    """Return `sha256` of a vector `[D]`: of its float32 numbers, little endian."""
    return {"sha256": hashlib.sha256(vector.astype("<f4").tobytes()).hexdigest()}


def _describe(footage: Footage) -> dict[str, JsonValue]:
    if footage.video is not None:
        with footage.video.open("rb") as file:
            return {"sha256": hashlib.file_digest(file, "sha256").hexdigest()}
    digests = [hashlib.sha256(frame) for frame in footage.frames]
    all_of_them = digests[0] if len(digests) == 1 else hashlib.sha256(b"".join(each.digest() for each in digests))
    return {"frames": len(digests), "sha256": all_of_them.hexdigest()}
