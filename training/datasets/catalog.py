"""Which dataset lies at a path, and which of its people are set aside."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from training.datasets.folder import read_tracklets
from training.datasets.market1501 import is_market1501, read_market1501
from training.datasets.mars import is_mars, read_mars
from training.datasets.tracklet import DatasetError, Tracklet

DatasetKind = Literal["mars", "market1501", "folder"]

_SPLITS: dict[DatasetKind, int] = {}
"""Splits of the datasets that have several."""


def kind_of(path: Path) -> DatasetKind:
    """Which layout lies at a path; ``folder`` where it is none of the named ones."""
    if is_mars(path):
        return "mars"
    return "market1501" if is_market1501(path) else "folder"


@dataclass(frozen=True)
class Benchmark:
    """A dataset with test lists of its own, one split of it.

    ``gallery`` does not hold the queries; MARS's junk (person -1) is in none of the lists, its distractors (0000) are
    in the gallery.
    """

    kind: DatasetKind
    train: list[Tracklet]
    query: list[Tracklet]
    gallery: list[Tracklet]
    split: int | None = None
    """from 0; ``None`` where the dataset has but one"""


def split_count(path: Path) -> int:
    """How many splits of training and test people the dataset at a path has."""
    return _SPLITS.get(kind_of(path), 1)


def read_benchmark(path: Path, split: int | None = None) -> Benchmark:
    """Training, query and gallery tracklets of a dataset that has test lists.

    Raises:
        DatasetError: it has none, or not this split, or names what is missing.
    """
    kind = kind_of(path)
    if kind != "mars":
        raise DatasetError(f"{path} has no test lists of its own, as MARS has")
    if split is not None:
        raise DatasetError(f"{path} has no splits; leave the split out")
    mars = read_mars(path)
    return Benchmark(kind, mars.train, mars.query, mars.gallery)


def read_training(paths: Iterable[Path]) -> list[Tracklet]:
    """Training tracklets of one or more datasets: MARS, Market-1501 (folder or tar), or
    ``person/camera/tracklet/*.jpg``.

    Datasets read together share their person ids: the same id is the same person, as it is in MARS and Market-1501.

    Raises:
        DatasetError: names what is missing or not understood.
    """
    tracklets: list[Tracklet] = []
    for path in paths:
        if not path.exists():
            raise DatasetError(f"{path} does not exist")
        kind = kind_of(path)
        if kind == "mars":
            tracklets += read_mars(path).train
        elif kind == "market1501":
            tracklets += read_market1501(path)
        else:
            found = read_tracklets(path)
            if any(not (tracklet.person and tracklet.camera) for tracklet in found):
                raise DatasetError(
                    f"{path}: training needs person/camera/tracklet/*.jpg, or MARS's or Market-1501's layout"
                )
            tracklets += found
    return tracklets


def set_aside(tracklets: Sequence[Tracklet], share: float, seed: int) -> tuple[list[Tracklet], list[Tracklet]]:
    """Splits by person into training and validation tracklets.

    Validation people are drawn from those whom two cameras saw, by a hash of seed and id: adding data moves nobody
    from one side to the other.
    """
    cameras: dict[str, set[str]] = {}
    for tracklet in tracklets:
        cameras.setdefault(tracklet.person, set()).add(tracklet.camera)
    candidates = sorted(person for person, seen in cameras.items() if len(seen) > 1)
    aside = {person for person in candidates if _place(person, seed) < share}
    train = [tracklet for tracklet in tracklets if tracklet.person not in aside]
    return train, [tracklet for tracklet in tracklets if tracklet.person in aside]


def one_per_person_and_camera(tracklets: Iterable[Tracklet]) -> list[Tracklet]:
    """The longest tracklet of each person and camera, ordered by them; the validation set that models are chosen by."""
    best: dict[tuple[str, str], Tracklet] = {}
    for tracklet in tracklets:
        key = (tracklet.person, tracklet.camera)
        if key not in best or len(tracklet.frames) > len(best[key].frames):
            best[key] = tracklet
    return [best[key] for key in sorted(best)]


def _place(person: str, seed: int) -> float:
    digest = hashlib.sha256(f"{seed}:{person}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
