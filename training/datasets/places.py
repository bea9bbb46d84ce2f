"""Where a dataset lies when its user names the folder around it, as unpacking an archive leaves it."""

from collections.abc import Callable
from pathlib import Path

from training.datasets.images import folders_in
from training.datasets.tracklet import DatasetError


def roots(path: Path, fits: Callable[[Path], bool]) -> list[Path]:
    """The folder itself if it fits, otherwise those just below it that do."""
    if not path.is_dir():
        return []
    return [path] if fits(path) else [folder for folder in folders_in(path) if fits(folder)]


def find_dataset_root(path: Path, fits: Callable[[Path], bool], error: type[DatasetError], wanted: str) -> Path:
    """The one folder that fits, at a path or just below it.

    Args:
        path: what the user named
        fits: whether a folder is the dataset's own
        error: raised where there is none, or more than one
        wanted: what a folder needs, for the message
    """
    found = roots(path, fits)
    if not found:
        raise error(f"{path} has no {wanted}")
    if len(found) > 1:
        raise error(f"{path} holds {len(found)} copies, {found[0].name} and {found[1].name} among them: name one")
    return found[0]
