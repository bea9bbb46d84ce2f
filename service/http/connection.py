"""A connection: what a client may send, how long it may take for each step, and how the connection ends.

uvicorn's httptools class parses requests and runs the application; docs/figures/http.md says why this one. It has no
limit for a request head and for a client that does not read, and it closes a connection in a way that destroys an
answer which the client has not read yet. This module adds what is missing.
"""

import asyncio
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import httptools
import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from service.http.problems import Problem
from service.settings import Settings, variable_name

log = logging.getLogger("not3d.service")

MAX_TARGET_BYTES: Final = 8 * 1024
"""Maximum bytes of the path with its query, as in nginx. The longest of our own, with all filters, has about 2 KiB."""
HEAD_STEP_BYTES: Final = 2 * 1024
"""A head is parsed in steps, and its limit is checked after each. Nearly every head fits into one."""
MAX_OVERHEAD_BYTES: Final = 64 * 1024
"""Maximum bytes of chunk sizes, chunk extensions and trailers that bring no content. Go's server allows 16 KiB."""
OVERHEAD_FACTOR: Final = 16
"""Each byte of content pays for this many bytes of overhead. A chunk of one byte has 5 or, with padding, a few more."""
MAX_UNPARSED_BYTES: Final = 1024 * 1024
"""Maximum bytes of later requests on a connection that wait for the answer to the current one: four reads."""
STALL_SECONDS: Final = 10.0
"""If no connection is free, one may be closed whose client has taken nothing of its answer for this time."""
LINGER_SECONDS: Final = 60.0
"""After an early answer, at most this long is the rest of the body read and thrown away (nginx: lingering_time, 30 s).
Some clients need half a minute to send 200 MB, even on one machine, if it is busy."""
LINGER_IDLE_SECONDS: Final = 5.0
"""The same, without data from the client (nginx: lingering_timeout)."""
LINGER_BYTES: Final = 512 * 2**20
"""The same, at most this many bytes: twice the largest body that is accepted by default. They use no memory."""
LINGER_HEAD_BYTES: Final = 8 * 2**20
"""The same after a request head that cannot be parsed, because the length of its body is unknown."""


@dataclass
class ConnectionContext:
    """What all connections of a server share."""

    config: uvicorn.Config
    state: ServerState
    app_state: dict[str, Any]
    settings: Settings
    max_lingering: int
    on_lost: Callable[[], None]
    """Called when a connection has ended."""
    lingering: int = 0
    """Connections that are read to their end after an early answer."""


