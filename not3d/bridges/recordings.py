"""Frames of recordings in a shared folder, found by camera and time.

A camera's recordings are in a folder of its name. The path of a file below it says when its first frame was taken:
`2026-05-04T09-30-00Z.mp4`, `20260504_093000.mkv`, `2026-05-04/09-30-00.mp4` or Unix seconds such as `1777887000.5.jpg`;
in UTC if it has no offset, such as `+0200` or `+02-00`. If a name has two times, the first one counts.
"""

import math
import os
import re
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path, PurePath

import numpy as np
from numpy.typing import NDArray

from model.errors import Not3dError
from model.frames import FrameError, decode_frame
from model.video import Event, VideoEnd, VideoError, open_video
from not3d.bridges.tracklet import RelativeBox, cut_pixels

TOLERANCE = 0.1
"""Largest difference in seconds between the time of a box and that of the frame that it is cut out of."""
MAX_ENDS = 1000
END_FACTOR, END_SECONDS = 1.02, 1.0
"""A time is after the end of a recording if it is after so many times its declared length and so many seconds more."""
PICTURES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})
VIDEOS = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".m2ts"})

_CALENDAR = re.compile(
    r"(?<!\d)(\d{4})-?(\d\d)-?(\d\d)[T _/-]?(\d\d)[-:.]?(\d\d)[-:.]?(\d\d)(?:[.,](\d{1,6})\d*)?"
    # Offsets that exist. `-2026-05-04` or `-093100` after a time is the end of the recording, and `-01` a number.
    r"(?:[ _]?(?:([+-])(0\d|1[0-4])[:-]?(00|15|30|45)|(\+)(0\d|1[0-4]))(?![-:.]?\d))?"
)
_UNIX = re.compile(r"(?<!\d)(\d{10})(?:\.(\d{1,6}))?(?!\d)")

Image = NDArray[np.uint8]
Version = tuple[Path, int, int]
"""A file, its size and when it was changed."""


class RecordingsError(Not3dError):
    """The folder of recordings cannot be used."""


@dataclass(frozen=True, slots=True)
class WantedCrop:
    """A box at a time."""

    time: datetime
    box: RelativeBox


class Recordings:
    """Recordings of all cameras.

    Args:
        folder: has a folder for each camera; or one recording, for every camera.
        offset: seconds that are added to the time of a box before its frame is looked for.

    Raises:
        RecordingsError: it does not exist.
    """

    def __init__(self, folder: Path, offset: float = 0.0) -> None:
        if not folder.exists():
            raise RecordingsError(f"the footage {folder} does not exist; give the folder of recordings, or one of them")
        if folder.is_file() and start_of(folder.name) is None:
            raise RecordingsError(
                f"the name of {folder.name} does not say when it began; rename it, such as 2026-05-04T09-30-00Z.mp4"
            )
        self._folder = folder
        self._offset = timedelta(seconds=offset)
        self._ends: OrderedDict[Version, float] = OrderedDict()
        """Where recordings end, in seconds from their first frame, as far as they were read to the end. What comes
        after the last recording is asked for again and again until the next one is there."""

    def cut(self, camera: str, wanted: Sequence[WantedCrop], cancelled: Event | None = None) -> list[bytes | None]:
        """Return the crops of one person, `None` for each whose frame is not there (yet).

        Args:
            camera: the camera; characters that are not in file names count as `-`.
            wanted: boxes, in any order.
            cancelled: reading ends soon after this event is set; what it would have found is `None`.
        """
        crops: list[bytes | None] = [None] * len(wanted)
        by_file: dict[tuple[datetime, Path], list[int]] = {}
        files = self._list(camera)
        for number, each in enumerate(wanted):
            at = each.time + self._offset
            before = [entry for entry in files if entry[0] <= at + timedelta(seconds=TOLERANCE)]
            if before:
                by_file.setdefault(max(before), []).append(number)
        for (start, path), numbers in by_file.items():
            times = {number: (wanted[number].time + self._offset - start).total_seconds() for number in numbers}
            for number, frame in self._read_frames(path, times, cancelled).items():
                crops[number] = _cut(frame, wanted[number].box)
        return crops

    def _read_frames(self, path: Path, times: dict[int, float], cancelled: Event | None) -> dict[int, Image]:
        """Return the frames at times in seconds from the first one, by key; those that are missing are left out."""
        try:
            if path.suffix.lower() in PICTURES:
                near = [key for key, time in times.items() if abs(time) <= TOLERANCE]
                return dict.fromkeys(near, decode_frame(path.read_bytes())) if near else {}
            facts = path.stat()
            version = (path, facts.st_size, facts.st_mtime_ns)
            end = self._ends.get(version, math.inf)
            before_end = {key: time for key, time in times.items() if time <= end + TOLERANCE}
            if not before_end:
                return {}
            found, end = _read_video(path, before_end, cancelled)
        except (FrameError, VideoError, OSError):  # it is still being written, for example
            return {}
        if end < math.inf:
            self._ends[version] = end
            while len(self._ends) > MAX_ENDS:
                self._ends.popitem(last=False)
        return found

    def explain(self, camera: str, time: datetime) -> str:
        """Return a sentence that helps to find out why no recording of a camera has a frame at a time."""
        folder = self._folder_of(camera)
        if folder is None:
            return f"the folder {self._folder / _folder_name(camera)} is missing"
        files = self._list(camera)
        if not files:
            unnamed = next(_media(folder), None)
            if unnamed is None:
                return f"{folder} has no videos or pictures"
            example = "2026-05-04T09-30-00Z.mp4"
            return f"no file in {folder} has a name that says when it began, such as {example} (found {unnamed.name})"
        at = time + self._offset
        before = [entry for entry in files if entry[0] <= at]
        start, path = max(before) if before else min(files)
        which = "the last one before begins" if before else "the first one begins"
        return f"{which} at {start.isoformat()} ({path.name}), by its name"

    def _folder_of(self, camera: str) -> Path | None:
        """Return the folder of a camera's recordings, or the one recording; `None` if it is missing."""
        if self._folder.is_file():
            return self._folder
        folder = self._folder / _folder_name(camera)
        return None if folder.name in {".", ".."} or not folder.is_dir() else folder

    def _list(self, camera: str) -> list[tuple[datetime, Path]]:
        """Return the recordings of a camera with the times of their first frames."""
        folder = self._folder_of(camera)
        if folder is None:
            return []
        if folder.is_file():
            start = start_of(folder.name)
            return [(start, folder)] if start else []
        starts = ((start_of(str(path.relative_to(folder))), path) for path in _media(folder))
        return [(start, path) for start, path in starts if start is not None]


