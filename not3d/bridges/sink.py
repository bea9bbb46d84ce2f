"""Enrols the tracklets of a source: each exactly once, or dropped for a reason that is named."""

import asyncio
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, TypeVar

from not3d.bridges.state import State
from not3d.bridges.telemetry import Telemetry
from not3d.bridges.tracklet import Tracklet
from not3d.client import Client, ClientError, ProblemError, UnreachableError
from not3d.client.retry import RepeatedlyAborted, RetryPolicy

WORKERS = 2
MAX_WAITING = 2000
BLOCKED_SECONDS = 15.0
"""Seconds until a call is repeated that the service refuses for a reason that the operator must remove."""
FORGET_SECONDS = 3600.0
MAX_FAILURES = 3
"""How often the service may fail with an unexpected error of its own before the tracklet counts as the reason."""
_OF_THE_TRACKLET = frozenset(
    {"malformed", "duplicate-id", "other-embedding-space", "too-large", "unsupported-content", "unusable-frames"}
)
"""Kinds of problems that are about the tracklet. Others need an operator: a key, an address, a full disk, a service
without a model."""
_FIELDS_OF_THE_TRACKLET = frozenset({"id", "camera_id"})
"""Fields that 403 names if the key may enrol other tracklets, but not those of this camera."""

Returned = TypeVar("Returned")