class Connection(HttpToolsProtocol):
    """One connection.

    Requests on it are answered in turn. An error of the parser, a limit or a timeout is a `Problem` that the
    application answers, so that it has the form and the log entry of every other error: before the request is complete
    in `scope["state"]["refusal"]`, in its body as an exception of `receive`.
    """

    def __init__(self, context: ConnectionContext, loop: asyncio.AbstractEventLoop, idle_since: float) -> None:
        super().__init__(context.config, context.state, context.app_state, loop)
        self._context = context
        self._settings = context.settings
        self.url = b""
        self._in_head = True
        self._head_bytes = 0  # of the current head, as it was parsed
        self._head_lines = 0
        self._fed = 0  # bytes given to the parser since the current head began
        self._overhead = 0
        self._failed = False  # the parser has stopped
        self._replaying = False
        self._body_refusal: Problem | None = None
        self._unparsed = b""
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._linger_timer: asyncio.TimerHandle | None = None
        self._linger_until = 0.0
        self._linger_left = 0
        self._must_linger = False
        self._idle_since = idle_since

    @property
    def spare_since(self) -> float | None:
        """Since when the connection is of no use to its client and may be closed for another one; `None` if it is."""
        if self._linger_timer:
            return None
        if self._write_timer:
            return self._write_timer.when() - self._settings.read_seconds + STALL_SECONDS
        if self.transport.get_write_buffer_size() or (self.cycle and not self.cycle.response_complete):
            return None
        return self._idle_since

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start to wait for the first request."""
        super().connection_made(transport)
        self._start_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all timers."""
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        for timer in (self._head_timer, self._write_timer, self._linger_timer):
            if timer:
                timer.cancel()
        self._context.lingering -= self._linger_timer is not None
        self._context.on_lost()

    def data_received(self, data: bytes) -> None:
        """Parse what arrived."""
        if self._linger_timer:
            self._discard(data)
        elif self._unparsed:
            self._unparsed += data
            self.flow.pause_reading()
            if len(self._unparsed) > MAX_UNPARSED_BYTES:
                self.transport.abort()
        else:
            self._unset_keepalive_if_required()
            self._parse(data)

    def pause_writing(self) -> None:
        """Start to wait for a client that does not read its answer."""
        super().pause_writing()
        self._watch_writing()

    def resume_writing(self) -> None:
        """Go on with the answer."""
        super().resume_writing()
        if self._write_timer:
            self._write_timer.cancel()
            self._write_timer = None

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection, even if its client has not read the last answer."""
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        super().timeout_keep_alive_handler()

    # Called by the parser.

    def on_message_begin(self) -> None:
        """Begin a head."""
        if self._replaying:
            return
        if self._linger_timer:
            raise Problem("malformed", "this connection takes no more requests")
        super().on_message_begin()
        self._in_head = True
        self._head_bytes = self._head_lines = 0

    def on_url(self, url: bytes) -> None:
        """Take a part of the request target."""
        if self._replaying:
            return
        super().on_url(url)
        self._head_bytes += len(url)
        if len(self.url) > MAX_TARGET_BYTES:
            raise _target_too_long()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; trailers are counted and thrown away."""
        if self._replaying:
            return
        self._head_lines += 1
        self._head_bytes += len(name) + len(value) + 4
        limits = self._settings
        if self._head_lines > limits.max_head_lines:
            raise _head_too_large(f"has more than {limits.max_head_lines} lines", "MAX_HEAD_LINES")
        if self._head_bytes > limits.max_head_bytes:
            raise _head_too_large(f"has more than {limits.max_head_bytes} bytes", "MAX_HEAD_BYTES")
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Check what the parser does not, and start to answer."""
        if self._replaying:
            return
        version, method = self.parser.get_http_version(), self.parser.get_method()
        self.url = _check_head(version, method, self.url, self.headers)
        if version == "1.0":  # such a client does not know the status 100
            self.expect_100_continue = False
        super().on_headers_complete()
        self._in_head = False
        self._head_bytes = self._head_lines = 0  # from now on of the trailers
        self._overhead = 0

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        self._overhead = max(0, self._overhead - OVERHEAD_FACTOR * len(body))
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Wait for the next head."""
        super().on_message_complete()
        self._in_head = True
        self._fed = 0

    # Called by the cycle of a request.

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGIApp) -> None:  # type: ignore[override]
        super()._start_asgi_task(cycle, partial(self._answer, cycle, app))

    async def _answer(
        self, cycle: RequestResponseCycle, app: ASGIApp, scope: Scope, receive: Receive, send: Send
    ) -> None:
        async def receive_or_refuse() -> Message:
            message = await receive()
            if self._body_refusal and cycle.more_body and not cycle.response_started:
                raise self._body_refusal
            return message

        async def send_early(message: Message) -> None:
            if message["type"] == "http.response.start":
                if cycle.more_body:  # the rest of the body will not be used
                    message = {**message, "headers": [*message.get("headers", []), (b"connection", b"close")]}
            elif not message.get("more_body", False) and cycle.more_body:
                self._must_linger = cycle.keep_alive = True  # instead of closing at once
            await send(message)

        await app(scope, receive_or_refuse, send_early)
        if self.transport.is_closing() and self.transport.get_write_buffer_size():
            self._watch_writing()

    def on_response_complete(self) -> None:
        """Go on with the next request, or end the connection if the rest of the last one is not wanted."""
        self._idle_since = self.loop.time()
        if self._must_linger and not self.transport.is_closing():
            self.server_state.total_requests += 1
            self._linger()
            return
        super().on_response_complete()
        if not self._unparsed or self.transport.is_closing():
            return
        if self.pipeline:
            self.flow.pause_reading()
        else:
            data, self._unparsed = self._unparsed, b""
            self._unset_keepalive_if_required()
            self._parse(data)

    def _parse(self, data: bytes) -> None:
        begin = 0
        while begin < len(data) and not self._failed:
            if self._in_head and self.cycle and not self.cycle.response_complete:
                self._unparsed = data[begin:]  # until the answer is complete
                self.flow.pause_reading()
                self._stop_head_timer()
                return
            in_head = self._in_head
            piece = memoryview(data)[begin : begin + HEAD_STEP_BYTES] if in_head else memoryview(data)[begin:]
            begin += len(piece)
            if in_head:
                self._fed += len(piece)
            else:
                self._overhead += len(piece)
            try:
                self.parser.feed_data(piece)
            except httptools.HttpParserUpgrade as upgrade:
                begin += upgrade.args[0] - len(piece)
                self._continue_without_upgrade()
            except httptools.HttpParserError as error:
                self._refuse(_problem_of(error))
                return
            self._check_size()
        self._watch_head()

    def _continue_without_upgrade(self) -> None:
        # A server may ignore `Upgrade`. Java's client and `curl --http2` send it with every first request. The parser
        # stops there, also before a body, so a new one goes on, which is told about the body.
        self.parser = httptools.HttpRequestParser(self)
        framing = [name + b": " + value for name, value in self.headers if name in _FRAMING]
        if not framing or b"content-length: 0" in framing:
            return
        self.cycle.more_body = True
        self._in_head = False
        self._replaying = True
        self.parser.feed_data(b"\r\n".join([b"POST / HTTP/1.1", *framing, b"", b""]))
        self._replaying = False

    def _check_size(self) -> None:
        limits = self._settings
        if self._failed:
            return
        if not self._in_head:
            if self._overhead > MAX_OVERHEAD_BYTES:
                reason = f"over {MAX_OVERHEAD_BYTES} bytes of chunk sizes, extensions and trailers without content"
                self._refuse(Problem("malformed", f"the body has {reason}; send larger chunks"))
        elif self._fed > limits.max_head_bytes:
            if len(self.url) == self._head_bytes > MAX_TARGET_BYTES:
                self._refuse(_target_too_long())
            else:
                self._refuse(_head_too_large(f"has more than {limits.max_head_bytes} bytes", "MAX_HEAD_BYTES"))

    def _watch_head(self) -> None:
        if not self._in_head or not self._fed or self._failed:
            self._stop_head_timer()
        elif not self._head_timer:
            self._start_head_timer()

    def _start_head_timer(self) -> None:
        self._head_timer = self.loop.call_later(self._settings.head_seconds, self._on_head_timeout)

    def _stop_head_timer(self) -> None:
        if self._head_timer:
            self._head_timer.cancel()
            self._head_timer = None

    def _on_head_timeout(self) -> None:
        self._head_timer = None
        if self.transport.is_closing():
            return
        if self._fed:
            detail = f"the head of the request was not complete after {self._settings.head_seconds:g} seconds"
            self._refuse(Problem("too-slow", detail))
        else:
            self.transport.close()

    def _refuse(self, problem: Problem) -> None:
        """Answer what cannot be parsed, after the requests before it, and end the connection."""
        self._failed = True
        self._unparsed = b""
        self._stop_head_timer()
        if not self._in_head:  # the application reads the body of this request
            self._body_refusal = problem
            self.cycle.message_event.set()
            return
        super().on_message_begin()
        self.url = b"/"
        self.parser = httptools.HttpRequestParser(self)
        super().on_headers_complete()
        self.scope["method"] = ""
        state: Any = self.scope["state"]
        state["refusal"] = problem

    def _linger(self) -> None:
        """End the connection in a way that lets the client read the answer.

        A client that is still sending gets a reset if the connection is closed at once, and a reset destroys what it
        has not read. So only our side is closed, and what still arrives is read and thrown away, within limits.
        """
        self._unset_keepalive_if_required()
        self._stop_head_timer()
        if self._context.lingering >= self._context.max_lingering:
            self._end()
            return
        try:
            self.transport.write_eof()
        except OSError:  # the client has reset the connection
            self._end()
            return
        self._linger_left = LINGER_HEAD_BYTES if self._failed else LINGER_BYTES
        self._linger_until = self.loop.time() + LINGER_SECONDS
        self._linger_timer = self.loop.call_later(LINGER_IDLE_SECONDS, self._check_linger, self._linger_left)
        self._context.lingering += 1
        self.flow.resume_reading()
        if self._unparsed:
            data, self._unparsed = self._unparsed, b""
            self._discard(data)

    def _discard(self, data: bytes) -> None:
        self._linger_left -= len(data)
        if not self._failed:
            try:
                self.parser.feed_data(data)
            except (httptools.HttpParserError, httptools.HttpParserUpgrade):
                self._failed = True
                self._linger_left = min(self._linger_left, LINGER_HEAD_BYTES)
        if self._linger_left < 0 or (self._in_head and not self._failed):
            self._end()

    def _check_linger(self, left: int) -> None:
        if self._linger_left == left or self.loop.time() > self._linger_until:
            self._end()
        else:
            seconds = min(LINGER_IDLE_SECONDS, max(0.0, self._linger_until - self.loop.time()) + 0.01)
            self._linger_timer = self.loop.call_later(seconds, self._check_linger, self._linger_left)

    def _end(self) -> None:
        if self.transport.get_write_buffer_size():
            self._watch_writing()
        self.transport.close()

    def _watch_writing(self) -> None:
        if not self._write_timer:
            self._write_timer = self.loop.call_later(self._settings.read_seconds, self.transport.abort)


