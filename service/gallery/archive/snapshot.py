"""Copies of a gallery that is in use, and their way back.

A snapshot is a folder: the database as one file without free pages, so that nothing of what was erased is in it, the
saved index where that has nothing erased either, and a manifest with the digest of each file. It is taken by reading,
beside the process that has the gallery open.
"""

import hashlib
import logging
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from service.gallery.archive.read_only import Stored, open_stored
from service.gallery.embedded.database import (
    FILE_NAME,
    OWNER_ONLY_DIRECTORY,
    RESTORING,
    SCHEMA_VERSION,
    Stamp,
    owner_only,
    sync_directory,
    translate,
)
from service.gallery.embedded.index import file as index_file
from service.gallery.embedded.index.file import IndexFileError
from service.gallery.embedded.lock import DirectoryLock
from service.gallery.records import DiskFull, GalleryError

log = logging.getLogger(__name__)

MANIFEST_NAME = "manifest.json"
_TOKENS = "SELECT index_token, next_index_token FROM gallery"
_CHUNK = 1 << 22
# A data directory has these without holding a gallery: the lock stays behind, and the engine keeps its cache there.
_NO_RECORDS = {"lock", "cache"}


class File(BaseModel):
    """One file of a snapshot."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bytes: int
    sha256: str


class Manifest(BaseModel):
    """What a snapshot holds; `created` is a moment before the copy, which has everything acknowledged until then."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["not3d-gallery-snapshot-1"] = "not3d-gallery-snapshot-1"
    created: datetime
    schema_version: int
    embedding_space: str
    dimension: int
    model_name: str
    records: int
    files: dict[Literal["gallery.sqlite", "index.faiss"], File]

    @property
    def stamp(self) -> Stamp:
        """What all of its rows have in common."""
        return Stamp(self.embedding_space, self.dimension, self.model_name)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.bytes for file in self.files.values())


def take_snapshot(directory: Path, out: Path) -> Manifest:
    """Copy the gallery of a data directory into the new folder `out`, as it is at one moment, whoever is writing.

    Raises `GalleryError` where `out` exists or there is no gallery, `DiskFull`; what was begun is removed.
    """
    if out.exists():
        raise GalleryError(f"{out} exists: a snapshot is written to a new folder")
    with open_stored(directory) as stored, _new_folder(out) as part:
        created = datetime.now(UTC)
        _take_index(directory, part)
        copy_database(stored, part / FILE_NAME)
        with open_stored(part) as copy:
            numbers = np.array(copy.connection.execute("SELECT number FROM tracklets").fetchall(), np.int64).ravel()
            files = [FILE_NAME, index_file.FILE_NAME] if _keep_index(copy, numbers) else [FILE_NAME]
        manifest = Manifest(
            created=created,
            schema_version=SCHEMA_VERSION,
            embedding_space=stored.stamp.embedding_space,
            dimension=stored.stamp.dimension,
            model_name=stored.stamp.model_name,
            records=len(numbers),
            files={name: _describe(part / name) for name in files},
        )
        _write_synced(part / MANIFEST_NAME, manifest.model_dump_json(indent=2).encode() + b"\n")
    return manifest


def read_manifest(snapshot: Path) -> Manifest:
    """The manifest of a snapshot. Raises `GalleryError` where the folder is none."""
    path = snapshot / MANIFEST_NAME
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise GalleryError(f"{snapshot} is no snapshot: {MANIFEST_NAME} is missing") from error
    except OSError as error:
        raise GalleryError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        place = ".".join(map(str, fault["loc"])) or "it"
        raise GalleryError(f"{path} is no manifest of this program's version: {place}: {fault['msg']}") from error


def restore(
    snapshot: Path, directory: Path, amend: Callable[[Path, Stamp], object] = lambda _folder, _stamp: None
) -> Manifest:
    """Put a snapshot's files into a data directory that holds no gallery, or make one.

    Every file is checked against the manifest, and `amend` is called with a folder that holds the gallery, before the
    directory does: until `amend` has returned no service can start on it, whatever goes wrong. Raises `GalleryError`
    where the snapshot is not whole or the directory holds something, `GalleryLocked` where someone has it open, and
    `DiskFull`.
    """
    manifest = read_manifest(snapshot)
    if manifest.schema_version > SCHEMA_VERSION:
        raise GalleryError(
            f"{snapshot} has schema version {manifest.schema_version}, and this program reads {SCHEMA_VERSION}: "
            "restore it with the program's version that took it"
        )
    part = directory / RESTORING
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=OWNER_ONLY_DIRECTORY)
        # Of one that was killed, perhaps when its index had its place already: nothing has opened what was there.
        free = _NO_RECORDS | {RESTORING, index_file.FILE_NAME} if part.exists() else _NO_RECORDS
        if held := sorted({path.name for path in directory.iterdir()} - free):
            raise GalleryError(f"{directory} is not empty (it has {held[0]}): a snapshot is restored into a new folder")
        lock = DirectoryLock(directory)
        try:
            index_file.remove(directory)
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(mode=OWNER_ONLY_DIRECTORY)
            _copy_checked(manifest, snapshot, part)
            amend(part, manifest.stamp)
            _move(part, directory)
        finally:
            shutil.rmtree(part, ignore_errors=True)
            lock.release()
    except OSError as error:
        raise translate(error, directory) from error
    return manifest


