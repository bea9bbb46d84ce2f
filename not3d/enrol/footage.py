"""Decoding footage on this machine: the tracks of a video, and pictures to show. Needs OpenCV."""

import csv
import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from model.frames import FrameError, crop_box, decode_frame
from model.video import Video, VideoEnd, VideoError
from model.video import open_video as open_any_video
from not3d.client import Box
from not3d.enrol.discovery import FootageError, LocalTracklet, as_id

Image = NDArray[np.uint8]
"""RGB `[h, w, 3]`."""

PICTURES = 4
"""Frames of a tracklet that are shown."""


def read_tracks(path: Path) -> dict[str, list[Box]]:
    """Return the boxes of each track of a MOT file, with the rows `frame,track,x,y,w,h[,confidence...]`.

    The file counts frames from 1, the returned boxes count from 0. They are sorted by frame.

    Raises:
        FootageError: names the malformed line.
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
            raise FootageError(f"{path}, line {number}: frames must be whole numbers from 1, boxes finite")
        tracks.setdefault(row[1].strip(), []).append((int(frame) - 1, x, y, w, h))
    if not tracks:
        raise FootageError(f"{path} holds no tracks")
    return {track: sorted(boxes) for track, boxes in tracks.items()}


def cut_tracks(video: Path, tracks_file: Path, start: datetime | None = None) -> Iterator[LocalTracklet]:
    """Cut the crops of each track out of a full video in one pass, and yield a track after its last frame.

    Crops are stored without loss, so the service sees the pixels that it would have cut out itself. A box with almost
    nothing inside the frame is left out. With `start`, the time when the video begins, each track gets its times.

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
            raise FootageError(f"{video} does not declare its frame rate, so its tracks get no times; omit --start")
        order = sorted(wanted)
        for index, frame in zip(order, reader.read(order), strict=True):
            for track, box in wanted[index]:
                with suppress(FrameError):  # almost nothing of the box is inside the frame
                    crops[track].append(_encode(crop_box(frame, *box[1:])))
                if box is tracks[track][-1]:
                    seen = (tracks[track][0][0], box[0])
                    times = [start + timedelta(seconds=number / rate) if start else None for number in seen]
                    yield LocalTracklet(
                        as_id(f"{video.stem}-{track}"),
                        tuple(crops.pop(track)),
                        start_time=times[0],
                        end_time=times[1],
                        origin={"source": video.name, "tracks": tracks_file.name, "track": track},
                    )


def pick_evenly(count: int, wanted: int = PICTURES) -> list[int]:
    """Return at most `wanted` of `count` indices, evenly spaced: the middles of equal parts."""
    taken = min(count, wanted)
    return [int((2 * part + 1) * count / (2 * taken)) for part in range(taken)]


def read_pictures(tracklet: LocalTracklet) -> list[Image]:
    """Return a few frames of the tracklet, evenly spaced, RGB.

    Raises:
        FootageError: a frame cannot be decoded, or the video cannot be read.
    """
    if tracklet.video is not None:
        with open_video(tracklet.video) as reader:
            return list(reader.read(sorted(set(pick_evenly(reader.declared_frames)))))
    pictures = []
    for index in pick_evenly(len(tracklet.frames)):
        frame = tracklet.frames[index]
        try:
            pictures.append(decode_frame(frame.read_bytes() if isinstance(frame, Path) else frame))
        except (FrameError, OSError) as error:
            raise FootageError(f"frame {index} of {tracklet.id}: {error}") from error
    return pictures


@contextmanager
def open_video(path: Path) -> Iterator[Video]:
    """Open a video; its content decides what it is, not its name.

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
            raise FootageError(f"{path} is not a table of tracks: {error}") from error


def _encode(crop: Image) -> bytes:
    _, encoded = cv2.imencode(".png", cv2.cvtColor(crop, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, 1])
    return encoded.tobytes()