_FRAMING: Final = frozenset({b"content-length", b"transfer-encoding"})


def _check_head(version: str, method: bytes, target: bytes, headers: list[tuple[bytes, bytes]]) -> bytes:
    """Check a head for what the parser lets pass; return the target as a path with its query.

    Raises:
        Problem: 400 for another version, for several or no `Host`, for a target that does not belong to it, and for a
            transfer coding that this server or the version does not know.
    """
    if version not in {"1.0", "1.1"}:
        raise Problem("malformed", f"HTTP/{version} is not supported; use HTTP/1.1")
    if method == b"CONNECT":
        raise Problem("malformed", "CONNECT is not supported: this is not a proxy")
    hosts = [value for name, value in headers if name == b"host"]
    if len(hosts) > 1 or (not hosts and version == "1.1"):
        raise Problem("malformed", f"a request needs exactly one Host header (got {len(hosts)})")
    coding = [value.strip().lower() for name, value in headers if name == b"transfer-encoding"]
    if coding and (coding != [b"chunked"] or version == "1.0"):
        raise Problem("malformed", "the only supported Transfer-Encoding is chunked, in HTTP/1.1")
    if target.startswith(b"/"):
        return target
    scheme, _, rest = target.partition(b"://")
    authority = re.split(rb"[/?]", rest, maxsplit=1)[0]
    if scheme.lower() not in {b"http", b"https"} or hosts not in ([], [authority]):
        raise Problem("malformed", "the request target must start with / or name the same host as the Host header")
    path = rest[len(authority) :]
    return path if path.startswith(b"/") else b"/" + path


def _problem_of(error: httptools.HttpParserError) -> Problem:
    if isinstance(error, httptools.HttpParserCallbackError):
        cause = error.__context__
        if isinstance(cause, Problem):
            return cause
        if not isinstance(cause, httptools.HttpParserError):
            log.error("unexpected error while a request was parsed", exc_info=cause)
        return Problem("malformed", "the request target is malformed")
    reason = str(error)
    if reason == "Pause on PRI/Upgrade":
        return Problem("malformed", "HTTP/2 is not supported; use HTTP/1.1")
    return Problem("malformed", f"the request is not valid HTTP/1.1: {reason}")


def _head_too_large(reason: str, setting: str) -> Problem:
    detail = f"the head of the request {reason}; send fewer headers, or raise {variable_name(setting.lower())}"
    return Problem("head-too-large", detail)


def _target_too_long() -> Problem:
    return Problem("target-too-long", f"the path with its query has more than {MAX_TARGET_BYTES} bytes")
