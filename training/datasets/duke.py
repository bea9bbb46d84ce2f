"""DukeMTMC-VideoReID (Wu et al., "Exploit the Unknown Gradually", CVPR 2018), for those who have it.

train/<person>/<tracklet>/0001C6F0001X30823.jpg   likewise query/ and gallery/

Its authors have withdrawn it: it is read where it is, and nothing here fetches it.
"""

import re
from pathlib import Path

from training.datasets.benchmark import Benchmark
from training.datasets.images import folders_in, images_in
from training.datasets.places import find_dataset_root, roots
from training.datasets.tracklet import DatasetError, Tracklet

_PARTS = ("train", "query", "gallery")
# 0001C6F0001... or 0001_C6_F0001...
_NAME = re.compile(r"\d{4}_?C(?P<camera>\d)_?F\d+", re.IGNORECASE)


class DukeError(DatasetError):
    """A file of the dataset is missing or is not what DukeMTMC-VideoReID has in its place."""


def is_duke(path: Path) -> bool:
    """Whether ``train``, ``query`` and ``gallery`` lie in the folder or a level below."""
    return bool(roots(path, _fits))


def read_duke(path: Path) -> Benchmark:
    """Training, query and gallery tracklets, by person and tracklet.

    Raises:
        DukeError: names the file that is missing or foreign and where it belongs.
    """
    root = find_dataset_root(path, _fits, DukeError, "train/, query/ and gallery/, as DukeMTMC-VideoReID has")
    train, query, gallery = (_read(root / part) for part in _PARTS)
    asked = {tracklet.name for tracklet in query}
    return Benchmark("duke", train, query, [tracklet for tracklet in gallery if tracklet.name not in asked])


def _fits(folder: Path) -> bool:
    return all((folder / part).is_dir() for part in _PARTS)


def _read(part: Path) -> list[Tracklet]:
    tracklets = []
    for person in folders_in(part):
        for folder in folders_in(person):
            frames = images_in(folder)
            if not frames:
                raise DukeError(f"{folder} holds no images")
            matches = [_NAME.match(frame.name) for frame in frames]
            foreign = next((frame for frame, match in zip(frames, matches, strict=True) if match is None), None)
            if foreign is not None:
                raise DukeError(f"{foreign} is not named like DukeMTMC-VideoReID's crops (0001C6F0001X30823.jpg)")
            camera = f"C{matches[0]['camera']}" if matches[0] else ""
            tracklets.append(Tracklet(person.name, camera, tuple(frames), f"{person.name}-{folder.name}"))
    if not tracklets:
        raise DukeError(f"{part} holds no tracklets: {part.name}/<person>/<tracklet>/*.jpg belong there")
    return tracklets
