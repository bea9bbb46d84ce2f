"""Middleware around every request: its id, log entry and metrics, headers of its answer, and answers to errors."""

import asyncio
import errno
import logging
import re
import time
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.http.problems import Problem
from service.ids import ID_PATTERN, new_id
from service.telemetry.logs import request_id
from service.telemetry.metrics import Metrics, RequestCost, current_cost

STOPPING_RETRY_SECONDS = 5
BUSY_RETRY_SECONDS = 2
HEADERS = {
    # Answers are about people: nothing between the service and its client may keep them.
    "cache-control": "no-store",
    # A browser must not run data as a script, or show it in a page of another site.
    "x-content-type-options": "nosniff",
    "cross-origin-resource-policy": "same-origin",
}
"""Headers of every answer that does not set them itself."""

log = logging.getLogger("not3d.access")


class RequestLog:
    """ASGI middleware. The answer has the client's `X-Request-Id` if that is well formed, otherwise a new one."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        current = given if re.fullmatch(ID_PATTERN, given) else new_id()
        scope.setdefault("state", {})["request_id"] = current
        token = request_id.set(current)
        cost = RequestCost()
        cost_token = current_cost.set(cost)
        status: int | None = None
        start = time.perf_counter()

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = current
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except asyncio.CancelledError:
            # A server that stops cancels requests that it cannot finish in time.
            if status is not None:
                raise
            await _stopping().answer(Request(scope))(scope, receive, send_with_id)
        except Problem as problem:  # of other middleware
            if status is not None:
                raise
            await problem.answer(Request(scope))(scope, receive, send_with_id)
        except Exception as error:
            if status is not None:  # part of an answer is sent: close the connection to show that it is incomplete
                log.exception("request failed")
                raise
            await _unexpected(error).answer(Request(scope))(scope, receive, send_with_id)
        finally:
            self._record(scope, status or 500, time.perf_counter() - start, cost)
            current_cost.reset(cost_token)
            request_id.reset(token)

    def _record(self, scope: Scope, status: int, seconds: float, cost: RequestCost) -> None:
        # The pattern of the route, not the path: ids of tracklets must not be in metrics and logs.
        route = getattr(scope.get("route"), "path", "unmatched")
        # A client can send any method, and each would be a new time series.
        method = scope["method"] if scope["method"] in {"GET", "POST", "PUT", "DELETE", "HEAD"} else "other"
        self.metrics.requests.labels(method, route, str(status)).inc()
        if not scope["state"].get("stream"):  # the length of a stream says nothing about the service
            self.metrics.seconds.labels(route).observe(seconds)
        facts: dict[str, Any] = {"method": method, "route": route, "status": status, "ms": _milliseconds(seconds)}
        facts |= {"bytes": cost.bytes, "frames": cost.frames, "clips": cost.clips}
        facts["stages"] = {name: _milliseconds(spent) for name, spent in cost.seconds.items()}
        quiet = route in {"/livez", "/readyz", "/metrics"} and status in {200, 503}  # 503: not ready yet
        log.log(logging.DEBUG if quiet else logging.INFO, "answered", extra={"facts": facts})


def _stopping() -> Problem:
    detail = "the service stopped before the answer was ready; send the request again"
    return Problem("not-ready", detail, retry_after=STOPPING_RETRY_SECONDS)


def _unexpected(error: Exception) -> Problem:
    if isinstance(error, OSError) and error.errno in {errno.EMFILE, errno.ENFILE}:
        log.error("no file descriptor is left", extra={"facts": {"reason": str(error)}})
        detail = "the service has no file descriptor left; send the request again later"
        return Problem("busy", detail, retry_after=BUSY_RETRY_SECONDS)
    # Details go to the log with the request's id, not to the client.
    log.error("request failed", exc_info=error)
    return Problem("internal", "unexpected error; the service's log has an entry with the request id")


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 2)
