"""Frames of enrolled tracklets, found again on this machine.

A record's metadata says where its footage was. The client that enrolled the record wrote it, so it is a hint and never
a path to trust: only files below the folders that the user named are opened, and only as images or as a video.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from model.errors import Not3dError
from model.frames import crop_box, decode_frame
from not3d.enrol.discovery import LocalTracklet
from not3d.enrol.footage import Image, open_video, pick_evenly, read_pictures, read_tracks
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
            return [] if table is None else _read_track(source_path, table, track)
        if isinstance(tracklet, str):
            return _read_images(source_path, source, tracklet, folders)
        return read_pictures(LocalTracklet("", video=source_path))
    except (OSError, RuntimeError, ValueError, Not3dError):
        # Not3dError: frames or tracks that cannot be read; ValueError: an impossible path; RuntimeError: a cycle of
        # links. The picture then shows the hit without frames; the search itself has succeeded.
        return []


def _find_path(source: str, folders: Sequence[Path]) -> Path | None:
    """Return the only file or folder below the folders that the source names."""
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
    if not named and tracklet not in {folder.name, parts[-1], "-".join(parts[-3:])}:
        return []
    images = named or images
    chosen = [images[index].resolve() for index in pick_evenly(len(images))]
    if not all(path.is_file() and _is_below(path, folders) for path in chosen):
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
