"""Files and folders of a dataset: images in natural order, and the dataset's root."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from training.datasets.tracklet import DatasetError

IMAGE_SUFFIXES = frozenset({".bmp", ".jpg", ".jpeg", ".png", ".webp"})

_SYSTEM_FOLDERS = frozenset(
    {
        *("@eadir", "@tmp", "@recycle", "@recently-snapshot", "@synoresource", "#recycle", "#snapshot"),  # NAS
        *("~snapshot", "lost+found"),
        *("$recycle.bin", "recycler", "recycled", "system volume information", "found.000", "_vti_cnf"),  # Windows
        *("__macosx", "network trash folder", "temporary items", "thefindbyfolder", "thevolumesettingsfolder"),  # macOS
    }
)
"""Names, in lower case, of folders that file servers and desktops leave beside a user's files. Some contain thumbnails
or deleted files, which are images too."""


def is_system_folder(name: str) -> bool:
    """Return whether a folder belongs to a file server or a desktop by its name, such as `@eaDir` or `#recycle`.

    Hidden folders, such as `.Trash-1000`, do not count: they are never read.
    """
    return name.lower() in _SYSTEM_FOLDERS


def natural_key(text: str) -> tuple[tuple[tuple[int, int, str], ...], str]:
    """Return a sort key that orders numbers by value and before letters: `frame9` before `frame10`."""
    parts = (part for part in re.split(r"([0-9]+)", text) if part)
    # The text itself orders "7" and "007".
    return tuple((0, int(part), "") if part[0] in "0123456789" else (1, 0, part) for part in parts), text


def images_in(folder: Path) -> list[Path]:
    """Return the image files directly in a folder, in natural order, without hidden files."""
    return [path for path in _visible(folder) if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()]


def folders_in(folder: Path) -> list[Path]:
    """Return the folders directly in a folder, in natural order, without hidden ones and those of the system."""
    return [path for path in _visible(folder) if not is_system_folder(path.name) and path.is_dir()]


def dataset_roots(path: Path, fits: Callable[[Path], bool]) -> list[Path]:
    """Return the folder itself if it fits, otherwise the folders directly in it that fit.

    An unpacked archive often has one folder around the dataset.
    """
    if not path.is_dir():
        return []
    return [path] if fits(path) else [folder for folder in folders_in(path) if fits(folder)]


def find_dataset_root(path: Path, fits: Callable[[Path], bool], expected: str) -> Path:
    """Return the only folder that fits, at a path or directly in it.

    Args:
        path: what the user named
        fits: whether a folder is the dataset's root
        expected: what a root contains, for the message

    Raises:
        DatasetError: no folder fits, or several do.
    """
    found = dataset_roots(path, fits)
    if not found:
        raise DatasetError(f"{path} has no {expected}")
    if len(found) > 1:
        names = " and ".join(folder.name for folder in found[:2])
        raise DatasetError(f"{path} contains {len(found)} copies of the dataset, for example {names}: name one of them")
    return found[0]


def first_file(candidates: Sequence[Path], purpose: str) -> Path:
    """Return the first candidate that exists.

    Raises:
        DatasetError: none exists; the message names the first candidate and its purpose.
    """
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise DatasetError(f"{candidates[0]} is missing: it lists {purpose}")


def _visible(folder: Path) -> list[Path]:
    """Return the entries of a folder in natural order, without hidden files (such as `._x` of macOS)."""
    found = (path for path in folder.iterdir() if not path.name.startswith("."))
    return sorted(found, key=lambda path: natural_key(path.name))
