"""Concurrent changes share a commit, and one that is refused fails alone."""

import sqlite3
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from service.gallery import DiskFull, DuplicateId, GalleryError
from service.gallery.embedded.database import Stamp, connect, prepare
from service.gallery.embedded.writer import Change, Writer, _Call
from tests.service.gallery.samples import SPACE


class WriterOnFile:
    """A writer on a real file, and the versions that it passed to the index."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.connection = connect(directory, read_only=False)
        prepare(self.connection, directory, Stamp(SPACE, 8, "sample"))
        self.connection.execute("CREATE TABLE notes (text TEXT UNIQUE)")
        self.versions: list[int] = []
        self.writer = Writer(self.connection, directory, self.follow)

    def follow(self, version: int, change: Change) -> None:
        # The change must be on the disk: another connection sees it.
        assert self.read("SELECT version FROM gallery") == [version]
        self.versions.append(version)

    def read(self, query: str) -> list[object]:
        other = sqlite3.connect(self.directory / "gallery.sqlite")
        try:
            return [row[0] for row in other.execute(query)]
        finally:
            other.close()

    def notes(self) -> set[object]:
        return set(self.read("SELECT text FROM notes"))


@pytest.fixture
def target(tmp_path: Path) -> Iterator[WriterOnFile]:
    target = WriterOnFile(tmp_path)
    yield target
    target.writer.close()


def note(text: str, change: Change, connection: sqlite3.Connection) -> str:
    connection.execute("INSERT INTO notes VALUES (?)", (text,))
    change.other = True
    return text.upper()


def run_together(target: WriterOnFile, pool: ThreadPoolExecutor, texts: list[str]) -> list[Future[str]]:
    """Make work for all these texts wait until the writer is free, so that it becomes one group."""
    leading, waiting = threading.Event(), threading.Event()

    def hold(connection: sqlite3.Connection, change: Change) -> None:
        leading.set()
        assert waiting.wait(120)

    def work(text: str) -> str:
        def write(connection: sqlite3.Connection, change: Change) -> str:
            if text == "duplicate":
                raise DuplicateId(text)
            return note(text, change, connection)

        return target.writer.run(write)

    held = pool.submit(target.writer.run, hold)
    assert leading.wait(120)
    futures = [pool.submit(work, text) for text in texts]
    while len(target.writer._waiting) < len(texts):
        time.sleep(0.001)
    waiting.set()
    held.result(120)
    return futures


def test_waiting_changes_share_one_commit(target: WriterOnFile) -> None:
    texts = [f"t{number}" for number in range(12)]
    with ThreadPoolExecutor(20) as pool:
        futures = run_together(target, pool, texts)
        assert [future.result(120) for future in futures] == [text.upper() for text in texts]
    assert target.versions == [1]
    assert target.notes() == set(texts)


def test_a_refused_change_fails_alone(target: WriterOnFile) -> None:
    with ThreadPoolExecutor(20) as pool:
        before, refused, after = run_together(target, pool, ["a", "duplicate", "b"])
        with pytest.raises(DuplicateId):
            refused.result(120)
        assert (before.result(120), after.result(10)) == ("A", "B")
    assert target.notes() == {"a", "b"}


def test_without_a_change_there_is_no_commit(target: WriterOnFile) -> None:
    assert target.writer.run(lambda connection, change: 5) == 5
    assert target.versions == []


def test_a_database_error_fails_the_group_and_keeps_nothing_of_it(target: WriterOnFile) -> None:
    with ThreadPoolExecutor(20) as pool:
        futures = run_together(target, pool, ["a", "b", "a", "c"])  # the second "a" breaks the UNIQUE rule
        for future in futures:
            with pytest.raises(GalleryError, match="UNIQUE"):
                future.result(120)
    assert target.notes() == set()
    assert target.versions == []
    target.writer.run(lambda connection, change: note("later", change, connection))
    assert target.notes() == {"later"}


def test_an_unexpected_exception_reaches_its_caller_and_releases_the_others(target: WriterOnFile) -> None:
    def fail(connection: sqlite3.Connection, change: Change) -> None:
        note("half", change, connection)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        target.writer.run(fail)
    target.writer.run(lambda connection, change: note("later", change, connection))
    assert target.notes() == {"later"}


def test_a_committed_change_is_acknowledged_even_if_the_index_fails(
    target: WriterOnFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a client would send the change again."""

    def fail(_version: int, _change: Change) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(target.writer, "_on_commit", fail)
    group = [_Call(lambda connection, change, name=name: note(name, change, connection)) for name in "abc"]
    with pytest.raises(ZeroDivisionError):
        target.writer._lead(group)
    assert target.notes() == {"a", "b", "c"}
    assert all(call.finished and call.error is None for call in group)


def test_a_full_database_raises_disk_full_and_works_again_with_space(target: WriterOnFile) -> None:
    (pages,) = target.connection.execute("PRAGMA page_count").fetchone()
    target.connection.execute(f"PRAGMA max_page_count = {pages + 2}").fetchall()
    with pytest.raises(DiskFull, match=str(target.directory)):
        target.writer.run(lambda connection, change: note("x" * 100_000, change, connection))
    target.writer.run(lambda connection, change: note("small", change, connection))
    assert target.notes() == {"small"}


def test_a_reader_delays_emptying_the_log(target: WriterOnFile, caplog: pytest.LogCaptureFixture) -> None:
    log_file = target.directory / "gallery.sqlite-wal"
    with closing(connect(target.directory, read_only=True)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM notes").fetchall()
        target.writer.run(lambda connection, change: note("a", change, connection))
        begin = time.monotonic()
        assert not target.writer.empty_log()
        assert time.monotonic() - begin < 5  # other changes wait for it
        assert "because of readers" in caplog.text
        assert log_file.stat().st_size > 0
    assert target.writer.empty_log()
    assert log_file.stat().st_size == 0
    assert target.notes() == {"a"}


def test_closing_waits_for_running_work(tmp_path: Path) -> None:
    target = WriterOnFile(tmp_path)
    with ThreadPoolExecutor(4) as pool:
        futures = run_together(target, pool, ["a", "b"])
        target.writer.close()
        assert [future.result(120) for future in futures] == ["A", "B"]
    assert target.notes() == {"a", "b"}
    with pytest.raises(GalleryError, match="closed"):
        target.writer.run(lambda connection, change: None)


def test_the_connection_is_not_used_while_it_is_being_closed(tmp_path: Path) -> None:
    """Otherwise SQLite could end the process."""
    target = WriterOnFile(tmp_path)

    class Closing:
        """A connection that closes slowly."""

        def __init__(self) -> None:
            self.begun, self.end = threading.Event(), threading.Event()
            self.used: list[str] = []

        def execute(self, statement: str) -> None:
            self.used.append(statement)

        def close(self) -> None:
            self.begun.set()
            assert self.end.wait(120)

    slow = Closing()
    target.writer._connection = slow  # type: ignore[assignment]
    with ThreadPoolExecutor(1) as pool:
        closed = pool.submit(target.writer.close)
        assert slow.begun.wait(120)
        assert not target.writer.empty_log()
        with pytest.raises(GalleryError, match="closed"), target.writer.paused():
            pass
        slow.end.set()
        closed.result(120)
    assert slow.used == []
    target.connection.close()
