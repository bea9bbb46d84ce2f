"""Copy a gallery while a service uses it, and restore the copy.

A snapshot is a folder with three files:

- the database, as one file without free pages, so that it contains no erased data;
- the saved index, unless it contains erased records;
- a manifest with the digest of each file.
"""

import hashlib
import logging
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from service.gallery.archive.read_only import GalleryFiles, open_read_only
from service.gallery.embedded.database import (
    FILE_NAME,
    OWNER_ONLY_DIRECTORY,
    RESTORING,
    SCHEMA_VERSION,
    DirectoryLock,
    Stamp,
    owner_only,
    sync_directory,
    translate,
)
from service.gallery.embedded.index import file as index_file
from service.gallery.embedded.index.file import IndexFileError
from service.gallery.records import DiskFull, GalleryError

log = logging.getLogger(__name__)

MANIFEST_NAME = "manifest.json"
_CHUNK = 1 << 22
# Files of a directory that has no gallery: the lock file, which is never removed, and the inference engine's cache.
_NO_RECORDS = {"lock", "cache"}


class FileDigest(BaseModel):
    """One file of a snapshot."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bytes: int
    sha256: str


class Manifest(BaseModel):
    """The content of a snapshot. It has every change that was acknowledged before `created`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["not3d-gallery-snapshot-1"] = "not3d-gallery-snapshot-1"
    created: datetime
    schema_version: int
    embedding_space: str
    dimension: int
    model_name: str
    records: int
    files: dict[Literal["gallery.sqlite", "index.faiss"], FileDigest]

    @property
    def stamp(self) -> Stamp:
        """The embedding space, dimension and model of the records."""
        return Stamp(self.embedding_space, self.dimension, self.model_name)

    @property
    def size(self) -> int:
        """The size of all files in bytes."""
        return sum(file.bytes for file in self.files.values())


def take_snapshot(directory: Path, out: Path) -> Manifest:
    """Copy the gallery of a data directory, in one state, into the new folder `out`. A service may write meanwhile.

    If this raises, it leaves no files.

    Raises:
        GalleryError: `out` exists, or the directory has no gallery.
        DiskFull: there is no space for the copy.
    """
    with open_read_only(directory) as files, new_path(out) as part:
        part.mkdir(mode=OWNER_ONLY_DIRECTORY)
        created = datetime.now(UTC)
        _take_index(directory, part)
        copy_database(files, part / FILE_NAME)
        with open_read_only(part) as copy:
            numbers = np.array(copy.connection.execute("SELECT number FROM tracklets").fetchall(), np.int64).ravel()
            names = [FILE_NAME, index_file.FILE_NAME] if _keep_index(copy, numbers) else [FILE_NAME]
        manifest = Manifest(
            created=created,
            schema_version=SCHEMA_VERSION,
            **asdict(files.stamp),
            records=len(numbers),
            files={name: _digest(part / name) for name in names},
        )
        _write_synced(part / MANIFEST_NAME, manifest.model_dump_json(indent=2).encode() + b"\n")
        sync_directory(part)
    return manifest


def read_manifest(snapshot: Path) -> Manifest:
    """Read the manifest of a snapshot. Raises `GalleryError` if the folder is not a snapshot."""
    path = snapshot / MANIFEST_NAME
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise GalleryError(f"{snapshot} is not a snapshot: {MANIFEST_NAME} is missing") from error
    except OSError as error:
        raise GalleryError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        location = ".".join(map(str, fault["loc"])) or "file"
        raise GalleryError(
            f"{path} is not a manifest that this version can read: {location}: {fault['msg']}"
        ) from error


def restore(
    snapshot: Path, directory: Path, prepare: Callable[[Path, Stamp], object] = lambda _folder, _stamp: None
) -> Manifest:
    """Copy a snapshot into a data directory, which must be new or contain no gallery.

    Every file is checked against the manifest.

    Args:
        snapshot: the folder of the snapshot.
        directory: the data directory.
        prepare: called with a folder that contains the restored gallery. Until it returns, the data directory has no
            gallery, so no service can start on it.

    Raises:
        GalleryError: a file differs from the manifest, or the directory is not empty.
        GalleryLocked: another process has the directory open.
        DiskFull: there is no space for the copy.
    """
    manifest = read_manifest(snapshot)
    if manifest.schema_version > SCHEMA_VERSION:
        raise GalleryError(
            f"{snapshot} has schema version {manifest.schema_version}, later than this program's {SCHEMA_VERSION}: "
            "restore it with the version of the program that wrote it"
        )
    part = directory / RESTORING
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=OWNER_ONLY_DIRECTORY)
        # If `part` exists, an earlier restore was killed, maybe after it moved the index. No service used these files.
        allowed = _NO_RECORDS | {RESTORING, index_file.FILE_NAME} if part.exists() else _NO_RECORDS
        if found := sorted({path.name for path in directory.iterdir()} - allowed):
            raise GalleryError(f"{directory} is not empty (it has {found[0]}): restore the snapshot into a new folder")
        lock = DirectoryLock(directory)
        try:
            index_file.remove(directory)
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(mode=OWNER_ONLY_DIRECTORY)
            _copy_checked(manifest, snapshot, part)
            prepare(part, manifest.stamp)
            _move(part, directory)
        finally:
            shutil.rmtree(part, ignore_errors=True)
            lock.release()
    except OSError as error:
        raise translate(error, directory) from error
    return manifest


