"""Answers with many records: written as JSON outside the event loop, and sent in pieces."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import orjson
from anyio import to_thread
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from typing_extensions import override

from service.gallery.records import JSON, json_text
from service.http.admission import Admission
from service.http.fields import Answer
from service.http.problems import Problem

PIECE = 256 * 1024
"""Bytes that are passed to the server at once. It copies them, and waits for the client before it takes more."""
INLINE_RECORDS = 4
"""Answers with at most so many records are written in the event loop, because starting a thread takes longer."""


def write_row(answer: Answer, **stored: Mapping[str, JSON]) -> orjson.Fragment:
    """Write the part of an answer that describes one record.

    Args:
        answer: the other fields, with something in the place of the `stored` ones.
        stored: JSON objects of the gallery, whose text is neither parsed nor checked again.
    """
    row: dict[str, Any] = answer.model_dump(exclude_unset=True)
    row |= {name: orjson.Fragment(json_text(value)) for name, value in stored.items()}
    return orjson.Fragment(orjson.dumps(row, option=orjson.OPT_UTC_Z))


async def respond(
    admission: Admission,
    records: int,
    make: Callable[[], dict[str, Any] | list[Any] | orjson.Fragment],
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return the response with what `make` returns, which is about so many records."""

    def write() -> bytes:
        return orjson.dumps(make(), option=orjson.OPT_UTC_Z)

    inline = records <= INLINE_RECORDS
    body = write() if inline else await to_thread.run_sync(write, limiter=admission.large_json)
    return CountedResponse(body, admission, status, headers)


class CountedResponse(Response):
    """A response, by default of JSON. The client takes it at its own speed, so its bytes are counted until it has."""

    def __init__(
        self,
        body: bytes,
        admission: Admission,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        media_type: str = "application/json",
    ) -> None:
        super().__init__(body, status, headers, media_type)
        self._admission = admission

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response, or 503 if all answers together hold too many bytes."""
        with ExitStack() as stack:
            try:
                stack.enter_context(self._admission.answer(len(self.body)))
            except Problem as problem:
                await problem.answer(Request(scope))(scope, receive, send)
                return
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            body = memoryview(self.body)
            for start in range(0, len(body), PIECE):
                more = start + PIECE < len(body)
                piece = bytes(body[start : start + PIECE])
                await send({"type": "http.response.body", "body": piece, "more_body": more})
