"""Read a gallery's files while another process may have the gallery open."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from service.gallery.embedded.database import APPLICATION_ID, FILE_NAME, SCHEMA_VERSION, Stamp, translate
from service.gallery.records import GalleryError

_STEPS_PER_SIGNAL_CHECK = 100_000


@dataclass(frozen=True, slots=True)
class GalleryFiles:
    """A data directory or a snapshot, with a read-only connection to its database."""

    directory: Path
    connection: sqlite3.Connection
    stamp: Stamp


@contextmanager
def open_read_only(directory: Path) -> Iterator[GalleryFiles]:
    """Open the files of a gallery. This takes no lock and changes no file; a service may be using the gallery.

    The block starts outside a transaction. Ctrl-C interrupts a long SQL statement.

    Raises:
        GalleryError: there is no gallery, its schema has another version, or SQLite fails inside the block.
    """
    try:
        connection = _connect(directory)
        try:
            connection.set_progress_handler(lambda: 0, _STEPS_PER_SIGNAL_CHECK)
            yield GalleryFiles(directory, connection, _check(connection, directory))
        finally:
            connection.close()
    except sqlite3.Error as error:
        # The progress handler runs Python's signal handlers, and SQLite turns their exception into this error.
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT:
            raise KeyboardInterrupt from None
        raise translate(error, directory) from error


def _connect(directory: Path) -> sqlite3.Connection:
    path = directory / FILE_NAME
    if not path.is_file():
        raise GalleryError(f"there is no gallery in {directory}: {FILE_NAME} is missing")
    try:
        return _open(path, "mode=ro")
    except sqlite3.OperationalError as error:
        # In WAL mode SQLite needs a shared-memory file, which it cannot create on a read-only disk. No process writes
        # there, so SQLite can read without that file if the write-ahead log is empty.
        wal = path.with_name(f"{FILE_NAME}-wal")
        if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_CANTOPEN or (wal.exists() and wal.stat().st_size):
            raise
        return _open(path, "mode=ro&immutable=1")


def _open(path: Path, options: str) -> sqlite3.Connection:
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?{options}", uri=True, timeout=10, isolation_level=None)
    try:
        connection.execute("SELECT count(*) FROM sqlite_schema")  # SQLite opens the file only now
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _check(connection: sqlite3.Connection, directory: Path) -> Stamp:
    path = directory / FILE_NAME
    if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise GalleryError(f"{path} is not the database of a gallery")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version < SCHEMA_VERSION:
        raise GalleryError(
            f"{path} has schema version {version}, older than this program's {SCHEMA_VERSION}: "
            "start the service on it, or restore the snapshot and start the service on that, to update it"
        )
    if version > SCHEMA_VERSION:
        raise GalleryError(
            f"{path} has schema version {version}, later than this program's {SCHEMA_VERSION}: "
            "use the version of the program that wrote it"
        )
    found = connection.execute("SELECT embedding_space, dimension, model_name FROM gallery").fetchall()
    if len(found) != 1:
        raise GalleryError(
            f"{path} is damaged: it names {len(found)} embedding spaces, not 1. Restore it from a snapshot"
        )
    return Stamp(*found[0])
