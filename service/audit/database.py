"""The file of the audit log, `audit.sqlite`: its tables, and connections to it."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final

from service.gallery.records import DiskFull, GalleryError
from service.sqlite import transaction

FILE_NAME: Final = "audit.sqlite"
APPLICATION_ID: Final = 0x6E6F7461
"""The bytes "nota", by which other programs know the file."""
VERSION: Final = 2
"""Version 1 added the ids of an entry to `mentions` in the transaction that added the entry."""
# `mentions` has the ids that the entries up to the position in `indexed` name: see `service.audit.mentions`.
# Triggers keep programs that open the file from changing what is chained. Contents can be erased, and whole entries
# only by the cut at the end of their time.
_SCHEMA = """
CREATE TABLE entries (
    position INTEGER PRIMARY KEY,
    receipt TEXT NOT NULL UNIQUE,
    time INTEGER NOT NULL,
    kind TEXT NOT NULL,
    requester TEXT NOT NULL,
    parts TEXT NOT NULL,
    previous BLOB NOT NULL,
    hash BLOB NOT NULL
) STRICT;
CREATE TABLE mentions (
    id TEXT NOT NULL,
    position INTEGER NOT NULL,
    PRIMARY KEY (id, position)
) STRICT, WITHOUT ROWID;
CREATE TABLE indexed (position INTEGER NOT NULL) STRICT;
INSERT INTO indexed VALUES (0);
CREATE TABLE cut (position INTEGER NOT NULL, hash BLOB NOT NULL, time INTEGER NOT NULL) STRICT;
INSERT INTO cut VALUES (0, zeroblob(32), 0);
CREATE TRIGGER heads_stay BEFORE UPDATE OF position, receipt, time, kind, requester, previous, hash ON entries
BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
CREATE TRIGGER entries_stay_until_the_cut BEFORE DELETE ON entries
WHEN OLD.position > (SELECT position FROM cut)
BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
"""
_FROM_1 = """
CREATE TABLE indexed (position INTEGER NOT NULL) STRICT;
INSERT INTO indexed SELECT max(cut.position, coalesce((SELECT max(position) FROM entries), 0)) FROM cut;
"""


def connect(directory: Path) -> sqlite3.Connection:
    """Open the log in a directory for writing; create it for its owner alone if it is missing.

    Raises:
        GalleryError: the file cannot be used.
    """
    path = directory / FILE_NAME
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        connection = sqlite3.connect(path, timeout=10, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")  # NORMAL could lose entries when the power fails
            connection.execute("PRAGMA secure_delete = ON")  # erased contents must not stay in free pages
            connection.execute("PRAGMA journal_size_limit = 16777216")
            with transaction(connection):
                _prepare(connection, path)
        except BaseException:
            connection.close()
            raise
    except (sqlite3.Error, OSError) as error:
        raise translate(error, path) from error
    return connection


@contextmanager
def reading(directory: Path) -> Iterator[sqlite3.Connection]:
    """Open the log in a directory for reading, also while a service writes to it.

    Raises:
        GalleryError: there is none, or it cannot be read.
    """
    path = directory / FILE_NAME
    if not path.is_file():
        raise GalleryError(f"{directory} has no audit log ({FILE_NAME}): name the data directory of the service")
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=10, isolation_level=None)
        with closing(connection):
            connection.execute("PRAGMA query_only = ON")
            _check_version(connection, path)
            yield connection
    except (sqlite3.Error, OSError) as error:
        raise translate(error, path) from error


def translate(error: sqlite3.Error | OSError, path: Path) -> GalleryError:
    """Turn an error of SQLite or the operating system into one that says what to do."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return DiskFull(f"no space left on the disk of {path}: nothing is answered that cannot be recorded")
    if code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
        return GalleryError(f"{path} is damaged ({error}): move it away and keep it, and restart the service")
    return GalleryError(f"the audit log {path} cannot be used: {error}")


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    script = _SCHEMA
    if connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
        if _check_version(connection, path) == VERSION:
            return
        script = _FROM_1
    for statement in _statements(script):
        connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {VERSION}")


def _statements(script: str) -> Iterator[str]:
    """Split a script: `executescript` would end the transaction."""
    statement = ""
    for line in script.splitlines():
        statement += f"{line}\n"
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _check_version(connection: sqlite3.Connection, path: Path) -> int:
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if application != APPLICATION_ID or not 1 <= version <= VERSION:
        raise GalleryError(f"{path} is not an audit log of this version of not3d: use the version that wrote it")
    return int(version)
