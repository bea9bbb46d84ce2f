"""Tracklets on this machine: what a folder or a video holds, without decoding anything.

A hundred thousand tracklets are listed in seconds.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from model.errors import Not3dError
from not3d.client import Frame
from not3d.client.responses import Hit
from training.datasets.files import IMAGE_SUFFIXES, images_in, natural_key
from training.datasets.folder import is_mars_frame, parse_tracklet_folder, read_tracklets
from training.datasets.mars import is_mars
from training.datasets.tracklet import DatasetError, Tracklet

VIDEO_SUFFIXES = frozenset({".mp4", ".mkv", ".avi"})
_MAX_ID_LENGTH = 128


class FootageError(Not3dError):
    """A folder, video or list of tracks cannot be read, or does not fit."""


@dataclass(frozen=True)
class LocalTracklet:
    """One tracklet to send: encoded `frames` in time order, or a `video` of them.

    `person` and `camera` are `""` if unknown. `origin` goes into the record's metadata, so that
    `not3d.enrol.local_frames.find_local_frames` finds the frames again. All readers of the gallery see it, so it holds
    paths below the folder that was given, never absolute paths of this machine.
    """

    id: str
    frames: tuple[Frame, ...] = ()
    video: Path | None = None
    person: str = ""
    camera: str = ""
    start_time: datetime | None = None
    end_time: datetime | None = None
    origin: Mapping[str, str] = field(default_factory=dict)

    @property
    def metadata(self) -> dict[str, str]:
        """The metadata of its record in the gallery."""
        return dict(self.origin) | ({"person": self.person} if self.person else {})


@dataclass(frozen=True, slots=True)
class ListedTracklet:
    """A tracklet in a folder of its own. Its frames are listed only when it is opened, to save memory and time."""

    id: str
    folder: str
    root: str
    name: str
    person: str
    camera: str

    def open(self) -> LocalTracklet:
        """Return the tracklet as `read_footage` does.

        Raises:
            FootageError: its images are gone.
            OSError: the folder cannot be read.
        """
        frames = tuple(images_in(Path(self.folder)))
        if not frames:
            raise FootageError(f"no images are left in {self.folder}")
        return as_footage(Tracklet(self.person, self.camera, frames, self.name), Path(self.root))


Item = ListedTracklet | LocalTracklet
"""What can be enrolled."""


def open_item(item: Item) -> LocalTracklet:
    """Return the tracklet of the item; errors as in `ListedTracklet.open`."""
    return item.open() if isinstance(item, ListedTracklet) else item


def source_of(item: Item) -> str:
    """Return the path of the tracklet's footage on this machine, to be shown."""
    if isinstance(item, ListedTracklet):
        return item.folder
    if item.video is not None:
        return str(item.video)
    first = item.frames[0] if item.frames else None
    return str(first.parent) if isinstance(first, Path) else item.origin.get("source", "")


def is_video(path: Path) -> bool:
    """Return whether the path is a file with the suffix of a video."""
    return path.suffix.lower() in VIDEO_SUFFIXES and not path.is_dir()


def as_id(name: str) -> str:
    """Return the name as an id of the service: characters other than letters, digits and `._:-` become `-`."""
    return re.sub(r"[^A-Za-z0-9._:-]", "-", name)[:_MAX_ID_LENGTH]


def read_footage(path: Path) -> list[LocalTracklet]:
    """Return all tracklets of a folder (see `training.datasets.folder.LAYOUTS`), or of a video of one person's crops.

    Raises:
        FootageError: nothing to read, or two names that give the same id.
    """
    if not path.exists():
        raise FootageError(f"{path} does not exist")
    if is_video(path):
        return [LocalTracklet(as_id(path.stem), video=path, origin={"source": path.name})]
    try:
        tracklets = read_tracklets(path)
    except DatasetError as error:
        raise FootageError(str(error)) from error
    names: dict[str, str] = {}
    for tracklet in tracklets:
        other = names.setdefault(as_id(tracklet.name), tracklet.name)
        if other != tracklet.name:
            raise FootageError(_same_id(tracklet.name, other, path))
    return [as_footage(tracklet, path) for tracklet in tracklets]


def as_footage(tracklet: Tracklet, folder: Path) -> LocalTracklet:
    """Return a tracklet of the dataset in the folder, ready to be sent.

    Its `source` begins with the name of the folder, so it is found again below that folder and below its parent.
    """
    name = folder.name if folder.name not in {"", ".."} else folder.resolve().name
    return LocalTracklet(
        as_id(tracklet.name),
        tracklet.frames,
        person=tracklet.person,
        camera=tracklet.camera,
        origin={"source": (name / tracklet.frames[0].parent.relative_to(folder)).as_posix(), "tracklet": tracklet.name},
    )


def is_same_person(hit: Hit, person: str) -> bool | None:
    """Return whether a hit, enrolled by this program, shows the person; `None` if either is unknown."""
    found = hit.metadata.get("person")
    return found == person if person and isinstance(found, str) else None


def list_tracklets(path: Path, found: Callable[[int], None] = lambda _count: None) -> Sequence[Item]:
    """Return all tracklets of a folder or a video, the same and in the same order as `read_footage`.

    Each folder is read once, and only the names of the files are read. MARS's layout is listed with its frames, since
    there the names of the frames say which tracklet they belong to.

    Args:
        path: the folder or the video.
        found: called now and then with the number of tracklets.

    Raises:
        FootageError: nothing to read, or two names that give the same id.
        OSError: a folder cannot be read.
    """
    if is_video(path) or not path.is_dir() or is_mars(path):
        return read_footage(path)
    listed: dict[str, ListedTracklet] = {}
    # If all frames are named as in MARS, the folders' names do not matter, so an error in them is reported only later.
    mars, fault = True, ""
    for folder, names in _walk(path):
        mars = mars and all(map(is_mars_frame, names))
        try:
            person, camera, name = parse_tracklet_folder(path, folder)
        except DatasetError as error:
            fault = fault or str(error)
        else:
            item = ListedTracklet(as_id(name), str(folder), str(path), name, person, camera)
            other = listed.setdefault(item.id, item)
            if other is not item:
                fault = fault or _same_id(name, other.name, path)
            if len(listed) % 1000 == 0:
                found(len(listed))
        if fault and not mars:
            raise FootageError(fault)
    return read_footage(path) if mars else list(listed.values())


def _same_id(name: str, other: str, path: Path) -> str:
    return f"{name} and {other} in {path} would both get the id {as_id(other)}; rename one"


def _walk(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """Yield folders that directly hold images and the images' names, as `training.datasets.folder` finds them."""
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
