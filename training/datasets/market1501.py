"""Market-1501 (Zheng et al., ICCV 2015) as tracklets: the crops of one person and one camera, in time order.

``IIII_cCsS_FFFFFF_DD.jpg``: person, camera, sequence, frame, detection; person -1 is junk and 0000 a distractor. MARS
was filmed in the same place and numbers the same people with the same ids, so both can be trained on together, and a
person set aside in one must be set aside in the other.
"""

import hashlib
import re
import tarfile
import tempfile
from collections import defaultdict
from pathlib import Path

from training.datasets.images import images_in
from training.datasets.places import find_dataset_root, roots
from training.datasets.tracklet import DatasetError, Tracklet

_NAME = re.compile(r"^(-1|\d{4})_c(\d)s(\d)_(\d{6})_(\d{2})\.jpg$", re.IGNORECASE)
_TRAIN = "bounding_box_train"


class Market1501Error(DatasetError):
    """The folder or archive is not Market-1501."""


def is_market1501(path: Path) -> bool:
    """Whether the path is a folder with ``bounding_box_train`` in it or a level below, or a tar archive."""
    return path.suffix == ".tar" if path.is_file() else bool(roots(path, _fits))


def read_market1501(path: Path) -> list[Tracklet]:
    """Training tracklets of a Market-1501 folder or ``.tar``, ordered by person and camera.

    An archive is unpacked once, beside the system's other temporary files.

    Raises:
        Market1501Error: there is no ``bounding_box_train``, or a file in it is named otherwise.
    """
    wanted = f"{_TRAIN}/ with Market-1501's crops (IIII_cCsS_FFFFFF_DD.jpg)"
    folder = find_dataset_root(_unpacked(path) if path.is_file() else path, _fits, Market1501Error, wanted) / _TRAIN
    groups: dict[tuple[str, str], list[tuple[str, Path]]] = defaultdict(list)
    for file in images_in(folder):
        match = _NAME.match(file.name)
        if match is None:
            raise Market1501Error(f"{file} is not named like Market-1501's crops (IIII_cCsS_FFFFFF_DD.jpg)")
        person, camera, sequence, frame, detection = match.groups()
        if person not in ("-1", "0000"):
            groups[person, f"C{camera}"].append((f"{sequence}{frame}{detection}", file))
    if not groups:
        raise Market1501Error(f"{folder} holds no crops")
    return [
        Tracklet(person, camera, tuple(file for _, file in sorted(files)), f"{person}{camera}")
        for (person, camera), files in sorted(groups.items())
    ]


def _fits(folder: Path) -> bool:
    return (folder / _TRAIN).is_dir()


def _unpacked(archive: Path) -> Path:
    state = archive.stat()
    key = hashlib.sha256(f"{archive.resolve()}:{state.st_size}:{state.st_mtime_ns}".encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"not3d-market1501-{key}"
    if not folder.exists():
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch, tarfile.open(archive) as tar:
            tar.extractall(scratch, filter="data")
            try:
                Path(scratch).rename(folder)
                Path(scratch).mkdir()  # for the context manager to remove
            except OSError:
                if not folder.exists():  # else another process unpacked the same archive meanwhile
                    raise
    return folder
