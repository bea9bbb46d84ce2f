"""Read and write files that an operator names."""

import os
from pathlib import Path


def read_at_most(path: Path, limit: int) -> bytes | None:
    """Return the content of a file, or `None` if it has more than `limit` bytes.

    The size that the file system says is not asked: that of a device or a pipe is 0.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        content = file.read(limit + 1)
    return content if len(content) <= limit else None


def replace_text(path: Path, text: str) -> None:
    """Write a text file so that a reader sees the old or the new content, and a full disk leaves no part of it.

    Raises:
        OSError: the file cannot be written; it is unchanged.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
