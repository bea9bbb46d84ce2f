"""Messages of NVIDIA DeepStream (`nvmsgconv`): the minimal schema and the full one, both JSON.

The minimal schema has one message a frame and no vectors: `"objects": ["<track>|left|top|right|bottom|<label>|#|..."]`.
The full schema has one message an object, with its box, and a vector if the tracker exports those of its Re-ID network.
Boxes are in pixels of the stream as DeepStream scales it.
"""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

import numpy as np

from not3d.bridges.grouped import GroupedSource
from not3d.bridges.observations import MalformedMessage, Observation, Vector
from not3d.bridges.telemetry import Telemetry
from not3d.bridges.tracklet import RelativeBox
from not3d.bridges.values import as_items, as_list, as_mapping, as_name, as_number, as_time, read_object

PEOPLE = frozenset({"person", "people", "pedestrian", "human"})
_UNTRACKED = frozenset({"-1", str(2**64 - 1)})
"""The ids of objects without a track; the second is DeepStream's own constant."""
_MAX_DIMENSION = 8192
DEFAULT_SIZE = (1920, 1080)


@dataclass(frozen=True, slots=True)
class DeepStreamFrame:
    """The tracked people of one message, and what of it could not be used."""

    sensor: str
    time: datetime
    people: tuple[Observation, ...]
    problems: tuple[MalformedMessage, ...]


def read_message(payload: bytes | str, size: tuple[int, int] = DEFAULT_SIZE) -> DeepStreamFrame:
    """Read one message of either schema.

    Args:
        payload: the message.
        size: width and height of the frames that the boxes are for: those of `nvstreammux`.

    Raises:
        MalformedMessage: it is of neither schema.
    """
    content = read_object(payload)
    time = as_time(content.get("@timestamp"), "@timestamp")
    read: list[Callable[[], Observation | None]]
    people: list[Observation] = []
    problems: list[MalformedMessage] = []
    if "objects" in content:
        sensor = as_name(content.get("sensorId"), "sensorId")
        texts = as_items(content["objects"], problems)
        read = [partial(_read_minimal, text, sensor, time, size) for text in texts]
    elif "object" in content:
        named = content.get("sensor")
        sensor = as_name(named.get("id") if isinstance(named, dict) else content.get("sensorId"), "sensor id")
        read = [partial(_read_full, as_mapping(content["object"]), sensor, time, size)]
    else:
        raise MalformedMessage("neither objects nor object", ", ".join(list(content)[:5]))
    for each in read:
        try:
            observation = each()
        except MalformedMessage as error:
            problems.append(error)
        else:
            if observation is not None:
                people.append(observation)
    return DeepStreamFrame(sensor, time, tuple(people), tuple(problems))


def _read_minimal(text: Any, sensor: str, time: datetime, size: tuple[int, int]) -> Observation | None:
    if not isinstance(text, str):
        raise MalformedMessage("object is not text", type(text).__name__)
    parts = [part.strip() for part in text.split("|")]
    if len(parts) < 6:
        raise MalformedMessage("object has too few parts", text[:80])
    track, label = parts[0], parts[5]
    if label.casefold() not in PEOPLE or track in _UNTRACKED:
        return None
    corners = [as_number(part, f"box {name}") for part, name in zip(parts[1:5], _SIDES, strict=True)]
    return Observation(sensor, as_name(track, "track id"), time, _box(corners, size))


def _read_full(node: Mapping[str, Any], sensor: str, time: datetime, size: tuple[int, int]) -> Observation | None:
    if not _is_person(node):
        return None
    track = as_name(node.get("id"), "object id")
    if track in _UNTRACKED:
        return None
    bbox = as_mapping(node.get("bbox"))
    box = None
    if bbox:
        names = ("topleftx", "toplefty", "bottomrightx", "bottomrighty")
        box = _box([as_number(bbox.get(name), f"bbox {name}") for name in names], size)
    vector = _read_vector(as_mapping(node.get("embedding")))
    if box is None and vector is None:
        raise MalformedMessage("neither box nor vector", f"object {track}")
    return Observation(sensor, track, time, box, None, vector)


def _is_person(node: Mapping[str, Any]) -> bool:
    """Return whether an object is a person: it has a node of that name, or a type or label that says so."""
    if "person" in node:
        return True
    named = [node.get(key) for key in ("type", "label", "class")]
    return any(isinstance(name, str) and name.strip().casefold() in PEOPLE for name in named)


def _read_vector(node: Mapping[str, Any]) -> Vector | None:
    values = as_list(node.get("embedding_vector"))
    if not values:
        return None
    declared = node.get("embedding_length")
    if declared is not None and as_number(declared, "embedding_length") != len(values):
        raise MalformedMessage("vector of another length", f"{len(values)} values, embedding_length {declared}")
    if len(values) > _MAX_DIMENSION:
        raise MalformedMessage("vector is too long", f"{len(values)} values, at most {_MAX_DIMENSION} are read")
    return np.array([as_number(value, "embedding_vector") for value in values])


_SIDES = ("left", "top", "right", "bottom")


def _box(corners: list[float], size: tuple[int, int]) -> RelativeBox:
    try:
        return RelativeBox.from_pixels(corners, *size)
    except ValueError as error:
        raise MalformedMessage("box outside the frame", str(error)) from None


class DeepStreamReader:
    """Takes the messages of DeepStream.

    Args:
        source: groups what they say.
        telemetry: metrics and log.
        size: width and height of the frames that the boxes are for.
    """

    def __init__(self, source: GroupedSource, telemetry: Telemetry, size: tuple[int, int] = DEFAULT_SIZE) -> None:
        self._source, self._telemetry, self._size = source, telemetry, size

    def handle(self, payload: bytes, token: Hashable) -> None:
        """Take a message that `token` names; one that cannot be used is counted, named and released."""
        try:
            read = read_message(payload, self._size)
        except MalformedMessage as error:
            self._telemetry.message("malformed", reason=error.reason, detail=str(error)[:200])
            self._source.discard(token)
            return
        self._source.add(read.sensor, read.time, read.people, read.problems, token)
