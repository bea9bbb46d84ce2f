"""One process per data directory."""

import fcntl
import os
from pathlib import Path

from service.gallery.embedded.database import owner_only, translate
from service.gallery.records import GalleryLocked


class DirectoryLock:
    """An exclusive advisory lock on a directory, held until `release` or the death of the process.

    The lock file stays behind: removing it would let two processes lock two files of the same name.
    Raises `GalleryLocked` where someone holds it and `GalleryError` where the directory cannot be written.
    """

    def __init__(self, directory: Path) -> None:
        path = directory / "lock"
        try:
            self._descriptor = owner_only(str(path), os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise translate(error, directory) from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(self._descriptor, 32, 0).decode("ascii", "replace").strip()
            os.close(self._descriptor)
            raise GalleryLocked(
                f"the gallery in {directory} is open already (by process {holder or 'unknown'}), and only one may have "
                "it open at a time: stop the other one, or use another --data-dir"
            ) from error
        except OSError as error:
            os.close(self._descriptor)
            raise translate(error, directory) from error
        try:
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, f"{os.getpid()}\n".encode("ascii"), 0)
        except OSError as error:
            os.close(self._descriptor)
            raise translate(error, directory) from error

    def release(self) -> None:
        """Let the next one in."""
        os.close(self._descriptor)
