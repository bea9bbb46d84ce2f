"""A gallery's database written anew, without free pages or unused parts of pages.

`secure_delete` zeroes what SQLite frees, but not what it moves: a page whose records are of unequal sizes may be laid
out anew, and old copies of what was on it stay in its unused part. Vectors are all of one size and do not stay; pieces
of metadata and of thumbnails may, until their page is used again or the database is compacted.
"""

from pathlib import Path

from service.gallery.archive.read_only import open_stored
from service.gallery.archive.snapshot import copy_database
from service.gallery.embedded.database import FILE_NAME, connect, sync_directory, translate
from service.gallery.embedded.lock import DirectoryLock
from service.gallery.records import GalleryError

_PATIENCE_MS = 1000
"""For whoever is reading."""


def compact(directory: Path) -> tuple[int, int]:
    """Replace the database by a copy of what is in it; bytes before and after.

    It takes the space of the copy meanwhile, and an interruption leaves the database as it was. Raises `GalleryLocked`
    where a service has the gallery open, `GalleryError` where there is none or somebody reads it, and `DiskFull`.
    """
    if not (directory / FILE_NAME).is_file():
        raise GalleryError(f"there is no gallery in {directory}: {FILE_NAME} is missing")
    lock = DirectoryLock(directory)
    path, part = directory / FILE_NAME, directory / f"{FILE_NAME}.part"
    try:
        with open_stored(directory) as stored:
            part.unlink(missing_ok=True)
            _empty_log(directory)
            before = path.stat().st_size
            copy_database(stored, part)
        part.replace(path)
        sync_directory(directory)
        return before, path.stat().st_size
    except OSError as error:
        raise translate(error, directory) from error
    finally:
        part.unlink(missing_ok=True)
        lock.release()


def _empty_log(directory: Path) -> None:
    connection = connect(directory, read_only=False)
    try:
        connection.execute(f"PRAGMA busy_timeout = {_PATIENCE_MS}")
        busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()[0][0]
    finally:
        connection.close()
    if busy:
        raise GalleryError(f"{directory / FILE_NAME} is being read, by a snapshot or an export: run this after its end")
