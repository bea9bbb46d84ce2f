"""Footage, the encoded frames or the video of one tracklet, and how it becomes frames of the model's size."""

from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.frames import FrameError, check_size, crop_box, decode_frame, read_header, read_sized_frame, resize_frame
from model.pillow_bicubic import Resampling
from model.tracklet import choose_frames
from model.video import Event, Video, VideoEnd, VideoError, check_video, open_video
from service.embedding.decode_memory import DecodeMemory
from service.embedding.footage_warnings import FootageWarnings
from service.embedding.tracklet import Box, Footage, FootageError, FootageErrorKind
from service.settings import Settings

_CROPS_AT_ONCE = 32
"""Boxes of one full frame that are cut out together. The frame is then released, and decoded again for the next ones:
a request that waits for the engine must not hold a full frame."""

LARGE_PICTURE_BYTES = 32 * 1024 * 1024
"""A picture that needs more memory to be decoded is a large one: a JPEG of 11 megapixels, a PNG of 4."""

Frame = NDArray[np.uint8]
Sample = tuple[int, Frame | FrameError]
"""Index of a tracklet frame as it was sent (of the box, if there are boxes), and the frame or why it is unusable."""

Size = tuple[int, int]
"""Width and height in pixels."""
_Sized = tuple[int, Size | None, Frame | FrameError]
"""A sample with the size of its picture or crop, if it is usable."""


