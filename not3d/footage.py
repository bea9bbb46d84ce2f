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
import numpy as np

from model.frames import FrameError, crop_box, decode_frame
from not3d.client import Box, Frame
from not3d.picture import Image, pick_evenly
from training.datasets.folder import LayoutError, read_tracklets
from training.datasets.mars import MarsError
from training.datasets.tracklet import Tracklet

VIDEO_SUFFIXES = frozenset({".mp4", ".mkv", ".avi"})
_MAX_ID = 128


class FootageError(ValueError):
    """A folder, video or list of tracks cannot be read, or does not fit."""


@dataclass(frozen=True)
class Footage:
    """One tracklet to send: encoded ``frames`` in time order, or a ``video`` of them.

    ``person`` and ``camera`` are ``""`` where unknown; ``origin`` goes into the record's metadata and lets
    `read_pictures` find the frames again.
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
        return [Footage(as_id(path.stem), video=path, origin={"source": str(path.resolve())})]
    if not path.exists():
        raise FootageError(f"{path} does not exist")
    try:
        tracklets = read_tracklets(path)
    except (LayoutError, MarsError) as error:
        raise FootageError(str(error)) from error
    names: dict[str, str] = {}
    for tracklet in tracklets:
        other = names.setdefault(as_id(tracklet.name), tracklet.name)
        if other != tracklet.name:
            raise FootageError(f"{tracklet.name} and {other} in {path} would both get the id {as_id(other)}")
    return [as_footage(tracklet) for tracklet in tracklets]


def as_footage(tracklet: Tracklet) -> Footage:
    """A dataset's tracklet, ready to be sent."""
    return Footage(
        as_id(tracklet.name),
        tracklet.frames,
        person=tracklet.person,
        camera=tracklet.camera,
        origin={"source": str(tracklet.frames[0].parent.resolve()), "tracklet": tracklet.name},
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
    with path.open(newline="", encoding="utf-8", errors="replace") as lines:
        for number, row in enumerate(csv.reader(lines), start=1):
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
    with _opened(video) as capture:
        rate = capture.get(cv2.CAP_PROP_FPS)
        if start is not None and not rate > 0:
            raise FootageError(f"{video} does not say how many frames a second it has, so its tracks get no times")
        for index, frame in _frames(capture, set(wanted), video):
            for track, box in wanted[index]:
                with suppress(FrameError):  # next to nothing of the box is inside the frame
                    crops[track].append(_encode(crop_box(frame, *box[1:])))
                if box is tracks[track][-1]:
                    seen = (tracks[track][0][0], box[0])
                    times = [start + timedelta(seconds=number / rate) if start else None for number in seen]
                    origin = {"source": str(video.resolve()), "tracks": str(tracks_file.resolve()), "track": track}
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
        with _opened(footage.video) as capture:
            count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
            return [frame for _, frame in _frames(capture, set(pick_evenly(count)), footage.video)]
    pictures = []
    for index in pick_evenly(len(footage.frames)):
        frame = footage.frames[index]
        try:
            pictures.append(decode_frame(frame.read_bytes() if isinstance(frame, Path) else frame))
        except (FrameError, OSError) as error:
            raise FootageError(f"frame {index} of {footage.id}: {error}") from error
    return pictures


def find_pictures(metadata: Mapping[str, object]) -> list[Image]:
    """Frames of an enrolled tracklet, where its footage lies on this machine still; empty otherwise."""
    source, tracks, track = (metadata.get(key) for key in ("source", "tracks", "track"))
    if not isinstance(source, str) or not Path(source).exists():
        return []
    try:
        if isinstance(tracks, str) and isinstance(track, str):
            boxes = read_tracks(Path(tracks)).get(track, [])
            chosen = {boxes[index][0]: boxes[index] for index in pick_evenly(len(boxes))}
            with _opened(Path(source)) as capture:
                found = list(_frames(capture, set(chosen), Path(source)))
            return [crop_box(frame, *chosen[index][1:]) for index, frame in found]
        found_there = read_footage(Path(source))
        for footage in found_there:
            # A folder of its own may be called otherwise here than in the layout that it was enrolled from.
            if len(found_there) == 1 or footage.origin.get("tracklet") == metadata.get("tracklet"):
                return read_pictures(footage)
    except (FootageError, FrameError, OSError):
        # The picture shows the hit without frames; the search itself has succeeded.
        return []
    return []


@contextmanager
def _opened(video: Path) -> Iterator[cv2.VideoCapture]:
    capture = cv2.VideoCapture(str(video))
    try:
        if not capture.isOpened():
            raise FootageError(f"{video} cannot be read as a video")
        yield capture
    finally:
        capture.release()


def _frames(capture: cv2.VideoCapture, wanted: set[int], video: Path) -> Iterator[tuple[int, Image]]:
    """The wanted frames, RGB, by their 0-based index; seeking is not exact in every container, so all are passed."""
    for index in range(max(wanted, default=-1) + 1):
        if not capture.grab():
            raise FootageError(f"{video} ends after {index} frames, frame {max(wanted) + 1} is asked for")
        if index in wanted:
            read, frame = capture.retrieve()
            if not read:
                raise FootageError(f"frame {index + 1} of {video} cannot be decoded")
            yield index, np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def _encode(crop: Image) -> bytes:
    _, encoded = cv2.imencode(".png", cv2.cvtColor(crop, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, 1])
    return encoded.tobytes()
