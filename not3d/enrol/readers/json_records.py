"""Tracks in JSON or JSON lines: a list of objects, a list for each frame, or an object that has one of these."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from not3d.enrol.ids import printable
from not3d.enrol.readers.columns import read_records
from not3d.enrol.readers.detections import Detections
from not3d.enrol.readers.tables import Errors
from not3d.enrol.tracklets import FootageError

_LISTS = ("annotations", "objects", "detections", "tracks", "boxes", "instances", "labels", "frames", "data", "results")
_CORNERS = ("xyxy", "tlbr", "ltrb", "bbox_xyxy", "box_xyxy")
_SIZES = ("bbox", "tlwh", "ltwh", "bbox_xywh", "box")
_MAX_DEPTH = 6


def read(path: Path, text: str) -> Detections:
    """Read JSON, as supervision's JSONSink writes it, or one object a line.

    Raises:
        FootageError: not JSON; or the objects have no frame, track and box.
    """
    values, lines = _values(path, text)
    records = [(line, record) for line, value in values for record in _objects(value, {}, 0)]
    if not lines:
        records = [(number, record) for number, (_, record) in enumerate(records, start=1)]
    names = list(dict.fromkeys(name for _, record in records for name in record))
    if not names:
        raise FootageError(f"{printable(str(path))} holds no tracks: it has no objects with boxes")
    found = read_records(records, names, str(path), Errors(path, "line" if lines else "object"))
    return Detections(found.detections, "JSON lines" if lines else "JSON", found.frame_base, found.person_class)


def _values(path: Path, text: str) -> tuple[list[tuple[int, Any]], bool]:
    """Return the values with their lines, and whether there is one a line."""
    try:
        return [(1, json.loads(text))], False
    except (ValueError, RecursionError) as error:
        fault = error
    values = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            values.append((number, json.loads(line)))
        except (ValueError, RecursionError) as error:
            if number == 1 or not values:
                raise FootageError(f"{printable(str(path))} is not JSON: {fault}") from None
            raise FootageError(f"{printable(str(path))}, line {number}: not JSON: {error}") from None
    return values, True


def _objects(value: Any, outer: Mapping[str, str], depth: int) -> Iterator[dict[str, str]]:
    """Yield the objects with a box. They inherit from the objects around them, such as the number of the frame."""
    if depth > _MAX_DEPTH:
        return
    if isinstance(value, list):
        for index, item in enumerate(value):
            if isinstance(item, list):  # one list a frame
                yield from _objects(item, {**outer, "frame_index": str(index)}, depth + 1)
            else:
                yield from _objects(item, outer, depth + 1)
    elif isinstance(value, dict):
        own = {**outer, **_flat(value)}
        inner = [
            (name, value[name]) for name in _LISTS if isinstance(value.get(name), list) and _has_objects(value[name])
        ]
        if not inner:
            yield own
        for _, items in inner:
            yield from _objects(items, own, depth + 1)


def _has_objects(items: list[Any]) -> bool:
    return not items or isinstance(items[0], dict | list)


def _flat(value: Mapping[str, Any]) -> dict[str, str]:
    """Return the scalar values as text, and boxes, which may be an object or a list, as values of their own."""
    flat = {}
    for name, item in value.items():
        if isinstance(item, dict) and name in {"box", "bbox", "bounding_box", "boundingBox", "xyxy"}:
            flat.update(_flat(item))
        elif isinstance(item, list) and len(item) == 4 and all(_is_number(each) for each in item):
            if name in _CORNERS:
                flat.update(zip(("x1", "y1", "x2", "y2"), map(str, item), strict=True))
            elif name in _SIZES:
                flat.update(zip(("x", "y", "width", "height"), map(str, item), strict=True))
        elif item is None:
            flat[name] = ""
        elif isinstance(item, str | int | float):
            flat[name] = str(item)
    return flat


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
