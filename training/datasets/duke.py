"""DukeMTMC-VideoReID (Wu et al., "Exploit the Unknown Gradually", CVPR 2018).

train/<person>/<tracklet>/0001C6F0001X30823.jpg   the same in query/ and gallery/

Its authors withdrew it: this project reads a copy that the user already has and never downloads it.
"""

import re
from pathlib import Path

from training.datasets.files import dataset_roots, find_dataset_root, folders_in, images_in
from training.datasets.tracklet import Benchmark, DatasetError, Tracklet

_PARTS = ("train", "query", "gallery")
# 0001C6F0001... or 0001_C6_F0001...
_NAME = re.compile(r"\d{4}_?C(?P<camera>\d)_?F\d+", re.IGNORECASE)


def is_duke(path: Path) -> bool:
    """Return whether the folder, or a folder directly in it, has `train`, `query` and `gallery`."""
    return bool(dataset_roots(path, _fits))


def read_duke(path: Path) -> Benchmark:
    """Read training, query and gallery tracklets, ordered by person and tracklet.

    Raises:
        DatasetError: a file is missing or is not part of the dataset.
    """
    root = find_dataset_root(path, _fits, "train/, query/ and gallery/ (the layout of DukeMTMC-VideoReID)")
    train, query, gallery = (_read(root / part) for part in _PARTS)
    # The gallery folder repeats the queries.
    queries = {tracklet.name for tracklet in query}
    return Benchmark("duke", train, query, [tracklet for tracklet in gallery if tracklet.name not in queries])


def _fits(folder: Path) -> bool:
    return all((folder / part).is_dir() for part in _PARTS)


def _read(part: Path) -> list[Tracklet]:
    tracklets = []
    for person in folders_in(part):
        for folder in folders_in(person):
            frames = images_in(folder)
            if not frames:
                raise DatasetError(f"{folder} contains no images")
            cameras = []
            for frame in frames:
                match = _NAME.match(frame.name)
                if match is None:
                    raise DatasetError(f"{frame}: expected a name such as 0001C6F0001X30823.jpg (DukeMTMC-VideoReID)")
                cameras.append(match["camera"])
            tracklets.append(Tracklet(person.name, f"C{cameras[0]}", tuple(frames), f"{person.name}-{folder.name}"))
    if not tracklets:
        raise DatasetError(f"{part} contains no tracklets: expected {part.name}/<person>/<tracklet>/*.jpg")
    return tracklets
