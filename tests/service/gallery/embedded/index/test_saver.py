"""A saved index is used if it is valid, brought up to date if it is old, and rebuilt if it is wrong."""

import logging
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.gallery import Filter, GalleryError
from service.gallery.embedded.gallery import EmbeddedGallery
from service.gallery.embedded.index import file as index_file
from service.gallery.embedded.index.file import Header
from service.gallery.embedded.index.flat import FlatVectors
from tests.service.gallery.samples import DIMENSION, SPACE, assert_same, enrol, open_gallery, record, vector
from tests.service.live import wait_for

NAMES = [f"r{number:02}" for number in range(40)]
NEVER = 1e8
"""A save that is not urgent waits for so many times the duration of the last one."""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Return the directory of a closed gallery of NAMES with its saved index."""
    gallery = open_gallery(tmp_path / "data")
    enrol(gallery, map(record, NAMES))
    gallery.close()
    return tmp_path / "data"


def check(gallery: EmbeddedGallery, names: list[str]) -> None:
    """Check that every record exists, and that the index has its vector and no other one."""
    assert gallery.count() == len(names)
    for name in names:
        assert_same(gallery.get(name), record(name))
        found = gallery.search(vector(name), 1)
        assert [hit.record.id for hit in found.hits] == [name]
        assert found.hits[0].score == pytest.approx(1, abs=1e-6)
        assert found.searched == len(names)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [entry.getMessage() for entry in caplog.records if entry.levelno >= logging.WARNING]


def kill(gallery: EmbeddedGallery, directory: Path, copy: Path) -> Path:
    """Copy the files of an open gallery: what a SIGKILL would leave."""
    shutil.copytree(directory, copy)
    gallery.close()
    return copy


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def save_foreign(path: Path, *, token: str, embedding_space: str = SPACE, rows: int = 0) -> None:
    header = Header(token, embedding_space, DIMENSION, rows)
    pieces = FlatVectors(DIMENSION).serialise(np.empty(0, np.bool_), nullcontext)
    index_file.save(path.parent, header, np.arange(rows, dtype=np.int64), pieces)


def token_of(path: Path) -> str:
    with sqlite3.connect(path.parent / "gallery.sqlite") as connection:
        token = str(connection.execute("SELECT next_index_token FROM gallery").fetchone()[0])
    connection.close()
    return token


def replace_by_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: path.unlink(), "missing"),
    "empty": (lambda path: cut(path, 0), "not an index file"),
    "cut in its first bytes": (lambda path: cut(path, 20), "not an index file"),
    "cut in its header": (lambda path: cut(path, 80), "checksum"),
    "cut in the middle": (lambda path: cut(path, path.stat().st_size // 2), "checksum"),
    "short of one byte": (lambda path: cut(path, path.stat().st_size - 1), "checksum"),
    "with a byte too many": (lambda path: path.write_bytes(path.read_bytes() + b"\0"), "checksum"),
    "with a flipped bit in the header": (lambda path: flip(path, 30), "checksum"),
    "with a flipped bit in a vector": (lambda path: flip(path, path.stat().st_size - 100), "checksum"),
    "with a flipped bit in the checksum": (lambda path: flip(path, path.stat().st_size - 1), "checksum"),
    "text": (lambda path: path.write_text("hello " * 100), "not an index file"),
    "a directory": (replace_by_directory, "cannot be read"),
    "of another gallery": (lambda path: save_foreign(path, token="1" * 32), "last one saved"),
    "of another space": (
        lambda path: save_foreign(path, token=token_of(path), embedding_space="f" * 16),
        "space ffffffffffffffff",
    ),
    "with fewer vectors than rows": (
        lambda path: save_foreign(path, token=token_of(path), rows=3),
        "does not match",
    ),
}


@pytest.mark.parametrize(("damage", "reason"), DAMAGES.values(), ids=DAMAGES.keys())
def test_an_unusable_index_is_rebuilt(
    directory: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], object], reason: str
) -> None:
    path = directory / index_file.FILE_NAME
    damage(path)
    gallery = open_gallery(directory)
    (message,) = warnings(caplog)
    assert reason in message
    assert "40 records" in message
    assert not path.is_file()  # it might have erased vectors
    check(gallery, NAMES)
    gallery.close()
    if path.is_dir():
        path.rmdir()
        return
    caplog.clear()
    gallery = open_gallery(directory)
    assert warnings(caplog) == []
    check(gallery, NAMES)
    gallery.close()


def test_a_valid_index_is_used(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_vector_read(self: FlatVectors, rows: object) -> None:
        raise AssertionError("a vector was read from the database")

    with monkeypatch.context() as patched:
        patched.setattr(FlatVectors, "append", no_vector_read)
        gallery = open_gallery(directory)
    check(gallery, NAMES)
    gallery.close()


def test_an_old_index_is_brought_up_to_date(directory: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    gallery = open_gallery(directory)
    for name in NAMES[:5]:
        gallery.delete(name)
    gallery.add(record("new"))
    gallery.put(record(NAMES[10]))
    left = kill(gallery, directory, tmp_path / "killed")
    gallery = open_gallery(left)
    assert warnings(caplog) == []
    check(gallery, [*NAMES[5:], "new"])
    # Deleted vectors do not stay in the old file until the next save.
    assert not (left / index_file.FILE_NAME).exists()
    gallery.close()


@pytest.mark.parametrize("step", ["before", "after"])
def test_a_crash_during_a_save_leaves_a_valid_index(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, step: str
) -> None:
    """Kill the process after the new token is committed, before or after the file is replaced."""
    save, left = index_file.save, tmp_path / "killed"

    def copy_files_and_save(*arguments: Any) -> None:
        if step == "before":
            shutil.copytree(directory, left)
        save(*arguments)
        if step == "after":
            shutil.copytree(directory, left)

    gallery = open_gallery(directory)
    gallery.add(record("new"))
    with monkeypatch.context() as patched:
        patched.setattr(index_file, "save", copy_files_and_save)
        gallery.close()
    gallery = open_gallery(left)
    assert warnings(caplog) == []
    check(gallery, [*NAMES, "new"])
    gallery.close()


def test_an_index_newer_than_a_restored_database_is_not_used(
    directory: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    backup = tmp_path / "backup"
    shutil.copytree(directory, backup)
    gallery = open_gallery(directory)
    gallery.add(record("lost"))
    gallery.close()
    shutil.copy(backup / "gallery.sqlite", directory / "gallery.sqlite")
    gallery = open_gallery(directory)
    assert "last one saved" in warnings(caplog)[0]
    # It gets the row number that "lost" had.
    gallery.add(record("found"))
    check(gallery, [*NAMES, "found"])
    gallery.close()


def test_a_gallery_killed_before_its_first_save_opens(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    gallery = open_gallery(tmp_path / "data")
    enrol(gallery, map(record, NAMES))
    gallery = open_gallery(kill(gallery, tmp_path / "data", tmp_path / "killed"))
    assert warnings(caplog) == []
    check(gallery, NAMES)
    gallery.close()


def test_the_index_is_saved_after_many_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.gallery.embedded.index.saver._MIN_CHANGES_TO_SAVE", 30)
    gallery = open_gallery(tmp_path)
    enrol(gallery, map(record, NAMES[:29]))
    assert not (tmp_path / index_file.FILE_NAME).exists()
    gallery.add(record(NAMES[29]))
    wait_for(lambda: gallery.search(vector("q"), 1) and (tmp_path / index_file.FILE_NAME).exists())
    gallery.close()


@pytest.mark.parametrize("released", [0, 160, 360])
def test_after_a_kill_the_saved_index_has_most_rows_of_a_bulk_enrolment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, released: int
) -> None:
    """Even if the first save takes as long as all of the enrolment.

    Otherwise the next start would read a million vectors, which takes half a minute.
    """
    monkeypatch.setattr("service.gallery.embedded.index.saver._MIN_CHANGES_TO_SAVE", 30)
    monkeypatch.setattr("service.gallery.embedded.index.saver._PAUSE_FACTOR", NEVER)
    save, done, may_save = index_file.save, [0], threading.Event()

    def slow_save(*args: Any) -> None:
        assert may_save.wait(120)
        save(*args)
        done.append(len(args[2]))

    monkeypatch.setattr(index_file, "save", slow_save)
    gallery = open_gallery(tmp_path / "data")
    for start in range(0, 400, 40):
        gallery.enrol([record(f"r{number:03}") for number in range(start, start + 40)], "replace")
        if start == released:
            may_save.set()
    wait_for(lambda: done[-1] > 320)
    again = open_gallery(kill(gallery, tmp_path / "data", tmp_path / "killed"))
    assert again._saver._unsaved < 80
    check(again, [f"r{number:03}" for number in range(400)])
    again.close()


def test_a_failing_save_is_not_tried_with_every_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("service.gallery.embedded.index.saver._MIN_CHANGES_TO_SAVE", 5)
    monkeypatch.setattr("service.gallery.embedded.index.saver._PAUSE_FACTOR", NEVER)
    tried, changed = list[str](), threading.Event()

    def fail(*_args: Any) -> None:
        tried.append("tried")
        assert changed.wait(120)  # there are more changes before it has failed
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(index_file, "save", fail)
    gallery = open_gallery(tmp_path)
    for number, name in enumerate(NAMES):
        gallery.add(record(name))
        if number == 20:
            changed.set()
            wait_for(lambda: "could not be saved" in caplog.text)
    assert len(tried) == 1
    monkeypatch.undo()
    gallery.close()
    assert (tmp_path / index_file.FILE_NAME).exists()


def test_a_failed_save_is_only_a_warning(
    directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_space(self: FlatVectors, mask: object, read_lock: object) -> None:
        raise OSError(28, "No space left on device")

    gallery = open_gallery(directory)
    gallery.erase(Filter(exclude_ids=tuple(NAMES[1:])), dry_run=False)
    with monkeypatch.context() as patched:
        patched.setattr(FlatVectors, "serialise", no_space)
        gallery.add(record("new"))
        gallery.close()
    assert any("No space left" in message for message in warnings(caplog))
    assert not list(directory.glob("index*"))
    gallery = open_gallery(directory)
    check(gallery, [*NAMES[1:], "new"])
    gallery.close()


def test_a_row_without_its_vector_is_an_error(directory: Path) -> None:
    (directory / index_file.FILE_NAME).unlink()
    with sqlite3.connect(directory / "gallery.sqlite") as connection:
        connection.execute("DELETE FROM embeddings WHERE number = 7")
    connection.close()
    with pytest.raises(GalleryError, match="damaged"):
        open_gallery(directory)


def test_expiries_save_rarely_and_an_erasure_saves_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.gallery.embedded.index.saver._PAUSE_FACTOR", NEVER)
    saves: list[str] = []
    save = index_file.save

    def slow_save(*args: Any) -> None:
        time.sleep(0.001)
        save(*args)
        saves.append("saved")

    monkeypatch.setattr(index_file, "save", slow_save)
    gallery = open_gallery(tmp_path)
    enrol(gallery, map(record, NAMES))
    for name in NAMES[:10]:
        gallery.delete(name)
        gallery.expire()
        wait_for(lambda: saves)
    assert len(saves) == 1
    gallery.erase(Filter(exclude_ids=tuple(NAMES[20:])), dry_run=False)
    wait_for(lambda: len(saves) > 1)
    assert len(saves) == 2
    gallery.close()


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), MemoryError()], ids=["no space", "no memory"]
)
def test_a_failed_save_is_repeated_later(
    directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    """By `expire` in the same thread, and by `close`. Until then no erased vector stays in a file."""
    path = directory / index_file.FILE_NAME

    def fail(*arguments: Any) -> None:
        raise error

    gallery = open_gallery(directory)
    for again in (gallery.expire, gallery.close):
        caplog.clear()
        name = f"of {again.__name__}"
        gallery.add(record(name, camera_id=name))
        with monkeypatch.context() as patched:
            patched.setattr(index_file, "save", fail)
            gallery.erase(Filter(camera_ids=(name,)), dry_run=False)
            wait_for(lambda: len(warnings(caplog)) == 1 and not path.exists())
        again()
        wait_for(path.exists)
    gallery = open_gallery(directory)
    check(gallery, NAMES)
    gallery.close()


def test_an_erasure_works_without_a_thread_and_the_next_expire_saves(
    directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    gallery = open_gallery(directory)
    before = (directory / index_file.FILE_NAME).read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", fail)
        assert gallery.erase(Filter(exclude_ids=tuple(NAMES[1:])), dry_run=False).erased == 1
    assert "can't start new thread" in caplog.text
    gallery.expire()
    wait_for(lambda: (directory / index_file.FILE_NAME).read_bytes() != before)
    check(gallery, NAMES[1:])
    gallery.close()
