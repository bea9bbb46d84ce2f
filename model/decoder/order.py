"""The order and the times of frames, also of those that damage has cost."""

import os
import sys
import time
from collections import deque
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, Final

from av.error import FFmpegError

from model.decoder.video_file import VideoFile

MAX_REORDERED: Final = 32
"""A frame is shown at most this many packets later than it is decoded: 16 reference frames, each of two fields."""
ONE_FRAME_PER_PACKET: Final = frozenset({"h264", "hevc", "mpeg2video", "mpeg1video", "mjpeg", "vp9", "libdav1d"})
"""Decoders that show one frame for each packet, unless the frames have two fields."""
WAIT_FOR_KEY_FRAME: Final = frozenset({"h264", "hevc", "mpeg2video", "mpeg1video", "libdav1d", "vp8", "vp9"})
"""Decoders that show nothing before the first key frame, or mark it as damaged. Others predict it from grey."""
MIN_SHARE_SHOWN: Final = 8
"""If more than one packet in so many shows nothing, the stream has hidden packets, and none counts as missing."""
MIN_INTERVALS: Final = 4
"""So many equal intervals between frames are taken for a constant rate."""
MAX_FILLED: Final = 1000
CLOCK_RESET: Final = 0.25
"""If a packet should be decoded so many seconds before the one in front of it, the clock has begun again, as where
recordings were put one after the other."""
DAMAGED: Final = "the video is damaged here"
BUSY_NICE: Final = 10
"""Added to the nice value after `BUSY_SECONDS` of CPU time, so a long video leaves the CPUs to short ones."""
BUSY_SECONDS: Final = 1.0


