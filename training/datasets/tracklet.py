"""What every dataset is read into: tracklets, and benchmarks with training, query and gallery tracklets."""

from dataclasses import dataclass, field
from pathlib import Path

from model.errors import Not3dError


class DatasetError(Not3dError):
    """A dataset is missing, incomplete or not in the expected layout; the message names the file."""


@dataclass(frozen=True)
class Tracklet:
    """The crops of one person that one camera's tracker followed, in time order.

    `person` and `camera` are the dataset's own ids, `""` if unknown. `name` is unique within the dataset and may serve
    as the tracklet's id in a gallery.
    """

    person: str
    camera: str
    frames: tuple[Path, ...]
    name: str = ""


@dataclass(frozen=True)
class Benchmark:
    """Training, query and gallery tracklets of a dataset with its own test lists, or of one of its splits.

    The gallery does not contain the queries.
    """

    kind: str
    train: list[Tracklet]
    query: list[Tracklet]
    gallery: list[Tracklet]
    split: int | None = None
    """from 0; `None` if the dataset has only one"""
    junk: list[Tracklet] = field(default_factory=list)
    """test tracklets that belong neither to the query nor to the gallery (MARS: person -1)"""
