"""Image files of a folder, in natural order."""

import re
from pathlib import Path

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})


def natural_key(text: str) -> tuple[tuple[tuple[int, int, str], ...], str]:
    """Sorts digits by value and before letters: ``frame9`` before ``frame10``."""
    parts = (part for part in re.split(r"([0-9]+)", text) if part)
    # The text itself decides between 7 and 007.
    return tuple((0, int(part), "") if part[0] in "0123456789" else (1, 0, part) for part in parts), text


def visible(folder: Path) -> list[Path]:
    """What lies in a folder in natural order, never the file system's; hidden files (``._x`` of macOS) are left out."""
    found = (path for path in folder.iterdir() if not path.name.startswith("."))
    return sorted(found, key=lambda path: natural_key(path.name))


def images_in(folder: Path) -> list[Path]:
    """Image files directly in a folder, in natural order; other files (``Thumbs.db``) are passed over."""
    return [path for path in visible(folder) if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()]


def folders_in(folder: Path) -> list[Path]:
    """Folders directly in a folder, in natural order."""
    return [path for path in visible(folder) if path.is_dir()]
