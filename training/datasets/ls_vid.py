"""LS-VID (Li et al., "Global-Local Temporal Representations for Video Person Re-Identification", ICCV 2019).

list_sequence/list_seq_train.txt   list_seq_test.txt   lines "<path prefix of the images> <person>"
test/data/info_test.mat            HDF5; query [1, Q]: 1-based lines of list_seq_test.txt

The camera is the third field, between underscores, of an image's name. The gallery does not hold the queries.
"""

from pathlib import Path

import numpy as np

from training.datasets.benchmark import Benchmark
from training.datasets.images import images_in
from training.datasets.places import find_dataset_root, roots
from training.datasets.tracklet import DatasetError, Tracklet

_LISTS = ("list_seq_train.txt", "list_seq_test.txt")
_QUERY = "info_test.mat"


class LsVidError(DatasetError):
    """A file of the dataset is missing or is not what LS-VID has in its place."""


def is_ls_vid(path: Path) -> bool:
    """Whether ``list_sequence`` lies in the folder or a level below."""
    return bool(roots(path, _fits))


def read_ls_vid(path: Path) -> Benchmark:
    """Training, query and gallery tracklets in the order of the lists.

    Raises:
        LsVidError: names the file that is missing or foreign and where it belongs.
    """
    root = find_dataset_root(path, _fits, LsVidError, f"list_sequence/ with {' and '.join(_LISTS)}, as LS-VID has")
    train, test = (_read_list(root, root / "list_sequence" / name) for name in _LISTS)
    places = root / "test" / "data" / _QUERY, root / "list_sequence" / _QUERY, root / _QUERY
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        raise LsVidError(f"{places[0]} is missing: it says which test tracklets are queries")
    queries = _query_rows(file, len(test))
    return Benchmark(
        "ls-vid",
        train,
        [tracklet for row, tracklet in enumerate(test) if row in queries],
        [tracklet for row, tracklet in enumerate(test) if row not in queries],
    )


def _fits(folder: Path) -> bool:
    return (folder / "list_sequence").is_dir()


def _read_list(root: Path, file: Path) -> list[Tracklet]:
    if not file.is_file():
        raise LsVidError(f"{file} is missing: it lists the tracklets")
    tracklets = []
    listed: dict[Path, list[Path]] = {}
    for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 2:
            raise LsVidError(f"{file}, line {number}: a path prefix and a person belong there, not {line!r}")
        prefix, person = root / fields[0], fields[1]
        folder = prefix if prefix.is_dir() else prefix.parent
        if folder not in listed:
            listed[folder] = images_in(folder) if folder.is_dir() else []
        start = "" if folder == prefix else prefix.name
        frames = tuple(frame for frame in listed[folder] if frame.name.startswith(start))
        if not frames:
            raise LsVidError(f"{prefix}*.jpg is missing; {file}, line {number}, lists it")
        parts = frames[0].name.split("_")
        if len(parts) < 4 or not parts[2].isdecimal():
            raise LsVidError(f"{frames[0]} is not named like LS-VID's crops: the camera is the third field between _")
        tracklets.append(Tracklet(person, f"C{int(parts[2])}", frames, fields[0].replace("/", "-")))
    return tracklets


def _query_rows(file: Path, test_rows: int) -> set[int]:
    """0-based rows of the queries."""
    try:
        import h5py
    except ModuleNotFoundError:
        raise LsVidError(
            "LS-VID's info_test.mat needs h5py, which comes with the extra: pip install 'not3d[train]'"
        ) from None
    try:
        with h5py.File(file, "r") as content:
            rows = np.asarray(content["query"]).ravel().astype(np.int64) - 1
    except (OSError, KeyError) as error:
        raise LsVidError(f"{file} is not LS-VID's list of queries: {error}") from None
    if rows.size == 0 or rows.min() < 0 or rows.max() >= test_rows:
        raise LsVidError(f"{file} names rows outside the {test_rows} of {_LISTS[1]}")
    return set(rows.tolist())
