"""Footage, the encoded frames or the video of one tracklet, and the way from it to frames of the model's size."""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from model.frames import FrameError, check_size, crop_box, decode_frame, read_frame, read_header, resize_frame
from model.tracklet import choose_frames
from service.embedding.video import VideoEnd, check_video, count_frames, read_frames
from service.http.fields import Box
from service.http.problems import Fault, Problem
from service.settings import Settings

Frame = NDArray[np.uint8]
Sample = tuple[int, Frame | FrameError]
"""Index of a tracklet frame as it was sent (of the box, where there are boxes), and the frame or why it is none."""


@dataclass(frozen=True)
class Footage:
    """One tracklet as it was sent: encoded `frames`, or the file of a `video`; with `boxes` they are full frames."""

    frames: list[bytes] = field(default_factory=list)
    video: Path | None = None
    boxes: list[Box] | None = None

    @property
    def count(self) -> int | None:
        """Tracklet frames, where that is known before decoding."""
        if self.boxes is not None:
            return len(self.boxes)
        return None if self.video else len(self.frames)


def check_footage(
    footage: Footage, settings: Settings, clip_length: int, max_clips: int | None = None
) -> list[int] | None:
    """Hold everything that can be known without decoding against the limits, and choose the frames to decode.

    With `max_clips` these are the frames of that many evenly spaced clips. No other frame is looked at, so what is
    wrong with the others does no harm. The frames of a whole video are counted in a pass of their own before any is
    chosen: what it declares may be wrong, and the choice would depend on it.

    Returns:
        Their indices as sent (of the boxes, where there are boxes), in time order; `None` stands for all frames of a
        video, whose number is not known.

    Raises:
        Problem: 400 for a box of a frame that is not there, 413 for what is too large, 415 or 422 for a bad video file.
    """
    count = footage.count
    if count is not None:
        name = "frames" if footage.boxes is None else "boxes"
        check_count(count, name, settings, clip_length, max_clips)
    if footage.video:
        check_video(footage.video)
    _check_boxes(footage, settings)
    if footage.video and count is None and max_clips is not None:
        count = count_frames(footage.video, settings)
        check_count(count, "video", settings, clip_length, max_clips)
    if count is None:
        return None
    order = _in_time_order(footage.boxes) if footage.boxes is not None else range(count)
    chosen = [order[place] for place in choose_frames(count, clip_length, max_clips)] if count else []
    if not footage.video:
        _check_frames(footage, chosen, settings)
    return chosen


