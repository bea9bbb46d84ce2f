"""Manifests: a table of tracklets, one a row, with what is known of each."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from not3d.enrol.discovery import is_picture, is_video, read_file, with_own_ids
from not3d.enrol.ids import MAX_ID_LENGTH, printable, readable_id
from not3d.enrol.readers.tables import Errors, Table, read_table, read_text
from not3d.enrol.readers.values import parse_box, parse_time
from not3d.enrol.tracklets import FootageError, Item, ListedTracklet, PersonBox
from service.ids import ID_PATTERN
from training.datasets.files import images_in

_COLUMNS = {
    "path": "path",
    "id": "id",
    "camera": "camera",
    "camera_id": "camera",
    "start": "start",
    "start_time": "start",
    "end": "end",
    "end_time": "end",
    "box": "box",
    "person": "person",
}
"""Names of columns in lower case that have a meaning; others become metadata."""
_RESERVED = frozenset({"source", "tracklet", "track", "tracks", "footage_digest"})


@dataclass(frozen=True)
class _Columns:
    """The header: which cells have a meaning, by their place, and which become metadata."""

    known: Mapping[str, int]
    metadata: Mapping[str, int]
    count: int


def read_manifest(path: Path, camera: str = "") -> list[Item]:
    """Read a table with a header; its column `path` names a folder of images, a picture or a video of each tracklet.

    Args:
        path: the table; paths in it are relative to its folder.
        camera: of rows without one.

    Raises:
        FootageError: names all lines with errors.
        OSError: a file cannot be read.
    """
    table = read_table(path, read_text(path), numbers=False)
    columns = _read_header(table)
    errors = Errors(path)
    items: list[Item] = []
    lines: dict[str, int] = {}
    for row in table.rows[1:]:
        if len(row.cells) > columns.count:
            errors.add(
                row.line, f"{len(row.cells)} columns, but the header has {columns.count}; quote cells with commas"
            )
            continue
        cells = row.cells + ("",) * (columns.count - len(row.cells))
        faults: list[str] = []
        item = _read_row(path, cells, columns, camera, faults)
        if item is not None:
            own = cells[columns.known["id"]] if "id" in columns.known else ""
            first = lines.setdefault(own or item.fallback_id, row.line)
            if first != row.line:
                what = f"the id {own}" if own else "the same footage"
                faults.append(f"{what} is in line {first} too; give each row an id of its own")
            items.append(item)
        for fault in faults:
            errors.add(row.line, fault)
    errors.raise_any()
    if not items:
        raise FootageError(f"{printable(str(path))} lists no tracklets: it has no rows below the header")
    return with_own_ids(items)


def _read_header(table: Table) -> _Columns:
    errors = Errors(table.path)
    header = table.rows[0].cells if table.rows else ()
    line = table.rows[0].line if table.rows else 1
    known: dict[str, int] = {}
    metadata: dict[str, int] = {}
    for place, name in enumerate(header):
        meaning = _COLUMNS.get(name.casefold())
        if meaning in known or name in metadata:
            errors.add(line, f"two columns are called {printable(name)}")
        elif meaning:
            known[meaning] = place
        elif name in _RESERVED:
            errors.add(line, f"the column {name} is reserved for the record's own metadata; rename it")
        elif name:
            metadata[name] = place
    if "path" not in known:
        found = ", ".join(map(printable, header[:10])) or "nothing"
        errors.add(line, f"the header needs a column `path` (found {found}); others are id, camera, start, end, box")
    errors.raise_any()
    return _Columns(known, metadata, len(header))


def _read_row(manifest: Path, cells: tuple[str, ...], columns: _Columns, camera: str, faults: list[str]) -> Item | None:
    """Return the tracklet of a row, as far as it can be read; what is wrong is added to the faults."""

    def cell(name: str) -> str:
        return cells[columns.known[name]] if name in columns.known else ""

    box = None
    times: list[datetime | None] = []
    for name in ("start", "end"):
        try:
            times.append(parse_time(cell(name)) if cell(name) else None)
        except ValueError as error:
            faults.append(f"{name}: {error}")
            times.append(None)
    start, end = times
    if start and end and end < start:
        faults.append("end is before start")
    try:
        box = parse_box(cell("box")) if cell("box") else None
    except ValueError as error:
        faults.append(f"box: {error}")
    own_id = cell("id")
    if own_id and (not re.fullmatch(ID_PATTERN, own_id) or own_id in {".", ".."}):
        faults.append(f"id: {printable(own_id)!r} must be 1 to {MAX_ID_LENGTH} letters, digits or . _ : -")
    if not cell("path"):
        faults.append("path is empty")
        return None
    try:
        item = _open_path(manifest, cell("path"), cell("camera") or camera, box, own_id)
    except (FootageError, OSError, ValueError) as error:
        faults.append(f"path: {error}")
        return None
    fields = {name: cells[place] for name, place in columns.metadata.items() if cells[place]}
    if isinstance(item, ListedTracklet):
        item = replace(item, labels=tuple(fields.items()))
    else:
        item = replace(item, fields=fields)
    return replace(item, person=cell("person"), start_time=start, end_time=end)


def _open_path(manifest: Path, text: str, camera: str, box: PersonBox | None, own_id: str) -> Item:
    path, given = manifest.parent / text, Path(text)
    inside = not given.is_absolute() and ".." not in given.parts
    source = (Path(manifest.resolve().parent.name) / given).as_posix() if inside else path.name
    if not path.exists():
        cure = "; write / between folders" if "\\" in text else ""
        raise FootageError(f"{printable(text)} does not exist{cure}")
    if not path.is_dir() and not path.is_file():
        raise FootageError(f"{printable(text)} is neither a file nor a folder")
    if box is not None and not is_picture(path):
        raise FootageError(f"{printable(text)} is not a picture, so it cannot have a box")
    if not path.is_dir() and not is_picture(path) and not is_video(path):
        raise FootageError(f"{printable(text)} is neither a folder of images nor a picture or a video by its name")
    parts = given.parts if inside else (path.name,)
    if path.is_dir():
        if not images_in(path):
            raise FootageError(f"{printable(text)} is a folder without images")
        readable, complete = readable_id(*parts)
        listed = ListedTracklet(
            own_id or readable, str(path), source, "-".join(parts), camera=camera, fixed=bool(own_id)
        )
        return listed if own_id or complete else replace(listed, id=listed.fallback_id)
    item = read_file(path, camera, box, source, own_id)
    if own_id:
        return item
    where = () if box is None else ("x".join(f"{value:g}" for value in box),)
    readable, complete = readable_id(*parts[:-1], path.stem, *where)
    return replace(item, id=readable if complete else item.fallback_id)
