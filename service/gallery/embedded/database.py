"""The SQLite file under the embedded gallery: its schema, its durability, and its errors in our words."""

import errno
import logging
import os
import shutil
import sqlite3
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from service.gallery.records import DiskFull, GalleryError, SpaceMismatch

log = logging.getLogger(__name__)

FILE_NAME = "gallery.sqlite"
RESTORING = "restoring.part"
"""Where a restored gallery is until it is whole: inside the data directory, and so on its disk."""
SCHEMA_VERSION = 2
# "not3", so that `file gallery.sqlite` and an opening with the wrong program can tell.
APPLICATION_ID = 0x6E6F7433

# `number` is never given twice and what it stands for never changes (a replaced record gets a new one). The index
# relies on it: a vector it holds under a number is right as long as the number is still here.
# Vectors lie apart, so that listing and loading the filter's columns need not read past them.
# `index_token` is that of the index file in place, `next_index_token` of one that may have taken its place since.
# `metadata_terms` has a digest of each top-level key with its value, which makes equality an index lookup.
_SCHEMA = """
CREATE TABLE gallery (
    embedding_space TEXT NOT NULL,
    dimension INTEGER NOT NULL,
    model_name TEXT NOT NULL,
    version INTEGER NOT NULL,
    index_token TEXT,
    next_index_token TEXT
) STRICT;
CREATE TABLE tracklets (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    embedding_space TEXT NOT NULL,
    camera_id TEXT,
    start_time INTEGER,
    end_time INTEGER,
    metadata TEXT NOT NULL,
    frames INTEGER NOT NULL,
    clips INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER
) STRICT;
CREATE INDEX tracklets_of_camera ON tracklets (camera_id, id);
CREATE TABLE embeddings (
    number INTEGER PRIMARY KEY REFERENCES tracklets (number) ON DELETE CASCADE,
    vector BLOB NOT NULL
) STRICT;
CREATE TABLE metadata_terms (
    digest BLOB NOT NULL,
    number INTEGER NOT NULL REFERENCES tracklets (number) ON DELETE CASCADE,
    PRIMARY KEY (digest, number)
) STRICT, WITHOUT ROWID;
CREATE INDEX metadata_terms_of_tracklet ON metadata_terms (number);
"""

# What version 2 brought. The triggers keep the audit log append-only for every program that opens the file, and against
# INSERT OR REPLACE, which removes the old row without asking the trigger for that.
_LIFE_CYCLE = """
CREATE INDEX tracklets_expiring ON tracklets (expires_at) WHERE expires_at IS NOT NULL;
CREATE TABLE thumbnails (
    number INTEGER PRIMARY KEY REFERENCES tracklets (number) ON DELETE CASCADE,
    jpeg BLOB NOT NULL
) STRICT;
CREATE TABLE audit (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    receipt TEXT NOT NULL UNIQUE,
    time INTEGER NOT NULL,
    action TEXT NOT NULL CHECK (action IN ('delete', 'erase', 'expire')),
    requester TEXT NOT NULL,
    filter TEXT NOT NULL,
    erased INTEGER NOT NULL
) STRICT;
CREATE TRIGGER audit_entries_stay_as_they_are BEFORE UPDATE ON audit
BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
CREATE TRIGGER audit_entries_stay BEFORE DELETE ON audit
BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
CREATE TRIGGER audit_entries_are_not_replaced BEFORE INSERT ON audit
WHEN EXISTS (SELECT 1 FROM audit WHERE receipt = NEW.receipt OR position = NEW.position)
BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
"""

# From each earlier version to the next one.
_MIGRATIONS = {1: f"ALTER TABLE tracklets ADD COLUMN expires_at INTEGER;{_LIFE_CYCLE}"}

OWNER_ONLY_DIRECTORY = 0o700
"""The mode of a directory that is made for biometric data."""

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}
_WRITE_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}


@dataclass(frozen=True, slots=True)
class Stamp:
    """What all rows of a gallery have in common."""

    embedding_space: str
    dimension: int
    model_name: str


def translate(error: sqlite3.Error | OSError, directory: Path) -> GalleryError:
    """The gallery's own error for one of SQLite or the operating system, saying what to do about it."""
    if isinstance(error, OSError):
        if error.errno in _NO_SPACE:
            return DiskFull(f"no space left on the disk of {directory}")
        if error.errno in _WRITE_REFUSED:
            return GalleryError(f"the gallery's directory {directory} cannot be written: {error.strerror}")
        return GalleryError(f"the gallery's directory {directory} cannot be used: {error.strerror or error}")
    # Errors of Python's own wrapper, such as a closed connection, carry no code.
    extended = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    code = extended & 0xFF
    # The shared-memory file beside the WAL is enlarged by writing to it, which fails this way on a full disk.
    if code == sqlite3.SQLITE_FULL or extended == sqlite3.SQLITE_IOERR_SHMSIZE:
        return DiskFull(f"no space left on the disk of {directory}")
    if code in {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM}:
        return GalleryError(f"the gallery's directory {directory} cannot be written: {error}")
    if code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
        return GalleryError(
            f"{directory / FILE_NAME} is damaged ({error}): restore it from a backup, or move it away and enrol again"
        )
    if code == sqlite3.SQLITE_BUSY:
        return GalleryError(f"another program keeps {directory / FILE_NAME} locked")
    return GalleryError(f"the gallery's database in {directory} failed: {error}")


def owner_only(path: str, flags: int) -> int:
    """Open a file, which nobody but its owner can read if it is made by this: an `opener` for `open`."""
    return os.open(path, flags, 0o600)


