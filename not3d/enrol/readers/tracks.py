"""Tracks that other programs write: which boxes of a video show which person.

One reader a dialect turns a file into detections; this module recognises the dialect and applies the same rules to all:
people only, no detection without a track, one box of a track in a frame. Nothing is left out without a remark.
"""

import math
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from not3d.client import Box
from not3d.enrol.ids import printable
from not3d.enrol.readers import columns, json_records, mot, yolo_labels
from not3d.enrol.readers.detections import Detection, Detections
from not3d.enrol.readers.tables import Errors, read_table, read_text
from not3d.enrol.tracklets import FootageError

MAX_FRAME = 10_000_000
_PEOPLE = frozenset({"person", "persons", "people", "pedestrian", "pedestrians", "human"})


class TracksFormat(StrEnum):
    """A dialect that can be declared with `--tracks-format`."""

    AUTO = "auto"
    MOT = "mot"
    CSV = "csv"
    JSON = "json"
    ULTRALYTICS = "ultralytics"


@dataclass(frozen=True)
class TrackOptions:
    """How tracks are read.

    Args:
        format: the dialect; by default the content says which.
        frame_base: the number of the video's first frame in the file; by default that of the dialect.
        classes: names or numbers of the classes that are people; by default those of the dialect.
    """

    format: TracksFormat = TracksFormat.AUTO
    frame_base: int | None = None
    classes: frozenset[str] = frozenset()


AS_RECOGNISED = TrackOptions()
"""The user says nothing; the content decides."""


@dataclass(frozen=True)
class Tracks:
    """The boxes of each track, sorted by frame from 0; in pixels, or if `relative` in shares of the frame's size.

    `description` says what was recognised and assumed, `remarks` what was left out.
    """

    boxes: dict[str, list[Box]]
    description: str
    relative: bool = False
    remarks: list[str] = field(default_factory=list)

    def in_pixels(self, width: int, height: int) -> dict[str, list[Box]]:
        """Return the boxes in pixels of frames of this size."""
        if not self.relative:
            return self.boxes
        return {
            track: [(frame, x * width, y * height, w * width, h * height) for frame, x, y, w, h in boxes]
            for track, boxes in self.boxes.items()
        }


def read_tracks(path: Path, options: TrackOptions = AS_RECOGNISED, *, stem: str = "") -> Tracks:
    """Read the tracks of one video.

    Args:
        path: a file, or the folder of label files that Ultralytics writes.
        options: what the user says about it.
        stem: the name of the video without its suffix, which chooses among label files of several videos.

    Raises:
        FootageError: the content is none of the dialects, or has errors; the message names lines.
        OSError: the file cannot be read.
    """
    found = _read(path, options.format, stem)
    if not found.detections:
        raise FootageError(f"{printable(str(path))} holds no tracks: it has no rows with boxes")
    base, base_reason = _choose_base(found, options.frame_base)
    remarks: list[str] = []
    people = _people(found, options.classes, remarks, path)
    tracked = [detection for detection in people if detection.track]
    if untracked := len(people) - len(tracked):
        if not tracked:
            raise FootageError(
                f"{printable(str(path))} holds {untracked} detections and no tracks: none has a track id, so nothing "
                "says which boxes show one person. Run a tracker on them first"
            )
        remarks.append(f"left out: {_number(untracked, 'detection')} without a track")
    boxes = _boxes_of(tracked, base, remarks, path)
    if not boxes:
        raise FootageError(f"{printable(str(path))} holds no tracks: {'; '.join(remarks)}")
    relative = found.relative or all(
        max(abs(value) for value in box[1:]) <= 1 for each in boxes.values() for box in each
    )
    count = sum(map(len, boxes.values()))
    described = [found.description, f"frames counted from {base} ({base_reason})"]
    if relative:
        described.append("boxes relative to the frame")
    summary = f"{_number(len(boxes), 'track')} with {_number(count, 'box', 'boxes')}"
    return Tracks(boxes, f"{', '.join(described)}: {summary}", relative, remarks)


