"""Frames of enrolled tracklets, found again on this machine.

A record's metadata says where its footage lay, but whoever may enrol wrote it, so it is a hint and never a path to
follow: only what lies below the folders that the user named is opened, and only as images or as a video.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from model.errors import Not3dError
from model.frames import crop_box, decode_frame
from not3d.enrol.footage import Footage, open_video, read_pictures, read_tracks
from not3d.picture import Image, pick_evenly
from training.datasets.files import images_in


def find_local_frames(metadata: Mapping[str, object], folders: Sequence[Path]) -> list[Image]:
    """A few frames of an enrolled tracklet, RGB, evenly spaced; none where its footage is not below the folders.

    Args:
        metadata: the record's, as `not3d.enrol.footage` made it; anything else gives no frames.
        folders: where to look. Each may be the folder that was enrolled or the one around it, and for a video the one
            that holds it. What leads out of all of them, be it by a link, is not opened, and where two different places
            fit there are no frames: those of somebody else would be worse.
    """
    source, tracklet, tracks, track = (metadata.get(key) for key in ("source", "tracklet", "tracks", "track"))
    if not isinstance(source, str):
        return []
    try:
        place = _find_place(source, folders)
        if place is None:
            return []
        if isinstance(tracks, str) and isinstance(track, str):
            table = _find_place(tracks, folders)
            return [] if table is None else _read_track(place, table, track)
        if isinstance(tracklet, str):
            return _read_images(place, source, tracklet, folders)
        return read_pictures(Footage("", video=place))
    except (OSError, RuntimeError, ValueError, Not3dError):
        # Not3dError: frames or tracks that cannot be read; ValueError: no possible path; RuntimeError: links that go
        # round in circles. The picture shows the hit without frames; the search itself has succeeded.
        return []


def _find_place(source: str, folders: Sequence[Path]) -> Path | None:
    """The one file or folder that the source names below the folders."""
    path = Path(source)
    if path.anchor or not path.parts or ".." in path.parts:  # looking there could by itself mount or call something
        return None
    candidates = []
    for folder in folders:
        candidates.append(folder / path)
        if path.parts[0] in {folder.name, folder.resolve().name}:
            candidates.append(folder.joinpath(*path.parts[1:]))
    places = {place for place in (candidate.resolve() for candidate in candidates) if _lies_below(place, folders)}
    there = [place for place in places if place.exists()]
    return there[0] if len(there) == 1 else None


def _lies_below(place: Path, folders: Sequence[Path]) -> bool:
    return any(place.is_relative_to(folder.resolve()) for folder in folders)


def _read_images(place: Path, source: str, tracklet: str, folders: Sequence[Path]) -> list[Image]:
    images = images_in(place)
    named = [path for path in images if path.name.startswith(f"{tracklet}F")]  # MARS keeps several in one folder
    parts = Path(source).parts
    if not named and tracklet not in {place.name, parts[-1], "-".join(parts[-3:])}:
        return []
    images = named or images
    chosen = [images[index].resolve() for index in pick_evenly(len(images))]
    if not all(path.is_file() and _lies_below(path, folders) for path in chosen):
        return []
    return [decode_frame(path.read_bytes()) for path in chosen]


def _read_track(video: Path, table: Path, track: str) -> list[Image]:
    if not table.is_file():
        return []
    boxes = read_tracks(table).get(track, [])
    chosen = {boxes[index][0]: boxes[index] for index in pick_evenly(len(boxes))}
    order = sorted(chosen)
    with open_video(video) as reader:
        return [crop_box(frame, *chosen[index][1:]) for index, frame in zip(order, reader.read(order), strict=True)]
