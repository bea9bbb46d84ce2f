"""`verify` finds every kind of damage, and nothing in an intact gallery."""

import math
import os
import sqlite3
import struct
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from service.gallery import GalleryError
from service.gallery.archive.snapshot import take_snapshot
from service.gallery.archive.verify import verify
from service.gallery.embedded.gallery import EmbeddedGallery
from tests.service.gallery.samples import DIMENSION, SPACE, at, enrol, open_gallery, record

NAMES = [f"r{number:02}" for number in range(30)]


def fill(gallery: EmbeddedGallery) -> None:
    odd = {"nested": {"b": [1, 2.5, None, True], "a": {}}, "": "\ud83d", "big": 2**70, "1.0": 1.0}
    enrol(gallery, [record(name, metadata={"name": name, **odd}, start_time=at(1)) for name in NAMES])
    gallery.add(record("bare", camera_id=None))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A closed gallery of NAMES and "bare", with its saved index."""
    gallery = open_gallery(tmp_path / "data")
    fill(gallery)
    gallery.close()
    return tmp_path / "data"


def script(text: str) -> Callable[[Path], None]:
    def run(directory: Path) -> None:
        with closing(sqlite3.connect(directory / "gallery.sqlite")) as connection:
            connection.executescript(text)

    return run


def set_vector(data: bytes) -> Callable[[Path], None]:
    return script(f"UPDATE embeddings SET vector = x'{data.hex()}' WHERE number = 7")


def overwrite_pages(directory: Path) -> None:
    path = directory / "gallery.sqlite"
    data = bytearray(path.read_bytes())
    data[8192 * 3 : 8192 * 5] = os.urandom(8192 * 2)
    path.write_bytes(data)


def replace_by_text(directory: Path) -> None:
    (directory / "gallery.sqlite").write_bytes(b"no database " * 999)


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "a lost vector": (script("DELETE FROM embeddings WHERE number = 7"), "1 records have no vector: r"),
    "a vector without a record": (script("DELETE FROM tracklets WHERE number = 7"), "of embeddings belong to no row"),
    "a short vector": (set_vector(bytes(4 * DIMENSION - 1)), f"not {DIMENSION} finite numbers of length 1: r"),
    "a vector of zeros": (set_vector(bytes(4 * DIMENSION)), "of length 1"),
    "a vector with NaN": (set_vector(struct.pack("<f", math.nan) * DIMENSION), "finite"),
    "a vector with infinity": (set_vector(struct.pack("<f", math.inf) * DIMENSION), "finite"),
    "a long vector": (set_vector(struct.pack("<f", 1.0) * DIMENSION), "of length 1"),
    "another space": (
        script("UPDATE tracklets SET embedding_space = 'f'"),
        "31 records are of another embedding space",
    ),
    "a lost term": (
        script("DELETE FROM metadata_terms WHERE number = 7"),
        "1 records have metadata that filters do not find",
    ),
    "other metadata": (
        script("UPDATE tracklets SET metadata = '{\"x\": 1}' WHERE id = 'bare'"),
        "filters do not find: bare",
    ),
    "metadata that are not JSON": (script("UPDATE tracklets SET metadata = '{' WHERE id = 'bare'"), ": bare"),
    "an index that disagrees": (
        script(
            "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET rootpage = (SELECT rootpage FROM sqlite_schema "
            "WHERE name = 'metadata_terms_of_tracklet') WHERE name = 'tracklets_of_camera'"
        ),
        "the database is damaged",
    ),
    "overwritten pages": (overwrite_pages, "damaged"),
    "another file": (replace_by_text, "damaged"),
}


@pytest.mark.parametrize(("damage", "problem"), DAMAGES.values(), ids=DAMAGES.keys())
def test_damage_is_reported(directory: Path, damage: Callable[[Path], None], problem: str) -> None:
    damage(directory)
    report = verify(directory)
    assert not report.is_intact
    assert any(problem in found for found in report.problems), report.problems


def test_an_intact_gallery_has_no_problems_open_or_closed(tmp_path: Path) -> None:
    gallery = open_gallery(tmp_path)
    fill(gallery)
    before = {path.name for path in tmp_path.iterdir()}
    for _ in range(2):
        report = verify(tmp_path)
        assert (report.problems, report.remarks) == ([], [])
        assert (report.counts["records"], report.counts["cameras"]) == (31, 1)
        assert report.stamp is not None
        assert (report.stamp.embedding_space, report.stamp.dimension) == (SPACE, DIMENSION)
        gallery.close()
    assert report.counts["rows in the saved index"] == 31
    assert {path.name for path in tmp_path.iterdir()} <= before | {"index.faiss"}


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda path: path.unlink(), "missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "checksum"),
        (lambda path: path.write_bytes(b"hello"), "not an index file"),
    ],
)
def test_an_unusable_index_is_only_a_remark(directory: Path, damage: Callable[[Path], None], problem: str) -> None:
    damage(directory / "index.faiss")
    report = verify(directory)
    assert report.is_intact
    assert problem in report.remarks[0]
    assert "rebuilt at the next start" in report.remarks[0]


def test_a_snapshot_is_compared_with_its_manifest(directory: Path, tmp_path: Path) -> None:
    take_snapshot(directory, tmp_path / "snapshot")
    report = verify(tmp_path / "snapshot")
    assert (report.problems, report.remarks, report.counts["records"]) == ([], [], 31)
    script("DELETE FROM tracklets WHERE id = 'bare'")(tmp_path / "snapshot")
    report = verify(tmp_path / "snapshot")
    assert any("digest" in problem for problem in report.problems)
    assert any("30 records, but the manifest says 31" in problem for problem in report.problems)


def test_another_schema_version_is_an_error_but_no_damage(directory: Path) -> None:
    script("PRAGMA user_version = 99")(directory)
    with pytest.raises(GalleryError, match="use the version of the program that wrote it"):
        verify(directory)
    script("PRAGMA user_version = 0")(directory)
    with pytest.raises(GalleryError, match="start the service on it, or restore the snapshot"):
        verify(directory)
    script("PRAGMA application_id = 7")(directory)
    with pytest.raises(GalleryError, match="not the database of a gallery"):
        verify(directory)


def test_a_gallery_of_a_killed_process_is_read_with_its_write_ahead_log(tmp_path: Path) -> None:
    """The write-ahead log of a gallery that was never closed contains all of its records."""
    gallery = open_gallery(tmp_path / "data")
    fill(gallery)
    (tmp_path / "killed").mkdir()
    for name in ("gallery.sqlite", "gallery.sqlite-wal"):
        (tmp_path / "killed" / name).write_bytes((tmp_path / "data" / name).read_bytes())
    gallery.close()
    report = verify(tmp_path / "killed")
    assert (report.problems, report.counts["records"]) == ([], 31)
