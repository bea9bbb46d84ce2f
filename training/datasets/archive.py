"""Datasets in a tar archive: which layout one contains, and where it is unpacked."""

import hashlib
import tarfile
import tempfile
from functools import lru_cache
from pathlib import Path, PurePosixPath

from training.datasets.files import folders_in, images_in
from training.datasets.tracklet import DatasetError


def is_archive(path: Path) -> bool:
    """Return whether a path is a tar archive, by its name."""
    return path.suffix == ".tar" and path.is_file()


def first_member(archive: Path) -> PurePosixPath:
    """Return the path of the first visible file in an archive, which shows the layout of the dataset.

    Raises:
        DatasetError: the file is not an archive, or contains no file.
    """
    state = archive.stat()
    return _first_member(archive, state.st_size, state.st_mtime_ns)


def unpack(archive: Path) -> Path:
    """Unpack an archive once, into the system's folder for temporary files, and return the folder.

    Raises:
        DatasetError: the file is not an archive.
    """
    state = archive.stat()
    key = hashlib.sha256(f"{archive.resolve()}:{state.st_size}:{state.st_mtime_ns}".encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"not3d-dataset-{key}"
    if not folder.exists():
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            try:
                with tarfile.open(archive) as tar:
                    tar.extractall(scratch, filter="data")
            except tarfile.TarError as error:
                raise DatasetError(f"{archive} is not a tar archive: {error}") from None
            try:
                Path(scratch).rename(folder)
                Path(scratch).mkdir()  # the context manager removes it
            except OSError:
                if not folder.exists():  # otherwise another process has just unpacked the same archive
                    raise
    return folder


def unpack_to_root(archive: Path) -> Path:
    """Unpack an archive and return the folder with its content, below folders that contain only one folder.

    Raises:
        DatasetError: the file is not an archive.
    """
    folder = unpack(archive)
    while not images_in(folder) and len(inside := folders_in(folder)) == 1:
        folder = inside[0]
    return folder


@lru_cache(64)
def _first_member(archive: Path, size: int, changed: int) -> PurePosixPath:  # noqa: ARG001 - they are part of the key
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                if member.isfile() and not PurePosixPath(member.name).name.startswith("."):
                    return PurePosixPath(member.name)
    except tarfile.TarError as error:
        raise DatasetError(f"{archive} is not a tar archive: {error}") from None
    raise DatasetError(f"{archive} contains no files")
