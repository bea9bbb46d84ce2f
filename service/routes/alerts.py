"""Alerts: probable appearances of people on watchlists, read page by page or as a stream, and verdicts on them."""

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Path, Query, Request, Response
from starlette.types import Receive, Scope, Send
from typing_extensions import override

from service.alerts.feed import HEARTBEAT_SECONDS, AlertFeed, TooManyListeners
from service.callers import Caller
from service.gallery.records import GalleryError
from service.gallery.watch.records import ALERT_ID_PATTERN, FIRST_CURSOR, Alert, AlertQuery, describe
from service.gallery.watch.visible import VisibleAlerts, newest_id
from service.http.access import is_still_allowed, require_scope
from service.http.alert_schemas import (
    AlertAnswer,
    AlertId,
    AlertsAnswer,
    AlertsQuery,
    AlertVerdictBody,
    StreamQuery,
)
from service.http.contract import json_body
from service.http.deadline import lift_deadline
from service.http.dependencies import NO_QUERY, Ready
from service.http.problems import Problem
from service.http.responses import respond
from service.http.tracklet_request import get_admission, read_json
from service.lifecycle import Service
from service.routes.cases import author_of

router = APIRouter()

Searcher = Annotated[Caller, require_scope("search")]
PathAlert = Annotated[AlertId, Path(alias="id")]
PAGE = 100
"""Alerts that a stream reads at once."""
RETRY_MILLISECONDS = 3000
"""After this time a browser connects again."""
BUSY_RETRY_SECONDS = 10

log = logging.getLogger("not3d.service")


@router.get("/alerts", response_model=AlertsAnswer)
async def list_alerts(
    request: Request, service: Ready, caller: Searcher, query: Annotated[AlertsQuery, Query()]
) -> Response:
    """List alerts, newest first; with `after`, those that are newer, oldest first. Needs the scope `search`."""
    if query.limit > service.settings.max_page:
        raise Problem.of_field("limit", f"must be at most {service.settings.max_page} (got {query.limit})")
    if query.after is not None and query.before is not None:
        raise Problem.of_field("before", "is not allowed together with after: send one of them")
    admission = get_admission(request)
    with admission.gallery_call():
        async with admission.result(query.limit):
            wanted = AlertQuery(
                query.limit + 1,
                query.after,
                query.before,
                tuple(query.watchlist) or None,
                judged_after=query.judged_after,
            )
            found = await VisibleAlerts(service.gallery, caller).alerts(wanted)
            items = found[: query.limit]
            answer = {
                "cursor": newest_id(items) or query.after or FIRST_CURSOR,
                "more": len(found) > query.limit,
            }
            return await respond(
                admission,
                len(items),
                lambda: {"items": [describe(each, service.alert_rules.decide(each)) for each in items], **answer},
            )


@router.get(
    "/alerts/stream",
    response_class=Response,
    responses={
        200: {
            "description": "Server-sent events. Each alert is one event of the type `alert`: `id` is the alert's id, "
            "and `data` is an `AlertAnswer` as JSON on one line. Lines that begin with a colon are heartbeats",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        }
    },
)
async def stream_alerts(
    request: Request, service: Ready, caller: Searcher, query: Annotated[StreamQuery, Query()]
) -> Response:
    """Send alerts as they are raised, until the client disconnects. Needs the scope `search`.

    After a break, send the last id as the header `Last-Event-ID`, as browsers do: the stream goes on after it.
    """
    last = request.headers.get("last-event-id") or query.after
    if last is not None and not re.fullmatch(ALERT_ID_PATTERN, last):
        raise Problem.of_field("last-event-id", "is not the id of an event of this stream: send none, or the last one")
    visible = VisibleAlerts(service.gallery, caller)
    if last is None:
        with get_admission(request).gallery_call():
            last = newest_id(await visible.alerts(AlertQuery(1))) or FIRST_CURSOR
    if request.scope["state"].get("head"):
        return Response(headers=_STREAM_HEADERS, media_type="text/event-stream")
    return _AlertStream(request, service, caller, visible, last, tuple(query.watchlist) or None)


@router.get("/alerts/{id}", response_model=AlertAnswer, dependencies=NO_QUERY)
async def read_alert(request: Request, id: PathAlert, service: Ready, caller: Searcher) -> AlertAnswer:
    """Return one alert. Needs the scope `search`."""
    with get_admission(request).gallery_call():
        alert = await VisibleAlerts(service.gallery, caller).find_alert(id)
    return _answer(id, alert, service)


