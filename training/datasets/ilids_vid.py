"""iLIDS-VID (Wang et al., "Person Re-Identification by Video Ranking", ECCV 2014).

i-LIDS-VID/sequences/cam1/person001/*.png   the same in cam2
train-test people splits/train_test_splits_ilidsvid.mat   ls_set [10, 300]: 1-based positions in the list of people

The first half of a row of `ls_set` are the test people, the second half the training people. The list of people is
sorted here; programs that take the file system's order have different splits on different machines. The queries are the
tracklets of camera 1, the gallery those of camera 2.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.datasets.files import dataset_roots, find_dataset_root, first_file, folders_in, images_in
from training.datasets.matfile import read_integers
from training.datasets.tracklet import Benchmark, DatasetError, Tracklet

SPLITS = 10
_CAMERAS = ("cam1", "cam2")
_FOLDER, _LIST, _KEY = "train-test people splits", "train_test_splits_ilidsvid.mat", "ls_set"


def is_ilids_vid(path: Path) -> bool:
    """Return whether the folder, or a folder directly in it, has `sequences/cam1` and `sequences/cam2`."""
    return bool(dataset_roots(path, _fits))


def read_ilids_vid(path: Path, split: int) -> Benchmark:
    """Read one split, counted from 0.

    Raises:
        DatasetError: a file is missing or is not part of the dataset, or there is no such split.
    """
    found = find_dataset_root(path, _fits, "i-LIDS-VID/sequences/ with cam1/ and cam2/ (the layout of iLIDS-VID)")
    root = found if _has_cameras(found) else found / "sequences"
    if not 0 <= split < SPLITS:
        raise DatasetError(f"iLIDS-VID has splits 0 to {SPLITS - 1}, not {split}")
    people = [folder.name for folder in folders_in(root / _CAMERAS[0])]
    others = {folder.name for folder in folders_in(root / _CAMERAS[1])}
    if unpaired := sorted(set(people) ^ others):
        raise DatasetError(f"{root}: {unpaired[0]} is in one of cam1 and cam2 only; every person must be in both")
    file, positions = _read_splits(path, root)
    if positions.shape[1] != len(people):
        raise DatasetError(f"{file} lists {positions.shape[1]} people, but {root} has {len(people)}")
    row = [people[position - 1] for position in positions[split]]
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
    file = first_file([folder / inner / _LIST for folder in folders for inner in (_FOLDER, "")], "the ten splits")
    table = read_integers(file, _KEY, "iLIDS-VID")
    people = table.shape[1] if table.ndim == 2 else 0
    if table.shape[0] != SPLITS or not people or any(sorted(row) != list(range(1, people + 1)) for row in table):
        raise DatasetError(
            f"{file} is not iLIDS-VID's list of splits: {_KEY} must have ten rows, each with every person once"
        )
    return file, table


def _tracklet(folder: Path, camera: str) -> Tracklet:
    frames = images_in(folder)
    if not frames:
        raise DatasetError(f"{folder} contains no images")
    person = folder.name.removeprefix("person")
    return Tracklet(person, camera, tuple(frames), f"{person}-{camera}")
