"""Footage, the encoded frames or the video of one tracklet, and how it becomes frames of the model's size."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from model.frames import FrameError, check_size, crop_box, decode_frame, read_frame, read_header, resize_frame
from model.tracklet import choose_frames
from model.video import Video, VideoEnd, VideoError, check_video, open_video
from service.settings import Settings

Frame = NDArray[np.uint8]
Box = tuple[int, float, float, float, float]
"""`(frame, x, y, w, h)`: 0-based index of the full frame, corner and size in pixels."""
Sample = tuple[int, Frame | FrameError]
"""Index of a tracklet frame as it was sent (of the box, if there are boxes), and the frame or why it is unusable."""

FootageErrorKind = Literal["malformed", "too_large", "unsupported", "unusable"]


@dataclass(frozen=True)
class FootageFault:
    """What is wrong with one field (`boxes[3][0]`) or with one frame (0-based index)."""

    reason: str
    field: str | None = None
    frame: int | None = None


class FootageError(Exception):
    """A tracklet that cannot be embedded: why, and each field or frame at fault."""

    def __init__(self, kind: FootageErrorKind, detail: str, faults: Sequence[FootageFault]) -> None:
        super().__init__(detail)
        self.kind: Final[FootageErrorKind] = kind
        self.faults = tuple(faults)

    @classmethod
    def of_field(cls, field: str, reason: str, kind: FootageErrorKind = "malformed") -> "FootageError":
        """Return the error of one field."""
        return cls(kind, f"{field}: {reason}", [FootageFault(reason, field=field)])


@dataclass(frozen=True)
class Footage:
    """One tracklet as it was sent: encoded `frames`, or the file of a `video`; with `boxes` they are full frames."""

    frames: list[bytes] = field(default_factory=list)
    video: Path | None = None
    boxes: list[Box] | None = None

    @property
    def count(self) -> int | None:
        """Number of tracklet frames, or None if only decoding can tell."""
        if self.boxes is not None:
            return len(self.boxes)
        return None if self.video else len(self.frames)


def check_footage(
    footage: Footage, settings: Settings, clip_length: int, max_clips: int | None = None
) -> list[int] | None:
    """Apply all limits that need no decoding, and choose the frames to decode.

    With `max_clips`, only the frames of that many evenly spaced clips are chosen; the others are not checked. The
    frames of a video without boxes are then counted in a separate pass, because the number that it declares may be
    wrong.

    Returns:
        The indices of the chosen frames as sent (of the boxes, if there are boxes), in time order; None for all frames
        of a video whose number is unknown.

    Raises:
        FootageError: `malformed` for a box of a frame that was not sent, `too_large` for anything over a limit,
            `unsupported` or `unusable` for a bad video file.
    """
    count = footage.count
    if count is not None:
        name = "frames" if footage.boxes is None else "boxes"
        check_count(count, name, settings, clip_length, max_clips)
    if footage.video:
        with _as_footage_error():
            check_video(footage.video)
    _check_boxes(footage, settings)
    if footage.video and count is None and max_clips is not None:
        with _open(footage.video, settings) as video:
            count = video.count()
        check_count(count, "video", settings, clip_length, max_clips)
    if count is None:
        return None
    order = _in_time_order(footage.boxes) if footage.boxes is not None else range(count)
    chosen = [order[place] for place in choose_frames(count, clip_length, max_clips)] if count else []
    if not footage.video:
        _check_frames(footage, chosen, settings)
    return chosen


def check_count(frames: int, name: str, settings: Settings, clip_length: int, max_clips: int | None = None) -> None:
    """Refuse a tracklet of too many frames or clips.

    Raises:
        FootageError: `too_large`, of the field `name`.
    """
    if frames > settings.max_frames:
        raise FootageError.of_field(name, f"{frames} frames, at most {settings.max_frames} are allowed", "too_large")
    clips, limit = -(-frames // clip_length), settings.max_clips
    if min(clips, max_clips or clips) > limit:
        reason = (
            f"{frames} frames make {clips} clips of {clip_length}, at most {limit} are allowed; "
            "`max_clips` chooses fewer clips"
        )
        raise FootageError.of_field(name, reason, "too_large")


def read_samples(
    footage: Footage, settings: Settings, height: int, width: int, chosen: Sequence[int] | None = None
) -> Generator[Sample, None, None]:
    """Decode, crop and resize the frames one after the other, RGB `uint8 [height, width, 3]`, in time order.

    Args:
        footage: the tracklet, which passed `check_footage`.
        settings: the limits.
        height: of the model's frames, in pixels.
        width: of the model's frames, in pixels.
        chosen: the result of `check_footage`; by default all frames are read.

    Raises:
        FootageError: the video is over a limit or cannot be decoded; `malformed` for a box after the end of the video.
    """
    if footage.boxes is not None:
        order = _in_time_order(footage.boxes) if chosen is None else chosen
        if footage.video:
            samples = _read_video_boxes(footage.video, footage.boxes, order, settings)
        else:
            samples = _read_frame_boxes(footage.frames, footage.boxes, order, settings)
    elif footage.video:
        samples = _read_video(footage.video, chosen, settings)
    else:
        for index in range(len(footage.frames)) if chosen is None else chosen:
            yield index, _decode(footage.frames[index], settings, (height, width))
        return
    for index, frame in samples:
        yield index, frame if isinstance(frame, FrameError) else _resize(frame, height, width)


@contextmanager
def _as_footage_error() -> Iterator[None]:
    try:
        yield
    except VideoError as error:
        raise FootageError.of_field("video", error.reason, error.kind) from error


@contextmanager
def _open(path: Path, settings: Settings) -> Iterator[Video]:
    # One thread each: requests are decoded side by side.
    with _as_footage_error(), open_video(path, settings.video_limits, threads=1) as video:
        yield video


def _check_frames(footage: Footage, chosen: Sequence[int], settings: Settings) -> None:
    """Apply the limits to the headers of the frames that will be decoded."""
    faults = []
    pixels = 0
    wanted = chosen if footage.boxes is None else sorted({footage.boxes[index][0] for index in chosen})
    for index in wanted:
        data = footage.frames[index]
        try:
            if len(data) > settings.max_frame_bytes:
                reason = f"{len(data)} bytes, at most {settings.max_frame_bytes} are allowed"
                faults.append(FootageFault(reason, frame=index))
                continue
            header = read_header(data)
            check_size(header.width, header.height, settings.frame_limits)
            pixels += header.width * header.height
        except FrameError as error:
            if error.status == "too_large":  # decoding reports the other errors; enough frames may remain
                faults.append(FootageFault(error.reason, frame=index))
    if faults:
        raise FootageError("too_large", f"frame {faults[0].frame}: {faults[0].reason}", faults)
    if pixels > settings.max_request_pixels:
        reason = f"{pixels} pixels in all frames together, at most {settings.max_request_pixels} are allowed"
        raise FootageError.of_field("frames", reason, "too_large")


def _check_boxes(footage: Footage, settings: Settings) -> None:
    if footage.boxes is None:
        return
    for index, box in enumerate(footage.boxes):
        if footage.video and box[0] >= settings.max_video_frames:
            reason = f"frame {box[0]}: only the first {settings.max_video_frames} frames of a video are read"
            raise FootageError.of_field(f"boxes[{index}][0]", reason, "too_large")
        if not footage.video and box[0] >= len(footage.frames):
            raise _missing_frame(index, box, len(footage.frames))


def _missing_frame(index: int, box: Box, frames: int) -> FootageError:
    return FootageError.of_field(f"boxes[{index}][0]", f"frame {box[0]} of {frames} frames; they are counted from 0")


def _decode(data: bytes, settings: Settings, size: tuple[int, int] | None = None) -> Frame | FrameError:
    """Return the frame, at `size` (height, width) or in its own size, or why it is unusable."""
    try:
        limits = settings.frame_limits
        return decode_frame(data, limits) if size is None else read_frame(data, *size, limits)
    except FrameError as error:
        return error


def _crop(frame: Frame, box: Box, settings: Settings) -> Frame | FrameError:
    try:
        return crop_box(frame, *box[1:], settings.min_side)
    except FrameError as error:
        return error


def _in_time_order(boxes: list[Box]) -> list[int]:
    return sorted(range(len(boxes)), key=lambda index: boxes[index][0])


def _read_frame_boxes(
    frames: list[bytes], boxes: list[Box], order: Sequence[int], settings: Settings
) -> Iterator[Sample]:
    at, frame = -1, None
    for index in order:
        box = boxes[index]
        if frame is None or box[0] != at:
            at, frame = box[0], _decode(frames[box[0]], settings)
        yield index, frame if isinstance(frame, FrameError) else _crop(frame, box, settings)


def _read_video_boxes(path: Path, boxes: list[Box], order: Sequence[int], settings: Settings) -> Iterator[Sample]:
    wanted = sorted({boxes[index][0] for index in order})
    done = 0
    with _open(path, settings) as video:
        try:
            for at, frame in zip(wanted, video.read(wanted), strict=True):
                while done < len(order) and boxes[order[done]][0] == at:
                    yield order[done], _crop(frame, boxes[order[done]], settings)
                    done += 1
        except VideoEnd as end:
            for index in order[done:]:
                if not end.damaged:
                    raise _missing_frame(index, boxes[index], end.frames) from None
                yield index, _not_decodable(end)


def _read_video(path: Path, chosen: Sequence[int] | None, settings: Settings) -> Iterator[Sample]:
    with _open(path, settings) as video:
        if chosen is None:
            yield from enumerate(video.read_all())
            return
        done = 0
        try:
            for index, frame in zip(chosen, video.read(chosen), strict=True):
                yield index, frame
                done += 1
        except VideoEnd as end:  # counting takes no pictures out of the decoder, so it did not see this
            yield from ((index, _not_decodable(end)) for index in chosen[done:])


def _not_decodable(end: VideoEnd) -> FrameError:
    return FrameError("undecodable", f"the video cannot be decoded after frame {end.frames}")


def _resize(frame: Frame, height: int, width: int) -> Frame:
    """Resize into a new array: a view would keep the full decoded picture in memory."""
    resized = resize_frame(frame, height, width)
    return resized if resized.base is None else resized.copy()
