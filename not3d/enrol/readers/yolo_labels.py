"""The folder of label files that Ultralytics writes with `save_txt`: one file a frame, one row a box.

NAME_FRAME.txt: class x_center y_center width height [confidence] [track], the box in shares of the frame's size.
"""

import re
from collections import Counter
from pathlib import Path

from not3d.enrol.ids import printable
from not3d.enrol.readers.detections import Detection, Detections, track_name
from not3d.enrol.readers.tables import Row, parse_integer, parse_number, read_table, read_text
from not3d.enrol.tracklets import FootageError
from training.datasets.files import natural_key

_NAME = re.compile(r"(?P<stem>.*)_(?P<frame>[0-9]{1,9})\.txt", re.DOTALL)


def read(folder: Path, stem: str) -> Detections:
    """Read the labels of one video.

    Args:
        folder: the label files, or a folder with them in `labels`.
        stem: the name of the video without suffix.

    Raises:
        FootageError: there are none, or of several other videos; or a line is malformed.
        OSError: a file cannot be read.
    """
    shown = printable(str(folder))
    if not any(folder.glob("*.txt")) and (folder / "labels").is_dir():
        folder = folder / "labels"
    files = [
        (match["stem"], int(match["frame"]), file)
        for file in folder.iterdir()
        if (match := _NAME.fullmatch(file.name)) and file.is_file()
    ]
    stems = Counter(name for name, _, _ in files)
    if not stems:
        raise FootageError(
            f"{shown} holds no label files named like NAME_12.txt, one a frame, as Ultralytics writes them with "
            "save_txt"
        )
    if stem not in stems and len(stems) > 1:
        some = ", ".join(printable(name) for name in list(stems)[:8])
        raise FootageError(f"{shown} holds labels of several videos ({some}), none of them of {printable(stem)}")
    chosen = stem if stem in stems else next(iter(stems))
    rows = [
        (frame, file, row)
        for name, frame, file in sorted(files, key=lambda each: natural_key(each[2].name))
        if name == chosen
        for row in read_table(file, read_text(file)).rows
    ]
    with_confidence, with_track = _columns([row for _, _, row in rows])
    detections, faults = [], []
    for frame, file, row in rows:
        try:
            detections.append(_detection(frame, row, with_confidence=with_confidence, with_track=with_track))
        except ValueError as error:
            faults.append(f"{printable(str(file))}, line {row.line}: {error}")
    if faults:
        raise FootageError("\n".join([*faults[:20], *(["and more errors"] if len(faults) > 20 else [])]))
    named = "" if chosen == stem else f" named {printable(chosen)}"
    return Detections(detections, f"Ultralytics labels{named}", 1, "0", relative=True)


def _columns(rows: list[Row]) -> tuple[bool, bool]:
    """Return whether rows have a confidence, and whether they have a track where the box belongs to one.

    Rows of boxes without a track are shorter. A sixth column alone is the confidence if it has fractions.
    """
    widest = max((len(row.cells) for row in rows), default=0)
    if widest == 6:
        last = {row.cells[5] for row in rows if len(row.cells) == 6}
        confidence = any("." in text or "e" in text for text in last)
        return confidence, not confidence
    return widest == 7, widest == 7


def _detection(frame: int, row: Row, *, with_confidence: bool, with_track: bool) -> Detection:
    if not 5 <= len(row.cells) <= 7:
        raise ValueError(
            f"{len(row.cells)} columns, not class, x, y, w, h[, confidence][, track]; labels of segments have no boxes"
        )
    label, *box = row.cells[:5]
    x, y, w, h = map(parse_number, box)
    if not all(-1 <= value <= 2 for value in (x, y, w, h)):
        raise ValueError("the box is not in shares of the frame's size")
    has_track = with_track and len(row.cells) == 6 + with_confidence
    track = track_name(row.cells[-1]) if has_track else ""
    return Detection(row.line, frame, track, x - w / 2, y - h / 2, w, h, str(parse_integer(label)))
