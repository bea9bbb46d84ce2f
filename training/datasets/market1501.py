"""Market-1501 (Zheng et al., ICCV 2015) as tracklets: the crops of one person and one camera, in time order.

`IIII_cCsS_FFFFFF_DD.jpg`: person, camera, sequence, frame, detection; person -1 is junk and 0000 a distractor. MARS was
filmed at the same place and gives the same people the same ids. So both can be used in one training, and a person that
is set aside in one dataset must be set aside in the other.
"""

import re
from collections import defaultdict
from pathlib import Path

from training.datasets.archive import first_member, is_archive, unpack
from training.datasets.files import dataset_roots, find_dataset_root, images_in
from training.datasets.tracklet import DatasetError, Tracklet

_NAME = re.compile(r"^(-1|\d{4})_c(\d)s(\d)_(\d{6})_(\d{2})\.jpg$", re.IGNORECASE)
_NAME_FORM = "IIII_cCsS_FFFFFF_DD.jpg"
_TRAIN = "bounding_box_train"


def is_market1501(path: Path) -> bool:
    """Return whether the path is a .tar or a folder that has `bounding_box_train`, itself or one level below."""
    return _TRAIN in first_member(path).parts if is_archive(path) else bool(dataset_roots(path, _fits))


def read_market1501(path: Path) -> list[Tracklet]:
    """Read the training tracklets of a folder or a .tar, ordered by person and camera.

    An archive is unpacked once, into the system's folder for temporary files.

    Raises:
        DatasetError: `bounding_box_train` is missing, or a file in it has another form of name.
    """
    expected = f"{_TRAIN}/ with Market-1501's crops ({_NAME_FORM})"
    folder = find_dataset_root(unpack(path) if is_archive(path) else path, _fits, expected) / _TRAIN
    groups: dict[tuple[str, str], list[tuple[str, Path]]] = defaultdict(list)
    for file in images_in(folder):
        match = _NAME.match(file.name)
        if match is None:
            raise DatasetError(f"{file}: expected a name of the form {_NAME_FORM} (Market-1501)")
        person, camera, sequence, frame, detection = match.groups()
        if person not in ("-1", "0000"):
            groups[person, f"C{camera}"].append((f"{sequence}{frame}{detection}", file))
    if not groups:
        raise DatasetError(f"{folder} contains no crops")
    return [
        Tracklet(person, camera, tuple(file for _, file in sorted(files)), f"{person}{camera}")
        for (person, camera), files in sorted(groups.items())
    ]


def _fits(folder: Path) -> bool:
    return (folder / _TRAIN).is_dir()