def check_count(frames: int, name: str, settings: Settings, clip_length: int, max_clips: int | None = None) -> None:
    """Refuse a tracklet of too many frames, or of which too many clips would be computed, with 413."""
    if frames > settings.max_frames:
        raise Problem.of_field(name, f"{frames} frames, at most {settings.max_frames} are allowed", "too-large")
    clips, limit = -(-frames // clip_length), settings.max_clips
    if min(clips, max_clips or clips) > limit:
        reason = f"{frames} frames make more than {limit} clips of {clip_length}; max_clips has fewer of them computed"
        raise Problem.of_field(name, reason, "too-large")


def read_samples(
    footage: Footage, settings: Settings, height: int, width: int, chosen: Sequence[int] | None = None
) -> Generator[Sample, None, None]:
    """Decode, crop and resize the tracklet's frames one after the other, RGB `uint8 [height, width, 3]`, in time order.

    `chosen` is what `check_footage` gave; by default all frames are read.

    Raises:
        Problem: as `service.embedding.video.read_frames`; 400 for a box of a frame behind the end of the video.
    """
    if footage.boxes is not None:
        order = _in_time_order(footage.boxes) if chosen is None else chosen
        if footage.video:
            samples = _boxes_of_video(footage.video, footage.boxes, order, settings)
        else:
            samples = _boxes_of_frames(footage.frames, footage.boxes, order, settings)
    elif footage.video:
        samples = _from_video(footage.video, chosen, settings)
    else:
        for index in range(len(footage.frames)) if chosen is None else chosen:
            yield index, _decode(footage.frames[index], settings, (height, width))
        return
    for index, frame in samples:
        yield index, frame if isinstance(frame, FrameError) else _resize(frame, height, width)


def _check_frames(footage: Footage, chosen: Sequence[int], settings: Settings) -> None:
    """Hold the headers of the frames that will be decoded against the limits."""
    faults = []
    pixels = 0
    wanted = chosen if footage.boxes is None else sorted({footage.boxes[index][0] for index in chosen})
    for index in wanted:
        data = footage.frames[index]
        try:
            if len(data) > settings.max_frame_bytes:
                faults.append(Fault(frame=index, reason=f"over {settings.max_frame_bytes} bytes"))
                continue
            header = read_header(data)
            check_size(header.width, header.height, settings.frame_limits)
            pixels += header.width * header.height
        except FrameError as error:
            if error.status == "too_large":  # the others are met again when decoding, and may be few enough
                faults.append(Fault(frame=index, reason=error.reason))
    if faults:
        raise Problem("too-large", f"frame {faults[0].frame}: {faults[0].reason}", errors=faults)
    if pixels > settings.max_request_pixels:
        reason = f"{pixels} pixels in all, at most {settings.max_request_pixels} are allowed"
        raise Problem.of_field("frames", reason, "too-large")


def _check_boxes(footage: Footage, settings: Settings) -> None:
    if footage.boxes is None:
        return
    for index, box in enumerate(footage.boxes):
        if footage.video and box[0] >= settings.max_video_frames:
            reason = f"frame {box[0]}: only the first {settings.max_video_frames} frames of a video are read"
            raise Problem.of_field(f"boxes[{index}][0]", reason, "too-large")
        if not footage.video and box[0] >= len(footage.frames):
            reason = f"frame {box[0]} of {len(footage.frames)} frames; they are counted from 0"
            raise Problem.of_field(f"boxes[{index}][0]", reason)


def _decode(data: bytes, settings: Settings, size: tuple[int, int] | None = None) -> Frame | FrameError:
    """The frame, at `size` (height, width) or as large as it is, or why there is none."""
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


def _boxes_of_frames(
    frames: list[bytes], boxes: list[Box], order: Sequence[int], settings: Settings
) -> Iterator[Sample]:
    at, frame = -1, None
    for index in order:
        box = boxes[index]
        if frame is None or box[0] != at:
            at, frame = box[0], _decode(frames[box[0]], settings)
        yield index, frame if isinstance(frame, FrameError) else _crop(frame, box, settings)


def _boxes_of_video(path: Path, boxes: list[Box], order: Sequence[int], settings: Settings) -> Iterator[Sample]:
    wanted = sorted({boxes[index][0] for index in order})
    done = 0
    try:
        for at, frame in zip(wanted, read_frames(path, wanted, settings), strict=True):
            while done < len(order) and boxes[order[done]][0] == at:
                crop = _crop(frame, boxes[order[done]], settings)
                yield order[done], crop if isinstance(crop, FrameError) else _to_rgb(crop)
                done += 1
    except VideoEnd as end:
        for index in order[done:]:
            if not end.damaged:
                reason = f"frame {boxes[index][0]} of {end.frames} frames; they are counted from 0"
                raise Problem.of_field(f"boxes[{index}][0]", reason) from None
            yield index, _behind(end)


def _from_video(path: Path, chosen: Sequence[int] | None, settings: Settings) -> Iterator[Sample]:
    if chosen is None:
        for index, frame in enumerate(read_frames(path, None, settings)):
            yield index, _to_rgb(frame)
        return
    done = 0
    try:
        for index, frame in zip(chosen, read_frames(path, chosen, settings), strict=True):
            yield index, _to_rgb(frame)
            done += 1
    except VideoEnd as end:  # counting did not take the pictures out of the decoder; here one had none
        yield from ((index, _behind(end)) for index in chosen[done:])


def _behind(end: VideoEnd) -> FrameError:
    return FrameError("undecodable", f"the video cannot be decoded behind frame {end.frames}")


def _resize(frame: Frame, height: int, width: int) -> Frame:
    """The frame at that size, in memory of its own: a view would keep the whole decoded picture alive."""
    resized = resize_frame(frame, height, width)
    return resized if resized.base is None else resized.copy()


def _to_rgb(frame: Frame) -> Frame:
    return np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), dtype=np.uint8)
