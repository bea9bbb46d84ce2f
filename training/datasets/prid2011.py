"""PRID2011 (Hirzer et al., "Person Re-Identification by Descriptive and Discriminative Classification", SCIA 2011).

prid_2011/multi_shot/cam_a/person_0001/0001.png   the same in cam_b
prid_2011/splits_prid2011.json                     ten splits: [{"train": ["person_0001", ...], "test": [...]}, ...]

The multi-shot protocol of video Re-ID takes 178 of the 200 people that both cameras saw, 89 of them for training. The
queries are the tracklets of camera a, the gallery those of camera b; each query has one right answer.
"""

import json
from pathlib import Path

from training.datasets.files import dataset_roots, find_dataset_root, first_file, images_in
from training.datasets.tracklet import Benchmark, DatasetError, Tracklet

SPLITS = 10
_CAMERAS = ("cam_a", "cam_b")
_LIST = "splits_prid2011.json"


def is_prid2011(path: Path) -> bool:
    """Return whether the folder, or a folder directly in it, has `multi_shot`."""
    return bool(dataset_roots(path, _fits))


def read_prid2011(path: Path, split: int) -> Benchmark:
    """Read one split, counted from 0.

    Raises:
        DatasetError: a file is missing or is not part of the dataset, or there is no such split.
    """
    found = find_dataset_root(path, _fits, "multi_shot/ with cam_a/ and cam_b/ (the layout of PRID2011)")
    root = found if _has_cameras(found) else found / "multi_shot"
    if not 0 <= split < SPLITS:
        raise DatasetError(f"PRID2011 has splits 0 to {SPLITS - 1}, not {split}")
    people = _read_splits(path, root)[split]
    cameras = {
        part: {name: [_tracklet(root / camera / name, camera) for camera in _CAMERAS] for name in people[part]}
        for part in ("train", "test")
    }
    return Benchmark(
        "prid2011",
        train=[tracklet for both in cameras["train"].values() for tracklet in both],
        query=[first for first, _ in cameras["test"].values()],
        gallery=[second for _, second in cameras["test"].values()],
        split=split,
    )


def _fits(folder: Path) -> bool:
    return _has_cameras(folder / "multi_shot") or (_has_cameras(folder) and folder.name != "single_shot")


def _has_cameras(folder: Path) -> bool:
    return all((folder / camera).is_dir() for camera in _CAMERAS)


def _read_splits(path: Path, root: Path) -> list[dict[str, list[str]]]:
    file = first_file((path / _LIST, root.parent / _LIST, root / _LIST), "the ten splits")
    try:
        splits = json.loads(file.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise DatasetError(f"{file} is not PRID2011's list of splits: {error}") from None
    if not (isinstance(splits, list) and len(splits) == SPLITS and all(map(_is_split, splits))):
        raise DatasetError(
            f'{file} is not PRID2011\'s list of splits: expected ten times {{"train": [folders], "test": [folders]}}, '
            "with no folder in both"
        )
    return [{part: sorted(split[part]) for part in ("train", "test")} for split in splits]


def _is_split(split: object) -> bool:
    if not isinstance(split, dict) or not {"train", "test"} <= split.keys():
        return False
    train, test = split["train"], split["test"]
    named = all(isinstance(part, list) and all(isinstance(name, str) for name in part) for part in (train, test))
    return named and bool(train) and bool(test) and not set(train) & set(test)


def _tracklet(folder: Path, camera: str) -> Tracklet:
    frames = images_in(folder) if folder.is_dir() else []
    if not frames:
        raise DatasetError(f"{folder} is missing or contains no images; the list of splits names it")
    person = folder.name.removeprefix("person_")
    return Tracklet(person, camera, tuple(frames), f"{person}-{camera}")
