"""Scene metadata of Axis cameras over MQTT: one message with one picture after each track.

`com.axis.scene.object_track.v1` (also written `axis.scene.object_track_v1`) describes a track that has ended, and
`com.axis.scene.frame.v1` says in `track_events` that a track ended, or that a track shows the object of another one
(`Rename`). The operator chooses the topics of MQTT, so the content decides what a message is. The messages of the beta
topics differ little and are read as well.

Source: Axis developer documentation, "Analytics Data Format". Coordinates go from 0 to 1 with y down.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from not3d.bridges.observations import MalformedMessage
from not3d.bridges.values import as_image, as_items, as_list, as_mapping, as_name, as_number, as_time, read_object

PEOPLE = frozenset({"human", "person"})
_PATH_POINTS = 16
"""Points of a path that are kept, evenly spaced."""

Point = tuple[str, float, float]
"""A time, and shares of the frame's width and height."""


@dataclass(frozen=True, slots=True)
class AxisTrack:
    """A track of a person that has ended.

    `crop` is `None` if the camera sends no picture. `path` goes through the middles of the lower edges of boxes, or
    through the positions that the camera sends. `parts` are earlier tracks that the camera combined to this one.
    """

    id: str
    channel: str
    start: datetime
    end: datetime
    score: float | None
    crop: bytes | None = field(repr=False)
    path: tuple[Point, ...] = ()
    parts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AxisEvents:
    """What a frame says about tracks: those that ended, and pairs (from, to) that show the same person."""

    ended: tuple[str, ...]
    renamed: tuple[tuple[str, str], ...]
    problems: tuple[MalformedMessage, ...] = ()


def read_message(payload: bytes | str) -> AxisTrack | AxisEvents | None:
    """Read one message; `None` if it is a track of something else than a person.

    Raises:
        MalformedMessage: it is neither a track nor a frame, or a required value is missing.
    """
    content: Mapping[str, Any] = read_object(payload)
    for name in ("data", "frame"):  # the beta formats have them around the content
        content = as_mapping(content.get(name)) or content
    if "track_events" in content or "detections" in content:
        return _read_events(content)
    if "id" in content and ("start_time" in content or "classes" in content or "image" in content):
        return _read_track(content)
    if "timestamp" in content:  # a frame in which nothing happened, or a snapshot of its own topic
        return AxisEvents((), ())
    raise MalformedMessage("neither a track nor a frame", ", ".join(list(content)[:5]))


def _read_track(content: Mapping[str, Any]) -> AxisTrack | None:
    person, score = _classify(as_list(content.get("classes")))
    if not person:
        return None
    start = as_time(content.get("start_time"), "start_time")
    end = as_time(content["end_time"], "end_time") if content.get("end_time") is not None else start
    image = as_mapping(content.get("image"))
    channel = content.get("channel_id")
    return AxisTrack(
        as_name(content.get("id"), "id"),
        "" if channel is None else as_name(channel, "channel_id"),
        start,
        max(start, end),
        score,
        as_image(image["data"]) if image.get("data") else None,
        _read_path(as_list(content.get("path") or content.get("observations"))),
        tuple(_read_parts(as_list(content.get("parts")))),
    )


def _classify(classes: list[Any]) -> tuple[bool, float | None]:
    """Return whether the likeliest class is a person, and its score."""
    rated = []
    for each in classes:
        named = each if isinstance(each, dict) else {"type": each}
        score = named.get("score")
        value = None if score is None else as_number(score, "class score")
        rated.append((value, str(named.get("type")).strip().casefold() in PEOPLE))
    if not rated:
        return False, None
    value, person = max(rated, key=lambda each: (1.0 if each[0] is None else each[0], each[1]))
    return person, value


def _read_path(points: list[Any]) -> tuple[Point, ...]:
    path = []
    for each in points:
        node = as_mapping(each)
        position = _read_position(node)
        time = node.get("timestamp", node.get("time"))
        if position is None or time is None:
            continue
        try:
            path.append((as_time(time, "timestamp").isoformat(), *position))
        except MalformedMessage:
            continue  # the path is an extra; the track counts without it
    step = max(1, -(-len(path) // _PATH_POINTS))
    return tuple(path[::step])


def _read_position(node: Mapping[str, Any]) -> tuple[float, float] | None:
    where = as_mapping(node.get("position")) or node
    box = as_mapping(where.get("bounding_box"))
    try:
        if box:
            left, right, bottom = (as_number(box.get(side), side) for side in ("left", "right", "bottom"))
            return round((left + right) / 2, 4), round(bottom, 4)
        if "x" in where:
            return round(as_number(where["x"], "x"), 4), round(as_number(where.get("y"), "y"), 4)
    except MalformedMessage:
        pass
    return None


def _read_parts(parts: list[Any], depth: int = 8) -> list[str]:
    """Return the ids of all parts, also of parts of parts."""
    found = []
    for each in parts:
        node = as_mapping(each)
        if node.get("object_track_id"):
            found.append(as_name(node["object_track_id"], "object_track_id"))
        if depth:
            found += _read_parts(as_list(node.get("parts")), depth - 1)
    return list(dict.fromkeys(found))


def _read_events(content: Mapping[str, Any]) -> AxisEvents:
    ended: list[str] = []
    renamed: list[tuple[str, str]] = []
    problems: list[MalformedMessage] = []
    for each in as_items(content.get("track_events"), problems):
        node = as_mapping(each)
        try:
            if node.get("type") == "TrackEnded":
                ended.append(as_name(node.get("object_track_id"), "object_track_id"))
            elif node.get("type") == "Rename":
                renamed.append((as_name(node.get("from_id"), "from_id"), as_name(node.get("to_id"), "to_id")))
        except MalformedMessage as error:
            problems.append(error)
    return AxisEvents(tuple(ended), tuple(renamed), tuple(problems))
