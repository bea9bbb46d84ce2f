"""iLIDS-VID (Wang et al., "Person Re-Identification by Video Ranking", ECCV 2014).

i-LIDS-VID/sequences/cam1/person001/*.png   likewise cam2
train-test people splits/train_test_splits_ilidsvid.mat   ls_set [10, 300]: 1-based places in the list of people

The first half of a row of ``ls_set`` are the test people, the second half the training people. Programs that index the
directory as the file system lists it have other splits on every machine; here the list is sorted. The queries are
camera 1's tracklets, the gallery camera 2's.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.datasets.benchmark import Benchmark
from training.datasets.images import folders_in, images_in
from training.datasets.matfile import MatFileError, read_mat
from training.datasets.places import find_dataset_root, roots
from training.datasets.tracklet import DatasetError, Tracklet

SPLITS = 10
_CAMERAS = ("cam1", "cam2")
_FOLDER, _LIST, _KEY = "train-test people splits", "train_test_splits_ilidsvid.mat", "ls_set"


class IlidsVidError(DatasetError):
    """A file of the dataset is missing or is not what iLIDS-VID has in its place."""


def is_ilids_vid(path: Path) -> bool:
    """Whether ``sequences/cam1`` and ``sequences/cam2`` lie in the folder or a level below."""
    return bool(roots(path, _fits))


def read_ilids_vid(path: Path, split: int) -> Benchmark:
    """One split, from 0.

    Raises:
        IlidsVidError: names the file that is missing or foreign and where it belongs.
    """
    around = find_dataset_root(
        path, _fits, IlidsVidError, "i-LIDS-VID/sequences/ with cam1/ and cam2/, as iLIDS-VID has"
    )
    root = around if _has_cameras(around) else around / "sequences"
    if not 0 <= split < SPLITS:
        raise IlidsVidError(f"iLIDS-VID has splits 0 to {SPLITS - 1}, not {split}")
    people = [folder.name for folder in folders_in(root / _CAMERAS[0])]
    others = {folder.name for folder in folders_in(root / _CAMERAS[1])}
    if lost := sorted(set(people) ^ others):
        raise IlidsVidError(f"{root}: {lost[0]} is in one of cam1 and cam2 only; all people have both")
    file, places = _read_splits(path, root)
    if places.shape[1] != len(people):
        raise IlidsVidError(f"{file} is about {places.shape[1]} people, {root} has {len(people)}")
    row = [people[place - 1] for place in places[split]]
    half = len(row) // 2
    both = {name: [_tracklet(root / camera / name, camera) for camera in _CAMERAS] for name in people}
    return Benchmark(
        "ilids-vid",
        train=[tracklet for name in sorted(row[half:]) for tracklet in both[name]],
        query=[both[name][0] for name in sorted(row[:half])],
        gallery=[both[name][1] for name in sorted(row[:half])],
        split=split,
    )


def _fits(folder: Path) -> bool:
    return _has_cameras(folder / "sequences") or (_has_cameras(folder) and folder.name != "images")


def _has_cameras(folder: Path) -> bool:
    return all((folder / camera).is_dir() for camera in _CAMERAS)


def _read_splits(path: Path, root: Path) -> tuple[Path, NDArray[np.int64]]:
    folders = (path, root.parent, root.parent.parent)
    places = list(dict.fromkeys(place / inner / _LIST for place in folders for inner in (_FOLDER, "")))
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        raise IlidsVidError(f"{places[0]} is missing: the list of the ten splits belongs there")
    try:
        arrays = read_mat(file)
    except MatFileError as error:
        raise IlidsVidError(f"{file} is not iLIDS-VID's list of splits: {error}") from None
    table = arrays.get(_KEY, np.zeros((0, 0))).astype(np.int64)
    people = table.shape[1] if table.ndim == 2 else 0
    if table.shape[0] != SPLITS or not people or any(sorted(row) != list(range(1, people + 1)) for row in table):
        raise IlidsVidError(
            f"{file} is not iLIDS-VID's list of splits: {_KEY} should have ten rows that each name everyone once"
        )
    return file, table


def _tracklet(folder: Path, camera: str) -> Tracklet:
    frames = images_in(folder)
    if not frames:
        raise IlidsVidError(f"{folder} holds no images")
    person = folder.name.removeprefix("person")
    return Tracklet(person, camera, tuple(frames), f"{person}-{camera}")