@router.put(
    "/alerts/{id}/verdict",
    response_model=AlertAnswer,
    dependencies=NO_QUERY,
    openapi_extra=json_body(AlertVerdictBody),
)
async def put_verdict(request: Request, id: PathAlert, service: Ready, caller: Searcher) -> AlertAnswer:
    """Say whether the tracklet of an alert shows the person, or replace what the caller said.

    A verdict that counts changes what the watchlist looks for. Needs the scope `search`.
    """
    body = await read_json(request, AlertVerdictBody, service)
    with get_admission(request).gallery_call():
        visible = VisibleAlerts(service.gallery, caller)
        before = await visible.find_alert(id)
        answer = _answer(id, before, service)
        await _record(service, caller, answer, {"verdict": body.verdict})
        return _answer(id, await visible.judge(id, author_of(caller), body.verdict), service)


@router.delete("/alerts/{id}/verdict", response_model=AlertAnswer, dependencies=NO_QUERY)
async def delete_verdict(request: Request, id: PathAlert, service: Ready, caller: Searcher) -> AlertAnswer:
    """Take back what the caller said about an alert. Needs the scope `search`."""
    with get_admission(request).gallery_call():
        visible = VisibleAlerts(service.gallery, caller)
        answer = _answer(id, await visible.find_alert(id), service)
        await _record(service, caller, answer, {"verdict": None})
        return _answer(id, await visible.judge(id, author_of(caller), None), service)


class _AlertStream(Response):
    """Alerts as server-sent events.

    The client takes them at its own speed. Nothing is read for a client that does not take what was sent, and the
    connection ends it after `NOT3D_READ_SECONDS`.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        request: Request,
        service: Service,
        caller: Caller,
        visible: VisibleAlerts,
        last: str,
        watchlists: tuple[str, ...] | None,
    ) -> None:
        super().__init__(headers=_STREAM_HEADERS)
        del self.headers["content-length"]
        self._request, self._service, self._caller = request, service, caller
        self._visible, self._last, self._watchlists = visible, last, watchlists

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send events until the client disconnects, its key ends, or the service stops."""
        feed = self._service.feed
        with ExitStack() as stack:
            try:
                stack.enter_context(feed.listen())
            except TooManyListeners as error:
                detail = f"{error}; close one, or ask the operator for a larger NOT3D_MAX_ALERT_LISTENERS"
                await Problem("busy", detail, retry_after=BUSY_RETRY_SECONDS).answer(self._request)(
                    scope, receive, send
                )
                return
            lift_deadline(self._request)
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            sending = asyncio.create_task(self._send(send))
            watching = asyncio.create_task(_until_disconnected(receive))
            try:
                await asyncio.wait((sending, watching), return_when=asyncio.FIRST_COMPLETED)
            finally:
                watching.cancel()
                sending.cancel()
                ended, _ = await asyncio.gather(sending, watching, return_exceptions=True)
            if isinstance(ended, Exception):
                log.error("stream of alerts failed", exc_info=ended)
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send(self, send: Send) -> None:
        async for event in self._events(self._service.feed):
            await send({"type": "http.response.body", "body": event, "more_body": True})

    async def _events(self, feed: AlertFeed) -> AsyncIterator[bytes]:
        yield b"retry: %d\n\n" % RETRY_MILLISECONDS
        position, sent_at = self._last, time.monotonic()
        while not feed.closed:
            version = feed.version
            try:
                found, position, more = await self._visible.follow(position, self._watchlists, PAGE)
            except GalleryError as error:
                log.warning("stream of alerts ended", extra={"facts": {"reason": str(error)}})
                return
            if not is_still_allowed(self._request, self._caller, "search"):
                return
            if found:
                sent_at = time.monotonic()
                yield b"".join(map(self._event, found))
            if more:
                continue
            await feed.wait(version, HEARTBEAT_SECONDS)
            if time.monotonic() - sent_at >= HEARTBEAT_SECONDS:
                sent_at = time.monotonic()
                yield b": heartbeat\n\n"

    def _event(self, alert: Alert) -> bytes:
        data = orjson.dumps(describe(alert, self._service.alert_rules.decide(alert)))
        return b"id: %s\nevent: alert\ndata: %s\n\n" % (alert.id.encode("ascii"), data)


_STREAM_HEADERS = {
    "Cache-Control": "no-store",
    # nginx would keep events until its buffer is full.
    "X-Accel-Buffering": "no",
}


async def _until_disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _answer(id: str, alert: Alert | None, service: Service) -> AlertAnswer:
    if alert is None:
        raise Problem.of_field("id", f"there is no alert {id}: its record was removed, or it has expired", "not-found")
    return AlertAnswer.model_validate(describe(alert, service.alert_rules.decide(alert)))


async def _record(service: Service, caller: Caller, alert: AlertAnswer, details: dict[str, Any]) -> None:
    facts = {"alert": alert.id, "watchlist": alert.watchlist, **details}
    await service.audit.record("verdict", caller, facts, [{"id": alert.record_id}])