def check_files(snapshot: Path, manifest: Manifest) -> list[str]:
    """What is wrong with a snapshot's files, a sentence each; reads every byte."""
    problems = []
    for name, file in manifest.files.items():
        path = snapshot / name
        try:
            if _describe(path) != file:
                problems.append(f"{path} is not as it was written: its size or digest differs from the manifest's")
        except OSError as error:
            problems.append(f"{path} cannot be read: {error.strerror or error}")
    return problems


def copy_database(stored: Stored, target: Path) -> None:
    """Write what is in a gallery's database to a new file, for its owner alone, as it is at one moment.

    Raises `DiskFull`, and `sqlite3.Error` or `OSError` for all else; what was begun is the caller's to remove.
    """
    os.close(owner_only(str(target), os.O_RDWR | os.O_CREAT | os.O_EXCL))  # SQLite would let everybody read it
    try:
        # One read transaction, whose rows alone are written: no free pages, no write-ahead log.
        stored.connection.execute("VACUUM INTO ?", (str(target),))
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL:
            raise DiskFull(f"no space left on the disk of {target.parent}") from error
        raise
    with target.open("rb") as file:
        os.fsync(file.fileno())


def _take_index(directory: Path, part: Path) -> None:
    """Keep hold of the saved index, which is replaced by later ones and never written to: a link is a copy of it."""
    source, target = directory / index_file.FILE_NAME, part / index_file.FILE_NAME
    try:
        try:
            os.link(source, target)
        except FileNotFoundError:
            return
        except OSError:  # on another disk
            _copy_synced(source, target)
    except (GalleryError, OSError) as error:
        log.warning("the saved index is not in the snapshot, which it can be made from: %s", error)
        target.unlink(missing_ok=True)


def _keep_index(copy: Stored, numbers: NDArray[np.int64]) -> bool:
    """Whether the index in a snapshot is of its database's past and has no record that is gone since; else it goes."""
    try:
        tokens = [token for token in copy.connection.execute(_TOKENS).fetchone() if token]
        rows = index_file.load_numbers(copy.directory, tokens, copy.stamp.embedding_space, copy.stamp.dimension)
        if np.isin(rows, numbers).all():
            return True
        reason = "it has records that are gone"
    except FileNotFoundError:
        return False
    except IndexFileError as error:
        reason = str(error)
    log.info("the saved index is left out, because %s", reason)
    (copy.directory / index_file.FILE_NAME).unlink()
    return False


@contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """A folder that gets its name when the block has ended well, and is removed where it has not."""
    part = out.with_name(f"{out.name}.part")
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        try:
            part.mkdir(mode=OWNER_ONLY_DIRECTORY)
        except FileExistsError as error:
            raise GalleryError(
                f"{part} is being written by another snapshot, or left of one that was broken off: remove it then"
            ) from error
        try:
            yield part
            sync_directory(part)
            part.rename(out)
            sync_directory(out.parent)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
    except OSError as error:
        raise translate(error, out.parent) from error


def _copy_checked(manifest: Manifest, snapshot: Path, folder: Path) -> None:
    for name, file in manifest.files.items():
        if _copy_synced(snapshot / name, folder / name) != file:
            raise GalleryError(
                f"{snapshot / name} is not as it was written, so nothing was restored: use another snapshot"
            )


def _move(part: Path, directory: Path) -> None:
    # The database last: without it the directory holds no gallery.
    for path in sorted(part.iterdir(), key=lambda path: path.name == FILE_NAME):
        if path.name not in _NO_RECORDS:
            path.replace(directory / path.name)
    sync_directory(directory)
    sync_directory(directory.absolute().parent)


def _copy_synced(source: Path, target: Path) -> File:
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
    return File(bytes=size, sha256=digest.hexdigest())


def _write_synced(path: Path, data: bytes) -> None:
    with open(path, "wb", opener=owner_only) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _describe(path: Path) -> File:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return File(bytes=os.fstat(file.fileno()).st_size, sha256=digest)
