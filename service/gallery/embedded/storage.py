"""Whether the files of an open gallery are still those that its path names, and can be written.

A directory can be removed, moved, replaced, unmounted or made read-only while a process has its files open. SQLite
would go on to write to files that no path leads to, and all of it would be lost at the end of the process.
"""

import os
import sqlite3
import tempfile
import threading
from pathlib import Path

from service.gallery.embedded.database import FILE_NAME, translate
from service.gallery.records import GalleryError, StorageLost

_DISK_ERRORS = {
    sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM
}  # fmt: skip
_PROBE_BYTES = 64 * 1024
"""More than the free space of a disk that SQLite calls full: it writes pages of 8 KiB."""


class Storage:
    """The directory and the database files of an open gallery. Its methods may be called from any thread.

    Create it when the directory is locked and the database has been read: then its log exists and SQLite keeps all its
    files open, so that no other file can get the same inode number.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._database = directory / FILE_NAME
        logs = (directory / f"{FILE_NAME}-wal", directory / f"{FILE_NAME}-shm")
        self._files = {path: _identify(path) for path in (directory, self._database, *logs)}
        self._lock = threading.Lock()
        self._size = self._database.stat().st_size
        self._failed = False

    def check_identity(self) -> None:
        """Check that the path leads to the open files.

        Raises:
            StorageLost: it does not.
        """
        with self._lock:  # an older size must not be compared with a newer one
            for path, identity in self._files.items():
                self._check_file(path, identity)

    def check_writable(self) -> None:
        """Check, before a change, that it would be stored under the path.

        Raises:
            StorageLost: the path does not lead to the open files.
            GalleryError: a file may not be written.
        """
        self.check_identity()
        for path in (self._directory, self._database):
            if not os.access(path, os.W_OK, effective_ids=True):
                raise GalleryError(f"{path} cannot be written: make it writable for the service's user")

    def check(self) -> None:
        """Check that changes can be stored. After one that failed, this writes to the disk to find out.

        Raises:
            DiskFull: there is no space.
            GalleryError: as `check_writable`, or the disk cannot be written.
        """
        self.check_writable()
        if self._failed:
            self._probe()
            self._failed = False

    def on_failure(self, error: sqlite3.Error) -> None:
        """Remember that the disk failed, until a change or `check` succeeds."""
        if getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF in _DISK_ERRORS:
            self._failed = True

    def on_success(self) -> None:
        """Remember that a change was stored."""
        self._failed = False

    def _check_file(self, path: Path, identity: tuple[int, int]) -> None:
        try:
            status = path.stat()
        except OSError as error:
            raise StorageLost(
                f"{path} cannot be found any more ({error.strerror}), although the service has it open, so nothing can "
                "be stored: put it back, mount it again, or restart the service"
            ) from error
        if (status.st_dev, status.st_ino) != identity:
            raise StorageLost(
                f"{path} is not the one that the service has open: it was replaced, moved or unmounted, so nothing can "
                "be stored. Put the other one back, or restart the service"
            )
        if path == self._database:
            # SQLite never truncates a database that is not vacuumed.
            if status.st_size < self._size:
                raise StorageLost(
                    f"{path} was truncated by another program: stop the service, restore a snapshot, and start it again"
                )
            self._size = status.st_size

    def _probe(self) -> None:
        try:
            with tempfile.TemporaryFile(dir=self._directory, buffering=0) as file:  # it has no name
                file.write(bytes(_PROBE_BYTES))
                os.fsync(file.fileno())
        except OSError as error:
            raise translate(error, self._directory) from error


def _identify(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino
