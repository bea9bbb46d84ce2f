"""Rows whose columns have names: supervision's sinks, pandas, motmetrics, spreadsheets."""

import re
from collections.abc import Iterable, Mapping, Sequence

from not3d.enrol.ids import printable
from not3d.enrol.readers.detections import Detection, Detections, track_name
from not3d.enrol.readers.tables import Errors, Table, parse_integer, parse_number
from not3d.enrol.tracklets import FootageError

# Names in lower case without separators. Of several in a file, the first is taken: `trackid` before `id`.
_NAMES: Mapping[str, Sequence[str]] = {
    "frame": (
        *("frameindex", "frameidx", "framenumber", "frameno", "framenum", "frameid", "frame", "framecount"),
        *("imageid", "imageindex"),
    ),
    "track": (
        *("trackid", "trackerid", "track", "tid", "trackletid", "objectid", "objid", "targetid", "identity", "id"),
        *("personid",),
    ),
    "left": ("xmin", "x1", "left", "bbleft", "bboxleft", "bboxx", "bbx", "xtl", "x", "l"),
    "top": ("ymin", "y1", "top", "bbtop", "bboxtop", "bboxy", "bby", "ytl", "y", "t"),
    "right": ("xmax", "x2", "right", "bbright", "bboxright", "xbr", "r"),
    "bottom": ("ymax", "y2", "bottom", "bbbottom", "bboxbottom", "ybr", "b"),
    "width": ("width", "w", "bbwidth", "bboxwidth", "bboxw", "bbw"),
    "height": ("height", "h", "bbheight", "bboxheight", "bboxh", "bbh"),
    "center_x": ("xcenter", "xcentre", "xc", "cx", "centerx", "centrex"),
    "center_y": ("ycenter", "ycentre", "yc", "cy", "centery", "centrey"),
    "label": ("classname", "label", "labelname", "category", "categoryname", "class", "cls", "classid", "categoryid"),
    "flag": ("considered", "consider", "flag"),
}
_FROM_ZERO = {"frameindex", "frameidx", "imageindex"}
_MOT_NUMBERS = {"FrameId", "ClassId", "Visibility"}
"""Columns of motmetrics, which keeps MOT's numbers of classes."""


def has_header(table: Table) -> bool:
    """Return whether the first row, or a comment before it, names the columns."""
    first = table.rows[0].cells
    return any(_is_name(cell) for cell in first[:6]) or _count_known(_header_in(table)) >= 4


def read_table(table: Table) -> Detections:
    """Read a table with names.

    Raises:
        FootageError: columns are missing; or names each malformed line.
    """
    header: Sequence[str] = table.rows[0].cells
    rows = table.rows[1:]
    if not any(_is_name(cell) for cell in header[:6]):
        header, rows = _header_in(table), table.rows
    elif _count_known(header) < 2 and len(table.rows) > 1:  # a broken row of MOT, not a header
        raise FootageError(
            f"{printable(str(table.path))}, line {table.rows[0].line}: not frame,track,x,y,w,h,confidence, nor "
            "names of columns"
        )
    errors = Errors(table.path)
    records = []
    for row in rows:
        if len(row.cells) > len(header):
            errors.add(row.line, f"{len(row.cells)} columns, but the header has {len(header)}")
        records.append((row.line, dict(zip(header, row.cells, strict=False))))
    errors.raise_any()
    found = read_records(records, header, str(table.path), Errors(table.path))
    description = f"table with column names, {table.separator}"
    return Detections(found.detections, description, found.frame_base, found.person_class)


def read_records(
    records: Iterable[tuple[int, Mapping[str, str]]], names: Sequence[str], path: str, errors: Errors
) -> Detections:
    """Read rows of names and values.

    Args:
        records: the line of each row and its values; a value that is missing is empty.
        names: of all columns.
        path: of the file, for messages.
        errors: takes what is wrong with a row.

    Raises:
        FootageError: columns are missing; or names each malformed line.
    """
    column = _columns(names)
    box = next((each for each in _BOXES if all(part in column for part in each)), None)
    missing = [] if box else ["a box (x, y, width and height, or x_min, y_min, x_max and y_max)"]
    missing += [what for part, what in _NEEDED.items() if part not in column]
    if missing:
        listed = ", ".join(printable(name) for name in names[:20])
        raise FootageError(f"{printable(path)} has no column for {' and for '.join(missing)}; its columns are {listed}")
    assert box is not None  # noqa: S101 - otherwise something is missing
    detections = []
    for line, record in records:
        try:
            detections.append(_detection(line, record, column, box))
        except ValueError as error:
            errors.add(line, str(error))
    errors.raise_any()
    base = 0 if _plain(column["frame"]) in _FROM_ZERO else 1
    person = "1" if len(_MOT_NUMBERS & set(names)) > 1 else "0"
    return Detections(detections, "columns with names", base, person)


_BOXES = (
    ("left", "top", "right", "bottom"),
    ("left", "top", "width", "height"),
    ("center_x", "center_y", "width", "height"),
)
_NEEDED = {
    "frame": "the frame's number (frame or frame_index; in supervision, custom_data={'frame_index': index})",
    "track": "the track (track_id, tracker_id or id)",
}


def _detection(line: int, record: Mapping[str, str], column: Mapping[str, str], box: tuple[str, ...]) -> Detection:
    values = []
    for part in box:
        text = record.get(column[part], "")
        try:
            values.append(parse_number(text))
        except ValueError:
            raise ValueError(f"{column[part]} is not a number: {printable(text)[:40]!r}") from None
    x, y, w, h = values
    if box[2] == "right":
        w, h = w - x, h - y
    elif box[0] == "center_x":
        x, y = x - w / 2, y - h / 2
    text = record.get(column["frame"], "")
    try:
        frame = parse_integer(text)
    except ValueError:
        raise ValueError(f"{column['frame']} is not a whole number: {printable(text)[:40]!r}") from None
    label = record.get(column["label"], "") if "label" in column else ""
    try:
        label = str(parse_integer(label))
    except ValueError:
        label = label.strip()
    flag = record.get(column["flag"], "").strip().casefold() if "flag" in column else ""
    return Detection(
        line,
        frame,
        track_name(record.get(column["track"], "")),
        x,
        y,
        w,
        h,
        "" if label in {"-1", "None", "nan"} else label,
        flag not in {"0", "0.0", "false", "no"},
    )


def _columns(names: Sequence[str]) -> dict[str, str]:
    """Return the name of the column of each part that is there."""
    plain = {_plain(name): name for name in reversed(names)}
    found = {}
    for part, aliases in _NAMES.items():
        name = next((plain[alias] for alias in aliases if alias in plain), None)
        if name is not None:
            found[part] = name
    if "name" in plain and _plain(found.get("label", "")) in {"class", "cls", "classid"}:  # as Ultralytics names them
        found["label"] = plain["name"]
    return found


def _header_in(table: Table) -> list[str]:
    """Return the names in the comment before the rows."""
    separator = None if table.delimiter == " " else table.delimiter
    return [cell.strip() for cell in table.comment.split(separator)]


def _count_known(names: Iterable[str]) -> int:
    known = {alias for aliases in _NAMES.values() for alias in aliases}
    return sum(_plain(name) in known for name in names)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.casefold())


def _is_name(cell: str) -> bool:
    try:
        parse_number(cell)
    except ValueError:
        return True
    return False
