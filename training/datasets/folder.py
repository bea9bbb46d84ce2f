"""Tracklets from folders of images, whatever made them."""

import re
from pathlib import Path

from training.datasets.images import folders_in, images_in
from training.datasets.mars import is_mars, read_mars
from training.datasets.tracklet import DatasetError, Tracklet

LAYOUTS = """\
  one folder of images:              FOLDER/*.jpg (one tracklet)
  one folder of images per tracklet: FOLDER/<tracklet>/*.jpg
  people, cameras and tracklets:     FOLDER/<person>/<camera>/<tracklet>/*.jpg
  MARS:                              FOLDER/bbox_train, FOLDER/bbox_test and FOLDER/info,
                                     or any folder of files named like 0022C1T0001F001.jpg"""
"""The layouts that `read_tracklets` understands, for help and error messages."""

_MARS_FRAME = re.compile(r"(?P<tracklet>(?P<person>\d{4}|00-1)(?P<camera>C\d)T\d{4,})F\d{3,}\.jpg")


class LayoutError(DatasetError):
    """The folder holds no tracklets in a layout that is understood."""


def read_tracklets(folder: Path) -> list[Tracklet]:
    """Read the tracklets below the folder; which of `LAYOUTS` it has is seen from its content.

    Frames and tracklets come in natural order (``frame9`` before ``frame10``); hidden files and files that are no
    images are passed over. In MARS's own root these are the tracklets of the test part, queries first.

    Raises:
        LayoutError: nothing was found, or the folders nest in another way; the message lists the layouts.
        MarsError: MARS's root, but not all of it.
    """
    if not folder.is_dir():
        raise LayoutError(f"{folder} is not a folder")
    if is_mars(folder):
        dataset = read_mars(folder)
        return dataset.query + dataset.gallery
    images = _images_by_folder(folder)
    if not images:
        raise LayoutError(f"no images found in {folder}. Understood are\n{LAYOUTS}")
    matches = [(image, _MARS_FRAME.fullmatch(image.name)) for files in images.values() for image in files]
    if all(match for _, match in matches):
        return _from_mars_names([(image, match) for image, match in matches if match])
    return [_from_place(folder, place, files) for place, files in images.items()]


def _images_by_folder(folder: Path) -> dict[Path, list[Path]]:
    """Folders that directly hold images, below and including the folder, and their images, all in natural order."""
    images = images_in(folder)
    found = {folder: images} if images else {}
    for child in folders_in(folder):
        found |= _images_by_folder(child)
    return found


def is_mars_frame(name: str) -> bool:
    """Whether an image's name says person, camera and tracklet as in MARS."""
    return _MARS_FRAME.fullmatch(name) is not None


def name_place(root: Path, place: Path) -> tuple[str, str, str]:
    """Person, camera and name of the tracklet whose images lie in ``place``, below or at ``root``.

    Raises:
        LayoutError: that many folders below the root mean nothing.
    """
    parts = place.relative_to(root).parts
    if len(parts) <= 1:
        # Resolving asks the disk for every part of the path, which of a hundred thousand folders takes long.
        return "", "", place.resolve().name if not parts or place.is_symlink() else parts[0]
    if len(parts) == 3:
        return parts[0], parts[1], "-".join(parts)
    raise LayoutError(f"{place} lies {len(parts)} folders below {root}, which says nothing. Understood are\n{LAYOUTS}")


def _from_mars_names(images: list[tuple[Path, re.Match[str]]]) -> list[Tracklet]:
    groups: dict[tuple[str, str, str], list[Path]] = {}
    for image, match in images:
        groups.setdefault((match["person"], match["camera"], match["tracklet"]), []).append(image)
    return [Tracklet(person, camera, tuple(files), name) for (person, camera, name), files in groups.items()]


def _from_place(root: Path, place: Path, files: list[Path]) -> Tracklet:
    person, camera, name = name_place(root, place)
    return Tracklet(person, camera, tuple(files), name)
