"""What every dataset is read into."""

from dataclasses import dataclass
from pathlib import Path


class DatasetError(ValueError):
    """There is no dataset at a path, or not the one that its layout promises; the message names the file."""


@dataclass(frozen=True)
class Tracklet:
    """The crops of one person that one camera's tracker followed, in time order.

    ``person`` and ``camera`` are the dataset's own ids and ``""`` where unknown; ``name`` tells the tracklet from the
    others of its dataset and may serve as its id in a gallery.
    """

    person: str
    camera: str
    frames: tuple[Path, ...]
    name: str = ""
