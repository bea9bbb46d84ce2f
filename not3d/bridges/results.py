"""What the service finds, by MQTT: where else a new person was seen, and alerts of watchlists, for Home Assistant too.

Each source can use it. After each enrolment the bridge searches with the record, and publishes results that pass the
thresholds; the search is due until the broker has its match. Alerts come from the service's stream, which is continued
after a break behind the last one that the broker has. A watchlist's sensor shows the camera of its last alert, and
`nobody` after the presence window; then its picture is removed from the broker.
"""

import asyncio
import json
import logging
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx

from model.errors import Not3dError
from not3d.bridges.home_assistant import (
    MATCH,
    NOBODY,
    Topics,
    announce_camera,
    announce_picture,
    announce_watchlist,
    remove_watchlist,
)
from not3d.bridges.mqtt import Mqtt
from not3d.bridges.presence import Presence
from not3d.bridges.sink import Sink
from not3d.bridges.state import DueSearch, State
from not3d.bridges.telemetry import Telemetry
from not3d.bridges.tracklet import Tracklet
from not3d.client import ClientError, ProblemError

CURSOR = "alerts.cursor"
WATCHLISTS = "watchlists.announced"
CAMERAS = "cameras.announced"
MAX_SEARCHES = 100_000
"""Searches that wait on disk while the broker or the search is away; above it the oldest are left out and counted."""
MAX_CAMERAS = 2000
RETRY_SECONDS = 5.0
WATCHLIST_SECONDS = 30.0
VERDICT_SECONDS = 5.0
MAX_PAUSE_SECONDS = 60.0
ALL_VERDICTS_SECONDS = 3600.0
"""After this time all verdicts are looked at again: one that counts since another one was taken back is not new."""
OVERLAP = timedelta(minutes=1)
"""By so much the clocks of the service's replicas may differ."""
FIRST_TIME = datetime(1970, 1, 1, tzinfo=UTC)
SILENCE_SECONDS = 60.0
"""The stream of alerts has a sign of life more often than this."""
_BAD_ANSWER = (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError)
"""What reading an answer raises that is none of the service: another program answers at its address."""
_RETRIED = frozenset({401, 403, 429, 502, 503, 504})
"""Answers to a search after which it stays due: the service is busy, or an operator has to mend the key."""

OnConfirmed = Callable[[Mapping[str, Any]], Awaitable[None]]
"""Gets an alert that an operator has confirmed, again and again until it raises no `Not3dError`."""


@dataclass(frozen=True)
class ResultOptions:
    """What is published.

    Attributes:
        topics: the topics.
        matches: whether to search with each new record.
        top_k: maximum number of results of a match.
        min_score: results below it are left out.
        min_probability: results below it are left out; the service needs a calibration.
        same_camera: whether results of the record's own camera count.
        alerts: whether to follow the service's alerts.
        presence_seconds: after this time without an alert a watchlist's sensor says `nobody`.
        home_assistant: whether to announce entities.
    """

    topics: Topics
    matches: bool = True
    top_k: int = 5
    min_score: float | None = None
    min_probability: float | None = None
    same_camera: bool = False
    alerts: bool = True
    presence_seconds: float = 300.0
    home_assistant: bool = True


