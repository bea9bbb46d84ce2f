"""MARS in its official layout (Zheng et al., "MARS: A Video Benchmark for Large-Scale Person Re-identification", 2016).

bbox_train/<person>/IIIICcTttttFfff.jpg     bbox_test/<person>/...
info/train_name.txt  test_name.txt          file names, one per line, lines end with CRLF
info/tracks_train_info.mat  tracks_test_info.mat   rows [first, last, person, camera], 1-based, last included
info/query_IDX.mat                          1-based rows of tracks_test_info that are queries
"""

from pathlib import Path
from typing import TYPE_CHECKING

from model.errors import extra
from training.datasets.files import find_dataset_root
from training.datasets.tracklet import Benchmark, DatasetError, Tracklet

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

JUNK_PERSON = -1
"""Boxes that show no person or several; folder `00-1`. They belong neither to the query nor to the gallery."""

_FOLDERS = ("bbox_train", "bbox_test")
_FILES = ("train_name.txt", "test_name.txt", "tracks_train_info.mat", "tracks_test_info.mat", "query_IDX.mat")


def is_mars(root: Path) -> bool:
    """Return whether the folder has the layout of MARS, complete or not."""
    return (root / "info").is_dir() and any((root / folder).is_dir() for folder in _FOLDERS)


def read_mars(path: Path) -> Benchmark:
    """Read the lists of the dataset at a path or one level below, and check that the images exist.

    Tracklets keep the order of the lists. Their name is the prefix of their files, such as `0022C1T0001` for person
    `0022` and camera `C1`. Person `0000` in the gallery are distractors, which are never a right answer.

    Raises:
        DatasetError: a file is missing or is not part of MARS.
    """
    root = find_dataset_root(path, is_mars, "bbox_train/, bbox_test/ and info/ (the layout of MARS)")
    missing = [root / folder for folder in _FOLDERS if not (root / folder).is_dir()]
    missing += [root / "info" / name for name in _FILES if not (root / "info" / name).is_file()]
    if missing:
        raise DatasetError(
            f"{root} is not a complete MARS: {', '.join(str(path.relative_to(root)) for path in missing)} missing. "
            f"MARS has bbox_train/, bbox_test/ and, in info/, {', '.join(_FILES)}."
        )
    train = _tracklets(root, "train")
    test = _tracklets(root, "test")
    query_rows = _query_rows(root / "info" / "query_IDX.mat", len(test))
    return Benchmark(
        "mars",
        train=[tracklet for person, tracklet in train if person != JUNK_PERSON],
        query=[tracklet for row, (_, tracklet) in enumerate(test) if row in query_rows],
        gallery=[
            tracklet for row, (person, tracklet) in enumerate(test) if row not in query_rows and person != JUNK_PERSON
        ],
        junk=[tracklet for person, tracklet in test if person == JUNK_PERSON],
    )


def _tracklets(root: Path, part: str) -> list[tuple[int, Tracklet]]:
    """Return person number and tracklet of each row of a part, `train` or `test`."""
    names_file = root / "info" / f"{part}_name.txt"
    names = names_file.read_text(encoding="ascii", errors="replace").split()
    info_file = root / "info" / f"tracks_{part}_info.mat"
    rows = _read_integers(info_file, f"track_{part}_info")
    if rows.ndim != 2 or rows.shape[1] != 4:
        raise DatasetError(f"{info_file} is not MARS's file: expected four columns, found shape {list(rows.shape)}")
    folder = root / f"bbox_{part}"
    files_of: dict[str, dict[str, Path]] = {}
    tracklets = []
    for row, (first, last, person, camera) in enumerate(rows.tolist(), start=1):
        if not 1 <= first <= last <= len(names):
            raise DatasetError(
                f"{info_file}, row {row}: files {first} to {last}, but {names_file} lists {len(names)} files"
            )
        files = names[first - 1 : last]
        prefix = files[0].partition("F")[0]
        owner = f"00{person}" if person == JUNK_PERSON else f"{person:04d}"  # MARS writes -1 as "00-1"
        start = f"{owner}C{camera}T"
        if not all(file.startswith(start) for file in files):
            raise DatasetError(
                f"{info_file} does not belong to {names_file}: row {row} is person {owner} at camera {camera}, "
                f"its files are {files[0]} to {files[-1]}"
            )
        directory = folder / owner
        if owner not in files_of:
            files_of[owner] = _files_in(directory)
        missing = next((file for file in files if file not in files_of[owner]), None)
        if missing is not None:
            raise DatasetError(f"{directory / missing} is missing; {names_file} lists it")
        frames = tuple(files_of[owner][file] for file in files)
        tracklets.append((person, Tracklet(owner, f"C{camera}", frames, prefix)))
    return tracklets


def _files_in(folder: Path) -> dict[str, Path]:
    """Return paths by file name; joining paths again for the 1.2 million names of MARS would take twice as long."""
    return {path.name: path for path in folder.iterdir()} if folder.is_dir() else {}


def _query_rows(path: Path, test_rows: int) -> set[int]:
    """Return the 0-based rows of the queries."""
    rows = _read_integers(path, "query_IDX").ravel() - 1
    if rows.size == 0 or rows.min() < 0 or rows.max() >= test_rows:
        raise DatasetError(f"{path} names rows outside the {test_rows} of tracks_test_info.mat")
    return set(rows.tolist())


def _read_integers(path: Path, name: str) -> "NDArray[np.int64]":
    with extra("video"):  # listing other folders of images needs no NumPy
        from training.datasets.matfile import read_integers
    return read_integers(path, name, "MARS")
