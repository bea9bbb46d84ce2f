"""Frigate's HTTP API: port 5000 without login, port 8971 with login (user and password, a token for a day)."""

import asyncio
import contextlib
import json
import math
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote, urlsplit

import httpx

from model.errors import Not3dError
from not3d.client.transport import without_login

MAX_FETCHES = 2
"""Pictures that are fetched at the same time: Frigate starts a decoder for each."""
MAX_PICTURE_BYTES = 30_000_000
MAX_JSON_BYTES = 50_000_000
PAGE = 100


class FrigateError(Not3dError):
    """Frigate does not answer, or answers with an error that may go away."""


class NotFound(FrigateError):
    """Frigate has no such thing, or not yet; or it failed to make it (500), as for a damaged recording."""


class Refused(FrigateError):
    """Frigate refuses the user; a person must mend it."""


@dataclass(frozen=True)
class CameraConfig:
    """What the bridge needs of a camera: the size of the detect stream in pixels, and how far recordings are off.

    `annotation_offset` in seconds is added to the time of a box to find it in a recording.
    """

    width: float
    height: float
    annotation_offset: float


class Frigate:
    """One Frigate. Use it in an `async with` statement.

    Args:
        url: `http://host:5000`, or `https://host:8971` with user and password.
        user: to log in with; `None` for no login.
        password: of the user.
        ca_file: PEM file of the authority that signed Frigate's certificate; Frigate makes its own by default.
        timeout: seconds that one step of a call may take.
    """

    def __init__(
        self,
        url: str,
        *,
        user: str | None = None,
        password: str | None = None,
        ca_file: Path | None = None,
        timeout: float = 20.0,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise FrigateError("the URL of Frigate must be http://host:5000, or https://host:8971 with a user")
        if bool(user) != bool(password):
            raise FrigateError("a login at Frigate needs a user and a password: set both, or neither for port 5000")
        try:
            trust = ssl.create_default_context(cafile=ca_file)
        except OSError as error:
            raise FrigateError(f"{ca_file} is not a file of certificates in PEM format: {error}") from error
        self._shown = without_login(url.rstrip("/"))
        self._login = {"user": user, "password": password} if user else None
        self._http = httpx.AsyncClient(
            base_url=url.rstrip("/"),
            verify=trust,
            timeout=timeout,
            trust_env=False,
            limits=httpx.Limits(max_connections=MAX_FETCHES + 2),
        )
        self._fetches = asyncio.Semaphore(MAX_FETCHES)
        self._logging_in = asyncio.Lock()
        self._logins = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def cameras(self) -> dict[str, CameraConfig]:
        """Return the cameras by name."""
        config = await self._get_json("/api/config")
        cameras = {}
        try:
            for name, camera in config["cameras"].items():
                detect = camera.get("detect") or {}
                if detect.get("width") and detect.get("height"):
                    offset = float(detect.get("annotation_offset") or 0) / 1000
                    cameras[name] = CameraConfig(float(detect["width"]), float(detect["height"]), offset)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise FrigateError(f"the configuration of Frigate is not as expected: {error!r}") from error
        return cameras

    async def events(self, labels: list[str], after: float) -> AsyncIterator[dict[str, Any]]:
        """Return the events that began after a time, the newest first, without the details of `event`."""
        before, seen = math.inf, set[str]()
        while True:
            params: dict[str, Any] = {"labels": ",".join(labels), "after": after, "limit": PAGE}
            if before < math.inf:
                params["before"] = before
            page = await self._get_list("/api/events", params)
            new = [event for event in page if (id_ := event.get("id")) is None or str(id_) not in seen]
            for event in new:
                seen.add(str(event.get("id")))
                yield event
            times = [event["start_time"] for event in page if isinstance(event.get("start_time"), int | float)]
            if len(page) < PAGE or not new or not times:
                return
            before = min(times) + 0.001  # events of the same instant may be on both pages

    async def event(self, event_id: str) -> dict[str, Any]:
        """Return one event with its box. `NotFound` if it was never stored, or was removed."""
        event = await self._get_json(f"/api/events/{quote(event_id, safe='')}")
        if not isinstance(event, dict):
            raise FrigateError(f"the answer about event {event_id} is not as expected")
        return event

    async def timeline(self, event_id: str) -> list[dict[str, Any]]:
        """Return the moments of an event that Frigate stored, with relative boxes."""
        return await self._get_list("/api/timeline", {"source_id": event_id, "limit": PAGE})

    async def recorded_picture(self, camera: str, at: float) -> bytes:
        """Return the frame of the recording at a time, in the resolution of the recording; it can be empty.

        Raises:
            NotFound: there is no recording of that time, or not yet.
        """
        path = f"/api/{quote(camera, safe='')}/recordings/{at:.6f}/snapshot.jpg"
        async with self._fetches:
            return (await self._call("GET", path, MAX_PICTURE_BYTES))[0]

    async def live_picture(self, event_id: str) -> tuple[bytes, float | None]:
        """Return the full frame that Frigate shows for an object, without drawings, and the time of the frame.

        Raises:
            NotFound: Frigate has none.
        """
        params = {"bbox": 0, "timestamp": 0, "crop": 0, "quality": 95}
        async with self._fetches:
            picture, headers = await self._call(
                "GET", f"/api/events/{quote(event_id, safe='')}/snapshot.jpg", MAX_PICTURE_BYTES, params=params
            )
        try:
            at = float(headers.get("x-frame-time", ""))
        except ValueError:
            return picture, None
        return picture, at

    async def set_sub_label(self, event_id: str, name: str, score: float) -> None:
        """Name an object; the user must be an admin.

        Args:
            event_id: of the object.
            name: at most 100 characters.
            score: above 0, at most 1.
        """
        body = {"subLabel": name[:100], "subLabelScore": min(1.0, max(0.001, score))}
        await self._call("POST", f"/api/events/{quote(event_id, safe='')}/sub_label", MAX_JSON_BYTES, json=body)

    async def _get_list(self, path: str, params: dict[str, Any]) -> list[dict[str, Any]]:
        answer = await self._get_json(path, params)
        if not isinstance(answer, list):
            raise FrigateError(f"the answer to {path} is not as expected")
        return [item for item in answer if isinstance(item, dict)]

    async def _get_json(self, path: str, params: dict[str, Any] | None = None) -> Any:
        body, _ = await self._call("GET", path, MAX_JSON_BYTES, params=params)
        try:
            return json.loads(body)
        except (ValueError, RecursionError) as error:
            raise FrigateError(f"the answer to {path} is not JSON; is {self._shown} Frigate?") from error

    async def _call(self, method: str, path: str, limit: int, **request: Any) -> tuple[bytes, httpx.Headers]:
        """Call, and log in if Frigate asks for it, or asks again because the token has ended.

        Returns:
            The body, and the headers of the answer.
        """
        logins = self._logins
        status, body, headers = await self._send(method, path, limit, **request)
        if status == httpx.codes.UNAUTHORIZED and self._login:
            await self._log_in(logins)
            status, body, headers = await self._send(method, path, limit, **request)
        if status == httpx.codes.OK:
            return body, headers
        message = f"Frigate answers {status} to {method} {path.partition('?')[0]}"
        with contextlib.suppress(ValueError, AttributeError, RecursionError):
            message += f": {json.loads(body).get('message') or json.loads(body).get('detail')}"
        failed_to_make = status == httpx.codes.INTERNAL_SERVER_ERROR and method == "GET"
        if status == httpx.codes.NOT_FOUND or failed_to_make:
            raise NotFound(message)
        if status in {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}:
            cure = "check the role of the user" if self._login else "set a user and a password, or use port 5000"
            raise Refused(f"{message}; {cure}")
        raise FrigateError(message)

    async def _log_in(self, logins: int) -> None:
        """Get a new token, unless another call got one since."""
        async with self._logging_in:
            if self._logins != logins:
                return
            self._http.cookies.clear()
            status, _, _ = await self._send("POST", "/api/login", MAX_JSON_BYTES, json=self._login)
            if status != httpx.codes.OK:
                raise Refused(f"Frigate refuses the login ({status}): check user and password")
            self._logins += 1

    async def _send(self, method: str, path: str, limit: int, **request: Any) -> tuple[int, bytes, httpx.Headers]:
        body = bytearray()
        try:
            async with self._http.stream(method, path, **request) as response:
                async for chunk in response.aiter_bytes():
                    body += chunk
                    if len(body) > limit:
                        raise FrigateError(f"the answer to {path} has more than {limit} bytes")
        except httpx.HTTPError as error:
            raise FrigateError(f"Frigate at {self._shown} does not answer: {error!r}") from error
        return response.status_code, bytes(body), response.headers
