"""Compaction keeps the records of a gallery and removes everything else from its file."""

import random
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from service.gallery import JSON, GalleryError, GalleryLocked
from service.gallery.archive.compact import compact
from service.gallery.archive.verify import verify
from service.gallery.embedded.database import connect
from tests.service.gallery.samples import enrol, open_gallery, record, vector

DIMENSION = 64


def traces(serial: int) -> list[bytes]:
    return [f"face-{serial:06}-".encode(), f"said-{serial:06}-".encode()]


def test_no_data_of_removed_records_remain(tmp_path: Path) -> None:
    """With SQLite 3.40 these steps leave pieces of two removed records in unused parts of pages."""
    rng = random.Random(4)
    gallery = open_gallery(tmp_path, dimension=DIMENSION)
    living: dict[int, int] = {}
    removed: list[bytes] = []
    serial = 0

    def put(numbers: Iterable[int]) -> None:
        nonlocal serial
        new = []
        for number in numbers:
            serial += 1
            removed.extend(traces(living[number]) if number in living else [])
            living[number] = serial
            picture = b"\xff\xd8\xff" + (f"face-{serial:06}-".encode() * 300)[: rng.randint(300, 2500)]
            metadata: dict[str, JSON] = {"t": f"said-{serial:06}-" * rng.randint(1, 30)}
            embedding = vector(f"{serial}", DIMENSION)
            new.append(record(f"r{number}", embedding=embedding, thumbnail=picture, metadata=metadata))
        gallery.enrol(new, "replace")

    for start in (0, 200, 400):
        put(range(start, start + 200))
    for turn in range(30):
        some = rng.sample(sorted(living), 20)
        if turn % 3 == 2:
            put(some)
        else:
            for number in some:
                removed.extend(traces(living.pop(number)))
                gallery.delete(f"r{number}")
        gallery.expire()
    gallery.close()
    before, after = compact(tmp_path)
    assert after < before
    assert (tmp_path / "gallery.sqlite").stat().st_size == after
    left = (tmp_path / "gallery.sqlite").read_bytes()
    assert not [trace for trace in removed if trace in left]
    assert all(trace in left for kept in living.values() for trace in traces(kept))
    assert verify(tmp_path).is_intact
    assert (tmp_path / "gallery.sqlite").stat().st_mode & 0o777 == 0o600
    gallery = open_gallery(tmp_path, dimension=DIMENSION)
    assert {item.id for item in gallery.list(limit=1000).items} == {f"r{number}" for number in living}
    for number, kept in living.items():
        assert gallery.search(vector(f"{kept}", DIMENSION), 1).hits[0].record.id == f"r{number}"
    gallery.close()


def test_a_gallery_that_is_open_or_read_is_not_compacted(tmp_path: Path) -> None:
    with pytest.raises(GalleryError, match="there is no gallery"):
        compact(tmp_path)
    assert list(tmp_path.iterdir()) == []
    gallery = open_gallery(tmp_path)
    enrol(gallery, [record("a")])
    with pytest.raises(GalleryLocked):
        compact(tmp_path)
    gallery.close()
    with closing(connect(tmp_path, read_only=True)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM tracklets").fetchall()
        with closing(sqlite3.connect(tmp_path / "gallery.sqlite")) as writer, writer:
            writer.execute("UPDATE gallery SET version = version + 1")
        with pytest.raises(GalleryError, match="a snapshot or an export reads"):
            compact(tmp_path)
    compact(tmp_path)
    assert verify(tmp_path).is_intact


def test_a_compaction_that_fails_or_is_killed_leaves_the_gallery_unchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gallery = open_gallery(tmp_path)
    enrol(gallery, [record("a")])
    gallery.close()

    def fail(_files: object, target: Path) -> None:
        target.write_bytes(np.zeros(10).tobytes())
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("service.gallery.archive.compact.copy_database", fail)
        with pytest.raises(GalleryError, match="no space left"):
            compact(tmp_path)
    assert not list(tmp_path.glob("*.part"))
    (tmp_path / "gallery.sqlite.part").write_bytes(b"of one that was killed")
    gallery = open_gallery(tmp_path)
    assert not list(tmp_path.glob("*.part"))
    assert gallery.get("a") is not None
    gallery.close()
