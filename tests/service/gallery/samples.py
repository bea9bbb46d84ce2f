"""Records and galleries for these tests."""

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.gallery import JSON, Filter, Gallery, Record
from service.gallery.embedded.gallery import EmbeddedGallery
from service.gallery.embedded.index.rebuild import EXACT_BYTES

SPACE = "0123456789abcdef"
DIMENSION = 8
JPEG = b"\xff\xd8\xff\xe0 what a picture would be \xff\xd9"
NOON = datetime(2024, 5, 1, 12, 0, tzinfo=UTC)


def at(minutes: float) -> datetime:
    return NOON + timedelta(minutes=minutes)


def vector(seed: str, dimension: int = DIMENSION) -> NDArray[np.float32]:
    """Return the unit vector of a text."""
    digest = hashlib.sha256(seed.encode()).digest()
    values = np.random.default_rng(list(digest)).standard_normal(dimension)
    return (values / np.linalg.norm(values)).astype(np.float32)


def record(
    id: str,
    *,
    embedding: NDArray[np.float32] | None = None,
    camera_id: str | None = "c1",
    start_time: datetime | None = None,
    end_time: datetime | None = None,
    metadata: dict[str, JSON] | None = None,
    expires_at: datetime | None = None,
    created_at: datetime = NOON,
    thumbnail: bytes | None = None,
) -> Record:
    return Record(
        id=id,
        embedding=vector(id) if embedding is None else embedding,
        camera_id=camera_id,
        start_time=start_time,
        end_time=end_time,
        metadata={} if metadata is None else metadata,
        frames=9,
        clips=3,
        created_at=created_at,
        expires_at=expires_at,
        thumbnails=() if thumbnail is None else (thumbnail,),
    )


def open_gallery(
    directory: Path,
    *,
    dimension: int = DIMENSION,
    embedding_space: str = SPACE,
    exact_bytes: int = EXACT_BYTES,
    camera_centring: bool = False,
) -> EmbeddedGallery:
    return EmbeddedGallery.open(
        directory,
        embedding_space=embedding_space,
        dimension=dimension,
        model_name="sample",
        exact_bytes=exact_bytes,
        camera_centring=camera_centring,
    )


def enrol(gallery: Gallery, records: Iterable[Record]) -> None:
    """Add records from several threads, so that they share the waits for the disk."""
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(gallery.add, records))


def assert_same(found: Record | None, expected: Record) -> None:
    assert found is not None
    np.testing.assert_array_equal(found.embedding, expected.embedding)
    assert found.embedding.dtype == np.float32
    kept = ("id", "camera_id", "start_time", "end_time", "metadata", "frames", "clips", "created_at", "expires_at")
    for name in kept:
        assert getattr(found, name) == getattr(expected, name), name
    assert found.thumbnail_count == len(expected.thumbnails)
    assert found.thumbnails == ()


def found(gallery: Gallery, wanted: Filter = Filter()) -> set[str]:  # noqa: B008
    """Return the ids that a search with this filter finds, which must be all that it searched."""
    result = gallery.search(vector("query"), 100, wanted)
    assert result.searched == len(result.hits)
    return {hit.record.id for hit in result.hits}
