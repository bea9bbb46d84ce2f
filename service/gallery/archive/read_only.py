"""A gallery on the disk, read by another process than the one that has it open."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from service.gallery.embedded.database import APPLICATION_ID, FILE_NAME, SCHEMA_VERSION, Stamp, translate
from service.gallery.records import GalleryError

_STEPS_BETWEEN_SIGNALS = 100_000


@dataclass(frozen=True, slots=True)
class Stored:
    """A data directory or snapshot, with a connection that cannot write."""

    directory: Path
    connection: sqlite3.Connection
    stamp: Stamp


@contextmanager
def open_stored(directory: Path) -> Iterator[Stored]:
    """Open the gallery in a directory without its lock and without changing a byte, beside a running service too.

    The block begins outside a transaction. Raises `GalleryError` where there is no gallery, or one of another schema,
    and for errors of SQLite inside the block; Ctrl-C ends a long statement as it ends Python.
    """
    try:
        connection = _connect(directory)
        try:
            connection.set_progress_handler(lambda: 0, _STEPS_BETWEEN_SIGNALS)
            yield Stored(directory, connection, _check(connection, directory))
        finally:
            connection.close()
    except sqlite3.Error as error:
        # Python's signal handlers run in the progress handler, and there an exception becomes this error.
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
        # Reading in WAL mode takes a file of shared memory, which cannot be made on a read-only disk; nobody writes
        # there, so that it can do without where the log holds nothing.
        wal = path.with_name(f"{FILE_NAME}-wal")
        if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_CANTOPEN or (wal.exists() and wal.stat().st_size):
            raise
        return _open(path, "mode=ro&immutable=1")


def _open(path: Path, options: str) -> sqlite3.Connection:
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?{options}", uri=True, timeout=10, isolation_level=None)
    try:
        connection.execute("SELECT count(*) FROM sqlite_schema")  # nothing is really opened before
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _check(connection: sqlite3.Connection, directory: Path) -> Stamp:
    path = directory / FILE_NAME
    if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise GalleryError(f"{path} is no gallery's database")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version < SCHEMA_VERSION:
        raise GalleryError(
            f"{path} has schema version {version}, older than this program's {SCHEMA_VERSION}: "
            "start the service on it once, or on what is restored from it, which brings it up to date"
        )
    if version > SCHEMA_VERSION:
        raise GalleryError(
            f"{path} has schema version {version}, and this program reads version {SCHEMA_VERSION}: "
            "use the program's version that wrote it"
        )
    found = connection.execute("SELECT embedding_space, dimension, model_name FROM gallery").fetchall()
    if len(found) != 1:
        raise GalleryError(f"{path} is damaged: it names {len(found)} embedding spaces. Restore it from a backup")
    return Stamp(*found[0])
