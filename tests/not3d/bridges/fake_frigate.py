"""A Frigate that behaves as the real one does towards a bridge, with the traps of both of its interfaces.

Boxes are pixels of the detect stream in MQTT and relative x, y, width and height in HTTP. Recordings have another
resolution, are `offset` seconds late, and answer 404 until `delay` seconds after their time. One event in four has an
empty recording at its end. Pictures of an object are drawn on unless the caller asks otherwise, and carry
`X-Frame-Time`. With a password, calls need a token that ends; only admins may write. Real times are 45 s (here `delay`)
and a day for a token (here until `end_tokens`).
"""

import asyncio
import json
import secrets
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.not3d.bridges.drawn_walk import HEIGHT, SECONDS, WIDTH, Walk
from tests.not3d.bridges.mosquitto import Mosquitto, Peer
from tests.service.live import wait_for

DETECT = (640, 360)
USERS = {"ann": ("an admin's password", "admin"), "vic": ("a viewer's password", "viewer")}


@dataclass
class Event:
    """One tracked object of the fake."""

    id: str
    camera: str
    walk: Walk
    number: int
    label: str = "person"
    seen_until: float = 0.0
    ended: bool = False
    stored: bool = False
    false_positive: bool = False
    position_changes: int = 2
    sub_label: Any = None
    zones: list[str] = field(default_factory=list)
    snapshot_time: float = 0.0
    timeline: list[float] = field(default_factory=list)


