"""The time that one request may take."""

import asyncio

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.http.problems import Problem
from service.settings import variable_name


def lift_deadline(request: Request) -> None:
    """Let the answer to a request take any time: it is a stream."""
    request.scope["state"]["deadline"].reschedule(None)
    request.scope["state"]["stream"] = True


class Deadline:
    """ASGI middleware that cancels a request after some seconds, its upload included, and answers 504."""

    def __init__(self, app: ASGIApp, seconds: float) -> None:
        self.app = app
        self.seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def note_start(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        limit = asyncio.timeout(self.seconds)
        scope.setdefault("state", {})["deadline"] = limit
        try:
            async with limit:
                await self.app(scope, receive, note_start)
        except TimeoutError:
            if started or not limit.expired():  # part of an answer is sent, or the error is another one
                raise
            detail = (
                f"the request took more than {self.seconds:g} seconds and was cancelled; send less footage, or ask the "
                f"operator for a larger {variable_name('request_seconds')}"
            )
            await Problem("timed-out", detail).answer(Request(scope))(scope, receive, send)
