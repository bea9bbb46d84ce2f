"""What the writer and the checker know together: which records there are, and what each of them holds."""

import hashlib
import zlib
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.gallery import JSON, Record
from service.gallery.embedded.gallery import EmbeddedGallery

THREADS = 5
IDS_OF_A_THREAD = 24
GROUPS = 6
DIMENSION = 32
SPACE = "0123456789abcdef"
ABSENT = "absent"
PASSING = "passing"
"""The camera of records that come and go all the time, about which nobody is asked."""
_NOON = datetime(2024, 5, 1, 12, 0, tzinfo=UTC)
_ROWS_OF_EXACT_INDEX = 40


def vector(state: str) -> NDArray[np.float32]:
    """The unit vector `[DIMENSION]` that belongs to a state."""
    seed = list(hashlib.sha256(state.encode()).digest())
    values = np.random.default_rng(seed).standard_normal(DIMENSION)
    return (values / np.linalg.norm(values)).astype(np.float32)


def thumbnail(state: str) -> bytes | None:
    """The picture that belongs to a state; every third has none."""
    return None if zlib.crc32(state.encode()) % 3 == 0 else b"\xff\xd8\xff" + state.encode() * 20


def make_record(name: str, state: str) -> Record:
    """The record of an id `t<thread>-<number>`: all that it holds follows from its state."""
    thread, number = name[1:].split("-")
    metadata: dict[str, JSON] = {"state": state, "group": int(number) % GROUPS}
    return Record(
        id=name,
        embedding=vector(state),
        camera_id=f"camera-{thread}",
        start_time=_NOON,
        end_time=None,
        metadata=metadata,
        frames=len(state),
        clips=1,
        created_at=_NOON,
        thumbnail=thumbnail(state),
    )


def make_passing(number: int) -> Record:
    """A record that nobody is asked about."""
    return Record(
        id=f"passing-{number}",
        embedding=vector(PASSING),
        camera_id=PASSING,
        start_time=None,
        end_time=None,
        metadata={},
        frames=1,
        clips=1,
        created_at=_NOON,
    )


def open_gallery(directory: Path, *, approximate: bool) -> EmbeddedGallery:
    """Open the gallery; an approximate index is used from some dozens of records on."""
    return EmbeddedGallery.open(
        directory,
        embedding_space=SPACE,
        dimension=DIMENSION,
        model_name="durability",
        exact_bytes=4 * DIMENSION * (_ROWS_OF_EXACT_INDEX if approximate else 10**6),
    )
