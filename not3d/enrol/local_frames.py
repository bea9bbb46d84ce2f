"""Frames of enrolled tracklets, found again on this machine.

A record's metadata says where its footage was. The client that enrolled the record wrote it, so it is a hint and never
a path to trust: only files below the folders that the user named are opened, and only as images or as a video.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from model.errors import Not3dError
from model.frames import FrameError, crop_box, decode_frame
from not3d.enrol.discovery import is_picture
from not3d.enrol.footage import Image, list_tracks, open_video, pick_evenly, read_pictures
from not3d.enrol.ids import printable, unescaped
from not3d.enrol.readers.tracks import TrackOptions, TracksFormat
from not3d.enrol.tracklets import LocalTracklet
from training.datasets.files import images_in


def find_local_frames(metadata: Mapping[str, object], folders: Sequence[Path]) -> list[Image]:
    """Return a few frames of an enrolled tracklet, RGB, evenly spaced; none if its footage is not below the folders.

    Args:
        metadata: of the record, as `not3d enroll` wrote it; anything else gives no frames.
        folders: where to look. Each may be the folder that was enrolled or its parent, or for a video the folder that
            holds it. A path or link that leads out of all of them is not opened. If two different paths match, no
            frames are returned, because frames of the wrong person would be worse.
    """
    source, tracklet, tracks, track = (metadata.get(key) for key in ("source", "tracklet", "tracks", "track"))
    if not isinstance(source, str):
        return []
    try:
        source_path = _find_path(source, folders)
        if source_path is None:
            return []
        if isinstance(tracks, str) and isinstance(track, str):
            table = _find_path(tracks, folders)
            return (
                []
                if table is None or not (table.is_file() or table.is_dir())
                else _read_track(source_path, table, track, _options(metadata))
            )
        if isinstance(tracklet, str):
            return _read_images(source_path, source, tracklet, folders)
        if not source_path.is_file():  # opening a named pipe would wait
            return []
        if not is_picture(source_path):
            return read_pictures(LocalTracklet("", video=source_path))
        box = metadata.get("box")
        x, y, w, h = map(float, box.split(",")) if isinstance(box, str) else (0.0, 0.0, math.inf, math.inf)
        picture = decode_frame(source_path.read_bytes())
        height, width = picture.shape[:2]
        return [crop_box(picture, x, y, min(w, width), min(h, height))]
    except (OSError, RuntimeError, ValueError, Not3dError):
        # Not3dError: frames or tracks that cannot be read; ValueError: an impossible path; RuntimeError: a cycle of
        # links. The picture then shows the hit without frames; the search itself has succeeded.
        return []


def _find_path(source: str, folders: Sequence[Path]) -> Path | None:
    """Return the only file or folder below the folders that the source names, as it is or with escapes."""
    return _find_exactly(source, folders) or _find_exactly(unescaped(source), folders)


def _find_exactly(source: str, folders: Sequence[Path]) -> Path | None:
    path = Path(source)
    if path.anchor or not path.parts or ".." in path.parts:  # even looking there could mount something
        return None
    candidates = []
    for folder in folders:
        candidates.append(folder / path)
        if path.parts[0] in {folder.name, folder.resolve().name}:
            candidates.append(folder.joinpath(*path.parts[1:]))
    resolved = {candidate.resolve() for candidate in candidates}
    existing = [each for each in resolved if _is_below(each, folders) and each.exists()]
    return existing[0] if len(existing) == 1 else None


def _is_below(path: Path, folders: Sequence[Path]) -> bool:
    return any(path.is_relative_to(folder.resolve()) for folder in folders)


def _read_images(folder: Path, source: str, tracklet: str, folders: Sequence[Path]) -> list[Image]:
    images = images_in(folder)
    named = [
        path for path in images if path.name.startswith(f"{tracklet}F")
    ]  # MARS has several tracklets in one folder
    parts = Path(source).parts
    names = {printable(folder.name), *("-".join(parts[first:]) for first in range(len(parts)))}
    if not named and tracklet not in names:
        return []
    images = named or images
    chosen = [images[index].resolve() for index in pick_evenly(len(images))]
    if not all(path.is_file() and _is_below(path, folders) for path in chosen):
        return []
    return [decode_frame(path.read_bytes()) for path in chosen]


def _options(metadata: Mapping[str, object]) -> TrackOptions:
    """Return how the tracks were read, as `list_tracks` wrote it."""
    declared, base, classes = (metadata.get(key, "") for key in ("tracks_format", "frame_base", "classes"))
    return TrackOptions(
        TracksFormat(str(declared) or TracksFormat.AUTO),
        int(base) if isinstance(base, str) and base else None,
        frozenset(str(classes).split(",")) if classes else frozenset(),
    )


def _read_track(video: Path, table: Path, track: str, options: TrackOptions) -> list[Image]:
    item = next((item for item in list_tracks(video, table, options)[0] if item.origin["track"] == track), None)
    boxes = item.boxes if item else ()
    chosen = {boxes[index][0]: boxes[index] for index in pick_evenly(len(boxes))}
    with open_video(video) as reader:
        return [
            crop_box(frame.pixels, *chosen[frame.index][1:])
            for frame in reader.read(sorted(chosen))
            if not isinstance(frame.pixels, FrameError)
        ]
