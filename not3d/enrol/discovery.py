"""What there is to enrol below a folder, without its frames: a hundred thousand tracklets in seconds."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from not3d.enrol.footage import Footage, FootageError, as_footage, as_id, is_video, read_footage
from training.datasets.files import IMAGE_SUFFIXES, images_in, natural_key
from training.datasets.folder import is_mars_frame, parse_tracklet_folder
from training.datasets.mars import is_mars
from training.datasets.tracklet import DatasetError, Tracklet


@dataclass(frozen=True, slots=True)
class Listed:
    """A tracklet in a folder of its own. Its frames are looked for when it is opened, so that many can be known."""

    id: str
    place: str
    root: str
    name: str
    person: str
    camera: str

    def open(self) -> Footage:
        """The tracklet as `not3d.enrol.footage.read_footage` gives it.

        Raises:
            FootageError: its images are gone.
            OSError: the folder cannot be read.
        """
        frames = tuple(images_in(Path(self.place)))
        if not frames:
            raise FootageError(f"no images are left in {self.place}")
        return as_footage(Tracklet(self.person, self.camera, frames, self.name), Path(self.root))


Item = Listed | Footage
"""What can be enrolled."""


def open_item(item: Item) -> Footage:
    """The footage of the item; errors as in `Listed.open`."""
    return item.open() if isinstance(item, Listed) else item


def source_of(item: Item) -> str:
    """Where on this machine the tracklet's footage lies, for people to read."""
    if isinstance(item, Listed):
        return item.place
    if item.video is not None:
        return str(item.video)
    first = item.frames[0] if item.frames else None
    return str(first.parent) if isinstance(first, Path) else item.origin.get("source", "")


def list_tracklets(path: Path, found: Callable[[int], None] = lambda _count: None) -> Sequence[Item]:
    """Every tracklet of a folder or a video, the same as of `not3d.enrol.footage.read_footage` and in the same order.

    Each folder is read once and files are not looked at, only their names. What is in MARS's layout is listed with its
    frames, since there the names of the frames say which tracklet they are of.

    Args:
        path: the folder or the video.
        found: told how many there are, every now and then.

    Raises:
        FootageError: nothing to read there, or names that cannot be told apart as ids.
        OSError: a folder cannot be read.
    """
    if is_video(path) or not path.is_dir() or is_mars(path):
        return read_footage(path)
    listed: dict[str, Listed] = {}
    mars, fault = True, ""  # MARS's names say all that the folders do not, so a fault may turn out to be none.
    for place, names in _walk(path):
        mars = mars and all(map(is_mars_frame, names))
        try:
            person, camera, name = parse_tracklet_folder(path, place)
        except DatasetError as error:
            fault = fault or str(error)
        else:
            item = Listed(as_id(name), str(place), str(path), name, person, camera)
            other = listed.setdefault(item.id, item)
            if other is not item:
                fault = fault or f"{name} and {other.name} in {path} would both get the id {item.id}"
            if len(listed) % 1000 == 0:
                found(len(listed))
        if fault and not mars:
            raise FootageError(fault)
    return read_footage(path) if mars else list(listed.values())


def _walk(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """Folders that directly hold images and the images' names, as `training.datasets.folder` finds them."""
    names, folders = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                folders.append(entry.name)
            elif os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES and entry.is_file():  # noqa: PTH122
                names.append(entry.name)
    if names:
        yield folder, names
    for name in sorted(folders, key=natural_key):
        yield from _walk(folder / name)
