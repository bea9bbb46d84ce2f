"""What Frigate says about one tracked object, and what the bridge keeps of it.

Frigate has two conventions: boxes in MQTT are left, top, right and bottom in pixels of the detect stream; boxes in HTTP
are x, y, width and height as fractions. Both become `RelativeBox`, because recordings have another resolution.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Any, Self, TypeGuard

from not3d.bridges.tracklet import RelativeBox

MAX_SIGHTS = 64
"""Boxes of one event that are kept; then those that are close in time to others go."""
MAX_NAME = 250
_MAX_NUMBER = 5e10
"""Larger numbers are no times: as seconds since 1970 they are beyond the years 385 to 3554."""


class MalformedEvent(ValueError):
    """A message has not what every version of Frigate sends; the message says what."""


@dataclass(frozen=True)
class Update:
    """One message of `frigate/events`. Fields that a version of Frigate does not send are `None` or empty.

    Attributes:
        kind: "new", "update" or "end".
        event_id: names the tracked object.
        camera: its camera.
        label: what it is.
        sights: times (Unix seconds) and boxes in pixels of the detect stream.
        start: first sight.
        end: last sight, of an object that is gone.
        false_positive: whether Frigate is not sure yet that it is an object.
        position_changes: how often it moved; objects that never moved are not recorded.
        snapshot_time: time of the frame that Frigate would show now.
        snapshot_box: the box in that frame, in pixels of the detect stream.
        facts: metadata of the record.
    """

    kind: str
    event_id: str
    camera: str
    label: str
    sights: tuple[tuple[float, tuple[float, float, float, float]], ...]
    start: float | None
    end: float | None
    false_positive: bool
    position_changes: int | None
    snapshot_time: float | None
    snapshot_box: tuple[float, float, float, float] | None
    facts: dict[str, Any]


def parse_event(payload: bytes | str) -> Update:
    """Read a message of `frigate/events`.

    Raises:
        MalformedEvent: it is not JSON, or one of `id`, `camera`, `label`, `box` and `frame_time` is missing or wrong.
    """
    try:
        message = json.loads(payload)
    except (ValueError, RecursionError):
        raise MalformedEvent("the message is not JSON") from None
    after = message.get("after") if isinstance(message, dict) else None
    if not isinstance(after, dict):
        raise MalformedEvent("the message has no object `after`")
    before, snapshot = message.get("before"), after.get("snapshot")
    first = _sight(after)
    if first is None:
        raise MalformedEvent("`after.box` is not four numbers, or `after.frame_time` is no time")
    sights = {at: box for part in (before, snapshot) if (pair := _sight(part)) for at, box in [pair]}
    sights[first[0]] = first[1]
    shown = _sight(snapshot)
    changes = _number(after.get("position_changes"))
    return Update(
        kind=str(message.get("type", "update")),
        event_id=_text(after, "id"),
        camera=_text(after, "camera"),
        label=_text(after, "label"),
        sights=tuple(sorted(sights.items())),
        start=_number(after.get("start_time")),
        end=_number(after.get("end_time")),
        false_positive=after.get("false_positive") is True,
        position_changes=None if changes is None else int(changes),
        snapshot_time=shown[0] if shown else None,
        snapshot_box=shown[1] if shown else None,
        facts=describe(after),
    )


def describe(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata of a record: event id, label, zones, score, and names that Frigate gave."""
    facts: dict[str, Any] = {"frigate_event": values.get("id"), "label": values.get("label")}
    zones = values.get("entered_zones", values.get("zones"))
    facts["zones"] = [zone for zone in zones if is_name(zone)] if isinstance(zones, list) else []
    data = values.get("data")
    score = _number(values.get("top_score"))
    if score is None and isinstance(data, dict):
        score = _number(data.get("top_score"))
    if score is not None:
        facts["top_score"] = round(score, 4)
    name = values.get("sub_label")
    if isinstance(name, list) and name:  # [name, score] in MQTT, the name in HTTP
        name = name[0]
    if is_name(name):
        facts["sub_label"] = name
    return facts


