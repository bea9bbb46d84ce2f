"""Tracklets from folders of images of any origin."""

import re
from pathlib import Path

from training.datasets.archive import is_archive, unpack_to_root
from training.datasets.files import folders_in, images_in
from training.datasets.mars import is_mars, read_mars
from training.datasets.tracklet import DatasetError, Tracklet

LAYOUTS = """\
  one folder of images:              FOLDER/*.jpg (one tracklet)
  one folder of images per tracklet: FOLDER/<tracklet>/*.jpg
  people, cameras and tracklets:     FOLDER/<person>/<camera>/<tracklet>/*.jpg
  MARS:                              FOLDER/bbox_train, FOLDER/bbox_test and FOLDER/info,
                                     or any folder of files named like 0022C1T0001F001.jpg,
                                     unless its folders name people, cameras and tracklets"""
"""The layouts that `read_tracklets` reads, for help and error messages."""

_MARS_FRAME = re.compile(r"(?P<tracklet>(?P<person>\d{4}|00-1)(?P<camera>C\d)T\d{4,})F\d{3,}\.jpg")


def read_tracklets(folder: Path) -> list[Tracklet]:
    """Read the tracklets below a folder, or in a .tar of one; the content decides which of the `LAYOUTS` it has.

    Frames and tracklets are in natural order (`frame9` before `frame10`). Hidden files and files that are not images
    are skipped. For the root of MARS these are the tracklets of the test part, queries first.

    Raises:
        DatasetError: the folder has none of the layouts (the message lists them), or MARS is incomplete.
    """
    if is_archive(folder):
        folder = unpack_to_root(folder)
    if not folder.is_dir():
        raise DatasetError(f"{folder} is not a folder")
    if is_mars(folder):
        benchmark = read_mars(folder)
        return benchmark.query + benchmark.gallery
    images = _images_by_folder(folder)
    if not images:
        raise DatasetError(f"no images found in {folder}. Supported layouts are\n{LAYOUTS}")
    if any(len(found.relative_to(folder).parts) != 3 for found in images) and all(
        is_mars_frame(image.name) for files in images.values() for image in files
    ):
        return read_mars_names(folder)
    tracklets = []
    for tracklet_folder, files in images.items():
        person, camera, name = parse_tracklet_folder(folder, tracklet_folder)
        tracklets.append(Tracklet(person, camera, tuple(files), name))
    return tracklets


def read_mars_names(folder: Path) -> list[Tracklet]:
    """Read a folder whose files, at any depth, have names such as `0022C1T0001F001.jpg`; folders do not matter.

    Raises:
        DatasetError: a name is another one, or there are no images.
    """
    groups: dict[tuple[str, str, str], list[Path]] = {}
    for images in _images_by_folder(folder).values():
        for image in images:
            match = _MARS_FRAME.fullmatch(image.name)
            if match is None:
                raise DatasetError(f"{image} is not named as in MARS, such as 0022C1T0001F001.jpg")
            groups.setdefault((match["person"], match["camera"], match["tracklet"]), []).append(image)
    if not groups:
        raise DatasetError(f"no images found in {folder}")
    return [Tracklet(person, camera, tuple(files), name) for (person, camera, name), files in groups.items()]


def is_mars_frame(name: str) -> bool:
    """Return whether an image's name gives person, camera and tracklet as in MARS."""
    return _MARS_FRAME.fullmatch(name) is not None


def parse_tracklet_folder(root: Path, folder: Path) -> tuple[str, str, str]:
    """Return person, camera and name of the tracklet whose images are in `folder`, which is `root` or below it.

    Raises:
        DatasetError: the folder is at a depth that no layout has.
    """
    parts = folder.relative_to(root).parts
    if len(parts) <= 1:
        # `resolve` reads every part of the path from disk, which is slow for a hundred thousand folders.
        return "", "", folder.resolve().name if not parts or folder.is_symlink() else parts[0]
    if len(parts) == 3:
        return parts[0], parts[1], "-".join(parts)
    raise DatasetError(
        f"{folder} is {len(parts)} folders below {root}, which fits no layout. Supported layouts are\n{LAYOUTS}"
    )


def _images_by_folder(folder: Path) -> dict[Path, list[Path]]:
    """Return the images of each folder that directly contains images, at or below `folder`, all in natural order."""
    images = images_in(folder)
    found = {folder: images} if images else {}
    for child in folders_in(folder):
        found |= _images_by_folder(child)
    return found