class FakeFrigate:
    """The state of the fake; `serve` starts its HTTP API. Tests move its people with `walk`, or `see` and `end`."""

    def __init__(self, broker: Mosquitto, *, delay: float = 0.2, offset: float = 0.0, login: bool = False) -> None:
        self.broker = broker
        self.delay, self.offset, self.login = delay, offset, login
        self.events: dict[str, Event] = {}
        self.calls: Counter[str] = Counter()
        self.busiest = 0
        """Largest number of recorded pictures that were asked for at the same time."""
        self.no_recordings = False
        self.record_size = (WIDTH, HEIGHT)
        self.empty_ends = True
        self.down = False
        self.url = ""
        self._fetching = 0
        self._tokens: dict[str, str] = {}
        self._peer: Peer | None = None

    # What it sees -----------------------------------------------------------------------------------------------------

    def begin(self, camera: str = "yard", *, age: float = 20.0, person: int = 0, **facts: Any) -> Event:
        """Begin a walk that a real camera would have seen `age` seconds ago; it is not published yet."""
        number = len(self.events) + 1
        start = round(time.time() - age, 3)
        event = Event(f"{start:.6f}-x{number:05d}", camera, Walk(person, start), number, **facts)
        self.events[event.id] = event
        return event

    def see(self, event: Event, seconds: float, *, kind: str = "update", publish: bool = True) -> dict[str, Any]:
        """Let the object be seen at a moment of its walk, and tell it."""
        at = event.walk.start + seconds
        event.seen_until = max(event.seen_until, at)
        if not event.snapshot_time or seconds % 2 < 1:
            event.snapshot_time = at
        if kind in {"new", "end"} or event.zones:
            event.timeline.append(at)
        message = {"type": kind, "before": self._to_dict(event, at), "after": self._to_dict(event, at)}
        if publish:
            self.publish("frigate/events", message)
        return message

    def end(self, event: Event, *, publish: bool = True) -> dict[str, Any]:
        """End an event where it was seen last."""
        event.ended = True
        event.stored = not event.false_positive and event.position_changes > 0  # others have neither clip nor snapshot
        event.timeline.append(event.seen_until)
        message = {"type": "end", "before": self._to_dict(event, event.seen_until, ended=False)}
        message["after"] = self._to_dict(event, event.seen_until)
        if publish:
            self.publish("frigate/events", message)
        return message

    def walk(self, camera: str = "yard", *, publish: bool = True, **facts: Any) -> Event:
        """Let a person walk through the picture: a new event, some updates, and its end."""
        event = self.begin(camera, **facts)
        self.see(event, 0.5, kind="new", publish=publish)
        event.zones = ["path"]
        for seconds in (1.5, 2.5, 4.0, 5.0, 6.5):
            self.see(event, seconds, publish=publish)
        self.see(event, 7.5, publish=publish)
        self.end(event, publish=publish)
        return event

    def publish(self, topic: str, payload: Any) -> None:
        if self._peer is None:
            self._peer = self.broker.connect("frigate")
        text = payload if isinstance(payload, str) else json.dumps(payload)
        self._peer.publish(topic, text, qos=0)

    def disconnect(self) -> None:
        """Break the connection to the broker; the next message makes a new one."""
        if self._peer is not None:
            self._peer.close()
            self._peer = None

    def _to_dict(self, event: Event, at: float, *, ended: bool | None = None) -> dict[str, Any]:
        """What MQTT says: pixels of the detect stream."""

        def pixels(moment: float) -> list[int]:
            return [round(edge) for edge in np.multiply(event.walk.box(moment), DETECT * 2)]

        over = event.ended if ended is None else ended
        shown = {"frame_time": event.snapshot_time, "box": pixels(event.snapshot_time), "area": 1, "score": 0.8}
        return {
            "id": event.id,
            "camera": event.camera,
            "frame_time": at,
            "snapshot": shown,
            "label": event.label,
            "sub_label": event.sub_label,
            "top_score": 0.87,
            "false_positive": event.false_positive,
            "start_time": event.walk.start + 0.5,
            "end_time": event.seen_until if over else None,
            "score": 0.8,
            "box": pixels(at),
            "region": [0, 0, 320, 320],
            "stationary": False,
            "position_changes": event.position_changes,
            "current_zones": event.zones,
            "entered_zones": event.zones,
            "has_clip": True,
            "has_snapshot": True,
            "attributes": {},
            "path_data": [],
        }

    # Its HTTP API -----------------------------------------------------------------------------------------------------

    def _stored(self, event: Event) -> dict[str, Any]:
        """What HTTP says: relative x, y, width and height."""
        return {
            "id": event.id, "camera": event.camera, "label": event.label,
            "sub_label": event.sub_label and event.sub_label[0],
            "start_time": event.walk.start + 0.5, "end_time": event.seen_until if event.ended else None,
            "zones": event.zones, "has_clip": True, "has_snapshot": True, "false_positive": None, "top_score": None,
            "data": {
                "box": _corner(event.walk.box(event.snapshot_time)), "snapshot_frame_time": event.snapshot_time,
                "score": 0.8, "top_score": 0.87, "type": "object", "path_data": [], "attributes": [],
            },
        }  # fmt: skip

    def _refusal(self, request: Request, *, write: bool = False) -> Response | None:
        self.calls[request.url.path.split("/")[-1] if "recordings" not in request.url.path else "recordings"] += 1
        if self.down:
            return JSONResponse({"message": "bad gateway"}, 502)
        if not self.login:
            return None
        bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
        role = self._tokens.get(bearer or request.cookies.get("frigate_token", ""))
        if role is None:
            return JSONResponse({"message": "Unauthorized"}, 401)
        return JSONResponse({"message": "Forbidden"}, 403) if write and role != "admin" else None

    def end_tokens(self) -> None:
        """Let a day pass."""
        self._tokens.clear()

    async def _log_in(self, request: Request) -> Response:
        self.calls["login"] += 1
        body = await request.json()
        password, role = USERS.get(body.get("user"), ("", ""))
        if not role or body.get("password") != password:
            return JSONResponse({"message": "Login failed"}, 401)
        token = secrets.token_hex(8)
        self._tokens[token] = role
        answer = JSONResponse({})
        answer.set_cookie("frigate_token", token, httponly=True)
        return answer

    async def _config(self, request: Request) -> Response:
        detect = {"width": DETECT[0], "height": DETECT[1], "annotation_offset": round(1000 * self.offset)}
        cameras = {name: {"detect": detect} for name in ("yard", "street")}
        return self._refusal(request) or JSONResponse({"cameras": cameras})

    async def _events(self, request: Request) -> Response:
        if refusal := self._refusal(request):
            return refusal
        query = request.query_params
        after, before = float(query.get("after", 0)), float(query.get("before", 1e12))
        found = [
            self._stored(event)
            for event in self.events.values()
            if event.stored and after < event.walk.start + 0.5 < before and event.label in query.get("labels", "all")
        ]
        found.sort(key=lambda event: -float(event["start_time"]))
        return JSONResponse(found[: int(query.get("limit", 100))])

    async def _event(self, request: Request) -> Response:
        event = self.events.get(request.path_params["id"])
        missing = JSONResponse({"success": False, "message": "Event not found"}, 404)
        return self._refusal(request) or (JSONResponse(self._stored(event)) if event and event.stored else missing)

    async def _timeline(self, request: Request) -> Response:
        if refusal := self._refusal(request):
            return refusal
        event = self.events.get(request.query_params["source_id"])
        entries = [
            {"timestamp": at, "camera": event.camera, "source_id": event.id, "source": "tracked_object",
             "class_type": "entered_zone", "data": {"label": event.label, "box": _corner(event.walk.box(at))}}
            for at in sorted(set(event.timeline))
        ] if event else []  # fmt: skip
        return JSONResponse(entries)

    async def _recorded(self, request: Request) -> Response:
        if refusal := self._refusal(request):
            return refusal
        self._fetching += 1
        self.busiest = max(self.busiest, self._fetching)
        try:
            await asyncio.sleep(0.005)
            camera, at = request.path_params["camera"], float(request.path_params["at"])
            events = [e for e in self.events.values() if e.camera == camera and e.walk.start <= at - self.offset]
            if self.no_recordings or not events or time.time() < at + self.delay:
                return JSONResponse({"success": False, "message": "Recording not found"}, 404)
            event = min(events, key=lambda each: at - self.offset - each.walk.start)
            if self.empty_ends and event.number % 4 == 0 and at - self.offset > event.walk.start + 5.5:
                return Response(b"", media_type="image/jpeg")
            share = round((at - self.offset - event.walk.start) / event.walk.seconds, 4)
            return Response(_recorded_frame(event.walk.person, share, self.record_size), media_type="image/jpeg")
        finally:
            self._fetching -= 1

    async def _snapshot(self, request: Request) -> Response:
        event = self.events.get(request.path_params["id"])
        if refusal := self._refusal(request):
            return refusal
        if event is None:
            return JSONResponse({"success": False, "message": "Event not found"}, 404)
        at = event.snapshot_time
        pixels = cv2.resize(event.walk.frame(at), DETECT, interpolation=cv2.INTER_AREA)
        if request.query_params.get("bbox", "1") != "0":
            left, top, right, bottom = event.walk.box(at)
            corners = (int(left * DETECT[0]), int(top * DETECT[1])), (int(right * DETECT[0]), int(bottom * DETECT[1]))
            cv2.rectangle(pixels, *corners, (255, 0, 0), 12)
        quality = int(request.query_params.get("quality", "60"))
        return Response(encode(pixels, quality), media_type="image/jpeg", headers={"X-Frame-Time": f"{at}"})

    async def _sub_label(self, request: Request) -> Response:
        if refusal := self._refusal(request, write=True):
            return refusal
        body = await request.json()
        if not 0 < body.get("subLabelScore", 0) <= 1 or len(body.get("subLabel", "")) > 100:
            return JSONResponse({"message": "unprocessable"}, 422)
        self.events[request.path_params["id"]].sub_label = [body["subLabel"], body["subLabelScore"]]
        return JSONResponse({"success": True})

    @contextmanager
    def serve(self, port: int = 0, certificate: Path | None = None) -> Iterator["FakeFrigate"]:
        """Answer HTTP, with the broker's certificate HTTPS, until the context ends."""
        app = Starlette(
            routes=[
                Route("/api/config", self._config),
                Route("/api/login", self._log_in, methods=["POST"]),
                Route("/api/events", self._events),
                Route("/api/events/{id}", self._event),
                Route("/api/events/{id}/snapshot.jpg", self._snapshot),
                Route("/api/events/{id}/sub_label", self._sub_label, methods=["POST"]),
                Route("/api/timeline", self._timeline),
                Route("/api/{camera}/recordings/{at}/snapshot.jpg", self._recorded),
            ]
        )
        keys: dict[str, Any] = {}
        if certificate:
            keys = {"ssl_certfile": str(certificate), "ssl_keyfile": str(certificate.with_name("key.pem"))}
        server = uvicorn.Server(
            uvicorn.Config(app, "127.0.0.1", port, log_level="error", lifespan="off", ws="none", **keys)
        )
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            wait_for(lambda: server.started)
            chosen = server.servers[0].sockets[0].getsockname()[1]
            self.url = f"{'https' if certificate else 'http'}://127.0.0.1:{chosen}"
            yield self
        finally:
            server.should_exit = True
            thread.join()
            self.disconnect()


def encode(pixels: Any, quality: int = 92) -> bytes:
    """Return an RGB picture as a JPEG."""
    return bytes(simplejpeg.encode_jpeg(pixels, quality, colorspace="RGB"))


@lru_cache(256)
def _recorded_frame(person: int, share: float, size: tuple[int, int]) -> bytes:
    pixels = Walk(person, 0.0).frame(share * SECONDS)
    return encode(pixels if size == (WIDTH, HEIGHT) else cv2.resize(pixels, size, interpolation=cv2.INTER_CUBIC))


def _corner(box: tuple[float, float, float, float]) -> list[float]:
    left, top, right, bottom = box
    return [left, top, right - left, bottom - top]