def connect(directory: Path, *, read_only: bool) -> sqlite3.Connection:
    """A connection in autocommit mode (transactions are begun by hand), usable from one thread at a time.

    The file is made where it is missing, for its owner alone. Raises `OSError` where it cannot be.
    """
    if not read_only:
        # SQLite would let everybody read it, and gives its log the file's mode. Only a new file is opened here: closing
        # another would let go of the locks that other connections of this process have on it.
        with suppress(FileExistsError):
            os.close(owner_only(str(directory / FILE_NAME), os.O_RDWR | os.O_CREAT | os.O_EXCL))
    connection = sqlite3.connect(directory / FILE_NAME, timeout=10, isolation_level=None, check_same_thread=False)
    try:
        if read_only:
            connection.execute("PRAGMA query_only = ON")
        else:
            # Large enough for several vectors a page; counts only while the file is empty.
            connection.execute("PRAGMA page_size = 8192")
            connection.execute("PRAGMA journal_mode = WAL")
            # NORMAL would keep the file whole but could lose acknowledged commits when the power fails.
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = ON")
            # Who was erased shall not be left in free pages.
            connection.execute("PRAGMA secure_delete = ON")
            # New ids and terms fall anywhere into their indexes, which are 130 MB at a million records with two terms
            # each: hold half of that (in KiB), and let a page that often changes reach the file less often.
            connection.execute("PRAGMA cache_size = -65536")
            connection.execute("PRAGMA wal_autocheckpoint = 4000")
            # A burst must not leave its whole WAL behind.
            connection.execute("PRAGMA journal_size_limit = 67108864")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def sweep_unfinished(directory: Path) -> None:
    """Remove what a compaction left that was killed. Raises `GalleryError` where a restore was: run that again.

    A new gallery would hide that the restored one is missing, and keep what is left of it. Raises `OSError`.
    """
    (directory / f"{FILE_NAME}.part").unlink(missing_ok=True)
    if (directory / RESTORING).exists():
        if not (directory / FILE_NAME).exists():
            raise GalleryError(f"a restore into {directory} was broken off: run `not3d gallery restore` again")
        shutil.rmtree(directory / RESTORING)  # it was whole and in its place, and this not swept up yet


def prepare(connection: sqlite3.Connection, directory: Path, stamp: Stamp) -> None:
    """Create the schema in an empty file, or check that the file is a gallery of this space.

    A file of an earlier version of the schema is brought up to date.

    Raises `SpaceMismatch`, or `GalleryError` where the file is something else or of a later version.
    """
    path = directory / FILE_NAME
    tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    if not tables:
        _create(connection, stamp)
        sync_directory(directory)
        return
    if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise GalleryError(f"{path} is a database of another program: use another --data-dir")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version != SCHEMA_VERSION and version not in _MIGRATIONS:
        raise GalleryError(
            f"{path} has schema version {version} and this program reads version {SCHEMA_VERSION}: "
            "run the program's version that wrote it, or use another --data-dir"
        )
    # A gallery that will be refused is not to be changed first.
    _check_stamp(connection, directory, stamp)
    if version != SCHEMA_VERSION:
        _migrate(connection, version)
        log.info("%s was of schema version %d and is of version %d now", path, version, SCHEMA_VERSION)


def _migrate(connection: sqlite3.Connection, version: int) -> None:
    """Bring the schema up to date, wholly or not at all."""
    steps = "".join(_MIGRATIONS[step] for step in range(version, SCHEMA_VERSION))
    try:
        connection.executescript(f"BEGIN IMMEDIATE;{steps}PRAGMA user_version = {SCHEMA_VERSION};COMMIT;")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _create(connection: sqlite3.Connection, stamp: Stamp) -> None:
    connection.executescript(
        f"BEGIN IMMEDIATE;{_SCHEMA}{_LIFE_CYCLE}"
        f"PRAGMA application_id = {APPLICATION_ID};PRAGMA user_version = {SCHEMA_VERSION};"
    )
    connection.execute(
        "INSERT INTO gallery (embedding_space, dimension, model_name, version) VALUES (?, ?, ?, 0)",
        (stamp.embedding_space, stamp.dimension, stamp.model_name),
    )
    connection.execute("COMMIT")


def _check_stamp(connection: sqlite3.Connection, directory: Path, stamp: Stamp) -> None:
    kept = Stamp(*connection.execute("SELECT embedding_space, dimension, model_name FROM gallery").fetchone())
    advice = (
        "Vectors of different models cannot be compared: start with the bundle that made them, use another "
        "--data-dir, or enrol the tracklets again into an empty one."
    )
    if (kept.embedding_space, kept.dimension) != (stamp.embedding_space, stamp.dimension):
        raise SpaceMismatch(
            f"the gallery in {directory} holds embeddings of space {kept.embedding_space} (model {kept.model_name}, "
            f"dimension {kept.dimension}), but this bundle is of space {stamp.embedding_space} "
            f"(model {stamp.model_name}, dimension {stamp.dimension}). {advice}"
        )
    strangers = connection.execute(
        "SELECT count(*), min(embedding_space) FROM tracklets WHERE embedding_space <> ?", (stamp.embedding_space,)
    ).fetchone()
    if strangers[0]:
        raise SpaceMismatch(
            f"{strangers[0]} rows of the gallery in {directory} are of another embedding space ({strangers[1]}) than "
            f"the gallery itself ({kept.embedding_space}). {advice}"
        )


def sync_directory(directory: Path) -> None:
    """Make new names in a directory survive a loss of power."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
