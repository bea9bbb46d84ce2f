"""Connections for readers, who in WAL mode never wait for the writer."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service.gallery.embedded.database import connect, translate
from service.gallery.records import GalleryError


class Readers:
    """As many connections as there were readers at once, each lent to one thread at a time."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._idle: list[sqlite3.Connection] = []
        self._closed = False

    @contextmanager
    def snapshot(self) -> Iterator[sqlite3.Connection]:
        """A connection that sees the database as it is now until the block ends, whatever is committed meanwhile.

        Errors of SQLite inside the block come out as `GalleryError`.
        """
        with self._lock:
            if self._closed:
                raise GalleryError("the gallery is closed")
            connection = self._idle.pop() if self._idle else None
        try:
            if connection is None:
                connection = connect(self._directory, read_only=True)
            try:
                connection.execute("BEGIN")
                yield connection
            finally:
                self._end(connection)
        except sqlite3.Error as error:
            raise translate(error, self._directory) from error

    def _end(self, connection: sqlite3.Connection) -> None:
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        except sqlite3.Error:
            connection.close()
            raise
        self._give_back(connection)

    def _give_back(self, connection: sqlite3.Connection) -> None:
        with self._lock:
            if not self._closed:
                self._idle.append(connection)
                return
        connection.close()

    def close(self) -> None:
        """Close what is idle; what is lent is closed on its return."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()
