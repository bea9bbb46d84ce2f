"""Write a gallery's database again, without free pages and unused parts of pages.

`secure_delete` overwrites what SQLite frees, but not what it moves: if the records of a page differ in size, SQLite may
rearrange the page and leave old copies in its unused part. Vectors all have one size, so no copies of them remain.
Copies of metadata and thumbnails may remain until the page is used again or the database is compacted.
"""

from pathlib import Path

from service.gallery.archive.read_only import open_read_only
from service.gallery.archive.snapshot import copy_database
from service.gallery.embedded.database import FILE_NAME, DirectoryLock, connect, sync_directory, translate
from service.gallery.records import GalleryError

_WAIT_FOR_READERS_MS = 1000


def compact(directory: Path) -> tuple[int, int]:
    """Replace the database with a copy of its contents. Needs the space of the copy.

    If this is interrupted, the database is unchanged.

    Returns:
        The size of the database in bytes before and after.

    Raises:
        GalleryLocked: a service has the gallery open.
        GalleryError: there is no gallery, or another program reads it.
        DiskFull: there is no space for the copy.
    """
    if not (directory / FILE_NAME).is_file():
        raise GalleryError(f"there is no gallery in {directory}: {FILE_NAME} is missing")
    lock = DirectoryLock(directory)
    path, part = directory / FILE_NAME, directory / f"{FILE_NAME}.part"
    try:
        with open_read_only(directory) as files:
            part.unlink(missing_ok=True)
            _empty_write_ahead_log(directory)
            before = path.stat().st_size
            copy_database(files, part)
        part.replace(path)
        sync_directory(directory)
        return before, path.stat().st_size
    except OSError as error:
        raise translate(error, directory) from error
    finally:
        part.unlink(missing_ok=True)
        lock.release()


def _empty_write_ahead_log(directory: Path) -> None:
    connection = connect(directory, read_only=False)
    try:
        connection.execute(f"PRAGMA busy_timeout = {_WAIT_FOR_READERS_MS}")
        busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()[0][0]
    finally:
        connection.close()
    if busy:
        raise GalleryError(f"a snapshot or an export reads {directory / FILE_NAME}: compact after it has ended")