def check_footage(
    footage: Footage,
    settings: Settings,
    clip_length: int,
    max_clips: int | None = None,
    cancelled: Event | None = None,
) -> list[int] | None:
    """Apply all limits that need no decoding, and choose the frames to decode.

    With `max_clips`, only the frames of that many evenly spaced clips are chosen; the others are not checked. The
    frames of a video without boxes are then counted in a separate pass, because the number that it declares may be
    wrong.

    Returns:
        The indices of the chosen frames as sent (of the boxes, if there are boxes), in time order; None for all frames
        of a video whose number is unknown.

    Raises:
        FootageError: `too_large` for anything over a limit, `unsupported` or `unusable` for a bad video file; or the
            request was cancelled.
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
        # Only the chosen frames count for `max_frames`, so the video may be longer.
        longer = settings.model_copy(update={"max_frames": max(settings.max_frames, settings.max_video_frames)})
        with _open(footage.video, longer, cancelled) as video:
            count = video.count()
        check_count(count, "video", settings, clip_length, max_clips)
    if count is None:
        return None
    order = _in_time_order(footage.boxes) if footage.boxes is not None else range(count)
    chosen = [order[place] for place in choose_frames(count, clip_length, max_clips)] if count else []
    if not footage.video:
        _check_frames(footage, chosen, settings, cancelled)
    return chosen


def has_large_pictures(footage: Footage, chosen: Sequence[int] | None, cancelled: Event | None = None) -> bool:
    """Return whether a chosen frame needs more than `LARGE_PICTURE_BYTES` to be decoded; false for a video.

    Raises:
        FootageError: the request was cancelled.
    """
    if footage.video or chosen is None:
        return False
    for index in _count_decoded(footage, chosen):
        _check_cancelled(cancelled)
        try:
            if read_header(footage.frames[index]).decoding_bytes > LARGE_PICTURE_BYTES:
                return True
        except FrameError:
            continue
    return False


def check_count(frames: int, name: str, settings: Settings, clip_length: int, max_clips: int | None = None) -> None:
    """Refuse a tracklet of too many frames or clips. With `max_clips`, only the chosen frames count.

    Raises:
        FootageError: `too_large`, of the field `name`.
    """
    chosen = frames if max_clips is None else min(frames, max_clips * clip_length)
    if chosen > settings.max_frames:
        reason = f"{chosen} frames, at most {settings.max_frames} are allowed; `max_clips` chooses fewer frames"
        raise FootageError.of_field(name, reason, "too_large")
    clips, limit = -(-frames // clip_length), settings.max_clips
    if min(clips, max_clips or clips) > limit:
        reason = (
            f"{frames} frames make {clips} clips of {clip_length}, at most {limit} are allowed; "
            "`max_clips` chooses fewer clips"
        )
        raise FootageError.of_field(name, reason, "too_large")


def read_samples(
    footage: Footage,
    settings: Settings,
    height: int,
    width: int,
    chosen: Sequence[int] | None = None,
    *,
    resampling: Resampling = "opencv",
    memory: DecodeMemory | None = None,
    warnings: FootageWarnings | None = None,
    cancelled: Event | None = None,
) -> Generator[Sample, None, None]:
    """Decode, crop and resize the frames one after the other, RGB `uint8 [height, width, 3]`.

    They are in time order, except that boxes of frames that do not exist come first.

    Args:
        footage: the tracklet, which passed `check_footage`.
        settings: the limits.
        height: of the model's frames, in pixels.
        width: of the model's frames, in pixels.
        chosen: the result of `check_footage`; by default all frames are read.
        resampling: whose pixels resizing gives, as the model's preprocessing says.
        memory: limits the pictures that are decoded at the same time; by default this call has a limit of its own.
        warnings: gets the sizes of the frames that are used, and the boxes of frames that do not exist.
        cancelled: after this event is set, the decoder of a video ends soon, and no further picture is decoded.

    Raises:
        FootageError: the video is over a limit or cannot be decoded.
    """
    memory = memory or DecodeMemory(settings.max_decode_bytes)
    reader = _StillReader(settings, height, width, resampling, memory, cancelled)
    for index, size, frame in _read_sized(footage, settings, reader, chosen, cancelled):
        if warnings and size:
            warnings.add_size(*size)
        if warnings and isinstance(frame, FrameError) and frame.status == "missing_frame":
            warnings.add_missing_frame(frame.reason)
        yield index, frame


def _read_sized(
    footage: Footage,
    settings: Settings,
    reader: "_StillReader",
    chosen: Sequence[int] | None,
    cancelled: Event | None,
) -> Iterator[_Sized]:
    if footage.boxes is not None:
        order: list[int] = []
        for index in _in_time_order(footage.boxes) if chosen is None else chosen:
            missing = _find_missing(footage, index, settings)
            if missing:
                yield index, None, missing
            else:
                order.append(index)
        if not footage.video:
            yield from reader.read_boxes(footage.frames, footage.boxes, order)
            return
        samples = _read_video_boxes(footage.video, footage.boxes, order, settings, cancelled)
    elif footage.video:
        samples = _read_video(footage.video, chosen, settings, cancelled)
    else:
        for index in range(len(footage.frames)) if chosen is None else chosen:
            yield index, *reader.read(footage.frames[index])
        return
    for index, frame in samples:
        if isinstance(frame, FrameError):
            yield index, None, frame
        else:
            yield index, (frame.shape[1], frame.shape[0]), reader.resize(frame)


@dataclass(frozen=True)
class _StillReader:
    """Decodes encoded frames to the model's size."""

    settings: Settings
    height: int
    width: int
    resampling: Resampling
    memory: DecodeMemory
    cancelled: Event | None

    def resize(self, frame: Frame) -> Frame:
        """Resize into a new array: a view would keep the full decoded picture in memory."""
        resized = resize_frame(frame, self.height, self.width, self.resampling)
        return resized if resized.base is None else resized.copy()

    def read(self, data: bytes) -> tuple[Size | None, Frame | FrameError]:
        """Return a crop, and the size of its picture."""
        try:
            with self._reserve(data):
                sized = read_sized_frame(
                    data, self.height, self.width, self.settings.frame_limits, resampling=self.resampling
                )
        except FrameError as error:
            return None, error.detach()
        return (sized.source_width, sized.source_height), sized.pixels

    def read_boxes(self, frames: list[bytes], boxes: list[Box], order: Sequence[int]) -> Iterator[_Sized]:
        """Yield the crops of full frames in this order of their boxes, some of one frame together."""
        for at, of_frame in groupby(order, key=lambda index: boxes[index][0]):
            while group := list(islice(of_frame, _CROPS_AT_ONCE)):
                yield from self._cut(frames[at], boxes, group)

    def _cut(self, data: bytes, boxes: list[Box], group: list[int]) -> list[_Sized]:
        try:
            with self._reserve(data):
                frame = decode_frame(data, self.settings.frame_limits)
                return [self._crop(frame, index, boxes[index]) for index in group]
        except FrameError as error:
            value = error.detach()
            return [(index, None, value) for index in group]

    def _crop(self, frame: Frame, index: int, box: Box) -> _Sized:
        crop = _crop(frame, box, self.settings)
        if isinstance(crop, FrameError):
            return index, None, crop
        return index, (crop.shape[1], crop.shape[0]), self.resize(crop)

    @contextmanager
    def _reserve(self, data: bytes) -> Iterator[None]:
        size = read_header(data).decoding_bytes
        with self.memory.reserve(size) if size > LARGE_PICTURE_BYTES else nullcontext():
            if self.cancelled is not None and self.cancelled.is_set():  # while it waited for memory
                raise FrameError("undecodable", "the request was cancelled")
            yield


@contextmanager
def _as_footage_error() -> Iterator[None]:
    try:
        yield
    except VideoError as error:
        kind: FootageErrorKind = "unusable" if error.kind == "cancelled" else error.kind
        raise FootageError.of_field("video", error.reason, kind) from error


@contextmanager
def _open(path: Path, settings: Settings, cancelled: Event | None) -> Iterator[Video]:
    # One thread each: requests are decoded side by side.
    with _as_footage_error(), open_video(path, settings.video_limits, threads=1, cancelled=cancelled) as video:
        yield video


