"""ONVIF metadata as JSON over MQTT (`onvif-mj`): who is where in a frame.

Source: ONVIF Analytics Service Specification, "JSON over MQTT" and "Spatial relation". Attributes of the XML have an
`@` before their name and text is `#text`. Cameras differ, so an element that may repeat may be one object instead of a
list, `@` may be missing, and numbers may be text.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from not3d.bridges.grouped import GroupedSource
from not3d.bridges.observations import MalformedMessage, Observation
from not3d.bridges.telemetry import Telemetry
from not3d.bridges.tracklet import RelativeBox
from not3d.bridges.values import as_image, as_items, as_list, as_mapping, as_name, as_number, as_time, read_object

PEOPLE = frozenset({"human", "person"})
MAX_LOGGED = 1000
"""Cameras and reasons that are logged when objects are left out."""


@dataclass(frozen=True, slots=True)
class Transformation:
    """`q = scale * p + translate` for each axis, from the coordinates of a node to those of the node around it."""

    translate: tuple[float, float] = (0.0, 0.0)
    scale: tuple[float, float] = (1.0, 1.0)

    @classmethod
    def read(cls, node: Any) -> "Transformation":
        """Read a `Transformation` node; a missing part changes nothing.

        Raises:
            MalformedMessage: a number is none.
        """
        parts = as_mapping(node)
        return cls(_vector(parts.get("Translate"), 0.0), _vector(parts.get("Scale"), 1.0))

    def apply(self, x: float, y: float) -> tuple[float, float]:
        """Return the point in the coordinates of the node around this one."""
        return self.scale[0] * x + self.translate[0], self.scale[1] * y + self.translate[1]


@dataclass(frozen=True, slots=True)
class OnvifFrame:
    """The people in one frame, what of it could not be used, and why other objects were left out."""

    time: datetime
    people: tuple[Observation, ...]
    problems: tuple[MalformedMessage, ...]
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class OnvifTopic:
    """`<prefix>/onvif-mj/VideoAnalytics/<ProfileToken>/<AnalyticsModule>`."""

    prefix: str
    profile: str
    module: str

    @classmethod
    def read(cls, topic: str) -> "OnvifTopic | None":
        """Return the parts of a topic; `None` if it is not one of video analytics in JSON."""
        levels = topic.split("/")
        for at in range(len(levels) - 1):
            if levels[at] == "onvif-mj" and levels[at + 1] == "VideoAnalytics":
                rest = levels[at + 2 :]
                return cls("/".join(levels[:at]), rest[0] if rest else "", "/".join(rest[1:]))
        return None

    @property
    def camera(self) -> str:
        """The camera's name: the prefix, which names the device, and the profile."""
        return "-".join(part for part in (self.prefix.replace("/", "-"), self.profile) if part) or "onvif"


def read_frames(
    payload: bytes | str,
    camera: str,
    least_likelihood: float = 0.0,
    is_known: Callable[[str], bool] = lambda _name: False,
) -> list[OnvifFrame]:
    """Read one message.

    Args:
        payload: the message.
        camera: the name that the observations get.
        least_likelihood: people below it are left out.
        is_known: whether an object was a person in a message before. Its class may be missing now: it is optional, and
            a camera may send it once.

    Raises:
        MalformedMessage: it is not JSON, or has no frame that can be read.
    """
    content: Mapping[str, Any] = read_object(payload)
    for name in ("MetadataStream", "VideoAnalytics"):  # the nodes around it in XML
        content = as_mapping(content.get(name)) or content
    problems: list[MalformedMessage] = []
    nodes = as_items(content.get("Frame"), problems)
    if not nodes:
        raise MalformedMessage("no Frame", ", ".join(list(content)[:5]))
    frames: list[OnvifFrame] = []
    named: set[str] = set()
    for node in nodes:
        try:
            frame = _read_frame(
                as_mapping(node), camera, least_likelihood, lambda name: name in named or is_known(name)
            )
        except MalformedMessage as error:  # the other frames count
            problems.append(error)
            continue
        named.update(each.object for each in frame.people)
        frames.append(frame)
    if not frames:
        raise problems[-1]
    frames[0] = replace(frames[0], problems=(*problems, *frames[0].problems))
    return frames


def _read_frame(node: Mapping[str, Any], camera: str, least: float, is_known: Callable[[str], bool]) -> OnvifFrame:
    time = as_time(_attribute(node, "UtcTime"), "UtcTime")
    whole = Transformation.read(node.get("Transformation"))
    people: list[Observation] = []
    problems: list[MalformedMessage] = []
    left_out: list[str] = []
    for each in as_items(node.get("Object"), problems):
        try:
            found = _read_person(as_mapping(each), camera, time, whole, least, is_known)
        except MalformedMessage as error:
            problems.append(error)
        else:
            if isinstance(found, Observation):
                people.append(found)
            else:
                left_out.append(found)
    return OnvifFrame(time, tuple(people), tuple(problems), tuple(left_out))