class Sink:
    """Sends what the state holds to the service, a few tracklets at a time, and waits while the service is down.

    Tracklets are on disk until the service has them, so memory does not grow while it is away. If more than
    `max_waiting` wait, further ones are dropped as `backlog_full`; a source that can fetch later should wait in
    `has_room` instead.

    Args:
        client: of the service, made with `attempts=1`, because this class repeats calls.
        state: where tracklets wait.
        telemetry: metrics and log.
        workers: number of tracklets that are sent at the same time.
        max_waiting: largest number of tracklets that wait.
    """

    def __init__(
        self,
        client: Client,
        state: State,
        telemetry: Telemetry,
        *,
        workers: int = WORKERS,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        self.client = client
        self._state = state
        self._telemetry = telemetry
        self._workers = workers
        self._max_waiting = max_waiting
        self._taken: set[str] = set()
        self._work = asyncio.Event()
        self._room = asyncio.Event()
        self._retry = RetryPolicy(idempotent=True)
        self._waiting = state.waiting()
        self.on_enrolled: Callable[[Tracklet], None] | None = None
        """Called with each tracklet after the service has it."""
        self.notes_searches = False
        """Whether a search with each tracklet is due after the service has it: `State.next_search`."""
        self._count()

    def submit(self, tracklet: Tracklet, *, unfinished: bool = False) -> bool:
        """Keep a tracklet and enrol it as soon as possible; false if its id was handed over or dropped before.

        Args:
            tracklet: what to enrol.
            unfinished: whether the track goes on; then `amend` may set its end.
        """
        if not (tracklet.frames or tracklet.embedding):
            return self.drop(tracklet.id, "no_pictures")
        if self._waiting >= self._max_waiting and self._state.status(tracklet.id) in {None, "open"}:
            return self.drop(tracklet.id, "backlog_full", f"{self._waiting} tracklets wait for the service")
        new = self._state.hand_over(tracklet, unfinished=unfinished)
        if new:
            self._waiting += 1
            self._count()
            self._work.set()
        return new

    def drop(self, id: str, reason: str, detail: str = "") -> bool:
        """Note that a track will not be enrolled, and say why in log and metrics; false if that was known."""
        new = self._state.dropped(id, reason, detail)
        if new:
            self._telemetry.dropped(id, reason, detail)
            self._count()
        return new

    def amend(self, id: str, end_time: datetime | None, metadata: Mapping[str, Any]) -> None:
        """Set the end of an unfinished tracklet, once, and add to its metadata, after it is enrolled."""
        if self._state.amend(id, end_time, metadata):
            self._work.set()

    async def has_room(self) -> None:
        """Wait until fewer than half of `max_waiting` tracklets wait."""
        while self._waiting >= max(1, self._max_waiting // 2):
            self._room.clear()
            await self._room.wait()

    async def run(self) -> None:
        """Enrol until the task is cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(self._workers):
                    tasks.create_task(self._run_worker())
                tasks.create_task(self._forget())
        finally:
            self.stop()

    def stop(self) -> None:
        """Repeat no more calls; those on their way are waited for at the end of the process."""
        self._retry.stop()

    async def _run_worker(self) -> None:
        while True:
            if tracklet := self._state.next_waiting(self._taken):
                await self._hold(tracklet.id, self._enrol(tracklet))
            elif change := self._state.next_change(self._taken):
                await self._hold(change[0], self._change(*change))
            else:
                self._work.clear()
                await self._work.wait()

    async def _hold(self, id: str, work: Any) -> None:
        self._taken.add(id)
        try:
            await work
        finally:
            self._taken.discard(id)

    async def _enrol(self, tracklet: Tracklet) -> None:
        def send() -> str:
            try:
                given: dict[str, Any] = {
                    "id": tracklet.id,
                    "camera_id": tracklet.camera_id or None,
                    "start_time": tracklet.start_time,
                    "end_time": tracklet.end_time,
                    "metadata": tracklet.metadata or None,
                }
                if tracklet.embedding:
                    space = tracklet.embedding_space
                    self.client.put(embedding=tracklet.embedding, embedding_space=space, **given)
                else:
                    self.client.embed(tracklet.frames, **given)
            except ProblemError as error:
                if error.kind == "duplicate-id":  # enrolled just before the bridge was killed
                    return "already"
                raise
            return "new"

        try:
            result = await self._call("enrol", tracklet.id, send)
        except (ProblemError, RepeatedlyAborted) as error:
            reason = f"refused_{error.status}" if isinstance(error, ProblemError) else "repeatedly_aborted"
            details = [str(error)]
            if isinstance(error, ProblemError):
                details += [json.dumps(item) for item in error.errors[:3]]
            self._waiting -= 1
            self.drop(tracklet.id, reason, "; ".join(details))
        except Exception as error:  # noqa: BLE001 - one tracklet must not end the bridge, now and after each restart
            self._waiting -= 1
            self.drop(tracklet.id, "unexpected_error", repr(error))
        else:
            self._waiting -= 1
            self._state.enrolled(tracklet.id, search=self.notes_searches)
            delay = (datetime.now(UTC) - tracklet.end_time).total_seconds() if tracklet.end_time else None
            self._telemetry.enrolled(tracklet.id, result, delay, camera=tracklet.camera_id, frames=len(tracklet.frames))
            self._count()
            if self.on_enrolled:
                self.on_enrolled(tracklet)
        self._room.set()

    async def _change(self, id: str, fields: dict[str, Any]) -> None:
        try:
            await self._call("change", id, lambda: self.client.patch(id, **fields))
        except Exception as error:  # noqa: BLE001 - erased meanwhile, for example
            self._telemetry.log("change refused", id=id, detail=str(error) or repr(error))
        self._state.changed(id, fields)

    async def _call(self, name: str, id: str, call: Callable[[], Returned]) -> Returned:
        """Return what a call of the service returns, however long the service is away.

        Raises:
            ProblemError: the service refuses this tracklet.
            RepeatedlyAborted: the service breaks off whenever it gets this tracklet.
        """

        def attempt() -> Returned:
            try:
                answer = call()
            except UnreachableError as error:
                self._telemetry.service_up.set(0)
                self._telemetry.retry(name, id=id, reason=str(error))
                raise
            except ProblemError as error:
                self._telemetry.service_up.set(1)
                if error.status in {429, 502, 503, 504}:
                    self._telemetry.retry(name, id=id, reason=str(error))
                raise
            self._telemetry.service_up.set(1)
            return answer

        failures = 0
        while True:
            try:
                return await asyncio.to_thread(self._retry.call, attempt, self.client.is_ready)
            except UnreachableError:  # only after `stop`
                await asyncio.Event().wait()
            except RepeatedlyAborted:
                raise
            except ClientError as error:  # also an answer that is none of the service
                if isinstance(error, ProblemError):
                    failures += error.kind == "internal"
                    if failures >= MAX_FAILURES or _is_of_the_tracklet(error):
                        raise
                self._telemetry.retry(
                    name, id=id, reason=str(error), cure="check --url, the key and the service's disk"
                )
            await asyncio.sleep(BLOCKED_SECONDS)

    async def _forget(self) -> None:
        while True:
            self._state.forget()
            await asyncio.sleep(FORGET_SECONDS)

    def _count(self) -> None:
        self._telemetry.waiting.set(self._waiting)
        self._telemetry.open.set(self._state.opened())


def _is_of_the_tracklet(error: ProblemError) -> bool:
    if error.kind is None:  # of a proxy, which may limit the size of a request; everything else is its configuration
        return error.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    named = any(isinstance(item, dict) and item.get("field") in _FIELDS_OF_THE_TRACKLET for item in error.errors)
    return named or error.kind in _OF_THE_TRACKLET
