"""Tracks of any tracker by MQTT, in the JSON of docs/integrate/mqtt.md: one message when a track ends."""

import asyncio
import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiomqtt
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from model.frames import FrameError, decode_frame
from not3d.bridges.mqtt import Mqtt
from not3d.bridges.shared_folder import ForbiddenPath, read_file
from not3d.bridges.sink import Sink
from not3d.bridges.state import State
from not3d.bridges.telemetry import Telemetry
from not3d.bridges.tracklet import RelativeBox, Tracklet, cut_pixels, make_id
from service.http.fields import Metadata

MAX_PICTURES = 1000
MAX_MESSAGE_BYTES = 64_000_000


class Strict(BaseModel):
    """Part of a message; a field that is not known is refused, because it is probably a typing error."""

    model_config = ConfigDict(extra="forbid")


class Picture(Strict):
    """A full frame in the shared folder, and where the person is in it: `xyxy` or `xywh`, in pixels."""

    file: str = Field(min_length=1, max_length=1000)
    xyxy: tuple[float, float, float, float] | None = None
    xywh: tuple[float, float, float, float] | None = None

    @model_validator(mode="after")
    def _check(self) -> "Picture":
        if self.xyxy is not None and self.xywh is not None:
            raise ValueError("send xyxy or xywh, not both")
        return self

    @property
    def edges(self) -> tuple[float, float, float, float] | None:
        """Left, top, right and bottom edge in pixels; `None` if the file is a crop itself."""
        if self.xywh is not None:
            x, y, width, height = self.xywh
            return x, y, x + width, y + height
        return self.xyxy