def _read_person(
    node: Mapping[str, Any],
    camera: str,
    time: datetime,
    whole: Transformation,
    least: float,
    is_known: Callable[[str], bool],
) -> Observation | str:
    """Return the person, or why the object is left out."""
    appearance = as_mapping(node.get("Appearance"))
    likeliest = _likeliest_class(as_mapping(appearance.get("Class")))
    if likeliest is not None:
        likelihood, kind = likeliest
        if kind not in PEOPLE:
            return f"class {kind[:50]}"
        if likelihood < least:
            return "below the least likelihood"
    # An ObjectId is used again after the counter's end; the UUID, if the camera has one, never.
    identity = _attribute(node, "UUID")
    name = as_name(identity if identity is not None else _attribute(node, "ObjectId"), "ObjectId")
    if likeliest is None and not is_known(name):
        return "no class"
    image = appearance.get("Image")
    text = image.get("#text") if isinstance(image, dict) else image
    crop = as_image(text) if text else None
    shape = as_mapping(appearance.get("Shape"))
    box = None
    if "BoundingBox" in shape:
        own = Transformation.read(appearance.get("Transformation"))
        box = to_relative_box(as_mapping(shape["BoundingBox"]), own, whole)
    if box is None and crop is None:
        return "neither box nor image"  # cameras may go on naming a person who is out of sight
    return Observation(camera, name, time, box, crop)


def _likeliest_class(node: Mapping[str, Any]) -> tuple[float, str] | None:
    """Return likelihood and name; `Type` is the present form, `ClassCandidate` the former one."""
    candidates = []
    for each in as_list(node.get("Type")):
        named = each if isinstance(each, dict) else {"#text": each}
        candidates.append((named.get("#text"), _attribute(named, "Likelihood")))
    for each in as_list(node.get("ClassCandidate")):
        former = as_mapping(each)
        candidates.append((former.get("Type"), former.get("Likelihood")))
    rated = [
        (1.0 if likelihood is None else as_number(likelihood, "Likelihood"), str(name).strip().casefold())
        for name, likelihood in candidates
    ]
    return max(rated, key=lambda each: (each[0], each[1] in PEOPLE), default=None)


def to_relative_box(node: Mapping[str, Any], own: Transformation, whole: Transformation) -> RelativeBox:
    """Return a bounding box in shares of the frame, y down, clipped to the frame.

    Args:
        node: `@left`, `@top`, `@right`, `@bottom` in the coordinates of the appearance.
        own: from the appearance's coordinates to those of the frame node.
        whole: from those to normalised ones, which go from -1 to 1 with y up.

    Raises:
        MalformedMessage: a number is none, or nothing of the box is inside the frame.
    """
    left, top, right, bottom = (
        as_number(_attribute(node, name), f"BoundingBox {name}") for name in ("left", "top", "right", "bottom")
    )
    (x0, y0), (x1, y1) = (whole.apply(*own.apply(*corner)) for corner in ((left, top), (right, bottom)))
    # A negative scale swaps the sides.
    x0, x1 = sorted(min(max((x + 1) / 2, 0.0), 1.0) for x in (x0, x1))
    y0, y1 = sorted(min(max((1 - y) / 2, 0.0), 1.0) for y in (y0, y1))
    if x1 <= x0 or y1 <= y0:
        raise MalformedMessage("box outside the frame", f"{left:g}, {top:g}, {right:g}, {bottom:g}")
    return RelativeBox(x0, y0, x1, y1)


def _attribute(node: Mapping[str, Any], name: str) -> Any:
    """Return an attribute: `@name`, or as some cameras write it, `name` or another case."""
    for spelling in (f"@{name}", name):
        if spelling in node:
            return node[spelling]
    wanted = name.casefold()
    return next((value for key, value in node.items() if key.lstrip("@").casefold() == wanted), None)


def _vector(node: Any, default: float) -> tuple[float, float]:
    parts = as_mapping(node)
    x, y = (_attribute(parts, axis) for axis in ("x", "y"))
    return (
        default if x is None else as_number(x, "Transformation x"),
        default if y is None else as_number(y, "Transformation y"),
    )


class OnvifReader:
    """Takes the messages of ONVIF cameras.

    Args:
        source: groups what they say.
        telemetry: metrics and log.
        least_likelihood: people below it are left out.
    """

    def __init__(self, source: GroupedSource, telemetry: Telemetry, least_likelihood: float = 0.0) -> None:
        self._source, self._telemetry, self._least = source, telemetry, least_likelihood
        self._logged: set[tuple[str, str]] = set()

    def handle(self, payload: bytes, topic: str) -> None:
        """Take a message; one that cannot be used is counted and named."""
        where = OnvifTopic.read(topic)
        if where is None:
            self._telemetry.message("other_topic", topic=topic, reason="no metadata of video analytics")
            return
        try:
            frames = read_frames(
                payload, where.camera, self._least, lambda name: self._source.is_open(where.camera, name)
            )
        except MalformedMessage as error:
            self._telemetry.message("malformed", topic=topic, reason=error.reason, detail=str(error)[:200])
            return
        for frame in frames:
            for reason in frame.left_out:
                self._log_once(where.camera, reason)
            self._source.add(where.camera, frame.time, frame.people, frame.problems)

    def _log_once(self, camera: str, reason: str) -> None:
        """Say why a camera's objects are left out, for the first of each kind: they may be all that it sends."""
        if (camera, reason) not in self._logged and len(self._logged) < MAX_LOGGED:
            self._logged.add((camera, reason))
            self._telemetry.log("objects left out", camera=camera, reason=reason)