def _read(path: Path, wanted: TracksFormat, stem: str) -> Detections:
    if path.is_dir():
        if wanted not in {TracksFormat.AUTO, TracksFormat.ULTRALYTICS}:
            raise FootageError(f"{printable(str(path))} is a folder, but the format {wanted} is a file")
        return yolo_labels.read(path, stem)
    if wanted is TracksFormat.ULTRALYTICS:
        raise FootageError(
            f"{printable(str(path))} is a file; the format ultralytics is the folder of label files, one a frame"
        )
    if path.exists() and not path.is_file():
        raise FootageError(f"{printable(str(path))} is not a file")
    text = read_text(path)
    if wanted is TracksFormat.JSON or (wanted is TracksFormat.AUTO and text.lstrip()[:1] in {"{", "["}):
        return json_records.read(path, text)
    table = read_table(path, text)
    if not table.rows:
        raise FootageError(f"{printable(str(path))} holds no tracks: the file has no rows")
    if wanted is TracksFormat.CSV or (wanted is TracksFormat.AUTO and columns.has_header(table)):
        return columns.read_table(table)
    return mot.read(table)


def _choose_base(found: Detections, wanted: int | None) -> tuple[int, str]:
    first = min(detection.frame for detection in found.detections)
    if wanted is not None:
        return wanted, "as --frame-base says"
    if first == 0:
        return 0, "it has a frame 0"
    return found.frame_base, "assumed; --frame-base 0 or 1 says otherwise"


def _people(found: Detections, wanted: Collection[str], remarks: list[str], path: Path) -> list[Detection]:
    """Return the detections that are people and that count; say how many are left out."""
    kept = [detection for detection in found.detections if detection.counts]
    if ignored := len(found.detections) - len(kept):
        remarks.append(f"left out: {_number(ignored, 'row')} flagged as not to be considered")
    classes = Counter(detection.label for detection in kept if detection.label)
    if not classes:
        return kept
    if wanted:
        people = {label.casefold() for label in wanted}
    elif all(label.lstrip("-").isdecimal() for label in classes):
        people = {found.person_class}
    else:
        people = set(_PEOPLE)
    chosen = [detection for detection in kept if not detection.label or detection.label.casefold() in people]
    if not chosen:
        some = ", ".join(f"{printable(label)} ({count} rows)" for label, count in classes.most_common(8))
        expected = " or ".join(sorted(people))
        raise FootageError(
            f"{printable(str(path))} holds no people: no row has the class {expected}. Its classes are {some}; "
            "--classes says which are people"
        )
    if others := len(kept) - len(chosen):
        taken = ", ".join(sorted({detection.label for detection in chosen if detection.label}))
        reason = "" if wanted else " (--classes chooses others)"
        remarks.append(f"left out: {_number(others, 'row')} of other classes than {taken}{reason}")
    return chosen


def _boxes_of(detections: Iterable[Detection], base: int, remarks: list[str], path: Path) -> dict[str, list[Box]]:
    errors = Errors(path)
    seen: dict[tuple[str, int], Detection] = {}
    boxes: dict[str, list[Box]] = {}
    empty = repeated = 0
    for detection in detections:
        where = (detection.x, detection.y, detection.w, detection.h)
        frame = detection.frame - base
        if not all(map(math.isfinite, where)):
            errors.add(detection.line, "a number of the box is not finite")
        elif not 0 <= frame <= MAX_FRAME:
            errors.add(
                detection.line,
                f"frame {detection.frame} is not possible if frames are counted from {base}; see --frame-base",
            )
        elif detection.w <= 0 or detection.h <= 0:
            empty += 1
        elif (other := seen.setdefault((detection.track, frame), detection)) is not detection:
            if where == (other.x, other.y, other.w, other.h):
                repeated += 1
            else:
                errors.add(
                    detection.line,
                    f"track {detection.track} has a second box in frame {detection.frame}; the first is in line "
                    f"{other.line}",
                )
        else:
            boxes.setdefault(detection.track, []).append((frame, *where))
    errors.raise_any()
    if empty:
        remarks.append(f"left out: {_number(empty, 'row')} whose box has no width or height")
    if repeated:
        remarks.append(
            f"left out: {_number(repeated, 'row')} that {'repeats' if repeated == 1 else 'repeat'} another row"
        )
    return {track: sorted(each) for track, each in boxes.items()}


def _number(count: int, noun: str, nouns: str = "") -> str:
    return f"{count} {noun if count == 1 else nouns or noun + 's'}"