class Track(Strict):
    """One message: a track that has ended."""

    camera: str = Field(min_length=1, max_length=128)
    id: str | None = Field(None, min_length=1, max_length=200)
    track: str | None = Field(None, min_length=1, max_length=200)
    start: datetime | None = None
    end: datetime | None = None
    crops: list[str] = Field(default_factory=list, max_length=MAX_PICTURES)
    frames: list[Picture] = Field(default_factory=list, max_length=MAX_PICTURES)
    metadata: Metadata = Field(default_factory=dict)

    @field_validator("track", "id", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value

    @field_validator("start", "end", mode="before")
    @classmethod
    def _as_time(cls, value: Any) -> Any:
        if isinstance(value, bool):
            raise ValueError("must be a time")
        if isinstance(value, int | float):
            if not 0 < value < 1e11:  # also NaN, and integers that no float can hold
                raise ValueError("must be seconds since 1970, or RFC 3339")
            return datetime.fromtimestamp(value, UTC)
        return value

    @field_validator("start", "end")
    @classmethod
    def _with_zone(cls, value: datetime | None) -> datetime | None:
        if value is not None and value.tzinfo is None:
            raise ValueError("needs a time zone, such as Z")
        return value

    @model_validator(mode="after")
    def _check(self) -> "Track":
        if bool(self.crops) == bool(self.frames):
            raise ValueError("send either crops or frames")
        if self.id is None and (self.track is None or self.start is None):
            raise ValueError("send an id, or track and start: trackers count from 1 again after a restart")
        if self.start and self.end and self.end < self.start:
            raise ValueError("end is before start")
        return self

    @property
    def record_id(self) -> str:
        """The id of the record: that of the message, or one of camera, track and start."""
        if self.id is not None:
            return make_id(*self.id.split(":"))
        assert self.track is not None and self.start is not None  # noqa: S101, PT018 - checked above
        return make_id("mqtt", self.camera, self.track, f"{self.start.timestamp():.3f}")


@dataclass(frozen=True)
class TracksOptions:
    """How the bridge works.

    Attributes:
        topic: may have wildcards.
        folder: where `frames` are; `None` refuses messages with frames.
        margin: share of a box that is added on each side.
    """

    topic: str = "not3d/tracks/#"
    folder: Path | None = None
    margin: float = 0.0


class TracksSource:
    """Listens to a topic and hands each track over.

    Args:
        mqtt: connection to the broker.
        state: what was handed over.
        sink: takes the tracklets.
        telemetry: metrics and log.
        options: how to work.
    """

    def __init__(self, mqtt: Mqtt, state: State, sink: Sink, telemetry: Telemetry, options: TracksOptions) -> None:
        self._mqtt, self._state, self._sink = mqtt, state, sink
        self._telemetry, self._options = telemetry, options
        mqtt.subscribe(options.topic, self._on_track)

    async def run(self) -> None:
        """Listen until the task is cancelled."""
        await self._mqtt.run()

    async def _on_track(self, message: aiomqtt.Message) -> None:
        payload = message.payload
        if not isinstance(payload, bytes | bytearray) or len(payload) > MAX_MESSAGE_BYTES:
            self._telemetry.message("malformed", topic=message.topic.value, reason="too large, or not bytes")
            return
        try:
            track = Track.model_validate_json(payload)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            where = ".".join(map(str, first["loc"]))
            reason = f"{where}: {first['msg']}" if where else first["msg"]
            self._telemetry.message("malformed", topic=message.topic.value, reason=reason)
            return
        record = track.record_id
        if self._state.status(record) is not None:
            self._telemetry.message("late")
            return
        self._telemetry.message("used")
        await self._sink.has_room()
        frames, faults = await asyncio.to_thread(self._pictures, track)
        for _ in frames:
            self._telemetry.frame("used")
        for fault, detail in faults:
            self._telemetry.frame(fault)
            self._telemetry.log("picture not used", id=record, reason=fault, detail=detail)
        if frames:
            self._sink.submit(Tracklet(record, track.camera, tuple(frames), track.start, track.end, track.metadata))
        else:
            self._sink.drop(record, *faults[0])

    def _pictures(self, track: Track) -> tuple[list[bytes], list[tuple[str, str]]]:
        """Return the crops, and for each picture that gave none the reason and a sentence."""
        crops: list[bytes] = []
        faults: list[tuple[str, str]] = []
        for number, text in enumerate(track.crops):
            try:
                crops.append(base64.b64decode(text, validate=True))
            except ValueError as error:  # also `binascii.Error`
                faults.append(("not_base64", f"crops[{number}]: {error}"))
        for number, picture in enumerate(track.frames):
            try:
                crops.append(self._cut(picture))
            except ForbiddenPath as error:
                faults.append(("forbidden_path", f"frames[{number}]: {error}"))
            except OSError as error:
                faults.append(("file_missing", f"frames[{number}]: {picture.file!r}: {error.strerror}"))
            except (FrameError, ValueError) as error:
                faults.append(("unreadable_picture", f"frames[{number}]: {error}"))
        return crops, faults

    def _cut(self, picture: Picture) -> bytes:
        if self._options.folder is None:
            raise ForbiddenPath("frames are refused, because the bridge runs without --frames-dir; send crops")
        data = read_file(self._options.folder, picture.file)
        if picture.edges is None:
            return data
        pixels = decode_frame(data)
        height, width = pixels.shape[:2]
        return cut_pixels(pixels, RelativeBox.from_pixels(picture.edges, width, height), self._options.margin)


def track_message(
    camera: str,
    track: str | int,
    start: float,
    end: float,
    crops: Sequence[bytes],
    metadata: dict[str, Any] | None = None,
) -> str:
    """Return the JSON of a track with encoded crops, for programs that publish it.

    Args:
        camera: the camera.
        track: id that the tracker gave.
        start: first sight, in seconds since 1970.
        end: last sight.
        crops: JPEG, PNG, WebP or BMP files in time order.
        metadata: a JSON object.
    """
    encoded = [base64.b64encode(crop).decode("ascii") for crop in crops]
    message = {"camera": camera, "track": track, "start": start, "end": end, "crops": encoded}
    return json.dumps(message | ({"metadata": metadata} if metadata else {}))