def _folder_name(camera: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "-", camera)


def _media(folder: Path) -> Iterator[Path]:
    # `Path.rglob` fails if a folder is removed meanwhile, as recorders do with old ones; `os.walk` leaves it out.
    for parent, _, names in os.walk(folder):
        for name in names:
            if (path := Path(parent, name)).suffix.lower() in PICTURES | VIDEOS:
                yield path


def start_of(name: str) -> datetime | None:
    """Return the time in a path; `None` if there is none, or it is not possible."""
    # The file's name first: of `2026-05-04/2026-05-04_09-30-00.mp4`, the path would give 20:26:05.
    return _read_time(PurePath(name).name) or _read_time(name)


def _read_time(text: str) -> datetime | None:
    for calendar in _CALENDAR.finditer(text):
        *parts, fraction, sign, hours, minutes, sign_alone, hours_alone = calendar.groups()
        year, month, day, hour, minute, second = map(int, parts)
        microsecond = int((fraction or "0").ljust(6, "0"))
        offset = timedelta(hours=int(hours or hours_alone or 0), minutes=int(minutes or 0))
        zone = timezone(-offset if (sign or sign_alone) == "-" else offset)
        try:
            return datetime(year, month, day, hour, minute, second, microsecond, zone).astimezone(UTC)
        except (ValueError, OverflowError):
            continue
    if unix := _UNIX.search(text):
        return datetime.fromtimestamp(float(f"{unix[1]}.{unix[2] or 0}"), UTC)
    return None


def _read_video(path: Path, times: dict[int, float], cancelled: Event | None) -> tuple[dict[int, Image], float]:
    """Return the frames at times in seconds from the first one, by key, and where the recording ends if that was seen.

    Nothing is decoded if all times are clearly after the end that the file declares.
    """
    with open_video(path, cancelled=cancelled) as video:
        if video.declared_frames and video.frame_rate > 0:
            declared = video.declared_frames / video.frame_rate
            if min(times.values()) > END_FACTOR * declared + END_SECONDS:
                return {}, math.inf
    found, end = _read_by_rate(path, times, cancelled)
    return (found, end) if found else _read_by_time(path, times, cancelled)


def _read_by_rate(path: Path, times: dict[int, float], cancelled: Event | None) -> tuple[dict[int, Image], float]:
    """Read the frames that a constant rate gives; nothing if one of them has another time."""
    with open_video(path, cancelled=cancelled) as video:
        rate = video.frame_rate
        if rate <= 0:
            return {}, math.inf
        index_of = {key: max(0, round(time * rate)) for key, time in times.items()}
        found: dict[int, Image] = {}
        end = math.inf
        try:
            for frame in video.read(sorted(set(index_of.values()))):
                if abs(frame.time - frame.index / rate) > min(0.5 / rate, TOLERANCE):
                    return {}, math.inf
                for key, index in index_of.items():
                    near = abs(frame.time - times[key]) <= TOLERANCE
                    if index == frame.index and near and not isinstance(frame.pixels, FrameError):
                        found[key] = frame.pixels
        except VideoEnd as error:  # the later ones are in a file that does not exist yet
            end = error.frames / rate
        return found, end


def _read_by_time(path: Path, times: dict[int, float], cancelled: Event | None) -> tuple[dict[int, Image], float]:
    """Read all frames up to the last time, and return the nearest one for each time."""
    nearest: dict[int, tuple[float, Image]] = {}
    last, end = max(times.values()) + TOLERANCE, 0.0
    with open_video(path, cancelled=cancelled) as video:
        for frame in video.read_all():
            if frame.time > last:
                end = math.inf
                break
            end = frame.time
            for key, time in times.items():
                away = abs(frame.time - time)
                if away <= nearest.get(key, (TOLERANCE,))[0] and not isinstance(frame.pixels, FrameError):
                    nearest[key] = away, frame.pixels
    return {key: pixels for key, (_, pixels) in nearest.items()}, end


def _cut(frame: Image, box: RelativeBox) -> bytes | None:
    try:
        return cut_pixels(frame, box)
    except FrameError:  # almost nothing of the box is inside the frame
        return None