@contextmanager
def new_path(out: Path) -> Iterator[Path]:
    """Yield the path `OUT.part` for a new file or folder. At the end of the block it is renamed to `out`.

    If the block raises, the file or folder is removed.

    Raises:
        GalleryError: `out` exists, another process is writing it, or it cannot be written.
        DiskFull: there is no space left.
    """
    part = out.with_name(f"{out.name}.part")
    if out.exists():
        raise GalleryError(f"{out} exists: give another name")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield part
            part.rename(out)
            sync_directory(out.parent)
        except FileExistsError as error:
            raise GalleryError(
                f"{part} exists: another process is writing it, or was interrupted. If none is running, remove it"
            ) from error
        except BaseException:
            if part.is_dir():
                shutil.rmtree(part, ignore_errors=True)
            else:
                part.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise translate(error, out.parent) from error


def check_files(snapshot: Path, manifest: Manifest) -> list[str]:
    """Compare a snapshot's files with the manifest, and return one message for each problem."""
    problems = []
    for name, file in manifest.files.items():
        path = snapshot / name
        try:
            if _digest(path) != file:
                problems.append(f"{path} has changed: its size or digest differs from the manifest")
        except OSError as error:
            problems.append(f"{path} cannot be read: {error.strerror or error}")
    return problems


def copy_database(files: GalleryFiles, target: Path) -> None:
    """Write one state of a gallery's database to a new file that only its owner can read.

    If this raises, the caller removes the file.

    Raises:
        DiskFull: there is no space for the copy.
        sqlite3.Error, OSError: anything else failed.
    """
    # SQLite would create the file readable by all users.
    os.close(owner_only(str(target), os.O_RDWR | os.O_CREAT | os.O_EXCL))
    try:
        # This is one read transaction. It writes only rows: no free pages and no write-ahead log.
        files.connection.execute("VACUUM INTO ?", (str(target),))
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL:
            raise DiskFull(f"no space left on the disk of {target.parent}") from error
        raise
    with target.open("rb") as file:
        os.fsync(file.fileno())


def _take_index(directory: Path, part: Path) -> None:
    """Copy the saved index by a hard link: a later save replaces the file and never writes to it."""
    source, target = directory / index_file.FILE_NAME, part / index_file.FILE_NAME
    try:
        try:
            os.link(source, target)
        except FileNotFoundError:
            return
        except OSError:  # the snapshot is on another disk
            _copy_synced(source, target)
    except (GalleryError, OSError) as error:
        log.warning("saved index not copied; a service on the restored gallery will rebuild it: %s", error)
        target.unlink(missing_ok=True)


def _keep_index(copy: GalleryFiles, numbers: NDArray[np.int64]) -> bool:
    """Remove the snapshot's index unless it belongs to the database and has no removed record. Return if it is kept."""
    try:
        tokens = index_file.accepted_tokens(copy.connection)
        rows = index_file.load_numbers(copy.directory, tokens, copy.stamp)
        if np.isin(rows, numbers).all():
            return True
        reason = "it contains removed records"
    except FileNotFoundError:
        return False
    except IndexFileError as error:
        reason = str(error)
    log.info("saved index left out of the snapshot: %s", reason)
    (copy.directory / index_file.FILE_NAME).unlink()
    return False


def _copy_checked(manifest: Manifest, snapshot: Path, folder: Path) -> None:
    for name, file in manifest.files.items():
        if _copy_synced(snapshot / name, folder / name) != file:
            raise GalleryError(
                f"{snapshot / name} differs from the manifest, so nothing was restored: use another snapshot"
            )


def _move(part: Path, directory: Path) -> None:
    # The database comes last: without it the directory contains no gallery.
    for path in sorted(part.iterdir(), key=lambda path: path.name == FILE_NAME):
        if path.name not in _NO_RECORDS:
            path.replace(directory / path.name)
    sync_directory(directory)
    sync_directory(directory.absolute().parent)


def _copy_synced(source: Path, target: Path) -> FileDigest:
    digest, size = hashlib.sha256(), 0
    try:
        reading = source.open("rb")
    except OSError as error:
        raise GalleryError(f"{source} cannot be read: {error.strerror or error}") from error
    with reading, open(target, "wb", opener=owner_only) as writing:
        while chunk := reading.read(_CHUNK):
            digest.update(chunk)
            writing.write(chunk)
            size += len(chunk)
        writing.flush()
        os.fsync(writing.fileno())
    return FileDigest(bytes=size, sha256=digest.hexdigest())


def _write_synced(path: Path, data: bytes) -> None:
    with open(path, "wb", opener=owner_only) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _digest(path: Path) -> FileDigest:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return FileDigest(bytes=os.fstat(file.fileno()).st_size, sha256=digest)
