"""A data directory that is removed, replaced or made read-only while its gallery is open, and a removed lock file."""

import fcntl
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from service.gallery import DiskFull, GalleryError, GalleryLocked, StorageLost
from service.gallery.embedded.gallery import EmbeddedGallery
from service.gallery.embedded.storage import Storage
from service.gallery.embedded.writer import Change
from tests.service.gallery.samples import open_gallery, record


def _replace_by_copy(path: Path) -> None:
    copy = path.with_name("copy")
    (shutil.copytree if path.is_dir() else shutil.copy)(path, copy)
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    copy.rename(path)


def _replace_by_link(data: Path) -> None:
    shutil.copytree(data, data.with_name("copy"))
    shutil.rmtree(data)
    data.symlink_to("copy")


LOSSES: dict[str, Callable[[Path], object]] = {
    "directory removed": shutil.rmtree,
    "directory moved": lambda data: data.rename(data.with_name("moved")),
    "directory replaced by a copy": _replace_by_copy,
    "directory replaced by a file": lambda data: (shutil.rmtree(data), data.write_text("")),
    "directory replaced by a link": _replace_by_link,
    "database removed": lambda data: (data / "gallery.sqlite").unlink(),
    "database replaced": lambda data: _replace_by_copy(data / "gallery.sqlite"),
    "database truncated": lambda data: os.truncate(data / "gallery.sqlite", 0),
    "log removed": lambda data: (data / "gallery.sqlite-wal").unlink(),
    "shared memory removed": lambda data: (data / "gallery.sqlite-shm").unlink(),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_nothing_is_acknowledged_that_is_not_under_the_path(tmp_path: Path, loss: str) -> None:
    gallery = open_gallery(tmp_path / "data")
    gallery.add(record("before"))
    gallery.check_storage()
    LOSSES[loss](tmp_path / "data")
    for change in (
        lambda: gallery.add(record("after")),
        lambda: gallery.put(record("before")),
        lambda: gallery.delete("before"),
        lambda: gallery.delete("unknown"),
        gallery.check_storage,
    ):
        with pytest.raises(StorageLost, match=r"restart the service|restore a snapshot"):
            change()
    with suppress(GalleryError):  # SQLite may find that its files are gone
        gallery.close()


def test_a_directory_that_comes_back_is_used_again(tmp_path: Path) -> None:
    data, away = tmp_path / "data", tmp_path / "away"
    gallery = open_gallery(data)
    gallery.add(record("a"))
    assert gallery.get("a")
    data.rename(away)
    with pytest.raises(StorageLost):
        gallery.add(record("b"))
    assert gallery.get("a")  # what is open can be read
    away.rename(data)
    gallery.check_storage()
    gallery.add(record("c"))
    gallery.close()
    again = open_gallery(data)
    assert [found.id for found in again.list().items] == ["a", "c"]
    again.close()


def test_a_directory_that_is_lost_during_a_commit_is_not_acknowledged(tmp_path: Path) -> None:
    data, away = tmp_path / "data", tmp_path / "away"
    gallery = open_gallery(data)

    def move(connection: sqlite3.Connection, change: Change) -> None:
        connection.execute("UPDATE gallery SET model_name = 'moved'")
        change.other = True
        data.rename(away)

    with pytest.raises(StorageLost):
        gallery._writer.run(move)
    away.rename(data)
    gallery.add(record("a"))  # the index has followed the commit that was not acknowledged
    assert gallery.search(record("a").embedding, 1).hits[0].record.id == "a"
    gallery.close()


def test_another_gallery_in_its_place_is_neither_read_nor_changed(tmp_path: Path) -> None:
    data = tmp_path / "data"
    gallery = open_gallery(data)
    gallery.add(record("mine"))
    assert gallery.get("mine")
    data.rename(tmp_path / "away")
    other = open_gallery(data)
    other.add(record("theirs"))
    other.close()
    (data / "index.faiss").write_bytes(b"theirs")
    with gallery._readers.snapshot() as first:  # each context needs a connection of its own
        assert first.execute("SELECT id FROM tracklets").fetchall() == [("mine",)]
        with pytest.raises(StorageLost), gallery._readers.snapshot():
            pass
    gallery.close()
    assert (data / "index.faiss").read_bytes() == b"theirs"
    again = open_gallery(data)
    assert [found.id for found in again.list().items] == ["theirs"]
    again.close()


def test_a_read_only_directory_refuses_changes_until_it_is_writable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gallery = open_gallery(tmp_path / "data")
    with monkeypatch.context() as patch:  # the tests may run as root, who may write everything
        patch.setattr(os, "access", lambda path, mode, **_: mode != os.W_OK)
        for refused in (lambda: gallery.add(record("a")), gallery.check_storage):
            with pytest.raises(GalleryError, match="make it writable for the service's user"):
                refused()
    gallery.add(record("a"))
    gallery.close()


def test_a_full_disk_is_full_until_something_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gallery = open_gallery(tmp_path / "data")
    connection = gallery._writer._connection
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages}")

    def fill() -> None:
        for number in range(1000):
            gallery.add(record(f"r{number}", metadata={"text": "x" * 5000}))

    with pytest.raises(DiskFull):
        fill()
    stored = gallery.count()

    def full(_: Storage) -> None:
        raise DiskFull("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(Storage, "_probe", full)
        with pytest.raises(DiskFull):
            gallery.check_storage()
    gallery.check_storage()  # writes to the disk
    connection.execute(f"PRAGMA max_page_count = {pages + 1000}")
    gallery.add(record("last"))
    assert gallery.count() == stored + 1
    gallery.close()


def test_two_galleries_on_one_directory_are_impossible_without_the_lock_file(tmp_path: Path) -> None:
    data = tmp_path / "data"
    gallery = open_gallery(data)
    (data / "lock").unlink()
    for _ in range(2):  # the failed one must not leave a lock file that helps the next one
        with pytest.raises(GalleryLocked, match="by process"):
            open_gallery(data)
    (tmp_path / "link").symlink_to(data)
    with pytest.raises(GalleryLocked):
        open_gallery(tmp_path / "link")
    gallery.close()
    open_gallery(data).close()


def test_another_process_is_refused_without_the_lock_file_too(tmp_path: Path) -> None:
    gallery = open_gallery(tmp_path / "data")
    (tmp_path / "data" / "lock").unlink()
    code = "import sys; from pathlib import Path; from service.gallery.embedded.database import DirectoryLock; "
    code += "DirectoryLock(Path(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "data"], capture_output=True, text=True, check=False)
    assert "GalleryLocked" in done.stderr
    gallery.close()


def test_a_file_system_without_locks_on_directories_uses_the_lock_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on NFS, where a directory cannot be opened for writing."""
    lock = fcntl.flock

    def no_directories(descriptor: int, operation: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):  # noqa: PTH112
            raise OSError(9, "Bad file descriptor")
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", no_directories)
    gallery: EmbeddedGallery = open_gallery(tmp_path / "data")
    with pytest.raises(GalleryLocked, match=str(os.getpid())):
        open_gallery(tmp_path / "data")
    gallery.close()
