"""Rows without column names in the order of MOTChallenge: results, ground truth, and what trackers write alike.

frame,id,left,top,width,height[,confidence or flag[,class or x[,visibility or y[,z]]]]
"""

import math
from collections.abc import Iterable

from not3d.enrol.readers.detections import Detection, Detections, track_name
from not3d.enrol.readers.tables import Errors, Row, Table, parse_integer, parse_number

_PEDESTRIAN, _PERSON = "1", "0"
"""The class of people in MOT16, MOT17 and MOT20, and in COCO. A file whose seventh column is a flag has MOT's numbers;
trackers write a confidence there, and their detector's class. Older versions of BoxMOT write 1 there, and the number of
COCO plus 1, which is the same for people."""
_MAX_COLUMNS = 10
_WITH_CLASS = (8, 9)
"""Numbers of columns of files whose eighth is a class; with ten columns it is a coordinate."""


def read(table: Table) -> Detections:
    """Read rows of MOT.

    Raises:
        FootageError: names each malformed line.
    """
    errors = Errors(table.path)
    width = len(table.rows[0].cells)
    rows = []
    for row in table.rows:
        if len(row.cells) < 6:
            errors.add(row.line, f"not frame,track,x,y,w,h,confidence: {len(row.cells)} columns of {table.separator}")
        elif len(row.cells) > _MAX_COLUMNS:
            errors.add(
                row.line, f"{len(row.cells)} columns; MOT has at most {_MAX_COLUMNS}. Rotated boxes are not read"
            )
        elif len(row.cells) != width:
            errors.add(row.line, f"{len(row.cells)} columns, but the first row has {width}; is it of another program?")
        else:
            rows.append(row)
    has_class = width in _WITH_CLASS and _are_whole(row.cells[7] for row in rows)
    flags = _flags(rows, has_class=has_class)
    detections = []
    for row in rows:
        try:
            detections.append(_detection(row, has_class=has_class, has_flags=flags))
        except ValueError as error:
            errors.add(row.line, f"not frame,track,x,y,w,h,confidence: {error}")
    errors.raise_any()
    kind = "MOT ground truth" if flags else "MOT results"
    ones = all(row.cells[6:7] and parse_number(row.cells[6]) in {0, 1, -1} for row in rows)
    mot_numbers = ones and not any(detection.label == "0" for detection in detections)
    person = _PEDESTRIAN if mot_numbers else _PERSON
    return Detections(detections, f"{kind}, {width} columns, {table.separator}", 1, person)


def _flags(rows: list[Row], *, has_class: bool) -> bool:
    """Return whether the seventh column says which rows are to be considered: 1 or 0, and not a confidence."""
    found = {row.cells[6] for row in rows if len(row.cells) > 6}
    try:
        values = {parse_number(text) for text in found}
    except ValueError:
        return False
    return values == {0, 1} or (values == {0} and has_class and any(float(row.cells[7]) > 0 for row in rows))


def _are_whole(cells: Iterable[str]) -> bool:
    try:
        return all(isinstance(parse_integer(cell), int) for cell in cells)
    except ValueError:
        return False


def _detection(row: Row, *, has_class: bool, has_flags: bool) -> Detection:
    frame, track, *box = row.cells[:6]
    x, y, w, h = map(parse_number, box)
    if not all(map(math.isfinite, (x, y, w, h))):
        raise ValueError("a number of the box is not finite")
    name = track_name(track)
    if name and not name.isdecimal():
        raise ValueError(f"the track {track} is not a number")
    for extra in row.cells[6:]:
        parse_number(extra)
    label = str(parse_integer(row.cells[7])) if has_class else ""
    return Detection(
        row.line,
        parse_integer(frame),
        name,
        x,
        y,
        w,
        h,
        "" if label.startswith("-") else label,
        not has_flags or parse_number(row.cells[6]) != 0,
    )
