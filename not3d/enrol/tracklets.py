"""What can be enrolled: tracklets on this machine, listed or opened."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from model.errors import Not3dError
from not3d.client import Box, Frame
from not3d.client.responses import Hit
from not3d.enrol.ids import MAX_ID_LENGTH, printable, readable_id, with_digest
from training.datasets.files import images_in

Origin = Mapping[str, str]
"""Where the footage of a tracklet is: part of its metadata."""


class PersonBox(NamedTuple):
    """Where in a picture the person is, in pixels: the left upper corner, width and height."""

    x: float
    y: float
    w: float
    h: float


class FootageError(Not3dError):
    """A folder, video, manifest or list of tracks cannot be read, or does not fit."""


@dataclass(frozen=True)
class LocalTracklet:
    """One tracklet to send: encoded `frames` in time order, or a `video` of them.

    With `boxes`, the frames or the video show more than the person, who is inside the boxes.

    `person` and `camera` are `""` if unknown. `origin` goes into the record's metadata, so that
    `not3d.enrol.local_frames.find_local_frames` finds the frames again. All readers of the gallery see it, so it holds
    paths below the folder that was given, never absolute paths of this machine.

    `fallback_id` is the id if `id` belongs to other footage. `digest` identifies the footage if `frames` were cut out
    of it. `left_out` counts boxes that cannot be used, and `problem` says why nothing can be sent. `fields` is metadata
    of the user.
    """

    id: str
    frames: tuple[Frame, ...] = ()
    video: Path | None = None
    boxes: tuple[Box, ...] = ()
    person: str = ""
    camera: str = ""
    start_time: datetime | None = None
    end_time: datetime | None = None
    origin: Origin = field(default_factory=dict)
    fields: Origin = field(default_factory=dict)
    fallback_id: str = ""
    digest: str = ""
    left_out: int = 0
    problem: str = ""

    @property
    def metadata(self) -> dict[str, str]:
        """The metadata of its record in the gallery."""
        return dict(self.fields) | dict(self.origin) | ({"person": self.person} if self.person else {})

    @property
    def source(self) -> str:
        """The path of its footage on this machine, to be shown."""
        if self.video is not None:
            return str(self.video)
        first = self.frames[0] if self.frames else None
        if not isinstance(first, Path):
            return self.origin.get("source", "")
        return str(first if self.boxes or len(self.frames) == 1 else first.parent)

    def open(self) -> "LocalTracklet":
        """Return itself."""
        return self


@dataclass(frozen=True, slots=True)
class ListedTracklet:
    """A tracklet in a folder of its own. Its frames are listed only when it is opened, to save memory and time.

    `below` is the path of the folder below the parent of the folder that was given, and `name` its own name, both as
    the file system has them. `labels` are names and values of metadata that the layout gives. `prefix` is that of ids;
    an id that the user gave is `fixed`.
    """

    id: str
    folder: str
    below: str
    name: str
    person: str = ""
    camera: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    start_time: datetime | None = None
    end_time: datetime | None = None
    prefix: str = ""
    fixed: bool = False

    @property
    def source(self) -> str:
        """The path of its footage on this machine, to be shown."""
        return self.folder

    @property
    def origin(self) -> Origin:
        """Where its footage is, as in the metadata."""
        return {"source": printable(self.below), "tracklet": printable(self.name)}

    @property
    def fallback_id(self) -> str:
        """The id if `id` belongs to other footage."""
        if self.fixed:
            return self.id
        return with_digest(self.prefix + readable_id(self.name)[0], self.camera, self.below, self.name)

    def open(self) -> LocalTracklet:
        """Return the tracklet with its frames.

        Raises:
            FootageError: its images are gone.
            OSError: the folder cannot be read.
        """
        frames = tuple(images_in(Path(self.folder)))
        if not frames:
            raise FootageError(f"no images are left in {self.folder}")
        return LocalTracklet(
            self.id,
            frames,
            person=self.person,
            camera=self.camera,
            start_time=self.start_time,
            end_time=self.end_time,
            origin=self.origin,
            fields=dict(self.labels),
            fallback_id=self.fallback_id,
        )


Item = ListedTracklet | LocalTracklet
"""What can be enrolled."""


def with_prefix(item: Item, prefix: str) -> Item:
    """Return the tracklet with a prefix before its id."""
    if isinstance(item, LocalTracklet):
        fallback = with_digest(prefix + item.id, item.fallback_id)
        changed: Item = replace(item, id=prefix + item.id, fallback_id=fallback)
    else:
        changed = replace(item, id=prefix + item.id, prefix=prefix)
    return changed if len(changed.id) <= MAX_ID_LENGTH else replace(changed, id=changed.fallback_id)


def is_same_person(hit: Hit, person: str) -> bool | None:
    """Return whether a hit, enrolled by this program, shows the person; `None` if either is unknown."""
    found = hit.metadata.get("person")
    return found == person if person and isinstance(found, str) else None
