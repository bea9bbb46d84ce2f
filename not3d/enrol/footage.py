"""What the command line reads from the user's disk: tracklets in folders, videos, and the tracks of a video."""

import csv
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import cv2

from model.errors import Not3dError
from model.frames import FrameError, crop_box, decode_frame
from model.video import Video, VideoEnd, VideoError
from model.video import open_video as open_any_video
from not3d.client import Box, Frame
from not3d.picture import Image, pick_evenly
from training.datasets.folder import read_tracklets
from training.datasets.tracklet import DatasetError, Tracklet

VIDEO_SUFFIXES = frozenset({".mp4", ".mkv", ".avi"})
_MAX_ID = 128


class FootageError(Not3dError):
    """A folder, video or list of tracks cannot be read, or does not fit."""


@dataclass(frozen=True)
class Footage:
    """One tracklet to send: encoded ``frames`` in time order, or a ``video`` of them.

    ``person`` and ``camera`` are ``""`` where unknown; ``origin`` goes into the record's metadata and lets
    `not3d.enrol.local_frames.find_local_frames` find the frames again. Everybody who may read the gallery reads it, so it names
    places below the folder that was given, never where on this machine that lies.
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
        """What is kept with the record in the gallery."""
        return dict(self.origin) | ({"person": self.person} if self.person else {})


def is_video(path: Path) -> bool:
    """Whether the path names a file, by its suffix a video."""
    return path.suffix.lower() in VIDEO_SUFFIXES and not path.is_dir()


def read_footage(path: Path) -> list[Footage]:
    """Every tracklet of a folder (see `training.datasets.folder.LAYOUTS`), or a video of one person's crops.

    Raises:
        FootageError: nothing to read there, or names that cannot be told apart as ids.
    """
    if is_video(path):
        if not path.is_file():
            raise FootageError(f"{path} does not exist")
        return [Footage(as_id(path.stem), video=path, origin={"source": path.name})]
    if not path.exists():
        raise FootageError(f"{path} does not exist")
    try:
        tracklets = read_tracklets(path)
    except DatasetError as error:
        raise FootageError(str(error)) from error
    names: dict[str, str] = {}
    for tracklet in tracklets:
        other = names.setdefault(as_id(tracklet.name), tracklet.name)
        if other != tracklet.name:
            raise FootageError(f"{tracklet.name} and {other} in {path} would both get the id {as_id(other)}")
    return [as_footage(tracklet, path) for tracklet in tracklets]


def as_footage(tracklet: Tracklet, folder: Path) -> Footage:
    """A tracklet of the dataset in the folder, ready to be sent.

    Its ``source`` begins with the folder's own name: it is found again below that folder and below the one around it.
    """
    name = folder.name if folder.name not in {"", ".."} else folder.resolve().name
    return Footage(
        as_id(tracklet.name),
        tracklet.frames,
        person=tracklet.person,
        camera=tracklet.camera,
        origin={"source": (name / tracklet.frames[0].parent.relative_to(folder)).as_posix(), "tracklet": tracklet.name},
    )


def as_id(name: str) -> str:
    """The name as the service takes ids: other characters than letters, digits and ``._:-`` become ``-``."""
    return re.sub(r"[^A-Za-z0-9._:-]", "-", name)[:_MAX_ID]


def read_tracks(path: Path) -> dict[str, list[Box]]:
    """The boxes of each track of a MOT file, rows ``frame,track,x,y,w,h[,confidence...]``.

    The file counts frames from 1, the boxes returned from 0 as everywhere else here; they are in the order of frames.

    Raises:
        FootageError: names the line that is malformed.
        OSError: the file cannot be read.
    """
    tracks: dict[str, list[Box]] = {}
    for number, row in _rows(path):
        if not row or (number == 1 and row[0].strip() == "frame"):
            continue
        try:
            frame, track, x, y, w, h = (float(value) for value in row[:6])
        except ValueError:
            raise FootageError(f"{path}, line {number}: not frame,track,x,y,w,h,confidence") from None
        if not all(map(math.isfinite, (frame, track, x, y, w, h))) or frame < 1 or frame % 1:
            raise FootageError(f"{path}, line {number}: frames are whole numbers from 1, boxes finite")
        tracks.setdefault(row[1].strip(), []).append((int(frame) - 1, x, y, w, h))
    if not tracks:
        raise FootageError(f"{path} holds no tracks")
    return {track: sorted(boxes) for track, boxes in tracks.items()}


def cut_tracks(video: Path, tracks_file: Path, start: datetime | None = None) -> Iterator[Footage]:
    """Cut the crops of each track out of a full video, in one pass; a track comes as soon as its last frame has passed.

    Crops are kept without loss, so the service sees the pixels that it would have cut out itself. A box with next to
    nothing inside the frame is left out. With ``start``, when the video begins, each track gets its times.

    Raises:
        FootageError: the video cannot be read, or ends before the tracks do.
    """
    tracks = read_tracks(tracks_file)
    wanted: dict[int, list[tuple[str, Box]]] = {}
    for track, boxes in tracks.items():
        for box in boxes:
            wanted.setdefault(box[0], []).append((track, box))
    crops: dict[str, list[bytes]] = {track: [] for track in tracks}
    with open_video(video) as reader:
        rate = reader.frame_rate
        if start is not None and not rate > 0:
            raise FootageError(f"{video} does not say how many frames a second it has, so its tracks get no times")
        order = sorted(wanted)
        for index, frame in zip(order, reader.read(order), strict=True):
            for track, box in wanted[index]:
                with suppress(FrameError):  # next to nothing of the box is inside the frame
                    crops[track].append(_encode(crop_box(frame, *box[1:])))
                if box is tracks[track][-1]:
                    seen = (tracks[track][0][0], box[0])
                    times = [start + timedelta(seconds=number / rate) if start else None for number in seen]
                    origin = {"source": video.name, "tracks": tracks_file.name, "track": track}
                    yield Footage(
                        as_id(f"{video.stem}-{track}"),
                        tuple(crops.pop(track)),
                        start_time=times[0],
                        end_time=times[1],
                        origin=origin,
                    )


def read_pictures(footage: Footage) -> list[Image]:
    """A few frames of the tracklet, evenly spaced, RGB.

    Raises:
        FootageError: a frame cannot be decoded, or the video cannot be read.
    """
    if footage.video is not None:
        with open_video(footage.video) as reader:
            return list(reader.read(sorted(set(pick_evenly(reader.declared_frames)))))
    pictures = []
    for index in pick_evenly(len(footage.frames)):
        frame = footage.frames[index]
        try:
            pictures.append(decode_frame(frame.read_bytes() if isinstance(frame, Path) else frame))
        except (FrameError, OSError) as error:
            raise FootageError(f"frame {index} of {footage.id}: {error}") from error
    return pictures


@contextmanager
def open_video(path: Path) -> Iterator[Video]:
    """Open a video. Its content decides what it is, as in the service.

    Raises:
        FootageError: it is not an MP4, Matroska or AVI file, cannot be decoded, or ends before the last wanted frame.
    """
    try:
        with open_any_video(path) as video:
            yield video
    except VideoEnd as end:
        raise FootageError(f"{path} ends after {end.frames} frames, frame {end.wanted + 1} is asked for") from end
    except VideoError as error:
        raise FootageError(f"{path} cannot be read as a video: {error}") from error


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    with path.open(newline="", encoding="utf-8", errors="replace") as lines:
        try:
            yield from enumerate(csv.reader(lines), start=1)
        except csv.Error as error:
            raise FootageError(f"{path} is no table of tracks: {error}") from error


def _encode(crop: Image) -> bytes:
    _, encoded = cv2.imencode(".png", cv2.cvtColor(crop, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, 1])
    return encoded.tobytes()
