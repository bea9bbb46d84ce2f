"""Which dataset lies at a path, and which of its people are set aside."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from training.datasets import ilids_vid, prid2011
from training.datasets.benchmark import Benchmark
from training.datasets.duke import is_duke, read_duke
from training.datasets.folder import read_tracklets
from training.datasets.ilids_vid import is_ilids_vid, read_ilids_vid
from training.datasets.ls_vid import is_ls_vid, read_ls_vid
from training.datasets.market1501 import is_market1501, read_market1501
from training.datasets.mars import is_mars, read_mars
from training.datasets.places import roots
from training.datasets.prid2011 import is_prid2011, read_prid2011
from training.datasets.tracklet import DatasetError, Tracklet

DatasetKind = Literal["mars", "prid2011", "ilids-vid", "ls-vid", "duke", "market1501", "folder"]

SPLITS: dict[DatasetKind, int] = {"prid2011": prid2011.SPLITS, "ilids-vid": ilids_vid.SPLITS}
"""Splits of the datasets that have several."""


def kind_of(path: Path) -> DatasetKind:
    """Which layout lies at a path or a level below; ``folder`` where it is none of the named ones.

    Raises:
        DatasetError: datasets of several kinds lie there.
    """
    recognised: tuple[tuple[DatasetKind, Callable[[Path], bool]], ...] = (
        ("mars", lambda place: bool(roots(place, is_mars))),
        ("prid2011", is_prid2011),
        ("ilids-vid", is_ilids_vid),
        ("ls-vid", is_ls_vid),
        ("duke", is_duke),
        ("market1501", is_market1501),
    )
    kinds = [kind for kind, fits in recognised if fits(path)]
    if len(kinds) > 1:
        raise DatasetError(f"{path} holds several datasets, {' and '.join(kinds)}: name each by its own folder")
    return kinds[0] if kinds else "folder"


def split_count(path: Path) -> int:
    """How many splits of training and test people the dataset at a path has."""
    return SPLITS.get(kind_of(path), 1)


def read_benchmark(path: Path, split: int | None = None) -> Benchmark:
    """Training, query and gallery tracklets of a dataset that has test lists.

    Args:
        path: the dataset's folder
        split: from 0; for PRID2011 and iLIDS-VID, and for no other

    Raises:
        DatasetError: it has no test lists, or not this split, or names what is missing.
    """
    if not path.exists():
        raise DatasetError(f"{path} does not exist")
    kind = kind_of(path)
    count = SPLITS.get(kind)
    if count and split is None:
        raise DatasetError(f"{path} is {kind}, which has {count} splits: say which (0 to {count - 1})")
    if not count and split is not None:
        raise DatasetError(f"{path} is {kind}, which has no splits; leave the split out")
    if kind == "mars":
        mars = read_mars(path)
        return Benchmark(kind, mars.train, mars.query, mars.gallery, junk=mars.junk)
    if kind in ("prid2011", "ilids-vid"):
        return (read_prid2011 if kind == "prid2011" else read_ilids_vid)(path, split or 0)
    if kind in ("ls-vid", "duke"):
        return (read_ls_vid if kind == "ls-vid" else read_duke)(path)
    raise DatasetError(f"{path} has no test lists of its own, as MARS, PRID2011, iLIDS-VID, LS-VID and Duke have")


def read_training(paths: Iterable[Path], split: int | None = None) -> list[Tracklet]:
    """Training tracklets of one or more datasets, whatever their layouts.

    Folders, MARS and Market-1501 read together share their person ids: the same id is the same person, as it is in
    these two. Those of other datasets are set apart by the dataset's name, since each numbers its own people from 1.

    Args:
        paths: of the datasets
        split: of those that have several; the others have but one

    Raises:
        DatasetError: names what is missing or not understood.
    """
    tracklets: list[Tracklet] = []
    paths = list(paths)
    for path in paths:
        if not path.exists():
            raise DatasetError(f"{path} does not exist")
        kind = kind_of(path)
        if kind == "market1501":
            tracklets += read_market1501(path)
        elif kind != "folder":
            found = read_benchmark(path, split if kind in SPLITS else None).train
            apart = kind != "mars" and len(paths) > 1
            tracklets += [replace(t, person=f"{kind}:{t.person}") for t in found] if apart else found
        else:
            found = read_tracklets(path)
            if any(not (tracklet.person and tracklet.camera) for tracklet in found):
                raise DatasetError(
                    f"{path}: training needs person/camera/tracklet/*.jpg, or the layout of a dataset that "
                    "`not3d datasets list` names"
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
