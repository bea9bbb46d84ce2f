"""Group commit: changes of concurrent callers share one transaction, and so one wait for the disk."""

import logging
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from service.gallery.checks import Row
from service.gallery.embedded.database import translate
from service.gallery.records import GalleryError

log = logging.getLogger(__name__)

T = TypeVar("T")

_PATIENCE_MS = 1000
_PATIENCE_OF_A_CHANGE_MS = 10_000


@dataclass(slots=True)
class Change:
    """What one transaction did to the rows, for the index to follow: first `added`, then `removed`."""

    added: list[tuple[int, Row]] = field(default_factory=list)
    removed: list[int] = field(default_factory=list)
    # Set where the transaction touched something the index does not care about.
    other: bool = False

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.other)


Work = Callable[[sqlite3.Connection, Change], T]


class _Call:
    """One caller's piece of work and what became of it."""

    __slots__ = ("error", "finished", "result", "work")

    def __init__(self, work: Work[Any]) -> None:
        self.work = work
        self.finished = False
        self.result: Any = None
        self.error: GalleryError | None = None


class Writer:
    """The only connection that changes the database.

    Whoever finds the connection free leads: it takes along the work of everyone who waits, commits once, tells
    `committed` the new version and the changes (so that the index never knows of anything uncommitted), and only then
    lets the others go. Work raising `GalleryError` must not have changed anything; it fails alone. An error of SQLite
    fails the whole group, of which then nothing is kept.
    """

    def __init__(self, connection: sqlite3.Connection, directory: Path, committed: Callable[[int, Change], None]):
        self._connection = connection
        self._directory = directory
        self._committed = committed
        self._condition = threading.Condition()
        self._waiting: list[_Call] = []
        self._led = False
        self._closed = False

    def run(self, work: Work[T]) -> T:
        """Do `work` in a transaction; its result once that is on disk. Raises its error, or the database's."""
        call = _Call(work)
        with self._condition:
            if self._closed:
                raise GalleryError("the gallery is closed")
            self._waiting.append(call)
            while self._led and not call.finished:
                self._condition.wait()
            if not call.finished:
                self._led = True
                group, self._waiting = self._waiting, []
        if not call.finished:
            self._lead(group)
        if call.error is not None:
            raise call.error
        result: T = call.result
        return result

    def _lead(self, group: list[_Call]) -> None:
        try:
            self._commit(group)
        finally:
            with self._condition:
                for call in group:
                    if not call.finished:  # an exception nobody foresaw is on its way out of the leader
                        call.error = GalleryError("the transaction was broken off; nothing of it was acknowledged")
                        call.finished = True
                self._led = False
                self._condition.notify_all()

    def _commit(self, group: list[_Call]) -> None:
        change = Change()
        version = 0
        try:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                for call in group:
                    try:
                        call.result = call.work(self._connection, change)
                    except GalleryError as error:
                        call.error = error
                if change:
                    statement = "UPDATE gallery SET version = version + 1 RETURNING version"
                    version = self._connection.execute(statement).fetchall()[0][0]
                    self._connection.execute("COMMIT")
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            for call in group:
                call.error = translate(error, self._directory)
                call.error.__cause__ = error
                call.finished = True
            return
        try:
            if change:
                self._committed(version, change)
        finally:
            for call in group:  # it is on the disk, whatever the index makes of it
                call.finished = True

    def empty_log(self) -> bool:
        """Move everything from the write-ahead log into the database file and cut the log to nothing.

        Waits a second for readers of older states, for nobody can write meanwhile, and a snapshot of the gallery may
        take minutes. Where that is not enough or fails, the changes are kept all the same, so it is only logged; false
        then, and the log is to be emptied later.
        """
        try:
            with self.paused():
                return self._empty_log()
        except GalleryError:  # it is being closed, which empties the log as well
            return False

    def _empty_log(self) -> bool:
        try:
            self._connection.execute(f"PRAGMA busy_timeout = {_PATIENCE_MS}")
            busy = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()[0][0]
            if busy:
                log.warning(
                    "readers kept the write-ahead log in %s from being emptied; it will be later", self._directory
                )
        except sqlite3.Error as error:
            log.warning("the write-ahead log could not be emptied now: %s", translate(error, self._directory))
            return False
        finally:
            with suppress(sqlite3.Error):
                self._connection.execute(f"PRAGMA busy_timeout = {_PATIENCE_OF_A_CHANGE_MS}")
        return not busy

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Wait for the transaction under way, and let none begin until the block ends: `committed` knows them all.

        Raises `GalleryError` once the writer is being closed: SQLite's connection must not be used beside its closing.
        """
        with self._condition:
            while self._led and not self._closed:
                self._condition.wait()
            if self._closed:
                raise GalleryError("the gallery is closed")
            self._led = True
        try:
            yield
        finally:
            with self._condition:
                self._led = False
                self._condition.notify_all()

    def close(self) -> None:
        """Wait for the work under way, then close the connection, which also empties the write-ahead log."""
        with self._condition:
            self._closed = True
            while self._led or self._waiting:
                self._condition.wait()
        self._connection.close()
