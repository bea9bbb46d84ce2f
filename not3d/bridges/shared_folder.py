"""Files of one folder that others write: nothing outside it is ever read."""

import os
import stat
from contextlib import ExitStack
from pathlib import Path, PurePosixPath

MAX_BYTES = 30_000_000


class ForbiddenPath(ValueError):
    """A name leads out of the folder, or to what is no plain file; the message says which."""


def read_file(folder: Path, name: str, max_bytes: int = MAX_BYTES) -> bytes:
    """Return the content of a file in a folder.

    No component of the name may be a symbolic link. Each is opened relative to the one before, so nothing that is
    renamed meanwhile leads outside.

    Args:
        folder: the folder; it may be a link itself.
        name: path of the file, relative to the folder, with `/`.
        max_bytes: largest size.

    Raises:
        ForbiddenPath: the name is absolute, has `..`, goes through a link, or is of no plain file, or the file is too
            large.
        OSError: there is no such file, or it cannot be read.
    """
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\0" in name or "\\" in name:
        raise ForbiddenPath(f"{name!r} is not a path inside the folder")
    with ExitStack() as stack:

        def open_at(part: str, flags: int, parent: int | None) -> int:
            descriptor = os.open(part, os.O_RDONLY | os.O_CLOEXEC | flags, dir_fd=parent)
            stack.callback(os.close, descriptor)
            return descriptor

        here = open_at(os.fspath(folder), os.O_DIRECTORY, None)
        try:
            for part in parts[:-1]:
                here = open_at(part, os.O_DIRECTORY | os.O_NOFOLLOW, here)
            # A named pipe would wait for its writer.
            file = open_at(parts[-1], os.O_NOFOLLOW | os.O_NONBLOCK, here)
        except OSError as error:
            if _has_link(folder, parts):
                raise ForbiddenPath(f"{name!r} goes through a symbolic link") from error
            raise
        facts = os.fstat(file)
        if not stat.S_ISREG(facts.st_mode):
            raise ForbiddenPath(f"{name!r} is not a plain file")
        if facts.st_size > max_bytes:
            raise ForbiddenPath(f"{name!r} has {facts.st_size} bytes, at most {max_bytes} are read")
        with os.fdopen(os.dup(file), "rb") as stream:
            return stream.read(max_bytes)


def _has_link(folder: Path, parts: tuple[str, ...]) -> bool:
    """Return whether a component is a link; for the message only."""
    return any((folder / Path(*parts[: count + 1])).is_symlink() for count in range(len(parts)))
