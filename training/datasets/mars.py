"""MARS in its official layout (Zheng et al., "MARS: A Video Benchmark for Large-Scale Person Re-identification", 2016).

bbox_train/<person>/IIIICcTttttFfff.jpg     bbox_test/<person>/...
info/train_name.txt  test_name.txt          file names, one per line, lines end with CRLF
info/tracks_train_info.mat  tracks_test_info.mat   rows [first, last, person, camera], 1-based, last included
info/query_IDX.mat                          1-based rows of tracks_test_info that are queries
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.datasets.matfile import MatFileError, read_mat
from training.datasets.places import find_dataset_root
from training.datasets.tracklet import DatasetError, Tracklet

JUNK_PERSON = -1
"""Boxes on no person or on several; folder ``00-1``. They belong neither to the query nor to the gallery."""

_FOLDERS = ("bbox_train", "bbox_test")
_FILES = ("train_name.txt", "test_name.txt", "tracks_train_info.mat", "tracks_test_info.mat", "query_IDX.mat")


class MarsError(DatasetError):
    """A file of the dataset is missing or is not what MARS has in its place."""


@dataclass(frozen=True)
class MarsDataset:
    """The parts of MARS.

    ``gallery`` does not hold the queries; the people of ``0000`` in it are distractors, who are never a right answer.
    """

    train: list[Tracklet]
    query: list[Tracklet]
    gallery: list[Tracklet]
    junk: list[Tracklet]


def is_mars(root: Path) -> bool:
    """Whether the folder is laid out as MARS is, complete or not."""
    return (root / "info").is_dir() and any((root / folder).is_dir() for folder in _FOLDERS)


def read_mars(path: Path) -> MarsDataset:
    """Read the lists of the dataset at a path, or a level below, and check that the images they name are there.

    Tracklets keep the order of the lists and are named by their files' prefix, such as ``0022C1T0001`` of person
    ``0022`` and camera ``C1``.

    Raises:
        MarsError: names the file that is missing or foreign and where it belongs.
    """
    root = find_dataset_root(path, is_mars, MarsError, "bbox_train/, bbox_test/ and info/, as MARS has")
    missing = [root / folder for folder in _FOLDERS if not (root / folder).is_dir()]
    missing += [root / "info" / name for name in _FILES if not (root / "info" / name).is_file()]
    if missing:
        raise MarsError(
            f"{root} is not a complete MARS: {', '.join(str(path.relative_to(root)) for path in missing)} missing. "
            f"It needs bbox_train/, bbox_test/ and, in info/, {', '.join(_FILES)}."
        )
    train = _tracklets(root, "train")
    test = _tracklets(root, "test")
    query_rows = _query_rows(root / "info" / "query_IDX.mat", len(test))
    return MarsDataset(
        train=[tracklet for person, tracklet in train if person != JUNK_PERSON],
        query=[tracklet for row, (_, tracklet) in enumerate(test) if row in query_rows],
        gallery=[
            tracklet for row, (person, tracklet) in enumerate(test) if row not in query_rows and person != JUNK_PERSON
        ],
        junk=[tracklet for person, tracklet in test if person == JUNK_PERSON],
    )


def _tracklets(root: Path, part: str) -> list[tuple[int, Tracklet]]:
    """Person number and tracklet of each row of the part, ``train`` or ``test``."""
    names_file = root / "info" / f"{part}_name.txt"
    names = names_file.read_text(encoding="ascii", errors="replace").split()
    info_file = root / "info" / f"tracks_{part}_info.mat"
    rows = _array(info_file, f"track_{part}_info")
    if rows.ndim != 2 or rows.shape[1] != 4:
        raise MarsError(f"{info_file} holds a table of shape {rows.shape}, MARS has four columns there")
    folder = root / f"bbox_{part}"
    present: dict[str, dict[str, Path]] = {}
    tracklets = []
    for row, (first, last, person, camera) in enumerate(rows.tolist(), start=1):
        if not 1 <= first <= last <= len(names):
            raise MarsError(f"{info_file}, row {row}: files {first} to {last} of the {len(names)} in {names_file}")
        files = names[first - 1 : last]
        prefix = files[0].partition("F")[0]
        # MARS writes the person -1 as "00-1", which is what a width of four gives once the sign is in its place.
        owner = f"00{person}" if person == JUNK_PERSON else f"{person:04d}"
        start = f"{owner}C{camera}T"
        if not all(file.startswith(start) for file in files):
            raise MarsError(
                f"{info_file} does not belong to {names_file}: row {row} is person {owner} at camera {camera}, "
                f"its files are {files[0]} to {files[-1]}"
            )
        directory = folder / owner
        if owner not in present:
            present[owner] = _files_in(directory)
        lost = next((file for file in files if file not in present[owner]), None)
        if lost is not None:
            raise MarsError(f"{directory / lost} is missing; {names_file} lists it")
        frames = tuple(present[owner][file] for file in files)
        tracklets.append((person, Tracklet(owner, f"C{camera}", frames, prefix)))
    return tracklets


def _files_in(folder: Path) -> dict[str, Path]:
    """Paths by name: joining them anew for MARS's 1.2 million names would take twice as long."""
    return {path.name: path for path in folder.iterdir()} if folder.is_dir() else {}


def _query_rows(path: Path, test_rows: int) -> set[int]:
    """0-based rows of the queries."""
    rows = _array(path, "query_IDX").ravel() - 1
    if rows.size == 0 or rows.min() < 0 or rows.max() >= test_rows:
        raise MarsError(f"{path} names rows outside the {test_rows} of tracks_test_info.mat")
    return set(rows.tolist())


def _array(path: Path, name: str) -> NDArray[np.int64]:
    """The array as signed integers: in the narrow unsigned type of the file, row 0 less one would be row 65,535."""
    try:
        arrays = read_mat(path)
    except MatFileError as error:
        raise MarsError(f"{path} is not MARS's file: {error}") from error
    if name not in arrays:
        raise MarsError(f"{path} is not MARS's file: it holds {', '.join(arrays) or 'nothing'}, not {name}")
    integers = arrays[name].astype(np.int64)
    if not np.array_equal(integers, arrays[name]):
        raise MarsError(f"{path} is not MARS's file: {name} holds numbers that are not whole")
    return integers
