"""Read files that an operator names."""

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
