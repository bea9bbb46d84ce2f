"""Decoding footage on this machine: the tracks of a video, and pictures to show. Needs OpenCV."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from model.frames import FrameError, crop_box, decode_frame
from model.video import Video, VideoEnd, VideoError, VideoFrame
from model.video import open_video as open_any_video
from not3d.client import Box
from not3d.client.clips import choose_frames
from not3d.enrol.comparison import digest_of
from not3d.enrol.discovery import with_own_ids
from not3d.enrol.ids import printable, readable_id, with_digest
from not3d.enrol.readers.tracks import AS_RECOGNISED, TrackOptions, Tracks, TracksFormat, read_tracks
from not3d.enrol.tracklets import FootageError, LocalTracklet

Image = NDArray[np.uint8]
"""RGB `[h, w, 3]`."""

PICTURES = 4
"""Frames of a tracklet that are shown."""


def list_tracks(
    video: Path, tracks_file: Path, options: TrackOptions = AS_RECOGNISED, camera: str = ""
) -> tuple[list[LocalTracklet], Tracks]:
    """Return the tracks of a full video as tracklets with boxes, and what was read.

    Raises:
        FootageError: the tracks cannot be read, or the video, if the boxes are relative to the size of its frames.
    """
    tracks = read_tracks(tracks_file, options, stem=video.stem)
    boxes = tracks.in_pixels(*_frame_size(video)) if tracks.relative else tracks.boxes
    declared = {} if options.format is TracksFormat.AUTO else {"tracks_format": str(options.format)}
    if options.frame_base is not None:
        declared["frame_base"] = str(options.frame_base)
    if options.classes:
        declared["classes"] = ",".join(sorted(options.classes))
    items = []
    for track, own in boxes.items():
        readable, complete = readable_id(video.stem, track)
        fallback = with_digest(readable, camera, video.name, track)
        origin = {"source": printable(video.name), "tracks": printable(tracks_file.name), "track": printable(track)}
        items.append(
            LocalTracklet(
                readable if complete else fallback,
                video=video,
                boxes=tuple(own),
                camera=camera,
                origin=origin | declared,
                fallback_id=fallback,
            )
        )
    own_ids = with_own_ids(items)
    return [item for item in own_ids if isinstance(item, LocalTracklet)], tracks


def cut_tracks(
    items: Sequence[LocalTracklet],
    start: datetime | None = None,
    *,
    clip_length: int = 1,
    max_clips: int | None = None,
    max_frames: int | None = None,
) -> Iterator[LocalTracklet]:
    """Cut the crops of each track out of a full video in one pass, and yield a track after its last frame.

    Crops are stored without loss, so the service sees the pixels that it would have cut out itself. A box with almost
    nothing inside the frame, or in a damaged frame, is left out and counted. With `start`, the time of the first shown
    frame, each track gets its times: `start` plus the timestamps of its first and last frame.

    Args:
        items: tracks of one video, from `list_tracks`.
        start: when the first frame of the video was taken.
        clip_length: frames of a clip.
        max_clips: cut only the frames of at most so many evenly spaced clips of each track.
        max_frames: a track with more frames to cut than this is not cut, and has a `problem`.

    Raises:
        FootageError: the video cannot be read, or ends before the tracks do.
    """
    cut = []
    for item in items:
        chosen = tuple(item.boxes[index] for index in choose_frames(len(item.boxes), clip_length, max_clips))
        if max_frames is not None and len(chosen) > max_frames:
            problem = (
                f"it has {len(item.boxes)} boxes, but the service takes at most {max_frames} frames of a tracklet; "
                "--max-clips chooses some of them evenly"
            )
            yield replace(item, video=None, boxes=(), digest=digest_of(item), problem=problem)
        else:
            cut.append(_Track(item, chosen))
    if not cut:
        return
    wanted: dict[int, list[_Track]] = {}
    for track in cut:
        for number in {*track.boxes, track.first, track.last}:
            wanted.setdefault(number, []).append(track)
    video = cut[0].item.video
    assert video is not None  # noqa: S101 - items are tracks of a video
    with open_video(video) as reader:
        for frame in reader.read(sorted(wanted)):
            time = _time_of(frame, video, start) if start else None
            for track in wanted[frame.index]:
                if frame.index == track.first:
                    track.begun = time
                if (box := track.boxes.get(frame.index)) is not None:
                    track.cut(frame.pixels, box)
                if frame.index == track.last:
                    yield track.finish(time)


def _time_of(frame: VideoFrame, video: Path, start: datetime) -> datetime:
    try:
        return start + timedelta(seconds=frame.time)
    except (OverflowError, ValueError):
        after = f"{frame.time:g} seconds after {start.isoformat()}"
        raise FootageError(
            f"{printable(str(video))}: frame {frame.index} is {after}, which is no possible time"
        ) from None


class _Track:
    """One track while its crops are cut: the boxes to cut by their frame, and the track's first and last frame."""

    def __init__(self, item: LocalTracklet, boxes: Sequence[Box]) -> None:
        self.item, self.boxes = item, {box[0]: box for box in boxes}
        self.first, self.last = item.boxes[0][0], item.boxes[-1][0]
        self.begun: datetime | None = None
        self._crops: list[bytes] = []
        self._left_out = 0

    def cut(self, frame: Image | FrameError, box: Box) -> None:
        if isinstance(frame, FrameError):
            self._left_out += 1
            return
        try:
            self._crops.append(_encode(crop_box(frame, *box[1:])))
        except FrameError:  # almost nothing of the box is inside the frame
            self._left_out += 1

    def finish(self, end: datetime | None) -> LocalTracklet:
        crops, self._crops = tuple(self._crops), []
        return replace(
            self.item,
            frames=crops,
            video=None,
            boxes=(),
            start_time=self.begun,
            end_time=end,
            digest=digest_of(self.item),
            left_out=self._left_out,
            problem="" if crops else "none of its boxes lies inside the video's frames",
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
        return _read_evenly(tracklet.video)
    pictures = []
    boxes = {box[0]: box[1:] for box in tracklet.boxes}
    for index in pick_evenly(len(tracklet.frames)):
        frame = tracklet.frames[index]
        try:
            picture = decode_frame(frame.read_bytes() if isinstance(frame, Path) else frame)
            pictures.append(crop_box(picture, *boxes[index]) if index in boxes else picture)
        except (FrameError, OSError) as error:
            raise FootageError(f"frame {index} of {tracklet.id}: {error}") from error
    return pictures


def _read_evenly(video: Path, frames: int | None = None) -> list[Image]:
    """Return a few of the `frames` frames of a video, by default of as many as it declares, which may be wrong."""
    try:
        with open_video(video) as reader:
            wanted = sorted(set(pick_evenly(reader.declared_frames if frames is None else frames)))
            return [_require_pixels(video, frame) for frame in reader.read(wanted)]
    except FootageError as error:
        if frames is None and isinstance(error.__cause__, VideoEnd):
            return _read_evenly(video, error.__cause__.frames)
        raise


@contextmanager
def open_video(path: Path) -> Iterator[Video]:
    """Open a video; its content decides what it is, not its name.

    Raises:
        FootageError: it is not a video of a known container, cannot be decoded, or ends before the last wanted frame.
    """
    try:
        with open_any_video(path) as video:
            yield video
    except VideoEnd as end:
        raise FootageError(
            f"{printable(str(path))} ends after {end.frames} frames, frame {end.wanted + 1} is asked for"
        ) from end
    except VideoError as error:
        raise FootageError(f"{printable(str(path))} cannot be read as a video: {error}") from error


def _frame_size(video: Path) -> tuple[int, int]:
    """Return width and height of the video's frames, of which the first one is decoded."""
    with open_video(video) as reader:
        height, width = _require_pixels(video, next(reader.read([0]))).shape[:2]
    return width, height


def _require_pixels(video: Path, frame: VideoFrame) -> Image:
    if isinstance(frame.pixels, FrameError):
        raise FootageError(f"{printable(str(video))}: {frame.pixels.reason}")
    return frame.pixels


def _encode(crop: Image) -> bytes:
    _, encoded = cv2.imencode(".png", cv2.cvtColor(crop, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, 1])
    return encoded.tobytes()
