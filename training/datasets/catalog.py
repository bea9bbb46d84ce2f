"""Recognise the dataset at a path, read its tracklets, and set people aside for validation."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from training.datasets import ilids_vid, prid2011
from training.datasets.cuhk03 import is_cuhk03, read_cuhk03
from training.datasets.duke import is_duke, read_duke
from training.datasets.files import dataset_roots
from training.datasets.folder import read_tracklets
from training.datasets.ls_vid import is_ls_vid, read_ls_vid
from training.datasets.market1501 import is_market1501, read_market1501
from training.datasets.mars import is_mars, read_mars
from training.datasets.tracklet import Benchmark, DatasetError, Tracklet

DatasetKind = Literal["mars", "prid2011", "ilids-vid", "ls-vid", "duke", "market1501", "cuhk03", "folder"]

SPLITS: dict[DatasetKind, int] = {"prid2011": prid2011.SPLITS, "ilids-vid": ilids_vid.SPLITS}
"""Number of splits of the datasets that have several."""

_RECOGNISERS: dict[DatasetKind, Callable[[Path], bool]] = {
    "mars": lambda path: bool(dataset_roots(path, is_mars)),
    "prid2011": prid2011.is_prid2011,
    "ilids-vid": ilids_vid.is_ilids_vid,
    "ls-vid": is_ls_vid,
    "duke": is_duke,
    "market1501": is_market1501,
    "cuhk03": is_cuhk03,
}
_READERS: dict[DatasetKind, Callable[[Path], Benchmark]] = {"mars": read_mars, "ls-vid": read_ls_vid, "duke": read_duke}
_SPLIT_READERS: dict[DatasetKind, Callable[[Path, int], Benchmark]] = {
    "prid2011": prid2011.read_prid2011,
    "ilids-vid": ilids_vid.read_ilids_vid,
}
_TRAINING_READERS: dict[DatasetKind, Callable[[Path], list[Tracklet]]] = {
    "market1501": read_market1501,
    "cuhk03": read_cuhk03,
}
"""Readers of the datasets without test lists."""


def kind_of(path: Path) -> DatasetKind:
    """Return which layout a path, or a folder directly in it, has; `folder` if it is none of the named ones.

    Raises:
        DatasetError: the path contains datasets of several kinds.
    """
    kinds = [kind for kind, fits in _RECOGNISERS.items() if fits(path)]
    if len(kinds) > 1:
        raise DatasetError(f"{path} contains several datasets, {' and '.join(kinds)}: name the folder of one of them")
    return kinds[0] if kinds else "folder"


def split_count(path: Path) -> int:
    """Return the number of splits into training and test people of the dataset at a path."""
    return SPLITS.get(kind_of(path), 1)


def has_test_lists(path: Path) -> bool:
    """Return whether the dataset at a path has its own queries and gallery."""
    kind = kind_of(path)
    return kind in _READERS or kind in _SPLIT_READERS


def read_benchmark(path: Path, split: int | None = None) -> Benchmark:
    """Read training, query and gallery tracklets of a dataset that has test lists.

    Args:
        path: the dataset's folder
        split: from 0; required for PRID2011 and iLIDS-VID, not allowed for others

    Raises:
        DatasetError: the dataset has no test lists or no such split, or a file is missing.
    """
    if not path.exists():
        raise DatasetError(f"{path} does not exist")
    kind = kind_of(path)
    count = SPLITS.get(kind)
    if count and split is None:
        raise DatasetError(f"{path} is {kind}, which has {count} splits: choose one (0 to {count - 1})")
    if not count and split is not None:
        raise DatasetError(f"{path} is {kind}, which has no splits: omit the split")
    if kind in _SPLIT_READERS:
        return _SPLIT_READERS[kind](path, split or 0)
    if kind in _READERS:
        return _READERS[kind](path)
    raise DatasetError(f"{path} has no test lists; datasets with test lists: {', '.join((*_READERS, *_SPLIT_READERS))}")


def read_training(paths: Iterable[Path], split: int | None = None) -> list[Tracklet]:
    """Read the training tracklets of one or more datasets of any layout.

    Folders, MARS and Market-1501 share their person ids: in these the same id is the same person. If several datasets
    are read, the ids of the others get the dataset's name as a prefix, because each numbers its people from 1. Those of
    CUHK03 always have it. A .tar may contain Market-1501, CUHK03, or the folders of people.

    Args:
        paths: of the datasets
        split: used for the datasets that have several

    Raises:
        DatasetError: a file is missing or not understood, or a dataset is given twice.
    """
    tracklets: list[Tracklet] = []
    paths = list(paths)
    read: set[Path] = set()
    for path in paths:
        if not path.exists():
            raise DatasetError(f"{path} does not exist")
        if path.resolve() in read:
            raise DatasetError(f"{path} is given twice: name each dataset once")
        read.add(path.resolve())
        kind = kind_of(path)
        if kind in _TRAINING_READERS:
            tracklets += _TRAINING_READERS[kind](path)
        elif kind != "folder":
            found = read_benchmark(path, split if kind in SPLITS else None).train
            prefixed = kind != "mars" and len(paths) > 1
            tracklets += [replace(t, person=f"{kind}:{t.person}") for t in found] if prefixed else found
        else:
            found = read_tracklets(path)
            stray = next((tracklet for tracklet in found if not (tracklet.person and tracklet.camera)), None)
            if stray is not None:
                raise DatasetError(
                    f"{path}: training needs person/camera/tracklet/*.jpg, or the layout of a dataset that "
                    f"`not3d datasets list` names; {stray.frames[0].parent} has images at another depth"
                )
            tracklets += found
    return tracklets


def site_of(person: str) -> str:
    """Return the site of a person of `read_training`: the prefix of the id, or `""` for ids that datasets share."""
    return person.rpartition(":")[0]


def set_aside(tracklets: Sequence[Tracklet], share: float, seed: int) -> tuple[list[Tracklet], list[Tracklet]]:
    """Split tracklets by person into training and validation tracklets.

    Validation people are drawn, by a hash of seed and id, from those that two cameras saw. So more data never moves a
    person from one side to the other.

    Args:
        tracklets: of all people
        share: of the people of two cameras that are drawn, on average; 0 to 1
        seed: of the hash
    """
    cameras: dict[str, set[str]] = {}
    for tracklet in tracklets:
        cameras.setdefault(tracklet.person, set()).add(tracklet.camera)
    candidates = sorted(person for person, seen in cameras.items() if len(seen) > 1)
    aside = {person for person in candidates if _uniform(person, seed) < share}
    train = [tracklet for tracklet in tracklets if tracklet.person not in aside]
    return train, [tracklet for tracklet in tracklets if tracklet.person in aside]


def one_per_person_and_camera(tracklets: Iterable[Tracklet]) -> list[Tracklet]:
    """Return the longest tracklet of each person and camera, ordered by them: the set on which epochs are compared."""
    best: dict[tuple[str, str], Tracklet] = {}
    for tracklet in tracklets:
        key = (tracklet.person, tracklet.camera)
        if key not in best or len(tracklet.frames) > len(best[key].frames):
            best[key] = tracklet
    return [best[key] for key in sorted(best)]


def _uniform(person: str, seed: int) -> float:
    """Return a number in [0, 1) that depends on person and seed only."""
    digest = hashlib.sha256(f"{seed}:{person}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