class Results:
    """Publishes what the service finds.

    Args:
        mqtt: connection to the broker, with the status topic of the options.
        sink: enrols what searches are made with.
        http: of the service too, for alerts; with its address and key.
        state: keeps which searches are due, and how far alerts were read.
        telemetry: metrics and log.
        options: what is published.
        on_confirmed: gets each alert that an operator confirms, once.
    """

    def __init__(
        self,
        mqtt: Mqtt,
        sink: Sink,
        http: httpx.AsyncClient,
        state: State,
        telemetry: Telemetry,
        options: ResultOptions,
        on_confirmed: OnConfirmed | None = None,
    ) -> None:
        self._mqtt, self._client, self._http = mqtt, sink.client, http
        self._state, self._telemetry, self._options = state, telemetry, options
        self._on_confirmed = on_confirmed
        self._due = asyncio.Event()
        self._cameras: dict[str, None] = dict.fromkeys(json.loads(state.mark(CAMERAS) or "[]"))
        self._watchlists: set[str] = set(json.loads(state.mark(WATCHLISTS) or "[]"))
        self._presence = Presence(state, options.presence_seconds)
        for name in self._watchlists:  # a bridge that was killed may have left the picture on the broker
            if self._presence.has_picture(name) and self._presence.camera(name) is None:
                mqtt.retain(options.topics.watchlist(name, "image"), "")
        sink.notes_searches = options.matches
        sink.on_enrolled = self._on_enrolled
        if not options.matches:
            state.limit_searches(0)
        mqtt.on_connect(self._announce)
        if options.home_assistant:
            mqtt.subscribe(f"{options.topics.discovery}/status", self._on_home_assistant)

    async def run(self) -> None:
        """Search and publish until the task is cancelled."""
        async with asyncio.TaskGroup() as tasks:
            if self._options.matches:
                tasks.create_task(self._search())
            if self._options.alerts:
                tasks.create_task(self._follow_alerts())
                tasks.create_task(self._follow_watchlists())
                tasks.create_task(self._watch_presence())
            if self._on_confirmed:
                tasks.create_task(self._follow_verdicts(self._on_confirmed))

    def _on_enrolled(self, tracklet: Tracklet) -> None:
        if self._options.matches:
            self.add_cameras([tracklet.camera_id])
            for _ in range(self._state.limit_searches(MAX_SEARCHES)):
                self._telemetry.message("search_skipped", reason=f"more than {MAX_SEARCHES} searches wait")
            self._due.set()

    def add_cameras(self, names: list[str]) -> None:
        """Announce cameras that are not announced yet."""
        new = [name for name in dict.fromkeys(names) if name and name not in self._cameras]
        if not new or not self._options.matches:
            return
        self._cameras |= dict.fromkeys(new)
        while len(self._cameras) > MAX_CAMERAS:
            del self._cameras[next(iter(self._cameras))]
        self._state.set_mark(CAMERAS, json.dumps(list(self._cameras)))
        self._announce_cameras(new)

    # Home Assistant ---------------------------------------------------------------------------------------------------

    async def _on_home_assistant(self, message: Any) -> None:
        if bytes(message.payload) == b"online":
            await self._announce()

    async def _announce(self) -> None:
        """Announce everything again."""
        if self._options.matches:
            self._announce_cameras(list(self._cameras))
        if self._options.alerts:
            for name in sorted(self._watchlists):
                self._announce_watchlist(name)

    def _announce_cameras(self, names: list[str]) -> None:
        if self._options.home_assistant:
            for name in names:
                self._mqtt.retain(*announce_camera(self._options.topics, name))

    def _announce_watchlist(self, name: str) -> None:
        topics = self._options.topics
        if self._options.home_assistant:
            self._mqtt.retain(*announce_watchlist(topics, name))
            if self._presence.has_picture(name):
                self._mqtt.retain(*announce_picture(topics, name))
        self._mqtt.retain(topics.watchlist(name, "state"), self._presence.camera(name) or NOBODY)

    def _set_watchlists(self, names: set[str]) -> None:
        """Note names before they are announced, and until the broker has removed them."""
        self._watchlists = names
        self._state.set_mark(WATCHLISTS, json.dumps(sorted(names)))

    async def _follow_watchlists(self) -> None:
        while True:
            try:
                answer = await self._get("/watchlists")
                names = {item["name"] for item in answer["items"]}
            except (*_BAD_ANSWER, httpx.HTTPError) as error:
                self._telemetry.retry("watchlists", reason=_reason(error))
            else:
                new, gone = names - self._watchlists, self._watchlists - names
                if new:
                    self._set_watchlists(self._watchlists | new)
                    for name in sorted(new):
                        self._announce_watchlist(name)
                for name in sorted(gone):
                    self._presence.forget(name)
                    for topic, payload in remove_watchlist(self._options.topics, name):
                        await self._mqtt.deliver(topic, payload, retain=True)
                if gone:
                    self._set_watchlists(self._watchlists - gone)
            await asyncio.sleep(WATCHLIST_SECONDS)

    async def _watch_presence(self) -> None:
        topics = self._options.topics
        while True:
            for name in self._presence.expire():
                self._mqtt.retain(topics.watchlist(name, "state"), NOBODY)
                if self._presence.has_picture(name):
                    self._mqtt.retain(topics.watchlist(name, "image"), "")
            await asyncio.sleep(min(1.0, self._options.presence_seconds / 4))

    # Matches ----------------------------------------------------------------------------------------------------------

    async def _search(self) -> None:
        while True:
            due = self._state.next_search()
            if due is None:
                self._due.clear()
                await self._due.wait()
            elif await self._publish_match(due):
                self._state.searched(due.track)
            else:
                await asyncio.sleep(RETRY_SECONDS)

    async def _publish_match(self, due: DueSearch) -> bool:
        """Search, and publish the results; false if it has to be tried again."""
        options = self._options
        try:
            result = await asyncio.to_thread(
                self._client.search,
                id=due.track,
                top_k=options.top_k,
                min_score=options.min_score,
                min_probability=options.min_probability,
                exclude_same_camera=not options.same_camera,
                purpose=f"match of a new record, by the bridge of {options.topics.source}",
            )
        except ClientError as error:
            if not isinstance(error, ProblemError) or error.status in _RETRIED:
                self._telemetry.retry("search", id=due.track, reason=str(error))
                return False
            cure = ""
            if error.status == httpx.codes.CONFLICT:
                cure = "the service has no calibration: use --min-score instead of --min-probability"
            self._telemetry.message("search_failed", id=due.track, reason=str(error), cure=cure)
            return True
        if not result.hits:
            return True
        matches = [
            {
                "id": hit.id,
                "camera_id": hit.camera_id,
                "start_time": hit.start_time and hit.start_time.isoformat(),
                "score": hit.score,
                "probability": hit.probability,
            }
            for hit in result.hits
        ]
        payload = {
            "event_type": MATCH,
            "event_id": due.event_id,
            "record_id": due.track,
            "camera": due.camera_id,
            "matches": matches,
            "embedding_space": result.embedding_space,
            "searched": result.searched,
        }
        await self._mqtt.deliver(options.topics.match(due.camera_id), json.dumps(payload))
        self._telemetry.message("match_published")
        return True

    # Alerts -----------------------------------------------------------------------------------------------------------

    async def _follow_alerts(self) -> None:
        while True:
            try:
                async for alert in self._stream():
                    await self._publish_alert(alert)
            except (*_BAD_ANSWER, httpx.HTTPError, ClientError) as error:
                self._telemetry.retry("alerts", reason=_reason(error))
            await asyncio.sleep(RETRY_SECONDS)

    async def _stream(self) -> AsyncIterator[dict[str, Any]]:
        """Yield alerts from where the last stream was left; at first, new ones only."""
        cursor = self._state.mark(CURSOR)
        if cursor is None:
            cursor = await self._newest()
            self._state.set_mark(CURSOR, cursor)
        timeout = httpx.Timeout(10, read=SILENCE_SECONDS)
        headers = {"Last-Event-ID": cursor}
        async with self._http.stream("GET", "/alerts/stream", headers=headers, timeout=timeout) as response:
            if response.status_code in {httpx.codes.BAD_REQUEST, httpx.codes.UNPROCESSABLE_ENTITY}:
                self._state.set_mark(CURSOR, await self._newest())
            response.raise_for_status()
            data: list[str] = []
            async for line in response.aiter_lines():
                if line.startswith("data:"):
                    data.append(line[5:].removeprefix(" "))
                elif not line and data:
                    yield json.loads("\n".join(data))
                    data = []

    async def _newest(self) -> str:
        """Return the cursor after which new alerts come."""
        cursor = (await self._get("/alerts", limit=1))["cursor"]
        if not isinstance(cursor, str):
            raise TypeError("the answer to /alerts has no cursor")
        return cursor

    async def _publish_alert(self, alert: dict[str, Any]) -> None:
        """Publish an alert, and only then count it as read.

        Raises:
            ClientError: the service does not answer; the alert will be read again.
        """
        topics, name = self._options.topics, alert["watchlist"]
        age = (datetime.now(UTC) - datetime.fromisoformat(alert["time"])).total_seconds()
        camera = alert.get("camera_id") or "unknown"
        if name not in self._watchlists:
            self._set_watchlists(self._watchlists | {name})
            self._announce_watchlist(name)
        shown = {key: alert.get(key) for key in ("id", "record_id", "camera_id", "start_time", "end_time", "score")}
        attributes = shown | {"probability": alert.get("probability"), "time": alert.get("time")}
        await self._mqtt.deliver(topics.watchlist(name, "attributes"), json.dumps(attributes), retain=True)
        if self._presence.see(name, camera, age):
            await self._mqtt.deliver(topics.watchlist(name, "state"), camera, retain=True)
            if (picture := await self._picture(alert["record_id"])) is not None:
                if self._presence.add_picture(name) and self._options.home_assistant:
                    self._mqtt.retain(*announce_picture(topics, name))
                await self._mqtt.deliver(topics.watchlist(name, "image"), picture, retain=True)
        await self._mqtt.deliver(topics.alert(name), json.dumps(alert))
        self._state.set_mark(CURSOR, alert["id"])
        self._telemetry.message("alert_published")

    async def _picture(self, record: str) -> bytes | None:
        """Return the record's picture; `None` if the service keeps no pictures."""
        try:
            return await asyncio.to_thread(self._client.thumbnail, record)
        except ProblemError as error:
            if error.status in {429, 502, 503, 504}:
                raise
            self._telemetry.log("no picture", logging.DEBUG, id=record, reason=str(error))
            return None

    # Verdicts ---------------------------------------------------------------------------------------------------------

    async def _follow_verdicts(self, on_confirmed: OnConfirmed) -> None:
        """Hand over each alert that was confirmed, once: also one of long ago, or that was confirmed meanwhile."""
        since, all_at, failures = FIRST_TIME, 0.0, 0
        while True:
            now = time.monotonic()
            try:
                latest = await self._hand_over_confirmed(on_confirmed, FIRST_TIME if now >= all_at else since - OVERLAP)
            except (*_BAD_ANSWER, httpx.HTTPError, Not3dError) as error:
                self._telemetry.retry("verdicts", reason=_reason(error))
                failures += 1
            else:
                failures, since = 0, max(since, latest)
                all_at = now + ALL_VERDICTS_SECONDS if now >= all_at else all_at
            await asyncio.sleep(min(VERDICT_SECONDS * 2 ** min(failures, 10), MAX_PAUSE_SECONDS))

    async def _hand_over_confirmed(self, on_confirmed: OnConfirmed, since: datetime) -> datetime:
        """Hand over the alerts that got a verdict after a time and are confirmed, the oldest first.

        Returns:
            The time of the latest verdict.
        """
        latest, confirmed = FIRST_TIME, []
        params: dict[str, Any] = {"judged_after": max(since, FIRST_TIME).isoformat(), "limit": 100}
        while True:
            answer = await self._get("/alerts", **params)
            for alert in answer["items"]:
                latest = max([latest, *(datetime.fromisoformat(each["time"]) for each in alert["verdicts"])])
                if alert["verdict"] == "same" and not self._state.is_written_back(alert["id"]):
                    confirmed.append(alert)
            if not answer["more"]:
                break
            params["before"] = answer["items"][-1]["id"]
        refused: Not3dError | None = None
        for alert in reversed(confirmed):
            try:
                await on_confirmed(alert)
            except Not3dError as error:  # perhaps of this alert only
                refused = error
            else:
                self._state.set_written_back(alert["id"])
        if refused:
            raise refused
        return latest

    async def _get(self, path: str, **params: Any) -> Any:
        response = await self._http.get(path, params=params)
        response.raise_for_status()
        return response.json()


def open_stream(url: str, api_key: str | None, ca_file: Path | None) -> httpx.AsyncClient:
    """Return a client for the stream of alerts of a service.

    Raises:
        OSError: `ca_file` holds no certificates.
    """
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    trust = ssl.create_default_context(cafile=ca_file)
    return httpx.AsyncClient(base_url=url.rstrip("/"), headers=headers, verify=trust, trust_env=False, timeout=30)


def _reason(error: Exception) -> str:
    if isinstance(error, httpx.HTTPStatusError):
        status, request = error.response.status_code, error.request
        cure = "check the key and its scopes" if status in {401, 403} else "its log says why"
        return f"the service answers {status} to {request.method} {request.url.path}: {cure}"
    return str(error) or type(error).__name__
