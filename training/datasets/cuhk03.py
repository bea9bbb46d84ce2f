"""CUHK03 (Li et al., CVPR 2014) as tracklets: the detected crops of one person in one view.

`cuhk03/PPPP/pNa/1/KK.jpg`: person, view a or b of camera pair N, tracklet. Each camera pair is at a place of its own on
one campus, and the two views of one pair see a person. The dataset numbers its people from 0, so their ids have the
prefix `cuhk03:`.
"""

import re
from itertools import pairwise
from pathlib import Path

from training.datasets.archive import first_member, is_archive, unpack_to_root
from training.datasets.files import dataset_roots, find_dataset_root, folders_in, images_in
from training.datasets.tracklet import DatasetError, Tracklet

_PERSON, _VIEW = re.compile(r"\d{4}"), re.compile(r"p[1-5][ab]")


def is_cuhk03(path: Path) -> bool:
    """Return whether the path is CUHK03: a .tar, or a folder that has its people, itself or one level below."""
    if is_archive(path):
        parts = first_member(path).parts
        return any(_PERSON.fullmatch(one) and _VIEW.fullmatch(two) for one, two in pairwise(parts))
    return bool(dataset_roots(path, _fits))


def read_cuhk03(path: Path) -> list[Tracklet]:
    """Read all tracklets of a folder or a .tar, ordered by person and view.

    Raises:
        DatasetError: the path is not CUHK03, or a folder in it has another form of name or contains no crops.
    """
    place = unpack_to_root(path) if is_archive(path) else path
    root = find_dataset_root(place, _fits, "people and views of CUHK03 (PPPP/pNa/1/KK.jpg)")
    tracklets = []
    for person in folders_in(root):
        for view in folders_in(person):
            if not (_PERSON.fullmatch(person.name) and _VIEW.fullmatch(view.name)):
                raise DatasetError(f"{view}: expected a folder of the form PPPP/pNa or PPPP/pNb (CUHK03)")
            for folder in folders_in(view):
                frames = tuple(images_in(folder))
                if not frames:
                    raise DatasetError(f"{folder} contains no crops")
                name = f"{person.name}-{view.name}-{folder.name}"
                tracklets.append(Tracklet(f"cuhk03:{person.name}", view.name, frames, name))
    if not tracklets:
        raise DatasetError(f"{root} contains no crops")
    return tracklets


def _fits(folder: Path) -> bool:
    people = (person for person in folders_in(folder) if _PERSON.fullmatch(person.name))
    first = next(people, None)
    return first is not None and any(_VIEW.fullmatch(view.name) for view in folders_in(first))