def _check_cancelled(cancelled: Event | None) -> None:
    if cancelled is not None and cancelled.is_set():
        raise FootageError("unusable", "the request was cancelled")


def _check_frames(footage: Footage, chosen: Sequence[int], settings: Settings, cancelled: Event | None) -> None:
    """Apply the limits to the headers of the frames that will be decoded."""
    faults: list[tuple[int, str]] = []
    pixels = 0
    for index, decoded in _count_decoded(footage, chosen).items():
        _check_cancelled(cancelled)
        data = footage.frames[index]
        try:
            if len(data) > settings.max_frame_bytes:
                reason = f"{len(data)} bytes, at most {settings.max_frame_bytes} are allowed"
                faults.append((index, reason))
                continue
            header = read_header(data)
            check_size(header.width, header.height, settings.frame_limits)
            pixels += header.width * header.height * decoded
        except FrameError as error:
            if error.status == "too_large":  # decoding reports the other errors; enough frames may remain
                faults.append((index, error.reason))
    if faults:
        raise FootageError("too_large", f"frame {faults[0][0]}: {faults[0][1]}", frames=faults)
    if pixels > settings.max_request_pixels:
        reason = f"{pixels} pixels in all frames together, at most {settings.max_request_pixels} are allowed"
        raise FootageError.of_field("frames", reason, "too_large")


def _count_decoded(footage: Footage, chosen: Sequence[int]) -> dict[int, int]:
    """Return how often each frame is decoded for these frames or boxes."""
    if footage.boxes is None:
        return dict.fromkeys(chosen, 1)
    wanted = Counter(footage.boxes[index][0] for index in chosen)
    return {at: -(-wanted[at] // _CROPS_AT_ONCE) for at in sorted(wanted) if 0 <= at < len(footage.frames)}


def _check_boxes(footage: Footage, settings: Settings) -> None:
    """Refuse boxes that are all after the part of a video that is read."""
    if footage.boxes and footage.video and min(box[0] for box in footage.boxes) >= settings.max_video_frames:
        raise FootageError.of_field("boxes[0][0]", _beyond(footage.boxes[0], settings), "too_large")


def _find_missing(footage: Footage, index: int, settings: Settings) -> FrameError | None:
    """Return the error of a box whose frame was not sent, or is not read."""
    assert footage.boxes is not None  # noqa: S101
    box = footage.boxes[index]
    if footage.video and box[0] >= settings.max_video_frames:
        return FrameError("too_large", _beyond(box, settings))
    if box[0] < 0 or (not footage.video and box[0] >= len(footage.frames)):
        return _missing_frame(box, None if footage.video else len(footage.frames))
    return None


def _beyond(box: Box, settings: Settings) -> str:
    return f"frame {box[0]}: only the first {settings.max_video_frames} frames of a video are read"


def _missing_frame(box: Box, frames: int | None) -> FrameError:
    sent = "" if frames is None else f", but there are {frames}"
    return FrameError("missing_frame", f"the box is of frame {box[0]}{sent}; frames are counted from 0")


def _crop(frame: Frame, box: Box, settings: Settings) -> Frame | FrameError:
    try:
        return crop_box(frame, *box[1:], settings.min_side)
    except FrameError as error:
        return error.detach()


def _in_time_order(boxes: list[Box]) -> list[int]:
    return sorted(range(len(boxes)), key=lambda index: boxes[index][0])


def _read_video_boxes(
    path: Path, boxes: list[Box], order: Sequence[int], settings: Settings, cancelled: Event | None
) -> Iterator[Sample]:
    wanted = sorted({boxes[index][0] for index in order})
    done = 0
    with _open(path, settings, cancelled) as video:
        try:
            for frame in video.read(wanted):
                pixels = frame.pixels
                while done < len(order) and boxes[order[done]][0] == frame.index:
                    box = boxes[order[done]]
                    yield order[done], pixels if isinstance(pixels, FrameError) else _crop(pixels, box, settings)
                    done += 1
        except VideoEnd as end:
            for index in order[done:]:
                yield index, _not_decodable(end) if end.damaged else _missing_frame(boxes[index], end.frames)


def _read_video(
    path: Path, chosen: Sequence[int] | None, settings: Settings, cancelled: Event | None
) -> Iterator[Sample]:
    with _open(path, settings, cancelled) as video:
        if chosen is None:
            yield from ((frame.index, frame.pixels) for frame in video.read_all())
            return
        done = 0
        try:
            for frame in video.read(chosen):
                yield frame.index, frame.pixels
                done += 1
        except VideoEnd as end:  # a frame that was counted fails when it becomes a picture
            yield from ((index, _not_decodable(end)) for index in chosen[done:])


def _not_decodable(end: VideoEnd) -> FrameError:
    return FrameError("undecodable", f"the video cannot be decoded after frame {end.frames}")
