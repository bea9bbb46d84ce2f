"""Footage, the encoded frames or the video of one tracklet, and the way from it to frames of the model's size."""

from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from model.frames import FrameError, check_size, crop_box, decode_frame, read_frame, read_header, resize_frame
from service.fields import Box
from service.problems import Fault, Problem
from service.settings import Settings
from service.video import VideoEnd, check_video, read_frames

__all__ = ["Footage", "Sample", "check_footage", "read_samples"]

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


def check_footage(footage: Footage, settings: Settings, clip_length: int) -> None:
    """Hold everything that can be known without decoding against the limits.

    Raises:
        Problem: 400 for a box of a frame that is not there, 413 for what is too large, 415 or 422 for a bad video file.
    """
    count = footage.count
    if count is not None:
        name = "frames" if footage.boxes is None else "boxes"
        check_count(count, name, settings, clip_length)
    faults = []
    pixels = 0
    wanted = {box[0] for box in footage.boxes} if footage.boxes is not None else None
    for index, data in enumerate(footage.frames):
        try:
            if len(data) > settings.max_frame_bytes:
                faults.append(Fault(frame=index, reason=f"over {settings.max_frame_bytes} bytes"))
                continue
            header = read_header(data)
            check_size(header.width, header.height, settings.frame_limits)
            pixels += header.width * header.height if wanted is None or index in wanted else 0
        except FrameError as error:
            if error.status == "too_large":  # the others are met again when decoding, and may be few enough
                faults.append(Fault(frame=index, reason=error.reason))
    if faults:
        raise Problem("too-large", f"frame {faults[0].frame}: {faults[0].reason}", errors=faults)
    if pixels > settings.max_request_pixels:
        reason = f"{pixels} pixels in all, at most {settings.max_request_pixels} are allowed"
        raise Problem.of_field("frames", reason, "too-large")
    if footage.video:
        check_video(footage.video)
    _check_boxes(footage, settings)


def check_count(frames: int, name: str, settings: Settings, clip_length: int) -> None:
    """Refuse a tracklet of too many frames, or of frames that make too many clips, with 413."""
    if frames > settings.max_frames:
        raise Problem.of_field(name, f"{frames} frames, at most {settings.max_frames} are allowed", "too-large")
    if -(-frames // clip_length) > settings.max_clips:
        limit = settings.max_clips
        reason = f"{frames} frames make more than {limit} clips of {clip_length}"
        raise Problem.of_field(name, reason, "too-large")


def read_samples(footage: Footage, settings: Settings, height: int, width: int) -> Generator[Sample, None, None]:
    """Decode, crop and resize the tracklet's frames one after the other, RGB `uint8 [height, width, 3]`, in time order.

    Raises:
        Problem: as `service.video.read_frames`; 400 for a box of a frame behind the end of the video.
    """
    if footage.video:
        samples = _from_video(footage.video, footage.boxes, settings)
    elif footage.boxes is not None:
        samples = _from_full_frames(footage.frames, footage.boxes, settings)
    else:
        yield from ((index, _decode(data, settings, (height, width))) for index, data in enumerate(footage.frames))
        return
    for index, frame in samples:
        yield index, frame if isinstance(frame, FrameError) else resize_frame(frame, height, width)


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


def _from_full_frames(frames: list[bytes], boxes: list[Box], settings: Settings) -> Iterator[Sample]:
    at, frame = -1, None
    for index in _in_time_order(boxes):
        box = boxes[index]
        if frame is None or box[0] != at:
            at, frame = box[0], _decode(frames[box[0]], settings)
        yield index, frame if isinstance(frame, FrameError) else _crop(frame, box, settings)


def _from_video(path: Path, boxes: list[Box] | None, settings: Settings) -> Iterator[Sample]:
    if boxes is None:
        for index, frame in enumerate(read_frames(path, None, settings)):
            yield index, _to_rgb(frame)
        return
    order = _in_time_order(boxes)
    wanted = sorted({box[0] for box in boxes})
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
            yield index, FrameError("undecodable", f"the video cannot be decoded behind frame {end.frames}")


def _to_rgb(frame: Frame) -> Frame:
    return np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), dtype=np.uint8)