@dataclass
class Progress:
    """What the bridge keeps of an event until it is enrolled. `boxes` are relative, in order of time."""

    event_id: str
    camera: str
    facts: dict[str, Any] = field(default_factory=dict)
    boxes: list[tuple[float, RelativeBox]] = field(default_factory=list)
    start: float | None = None
    end: float | None = None
    false_positive: bool = False
    position_changes: int | None = None
    complete: bool = False
    """Whether the bridge heard the event from its beginning."""
    due_at: float = 0.0
    """When recordings of its boxes can be read, on the clock of the bridge."""
    waits_since: float | None = None
    """Since when its recordings are asked for, on the clock of the bridge."""
    snapshot_time: float | None = None
    """Frame that the newest live picture was fetched for."""

    def add(self, update: Update, size: tuple[float, float] | None) -> None:
        """Add what a message says; messages may come in any order and several times.

        Args:
            update: the message.
            size: width and height of the detect stream in pixels; `None` if unknown, then its boxes are not used.
        """
        newest = not self.boxes or update.sights[-1][0] >= self.boxes[-1][0]
        if size:
            self.add_boxes([(at, _relative(edges, *size)) for at, edges in update.sights])
        else:
            self.complete = False
        if update.start is not None:
            self.start = update.start if self.start is None else min(self.start, update.start)
        if update.end is not None:
            self.end = update.end if self.end is None else max(self.end, update.end)
        if newest or update.kind == "end":
            self.facts = self.facts | update.facts
            self.false_positive = update.false_positive
            if update.position_changes is not None:
                self.position_changes = update.position_changes
        self.complete = self.complete or (update.kind == "new" and size is not None)

    def add_stored(self, event: Mapping[str, Any]) -> None:
        """Add what Frigate's HTTP API says about the event."""
        data = event.get("data")
        if isinstance(data, dict) and (at := _number(data.get("snapshot_frame_time"))) is not None:
            self.add_boxes([(at, relative_box(data.get("box")))])
        start, end = _number(event.get("start_time")), _number(event.get("end_time"))
        self.start = start if self.start is None else self.start
        self.end = end if end is not None else self.end
        self.facts = self.facts | describe(event)
        if event.get("false_positive") is True:
            self.false_positive = True

    def add_timeline(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """Add the boxes that Frigate's timeline has of the event."""
        for entry in entries:
            at, data = _number(entry.get("timestamp")), entry.get("data")
            if at is not None and isinstance(data, dict):
                self.add_boxes([(at, relative_box(data.get("box")))])

    def add_boxes(self, boxes: Sequence[tuple[float, RelativeBox | None]]) -> None:
        """Add boxes with their times; one that is no box is left out."""
        found = dict(self.boxes) | {at: box for at, box in boxes if box is not None}
        self.boxes = sorted(found.items(), key=lambda pair: pair[0])
        while len(self.boxes) > MAX_SIGHTS:
            inner = range(1, len(self.boxes) - 1)
            del self.boxes[min(inner, key=lambda place: self.boxes[place + 1][0] - self.boxes[place - 1][0])]

    def select(self, count: int) -> list[tuple[float, RelativeBox]]:
        """Return up to `count` boxes in order of time: of each part of the event the largest, then the largest left."""
        if len(self.boxes) <= count:
            return list(self.boxes)
        first, last = self.boxes[0][0], self.boxes[-1][0]
        parts: dict[int, tuple[float, RelativeBox]] = {}
        for pair in self.boxes:
            part = min(count - 1, int((pair[0] - first) / ((last - first) or 1) * count))
            if part not in parts or pair[1].area > parts[part][1].area:
                parts[part] = pair
        chosen = {at for at, _ in parts.values()}
        rest = sorted((pair for pair in self.boxes if pair[0] not in chosen), key=lambda pair: -pair[1].area)
        chosen |= {at for at, _ in rest[: count - len(chosen)]}
        return [pair for pair in self.boxes if pair[0] in chosen]

    @property
    def start_time(self) -> datetime | None:
        """First sight."""
        known = self.start if self.start is not None else (self.boxes[0][0] if self.boxes else None)
        return None if known is None else datetime.fromtimestamp(known, UTC)

    @property
    def end_time(self) -> datetime | None:
        """Last sight that is known."""
        known = self.end if self.end is not None else (self.boxes[-1][0] if self.boxes else None)
        known = known if known is None or self.start is None else max(known, self.start)
        return None if known is None else datetime.fromtimestamp(known, UTC)

    def to_json(self) -> dict[str, Any]:
        """Return all fields as JSON values."""
        boxes = [(at, box.left, box.top, box.right, box.bottom) for at, box in self.boxes]
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return values | {"boxes": boxes}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Return what `to_json` wrote."""
        return cls(**dict(values) | {"boxes": [(at, RelativeBox(*edges)) for at, *edges in values["boxes"]]})


def relative_box(values: object) -> RelativeBox | None:
    """Return a box of Frigate's HTTP API (relative x, y, width, height); `None` if it is none."""
    numbers = _numbers(values)
    try:
        return RelativeBox.from_corner(numbers) if numbers else None
    except ValueError:
        return None


def _relative(edges: Sequence[float], width: float, height: float) -> RelativeBox | None:
    try:
        return RelativeBox.from_pixels(edges, width, height)
    except ValueError:
        return None


def _sight(part: object) -> tuple[float, tuple[float, float, float, float]] | None:
    values = part if isinstance(part, dict) else {}
    at, box = _number(values.get("frame_time")), _numbers(values.get("box"))
    return (at, box) if at is not None and at > 0 and box else None


def _numbers(values: object) -> tuple[float, float, float, float] | None:
    if not isinstance(values, list) or len(values) != 4:
        return None
    numbers = [_number(value) for value in values]
    a, b, c, d = numbers
    return None if a is None or b is None or c is None or d is None else (a, b, c, d)


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) and abs(number) < _MAX_NUMBER else None


def _text(values: Mapping[str, Any], name: str) -> str:
    value = values.get(name)
    if not is_name(value):
        raise MalformedEvent(f"`after.{name}` is not a text of 1 to {MAX_NAME} characters")
    return value


def is_name(value: object) -> TypeGuard[str]:
    """Return whether a value can be an id or a name: a text of a sensible length that UTF-8 can hold."""
    if not isinstance(value, str) or not 0 < len(value) <= MAX_NAME:
        return False
    return not any("\ud800" <= character <= "\udfff" for character in value)