class ShownFrames:
    """The frames of a stream in the order in which they are shown, also those that damage has cost.

    Each packet gets a number, which the decoder hands to its frame. If a decoder reports damage, all frames that were
    decoded after it are suspect until the next key frame, because they are predicted from damaged ones.

    Frames that are shown before their key frame and decoded after it are its *lead*. No frame that is shown after the
    key frame is predicted from them. In a recording that was cut out of a longer one, the first lead and the frames
    before the first key frame lack what they are predicted from: they do not count, as in FFmpeg and OpenCV.
    """

    def __init__(self, video: VideoFile) -> None:
        self._video = video
        self._pending: dict[int, tuple[float | None, bool]] = {}  # packets without a frame yet: time, and if it is lost
        self._decoded: list[tuple[int, float | None, Any]] = []  # frames that wait for a frame decoded before them
        self._clock = Clock(video)
        self._damaged_at: int | None = None  # everything decoded from this packet on is suspect
        self._first_key: tuple[int, float | None] | None = None
        self._keys: deque[tuple[int, float]] = deque(maxlen=MAX_REORDERED)  # packets of key frames, and when shown
        self._damaged_leads: deque[tuple[int, float]] = deque(maxlen=MAX_REORDERED)  # from a packet to a time
        self._shown = False
        self._lossy = False  # damage was reported since the last shown frame
        self._last: float | None = None
        self._begin: float | None = None
        self._given_up: deque[int] = deque(maxlen=MAX_REORDERED)  # packets whose frames count as missing
        self._interlaced = False
        self._overdue = 0
        self._filled: deque[float] = deque(maxlen=MAX_REORDERED)
        self._intervals: deque[float] = deque(maxlen=16)
        self._count = 0

    def frames(self) -> Iterator[tuple[float, Any, str | None]]:
        """Yield the time in seconds, and either the frame or None and the reason why it is missing."""
        for packet in self._video.packets():
            _yield_cpu()
            if packet.is_discard:  # outside the edit list: decoded for later frames, and never shown
                yield from self._decode(packet)
                continue
            number = self._count
            self._count += 1
            packet.opaque = number
            self._clock.add(packet)
            presentation = self._clock.presentation(packet)
            self._pending[number] = (presentation, False)
            if packet.is_keyframe:
                self._first_key = self._first_key or (number, presentation)
                if presentation is not None:
                    self._keys.append((number, presentation))
            if packet.is_corrupt:
                self._damage(number, presentation)
            yield from self._decode(packet, number)
        yield from self._decode(None)
        yield from self._release(flush=True)
        yield from self._drop(None, sys.maxsize)

    def _decode(self, packet: Any, number: int | None = None) -> Iterator[tuple[float, Any, str | None]]:
        try:
            frames = self._video.context.decode(packet)
        except (FFmpegError, ValueError) as error:
            if isinstance(error, MemoryError):
                raise
            if number is not None:
                presentation, _ = self._pending[number]
                self._damage(number, presentation)
                self._pending[number] = (presentation, True)
            return
        for frame in frames:
            origin = frame.opaque if isinstance(frame.opaque, int) else self._count - 1
            presentation, _ = self._pending.pop(origin, (None, False))
            if (frame.width, frame.height) != (self._video.width, self._video.height):
                self._video.check_size(frame.width, frame.height, "the frames change to ")
            if frame.is_corrupt:
                self._damage(origin, presentation)
            self._decoded.append((origin, presentation, frame))
        yield from self._release(flush=False)

    def _damage(self, number: int, presentation: float | None) -> None:
        self._lossy = True
        key = next((time_ for key, time_ in reversed(self._keys) if key < number), None)
        if key is not None and presentation is not None and presentation < key:
            self._damaged_leads.append((number, key))
        else:
            self._damaged_at = number if self._damaged_at is None else min(self._damaged_at, number)

    def _is_in_damaged_lead(self, number: int, presentation: float | None) -> bool:
        return presentation is not None and any(
            number >= first and presentation < end for first, end in self._damaged_leads
        )

    def _release(self, *, flush: bool) -> Iterator[tuple[float, Any, str | None]]:
        """Yield the frames for which all earlier decoded packets are known to be damaged or not."""
        while self._decoded:
            origin, presentation, frame = self._decoded[0]
            if not flush and self._waits(origin, presentation):
                return
            del self._decoded[0]
            if self._is_filled(presentation) or origin in self._given_up:
                self._damage(origin, presentation)
                continue
            groundless = self._is_predicted_from_nothing(origin, presentation)
            reason = DAMAGED if groundless else self._find_damage(origin, presentation, frame)
            if reason and not groundless and self._is_before_start(origin, presentation):
                continue
            self._interlaced = self._interlaced or frame.interlaced_frame
            yield from self._drop(presentation, origin)
            time_ = self._clock.next(frame, presentation)
            yield from self._fill(time_)
            yield self._show(time_), None if reason else frame, reason

    def _find_damage(self, origin: int, presentation: float | None, frame: Any) -> str | None:
        if self._is_in_damaged_lead(origin, presentation):
            return DAMAGED
        if self._damaged_at is None or origin < self._damaged_at:
            return None
        if frame.key_frame and not frame.is_corrupt and origin > self._damaged_at:
            self._damaged_at = None
            return None
        return DAMAGED

    def _is_predicted_from_nothing(self, number: int, presentation: float | None) -> bool:
        if self._clock.starts_with_key or self._video.codec in WAIT_FOR_KEY_FRAME:
            return False
        if self._first_key is None or number < self._first_key[0]:
            return True
        key = self._first_key[1]
        return presentation is not None and key is not None and presentation < key

    def _is_before_start(self, number: int, presentation: float | None) -> bool:
        """Return whether a damaged packet is before the first frame that can be shown, so that it is no frame."""
        if not self._is_in_damaged_lead(number, presentation):
            return not self._shown and not self._clock.starts_with_key
        return self._begin is None or (presentation or 0.0) < self._begin

    def _waits(self, origin: int, presentation: float | None) -> bool:
        """Return whether a packet was decoded before this frame and is shown after it; its damage would matter."""
        if self._count - origin > MAX_REORDERED or len(self._decoded) > self._video.context.reorder_depth + 1:
            return False
        return any(
            number < origin and not lost and (presentation is None or time_ is None or time_ > presentation)
            for number, (time_, lost) in self._pending.items()
        )

    def _drop(self, presentation: float | None, origin: int) -> Iterator[tuple[float, Any, str | None]]:
        """Take out the packets that should have been shown before; each that damage has cost is a missing frame."""
        ahead = self._video.context.reorder_depth + 1
        for number, (time_, lost) in sorted(self._pending.items(), key=lambda item: (item[1][0] or 0.0, item[0])):
            before = number < origin - MAX_REORDERED
            if presentation is not None and time_ is not None:
                reordered = self._last is not None and time_ > self._last and number <= origin + ahead
                before = before or (time_ < presentation and (number < origin or reordered))
            else:
                before = before or number < origin
            if not before:
                continue
            del self._pending[number]
            if self._is_filled(time_):
                continue
            suspect = lost or (self._damaged_at is not None and number >= self._damaged_at)
            suspect = suspect or self._is_in_damaged_lead(number, time_)
            if suspect and self._is_before_start(number, time_):
                continue
            if suspect or self._is_overdue(number, time_):
                self._given_up.append(number)
                yield self._show(self._clock.next(None, time_)), None, DAMAGED

    def _is_overdue(self, number: int, time_: float | None) -> bool:
        """Return whether a packet should have given a frame by now, though no damage was reported.

        In some streams it need not: the second field of a frame, or a picture that is only predicted from.
        """
        may_be_hidden = self._interlaced or self._video.codec not in ONE_FRAME_PER_PACKET
        if may_be_hidden or self._last is None or time_ is None or time_ <= self._last:
            return False
        self._overdue += 1
        if self._overdue * MIN_SHARE_SHOWN > max(self._count, 4 * MIN_SHARE_SHOWN):
            return False
        self._damage(number, time_)
        return True

    def _show(self, time_: float) -> float:
        if self._last is not None:
            self._intervals.append(time_ - self._last)
        self._begin = time_ if self._begin is None else self._begin
        self._last, self._shown = time_, True
        return time_

    def _fill(self, time_: float) -> Iterator[tuple[float, Any, str | None]]:
        """Yield the frames whose packets the container has lost, if the frames have had a constant rate so far."""
        lossy, self._lossy = self._lossy, self._damaged_at is not None
        if self._last is None or not lossy or len(self._intervals) < MIN_INTERVALS:
            return
        usual = sorted(self._intervals)[len(self._intervals) // 2]
        if usual <= 0 or max(abs(each - usual) for each in self._intervals) > 0.2 * usual:
            return
        before = self._last
        for step in range(1, min(round((time_ - before) / usual), MAX_FILLED)):
            self._filled.append(before + step * usual)
            yield self._show(before + step * usual), None, DAMAGED

    def _is_filled(self, presentation: float | None) -> bool:
        """Return whether a frame comes too late, because its place was taken for lost."""
        if presentation is None or not self._filled or self._last is None or presentation > self._last:
            return False
        return min(abs(presentation - each) for each in self._filled) < 0.01


class Clock:
    """The time of each shown frame in seconds: its own timestamp, otherwise that of its place in the file.

    If the clock of the file begins again, the times go on after the packet before.
    """

    def __init__(self, video: VideoFile) -> None:
        self._base = Fraction(video.stream.time_base or Fraction(1, 90_000))
        self._in_order = video.job["container"] == "avi"  # it counts frames as they are decoded, and has no other times
        self._period = video.period
        self._waiting: list[float] = []  # decoding times of packets without a presentation time
        self._last: float | None = None
        self.starts_with_key = False
        self._first = True
        self._shift = 0.0
        self._end = 0.0  # of the packet before, in decoding time
        self._decoded_at: float | None = None

    def add(self, packet: Any) -> None:
        """Note a packet before it is decoded."""
        if self._first:
            self.starts_with_key, self._first = packet.is_keyframe, False
        if packet.dts is None:
            return
        time_ = self._seconds(packet.dts)
        if self._decoded_at is not None and time_ < self._decoded_at - CLOCK_RESET:
            self._shift += self._end - time_
            time_ = self._end
        self._decoded_at = time_
        self._end = time_ + (float(packet.duration * self._base) if packet.duration else self._period)
        if packet.pts is None or self._in_order:
            self._waiting.append(time_)

    def presentation(self, packet: Any) -> float | None:
        """Return when the frame of a packet is shown; None if the file does not say."""
        return None if packet.pts is None or self._in_order else self._seconds(packet.pts)

    def next(self, frame: Any, presentation: float | None) -> float:
        """Return the time of the next shown frame."""
        if presentation is None and self._waiting:
            self._waiting.sort()
            presentation = self._waiting.pop(0)
        if presentation is None and frame is not None and frame.pts is not None:
            presentation = self._seconds(frame.pts)
        if presentation is None:
            presentation = 0.0 if self._last is None else self._last + self._period
        self._last = presentation
        return presentation

    def _seconds(self, ticks: int) -> float:
        return float(ticks * self._base) + self._shift


_busy = False


def _yield_cpu() -> None:
    global _busy  # noqa: PLW0603
    if not _busy and time.process_time() > BUSY_SECONDS:
        _busy = True
        os.nice(BUSY_NICE)
