"""Tracklets on this machine: what a folder, a picture or a video holds, without decoding anything.

A hundred thousand tracklets are listed in seconds.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from not3d.client import Box
from not3d.enrol.ids import printable, readable_id, with_digest
from not3d.enrol.tracklets import FootageError, Item, ListedTracklet, LocalTracklet, PersonBox
from training.datasets.archive import is_archive, unpack_to_root
from training.datasets.files import IMAGE_SUFFIXES, is_system_folder, natural_key
from training.datasets.folder import is_mars_frame, read_mars_names
from training.datasets.mars import is_mars, read_mars
from training.datasets.tracklet import DatasetError, Tracklet

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".m2ts", ".mts", ".mpg", ".mpeg", ".3gp"}
)
AUTO, MARS = "auto", "mars"
LAYOUTS = """\
  (none)                   FOLDER/*.jpg is one tracklet
  tracklet                 FOLDER/<tracklet>/*.jpg
  camera/tracklet          FOLDER/<camera>/<tracklet>/*.jpg
  person/camera/tracklet   FOLDER/<person>/<camera>/<tracklet>/*.jpg
  mars                     FOLDER/bbox_train, FOLDER/bbox_test and FOLDER/info, or with --layout mars
                           any folder of files named like 0022C1T0001F001.jpg"""
"""The layouts that are recognised, for help and error messages."""
_BY_DEPTH = ((), ("tracklet",), ("camera", "tracklet"), ("person", "camera", "tracklet"))
_DEPTHS = ({0}, {1}, {0, 1}, {2}, {3})
_REFUSAL = (
    "Layouts that are recognised are\n"
    f"{LAYOUTS}\nFor others, name the folders with --layout, such as --layout site/camera/date/tracklet"
)


@dataclass(frozen=True)
class Listing:
    """The tracklets that were found, the layout that was read, and remarks for the user."""

    items: Sequence[Item]
    layout: str = ""
    remarks: list[str] = field(default_factory=list)


def is_video(path: Path) -> bool:
    """Return whether the path is a file with the suffix of a video."""
    return path.suffix.lower() in VIDEO_SUFFIXES and not path.is_dir()


def is_picture(path: Path) -> bool:
    """Return whether the path is a file with the suffix of a picture."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.is_dir()


def parse_layout(text: str) -> tuple[str, ...]:
    """Return the names of a layout such as `camera/tracklet`: what the folders of each level are.

    Raises:
        ValueError: not names with the last one `tracklet`.
    """
    names = tuple(text.split("/"))
    if names[-1] != "tracklet" or len(set(names)) != len(names) or not all(name.isidentifier() for name in names):
        raise ValueError(
            f"{text!r} is no layout: name the folders of each level, the last one `tracklet`, such as camera/tracklet "
            "or person/camera/tracklet; other names, such as site, become metadata. `mars` reads the names of files"
        )
    if reserved := {"source", "footage_digest", "track", "tracks"} & set(names):
        raise ValueError(f"{text!r} is no layout: the name {reserved.pop()} is reserved for the record's metadata")
    return names


def list_tracklets(
    path: Path,
    found: Callable[[int], None] = lambda _count: None,
    *,
    layout: str = AUTO,
    camera: str = "",
    box: PersonBox | None = None,
) -> Listing:
    """Return all tracklets of a folder, or the one of a picture or of a video of one person's crops.

    Each folder is read once, and only the names of the files are read. MARS's layout is listed with its frames, since
    there the names of the files say which tracklet they belong to.

    Args:
        path: the folder, picture, video, or a .tar of a folder.
        found: called now and then with the number of tracklets.
        layout: `auto`, `mars`, or names as `parse_layout` takes them.
        camera: of all tracklets; "" for the cameras that the layout names.
        box: `(x, y, w, h)` of the person in a picture, in pixels.

    Raises:
        FootageError: nothing to read, or no layout fits.
        OSError: a folder cannot be read.
    """
    if not path.exists():
        raise FootageError(f"{printable(str(path))} does not exist")
    if not path.is_dir() and not path.is_file():
        raise FootageError(f"{printable(str(path))} is neither a file nor a folder")
    if box is not None and not is_picture(path):
        raise FootageError(f"a box needs a picture (.jpg, .png, .webp or .bmp), not {printable(str(path))}")
    if is_archive(path):
        path = unpack_to_root(path)
    if not path.is_dir():
        return Listing([read_file(path, camera, box)])
    try:
        if layout == MARS or (layout == AUTO and is_mars(path)):
            return Listing(_read_mars(path, camera), MARS)
    except DatasetError as error:
        raise FootageError(str(error)) from error
    return _list_folders(path, found, () if layout == AUTO else parse_layout(layout), camera)


def read_footage(path: Path, layout: str = AUTO) -> list[LocalTracklet]:
    """Return the tracklets of `list_tracklets`, with their frames; errors as there."""
    return [item.open() for item in list_tracklets(path, layout=layout).items]


def read_file(
    path: Path,
    camera: str = "",
    box: PersonBox | None = None,
    source: str = "",
    tracklet_id: str = "",
) -> LocalTracklet:
    """Return a picture, or a video of one person's crops, as a tracklet.

    Args:
        path: the file.
        camera: "" if unknown.
        box: where in the picture the person is.
        source: the path for the metadata; by default the name of the file.
        tracklet_id: by default the name of the file, with the box.
    """
    source = source or path.name
    where = () if box is None else (f"{'x'.join(f'{value:g}' for value in box)}",)
    readable, complete = readable_id(path.stem, *where)
    fallback = with_digest(readable, camera, source, *where)
    boxes: tuple[Box, ...] = () if box is None else ((0, *box),)
    origin = {"source": printable(source)} | ({"box": ",".join(f"{value:g}" for value in box)} if box else {})
    picture = is_picture(path)
    return LocalTracklet(
        tracklet_id or (readable if complete else fallback),
        (path,) if picture else (),
        None if picture else path,
        boxes,
        camera=camera,
        origin=origin,
        fallback_id=tracklet_id or fallback,
    )


def as_footage(tracklet: Tracklet, folder: Path) -> LocalTracklet:
    """Return a tracklet of the dataset in the folder, ready to be sent.

    Its `source` begins with the name of the folder, so it is found again below that folder and below its parent.
    """
    below = (_name_of(folder) / tracklet.frames[0].parent.relative_to(folder)).as_posix()
    listed = ListedTracklet(
        readable_id(tracklet.name)[0], "", below, tracklet.name, printable(tracklet.person), printable(tracklet.camera)
    )
    return LocalTracklet(
        listed.id,
        tracklet.frames,
        person=listed.person,
        camera=listed.camera,
        origin=listed.origin,
        fallback_id=listed.fallback_id,
    )


def with_own_ids(items: Sequence[Item]) -> list[Item]:
    """Return the items; those whose id another one has too get their fallback id, in whatever order they come.

    Raises:
        FootageError: two items are the same footage.
    """
    often = {name for name, count in Counter(item.id for item in items).items() if count > 1}
    if not often:
        return list(items)
    own: list[Item] = [replace(item, id=item.fallback_id) if item.id in often else item for item in items]
    seen: dict[str, Item] = {}
    for item in own:
        if (other := seen.setdefault(item.id, item)) is not item:
            sources = f"{printable(other.source)} and {printable(item.source)}"
            raise FootageError(f"{sources} would both get the id {item.id}; rename one")
    return own


def _read_mars(path: Path, camera: str) -> list[Item]:
    if is_mars(path):
        benchmark = read_mars(path)
        tracklets = benchmark.query + benchmark.gallery
    else:
        tracklets = read_mars_names(path)
    items = [as_footage(tracklet, path) for tracklet in tracklets]
    return with_own_ids([replace(item, camera=camera) for item in items] if camera else items)


def _list_folders(path: Path, found: Callable[[int], None], names: tuple[str, ...], camera: str) -> Listing:
    root = _name_of(path).name
    items: list[ListedTracklet] = []
    example: dict[int, str] = {}
    walk = _Walk()
    mars = True
    for folder, parts, pictures in walk.folders(str(path), ()):
        if len(parts) not in example:
            example[len(parts)] = printable(folder)
            _check_depths(example, names, path)
        mars = mars and all(map(is_mars_frame, pictures))
        items.append(_listed(folder, parts, root, names or _BY_DEPTH[len(parts)], camera))
        if len(items) % 1000 == 0:
            found(len(items))
    if not items:
        videos = f", but {walk.videos} videos: name one, or list them in a --manifest" if walk.videos else ""
        raise FootageError(f"no images found in {printable(str(path))}{videos}. {_REFUSAL}")
    depth = max(example)
    layout = "/".join(names or _BY_DEPTH[depth]) or "one folder"
    remarks = []
    if depth == 2 and not names:
        remarks.append(
            "two levels of folders are read as camera/tracklet; if they are something else, name them with --layout"
        )
    if mars:
        remarks.append(
            "all files are named as in MARS, but the folders say which files are one tracklet; --layout mars goes by "
            "the names of the files"
        )
    if walk.system:
        remarks.append(f"folders of the system are left out: {', '.join(sorted(walk.system))}")
    if walk.videos:
        remarks.append(f"{walk.videos} videos beside the images are left out; enrol them by name or in a --manifest")
    return Listing(with_own_ids(items), layout, remarks)


def _listed(folder: str, parts: tuple[str, ...], root: str, names: tuple[str, ...], camera: str) -> ListedTracklet:
    name = "-".join(parts) or root
    labels = {label: printable(part) for label, part in zip(names, parts, strict=True) if label != "tracklet"}
    person, own_camera = labels.pop("person", ""), labels.pop("camera", "")
    readable, complete = readable_id(*parts) if parts else readable_id(name)
    item = ListedTracklet(
        readable,
        folder,
        "/".join((root, *parts)),
        name,
        person,
        camera or own_camera,
        tuple(labels.items()),
    )
    return item if complete else replace(item, id=item.fallback_id)


def _check_depths(example: dict[int, str], names: tuple[str, ...], path: Path) -> None:
    """Raise `FootageError` if folders with images are at depths that no layout has."""
    if names:
        wrong = next((depth for depth in example if depth != len(names)), None)
        if wrong is not None:
            layout = "/".join(names)
            raise FootageError(
                f"{example[wrong]} holds images {wrong} folders below {printable(str(path))}, but --layout {layout} "
                f"means {len(names)}"
            )
    elif set(example) not in _DEPTHS:
        if max(example) < len(_BY_DEPTH):
            two = " and ".join(example[depth] for depth in sorted(example)[-2:])
            raise FootageError(f"{two} both hold images, at different depths: enrol them one by one. {_REFUSAL}")
        deep = max(example)
        raise FootageError(f"{example[deep]} holds images {deep} folders below {printable(str(path))}. {_REFUSAL}")


def _name_of(folder: Path) -> Path:
    """Return the folder's own name as a relative path, also of `.` and of `a/..`."""
    return Path(folder.name if folder.name not in {"", ".."} else folder.resolve().name)


class _Walk:
    """A walk through folders; `system` are names of folders that were left out, `videos` counts other footage."""

    def __init__(self) -> None:
        self.system: set[str] = set()
        self.videos = 0

    def folders(self, folder: str, parts: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, ...], list[str]]]:
        """Yield folders that directly hold images, in natural order, with their place below and the images' names."""
        names, inside = [], []
        with os.scandir(folder) as entries:
            for entry in entries:
                suffix = os.path.splitext(entry.name)[1].lower()  # noqa: PTH122 - a path for each takes long
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    if entry.is_symlink() and _is_above(entry.path):
                        raise FootageError(f"{printable(entry.path)} is a link to a folder above it; remove the link")
                    inside.append(entry.name)
                elif suffix in IMAGE_SUFFIXES and entry.is_file():
                    names.append(entry.name)
                elif suffix in VIDEO_SUFFIXES:
                    self.videos += 1
        if names:
            yield folder, parts, names
        for name in sorted(inside, key=natural_key):
            if is_system_folder(name):
                self.system.add(printable(name))
            else:
                yield from self.folders(os.path.join(folder, name), (*parts, name))  # noqa: PTH118


def _is_above(link: str) -> bool:
    """Return whether a link leads to a folder that holds it, so that a walk would not end."""
    return Path(link).parent.resolve().is_relative_to(Path(link).resolve())
