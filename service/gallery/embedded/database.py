"""The SQLite file of the embedded gallery: schema, durability, connections, lock, and what errors mean."""

import errno
import fcntl
import logging
import os
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from service.gallery.records import DiskFull, GalleryError, GalleryLocked, SpaceMismatch

log = logging.getLogger(__name__)

FILE_NAME = "gallery.sqlite"
RESTORING = "restoring.part"
"""The folder inside the data directory in which `restore` puts files until all of them are complete."""
SCHEMA_VERSION = 4
APPLICATION_ID = 0x6E6F7433
"""The bytes "not3", by which `file gallery.sqlite` and other programs know the file."""
OWNER_ONLY_DIRECTORY = 0o700
"""The mode of a directory that is made for biometric data."""

# A `number` is never used twice, and its row never changes (a replaced record gets a new number). The index relies on
# this: its vector for a number is right as long as the number exists.
# Vectors have their own table, so that listing and loading the filter's columns do not read past them.
# `index_token` is that of the saved index file, `next_index_token` that of a file which may have replaced it.
# `metadata_terms` has a digest of each top-level key with its value, so that equality is an index lookup.
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

# What version 2 added. The triggers keep the audit log append-only for every program that opens the file. INSERT OR
# REPLACE needs its own trigger, because it removes the old row without running the trigger for DELETE.
_LIFE_CYCLE = """
CREATE INDEX tracklets_expiring ON tracklets (expires_at) WHERE expires_at IS NOT NULL;
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

# Version 2 had one thumbnail of each record. A record has them in time order, and `frame` counts from 0.
_THUMBNAILS = """
CREATE TABLE thumbnails (
    number INTEGER NOT NULL REFERENCES tracklets (number) ON DELETE CASCADE,
    frame INTEGER NOT NULL,
    jpeg BLOB NOT NULL,
    PRIMARY KEY (number, frame)
) STRICT;
"""
_ONE_THUMBNAIL = """
CREATE TABLE thumbnails (
    number INTEGER PRIMARY KEY REFERENCES tracklets (number) ON DELETE CASCADE,
    jpeg BLOB NOT NULL
) STRICT;
"""
_COPY_THUMBNAILS = """
INSERT INTO thumbnails SELECT number, 0, jpeg FROM one_thumbnail;
DROP TABLE one_thumbnail;
"""

# What version 4 added. A watchlist has copies of its vectors, because records expire before it does. The id of an alert
# is its time and a digest, so the order of ids is that of their commits; `alert_clock` keeps it if a clock goes back.
_ALERTS = """
CREATE TABLE watchlists (
    name TEXT PRIMARY KEY,
    uid TEXT NOT NULL,
    min_score REAL,
    min_probability REAL,
    prior REAL,
    filter TEXT NOT NULL,
    cooldown REAL NOT NULL,
    expires_at INTEGER,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    created_by TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE watchlist_vectors (
    number INTEGER PRIMARY KEY,
    watchlist TEXT NOT NULL REFERENCES watchlists (name) ON DELETE CASCADE,
    role TEXT NOT NULL CHECK (role IN ('example', 'reject')),
    record TEXT,
    camera_id TEXT,
    source TEXT NOT NULL,
    vector BLOB NOT NULL
) STRICT;
CREATE INDEX watchlist_vectors_of_watchlist ON watchlist_vectors (watchlist);
CREATE INDEX watchlist_vectors_of_record ON watchlist_vectors (record) WHERE record IS NOT NULL;
CREATE TABLE alerts (
    id TEXT PRIMARY KEY,
    watchlist TEXT NOT NULL,
    watchlist_uid TEXT NOT NULL,
    record TEXT NOT NULL,
    camera_id TEXT,
    start_time INTEGER,
    end_time INTEGER,
    moment INTEGER NOT NULL,
    score REAL NOT NULL,
    probability REAL,
    calibration TEXT,
    example TEXT,
    example_camera TEXT,
    UNIQUE (watchlist_uid, record)
) STRICT, WITHOUT ROWID;
CREATE INDEX alerts_of_record ON alerts (record);
CREATE INDEX alerts_of_example ON alerts (example) WHERE example IS NOT NULL;
CREATE INDEX alerts_of_camera ON alerts (watchlist_uid, camera_id, moment);
CREATE TABLE alert_verdicts (
    alert TEXT NOT NULL REFERENCES alerts (id) ON DELETE CASCADE,
    author TEXT NOT NULL,
    key TEXT NOT NULL,
    verdict TEXT NOT NULL CHECK (verdict IN ('same', 'different', 'unsure')),
    time INTEGER NOT NULL,
    PRIMARY KEY (alert, author, key)
) STRICT, WITHOUT ROWID;
CREATE TABLE deliveries (
    webhook TEXT NOT NULL,
    alert TEXT NOT NULL REFERENCES alerts (id) ON DELETE CASCADE,
    tries INTEGER NOT NULL DEFAULT 0,
    due INTEGER NOT NULL,
    claim INTEGER NOT NULL DEFAULT 0,
    dead INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (webhook, alert)
) STRICT, WITHOUT ROWID;
CREATE INDEX deliveries_due ON deliveries (webhook, due) WHERE NOT dead;
CREATE INDEX deliveries_of_alert ON deliveries (alert);
CREATE TABLE alert_clock (last INTEGER NOT NULL) STRICT;
INSERT INTO alert_clock VALUES (0);
"""

# From each earlier version to the next one.
_MIGRATIONS = {
    1: f"ALTER TABLE tracklets ADD COLUMN expires_at INTEGER;{_LIFE_CYCLE}{_ONE_THUMBNAIL}",
    2: f"ALTER TABLE thumbnails RENAME TO one_thumbnail;{_THUMBNAILS}{_COPY_THUMBNAILS}",
    3: _ALERTS,
}

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}
_CANNOT_BE_LOCKED = {errno.EBADF, errno.EINVAL, errno.ENOLCK, errno.EOPNOTSUPP}
_WRITE_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}


@dataclass(frozen=True, slots=True)
class Stamp:
    """Which embeddings a gallery holds: the same for all rows."""

    embedding_space: str
    dimension: int
    model_name: str


def translate(error: sqlite3.Error | OSError, directory: Path) -> GalleryError:
    """Turn an error of SQLite or the operating system into the gallery's error, which says what to do."""
    if isinstance(error, OSError):
        if error.errno in _NO_SPACE:
            return DiskFull(f"no space left on the disk of {directory}")
        if error.errno in _WRITE_REFUSED:
            return GalleryError(f"the gallery's directory {directory} cannot be written: {error.strerror}")
        return GalleryError(f"the gallery's directory {directory} cannot be used: {error.strerror or error}")
    # Errors of Python's wrapper, such as a closed connection, have no code.
    extended = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    code = extended & 0xFF
    # SQLite enlarges the shared-memory file beside the WAL by writing to it, which fails this way on a full disk.
    if code == sqlite3.SQLITE_FULL or extended == sqlite3.SQLITE_IOERR_SHMSIZE:
        return DiskFull(f"no space left on the disk of {directory}")
    if code in {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM}:
        return GalleryError(f"the gallery's directory {directory} cannot be written: {error}")
    if code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
        return GalleryError(
            f"{directory / FILE_NAME} is damaged ({error}): restore it from a backup, or move it away and enrol again"
        )
    if code == sqlite3.SQLITE_BUSY:
        return GalleryError(f"another program keeps {directory / FILE_NAME} locked: end it and try again")
    return GalleryError(f"the gallery's database in {directory} failed: {error}")


def owner_only(path: str, flags: int) -> int:
    """Open a file; only its owner can read it if this creates it. An `opener` for `open`."""
    return os.open(path, flags, 0o600)


def connect(directory: Path, *, read_only: bool) -> sqlite3.Connection:
    """Open a connection in autocommit mode (transactions need a BEGIN), for one thread at a time.

    If the file is missing, it is created for its owner alone; not for a `read_only` connection.

    Raises:
        OSError: the file cannot be created.
    """
    if not read_only:
        # SQLite would create it readable for all, and its log takes the file's mode. An existing file is not opened
        # here: closing it would release the locks that other connections of this process hold on it.
        with suppress(FileExistsError):
            os.close(owner_only(str(directory / FILE_NAME), os.O_RDWR | os.O_CREAT | os.O_EXCL))
    # The mode says that SQLite itself creates no file.
    address = f"{(directory / FILE_NAME).absolute().as_uri()}?mode=rw"
    connection = sqlite3.connect(address, uri=True, timeout=10, isolation_level=None, check_same_thread=False)
    try:
        if read_only:
            connection.execute("PRAGMA query_only = ON")
            # Each commit of the writer makes what readers hold invalid, and the system's page cache has it as well.
            connection.execute("PRAGMA cache_size = -512")
        else:
            # Several vectors fit into a page. The size can only be set while the file is empty.
            connection.execute("PRAGMA page_size = 8192")
            connection.execute("PRAGMA journal_mode = WAL")
            # NORMAL could lose acknowledged commits when the power fails.
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = ON")
            # Erased records must not stay in free pages.
            connection.execute("PRAGMA secure_delete = ON")
            # New ids and terms change pages all over their indexes, which take 130 MB for a million records with two
            # terms each. Hold half of that in memory (in KiB), and copy pages from the log to the file less often.
            connection.execute("PRAGMA cache_size = -65536")
            connection.execute("PRAGMA wal_autocheckpoint = 4000")
            # After a burst of writes the log must not stay as large as it became.
            connection.execute("PRAGMA journal_size_limit = 67108864")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def remove_unfinished(directory: Path) -> None:
    """Remove the files of a compaction that was killed.

    Raises:
        GalleryError: a restore was killed. A new gallery here would hide that the restored one is missing.
        OSError: a file cannot be removed.
    """
    (directory / f"{FILE_NAME}.part").unlink(missing_ok=True)
    if (directory / RESTORING).exists():
        if not (directory / FILE_NAME).exists():
            raise GalleryError(f"a restore into {directory} was interrupted: run `not3d gallery restore` again")
        shutil.rmtree(directory / RESTORING)  # the restore was complete except for the removal of this folder


def prepare(connection: sqlite3.Connection, directory: Path, stamp: Stamp) -> None:
    """Create the schema in an empty file, or check that the file is a gallery of this space and migrate it if needed.

    Raises:
        SpaceMismatch: the file holds embeddings of another model.
        GalleryError: the file is of another program or of a later version.
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
            f"{path} has schema version {version}, but this version of not3d reads {SCHEMA_VERSION}: "
            "start the version of not3d that wrote it, or use another --data-dir"
        )
    # Before the migration: a gallery that is refused must not be changed.
    _check_stamp(connection, directory, stamp)
    if version != SCHEMA_VERSION:
        _migrate(connection, version)
        log.info("schema of %s migrated from version %d to %d", path, version, SCHEMA_VERSION)


def _migrate(connection: sqlite3.Connection, version: int) -> None:
    """Migrate the schema in one transaction."""
    steps = "".join(_MIGRATIONS[step] for step in range(version, SCHEMA_VERSION))
    try:
        connection.executescript(f"BEGIN IMMEDIATE;{steps}PRAGMA user_version = {SCHEMA_VERSION};COMMIT;")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _create(connection: sqlite3.Connection, stamp: Stamp) -> None:
    connection.executescript(
        f"BEGIN IMMEDIATE;{_SCHEMA}{_LIFE_CYCLE}{_THUMBNAILS}{_ALERTS}"
        f"PRAGMA application_id = {APPLICATION_ID};PRAGMA user_version = {SCHEMA_VERSION};"
    )
    connection.execute(
        "INSERT INTO gallery (embedding_space, dimension, model_name, version) VALUES (?, ?, ?, 0)",
        (stamp.embedding_space, stamp.dimension, stamp.model_name),
    )
    connection.execute("COMMIT")


def _check_stamp(connection: sqlite3.Connection, directory: Path, stamp: Stamp) -> None:
    found = Stamp(*connection.execute("SELECT embedding_space, dimension, model_name FROM gallery").fetchone())
    advice = (
        "Vectors of different models cannot be compared: start with the model that made them, use another "
        "--data-dir, or enrol the tracklets again into an empty one."
    )
    if (found.embedding_space, found.dimension) != (stamp.embedding_space, stamp.dimension):
        raise SpaceMismatch(
            f"the gallery in {directory} holds embeddings of space {found.embedding_space} (model {found.model_name}, "
            f"dimension {found.dimension}), but this service is of space {stamp.embedding_space} "
            f"(model {stamp.model_name}, dimension {stamp.dimension}). {advice}"
        )
    count, other_space = connection.execute(
        "SELECT count(*), min(embedding_space) FROM tracklets WHERE embedding_space <> ?", (stamp.embedding_space,)
    ).fetchone()
    if count:
        raise SpaceMismatch(
            f"{count} rows of the gallery in {directory} are of the embedding space {other_space}, but the gallery is "
            f"of {found.embedding_space}. {advice}"
        )


def sync_directory(directory: Path) -> None:
    """Make new and renamed files in a directory survive a power failure."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Readers:
    """A pool of connections for readers, which in WAL mode never wait for the writer."""

    def __init__(self, directory: Path, check: Callable[[], None] = lambda: None) -> None:
        """`check` raises `GalleryError` if the path does not lead to the database that the gallery has open."""
        self._directory = directory
        self._check = check
        self._lock = threading.Lock()
        self._idle: list[sqlite3.Connection] = []
        self._closed = False

    @contextmanager
    def snapshot(self) -> Iterator[sqlite3.Connection]:
        """Lend a connection that sees the database as it is now until the context ends.

        Errors of SQLite inside the context become `GalleryError`.
        """
        with self._lock:
            if self._closed:
                raise GalleryError("the gallery is closed")
            connection = self._idle.pop() if self._idle else None
        try:
            if connection is None:
                connection = self._connect()
            try:
                connection.execute("BEGIN")
                yield connection
            finally:
                self._end(connection)
        except sqlite3.Error as error:
            raise translate(error, self._directory) from error

    def _connect(self) -> sqlite3.Connection:
        self._check()
        connection = connect(self._directory, read_only=True)
        try:
            self._check()
        except GalleryError:
            connection.close()
            raise
        return connection

    def _end(self, connection: sqlite3.Connection) -> None:
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        except sqlite3.Error:
            connection.close()
            raise
        with self._lock:
            if not self._closed:
                self._idle.append(connection)
                return
        connection.close()

    def close(self) -> None:
        """Close the idle connections; the others are closed when their contexts end."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()


class DirectoryLock:
    """An exclusive advisory lock on a directory, held until `release` or the end of the process.

    The directory itself is locked, so the lock holds if someone removes the file `lock`, which only names the process.
    That file is locked too, for file systems on which a directory cannot be locked, such as NFS.

    Raises:
        GalleryLocked: another process or another gallery of this process holds it.
        GalleryError: the directory cannot be written.
    """

    def __init__(self, directory: Path) -> None:
        path = directory / "lock"
        with ExitStack() as opened:
            try:
                folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
                opened.callback(os.close, folder)
                _lock_directory(folder)
                file = owner_only(str(path), os.O_RDWR | os.O_CREAT)
                opened.callback(os.close, file)
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.ftruncate(file, 0)
                os.pwrite(file, f"{os.getpid()}\n".encode("ascii"), 0)
            except BlockingIOError as error:
                holder = ""
                with suppress(OSError):
                    holder = path.read_bytes()[:32].decode("ascii", "replace").strip()
                raise GalleryLocked(
                    f"the gallery in {directory} is open already (by process {holder or 'unknown'}), and only one "
                    "process may open it at a time: stop the other one, or use another --data-dir"
                ) from error
            except OSError as error:
                raise translate(error, directory) from error
            self._opened = opened.pop_all()

    def release(self) -> None:
        """Let another process or gallery open the directory."""
        self._opened.close()


def _lock_directory(descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _CANNOT_BE_LOCKED:
            raise
