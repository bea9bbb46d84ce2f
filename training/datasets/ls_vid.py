"""LS-VID (Li et al., "Global-Local Temporal Representations for Video Person Re-Identification", ICCV 2019).

list_sequence/list_seq_train.txt   list_seq_test.txt   lines "<path prefix of the images> <person>"
test/data/info_test.mat            HDF5; query [1, Q]: 1-based lines of list_seq_test.txt

The camera is the third field, between underscores, of an image's name. The gallery does not contain the queries.
"""

from pathlib import Path

import numpy as np

from model.errors import extra
from training.datasets.files import dataset_roots, find_dataset_root, first_file, images_in
from training.datasets.tracklet import Benchmark, DatasetError, Tracklet

_LISTS = ("list_seq_train.txt", "list_seq_test.txt")
_QUERY = "info_test.mat"


def is_ls_vid(path: Path) -> bool:
    """Return whether the folder, or a folder directly in it, has `list_sequence`."""
    return bool(dataset_roots(path, _fits))


def read_ls_vid(path: Path) -> Benchmark:
    """Read training, query and gallery tracklets in the order of the lists.

    Raises:
        DatasetError: a file is missing or is not part of the dataset.
    """
    root = find_dataset_root(path, _fits, f"list_sequence/ with {' and '.join(_LISTS)} (the layout of LS-VID)")
    train, test = (_read_list(root, root / "list_sequence" / name) for name in _LISTS)
    candidates = root / "test" / "data" / _QUERY, root / "list_sequence" / _QUERY, root / _QUERY
    queries = _query_rows(first_file(candidates, "the test tracklets that are queries"), len(test))
    return Benchmark(
        "ls-vid",
        train,
        [tracklet for row, tracklet in enumerate(test) if row in queries],
        [tracklet for row, tracklet in enumerate(test) if row not in queries],
    )


def _fits(folder: Path) -> bool:
    return (folder / "list_sequence").is_dir()


def _read_list(root: Path, file: Path) -> list[Tracklet]:
    first_file([file], "the tracklets")
    tracklets = []
    images: dict[Path, list[Path]] = {}
    for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 2:
            raise DatasetError(f"{file}, line {number}: expected a path prefix and a person, not {line!r}")
        prefix, person = root / fields[0], fields[1]
        folder = prefix if prefix.is_dir() else prefix.parent
        if folder not in images:
            images[folder] = images_in(folder) if folder.is_dir() else []
        start = "" if folder == prefix else prefix.name
        frames = tuple(frame for frame in images[folder] if frame.name.startswith(start))
        if not frames:
            raise DatasetError(f"{prefix}*.jpg is missing; {file}, line {number}, lists it")
        parts = frames[0].name.split("_")
        if len(parts) < 4 or not parts[2].isdecimal():
            raise DatasetError(f"{frames[0]}: expected the camera as the third field between underscores (LS-VID)")
        tracklets.append(Tracklet(person, f"C{int(parts[2])}", frames, fields[0].replace("/", "-")))
    return tracklets


def _query_rows(file: Path, test_rows: int) -> set[int]:
    """Return the 0-based rows of the queries."""
    with extra("train"):
        import h5py
    try:
        with h5py.File(file, "r") as content:
            rows = np.asarray(content["query"]).ravel().astype(np.int64) - 1
    except (OSError, KeyError) as error:
        raise DatasetError(f"{file} is not LS-VID's list of queries: {error}") from None
    if rows.size == 0 or rows.min() < 0 or rows.max() >= test_rows:
        raise DatasetError(f"{file} names rows outside the {test_rows} of {_LISTS[1]}")
    return set(rows.tolist())
