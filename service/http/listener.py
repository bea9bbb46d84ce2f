"""The server: it accepts as many connections as file descriptors allow, and lets more wait."""

import asyncio
import errno
import heapq
import logging
import resource
import select
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from operator import itemgetter
from typing import Any, Final

import uvicorn
from starlette.types import ASGIApp

from service.http.connection import Connection, ConnectionContext
from service.settings import Settings
from service.telemetry.metrics import Metrics

log = logging.getLogger("not3d.service")

LINGER_SHARE: Final = 4
"""At most one in this many connections may linger; others are closed at once. It keeps connections for requests."""
RESERVED_DESCRIPTORS: Final = 136
"""File descriptors that are not for connections: about 40 of the process with its gallery, one for the video of each
of 64 requests, and three pipes for each of 8 decoders."""
MIN_CONNECTIONS: Final = 16
MIN_IDLE_SECONDS: Final = 0.25
"""If no connection is free, the one that has been idle longest is closed, but only after this time: the request of a
client that has just connected may still be on its way."""
MIN_IDLE_SECONDS_FOR_DATA: Final = 0.1
"""The same, if the new client has sent something: usually a whole request, which waited together with the client."""
FULL_RETRY_SECONDS: Final = 0.05
"""If no connection is free and none can be closed, try again after this time. New ones wait in the system's queue."""
MIN_RETRY_SECONDS: Final = 0.005
"""The same, if the oldest idle connection can be closed soon."""
BACKLOG: Final = 2048
HEAD_END: Final = b"\r\n\r\n"
PEEK_BYTES: Final = 4096
SPARE_TRIES: Final = 8
"""Idle connections that are looked at until one is found on which nothing has arrived."""
ACCEPT_BATCH: Final = 64
"""Connections that are accepted in one turn of the event loop."""
WARNING_SECONDS: Final = 60.0
"""A warning about connections is not repeated within this time."""


class HttpServer(uvicorn.Server):
    """uvicorn's server with an accept loop that never has more connections than file descriptors allow.

    Attributes:
        port: the port after `startup`, also if the settings say 0.
        max_connections: the limit that is in force.
    """

    def __init__(
        self, app: ASGIApp, settings: Settings, metrics: Metrics, on_shutdown: Callable[[], None] = lambda: None
    ) -> None:
        """`on_shutdown` ends the answers that would last until the end of the process."""
        super().__init__(
            uvicorn.Config(
                app,
                host=settings.host,
                port=settings.port,
                http="httptools",
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,  # service/http/entry.py does this
                timeout_keep_alive=settings.keep_alive_seconds,  # type: ignore[arg-type]  # fractions work as well
                timeout_graceful_shutdown=max(1, round(settings.drain_seconds)),
            )
        )
        self.settings = settings
        self.port = settings.port
        self.max_connections = limit_connections(settings.max_connections)
        self._metrics = metrics
        self._on_shutdown = on_shutdown
        self._listeners: list[socket.socket] = []
        self._opening: set[asyncio.Task[None]] = set()
        self._waiting: socket.socket | None = None  # accepted, but no connection is free
        self._retry: asyncio.TimerHandle | None = None
        self._accepting = False
        self._warned = -WARNING_SECONDS
        metrics.connections_limit.set(self.max_connections)

    def _on_connection_lost(self) -> None:
        self._metrics.connections.set(len(self.server_state.connections))
        if not self._accepting and self._listeners:
            self._start_accepting()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002 - as the parent has it  # noqa: ARG002 - as the parent has it
        """Start the application and listen.

        Raises:
            SystemExit: the address cannot be used; the reason is in the log.
        """
        try:
            self._listeners = _open_listeners(self.settings.host, self.settings.port)
        except OSError as error:
            log.error("the address cannot be used", extra={"facts": {"reason": str(error)}})
            raise SystemExit(1) from error
        self.port = self._listeners[0].getsockname()[1]
        await super().startup(sockets=[])
        self._context = ConnectionContext(
            self.config,
            self.server_state,
            self.lifespan.state,
            self.settings,
            max(1, self.max_connections // LINGER_SHARE),
            self._on_connection_lost,
        )
        facts = {"address": f"{self.settings.host}:{self.port}", "connections": self.max_connections}
        log.info("listening", extra={"facts": facts})
        self._start_accepting()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop to accept, then finish what was accepted."""
        self._stop_accepting()
        self._on_shutdown()
        for listener in self._listeners:
            listener.close()
        self._listeners = []
        if self._waiting:
            self._waiting.close()
        await asyncio.gather(*self._opening, return_exceptions=True)
        await super().shutdown(sockets)

    def _start_accepting(self) -> None:
        if self._retry:
            self._retry.cancel()
            self._retry = None
        if not self._accepting:
            self._accepting = True
            loop = asyncio.get_running_loop()
            for listener in self._listeners:
                loop.add_reader(listener, self._accept, listener)
            if self._waiting:
                loop.call_soon(self._accept, self._listeners[0])

    def _stop_accepting(self, retry_seconds: float | None = None) -> None:
        loop = asyncio.get_running_loop()
        self._accepting = False
        for listener in self._listeners:
            loop.remove_reader(listener)
        if self._retry:
            self._retry.cancel()
        self._retry = loop.call_later(retry_seconds, self._start_accepting) if retry_seconds is not None else None

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(ACCEPT_BATCH):
            if not self._accepting:
                return
            try:
                accepted = self._waiting or listener.accept()[0]
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:  # no descriptor or memory is left, usually
                self._warn("no connection can be accepted", {"reason": str(error)})
                self._stop_accepting(FULL_RETRY_SECONDS)
                return
            self._waiting = None
            accepted.setblocking(False)
            if self._open_connections >= self.max_connections:
                sent = _peek(accepted)
                unfinished = sent is not None and len(sent) < PEEK_BYTES and HEAD_END not in sent
                if sent is None or (unfinished and _silent_seconds(accepted) >= MIN_IDLE_SECONDS):
                    accepted.close()  # its client has gone, or it was idle while it waited in the system's queue
                    continue
                seconds = self._close_spare(has_sent=bool(sent))
                if seconds > 0:
                    self._warn("all connections are in use; new ones wait", {"connections": self.max_connections})
                    self._waiting = accepted
                    self._stop_accepting(max(MIN_RETRY_SECONDS, min(seconds, FULL_RETRY_SECONDS)))
                    return
            task = asyncio.get_running_loop().create_task(self._open(accepted))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    @property
    def _open_connections(self) -> int:
        return len(self.server_state.connections) + len(self._opening)

    async def _open(self, accepted: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with suppress(OSError):  # the client is gone already
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            idle_since = loop.time() - _silent_seconds(accepted)
            await loop.connect_accepted_socket(partial(Connection, self._context, loop, idle_since), accepted)
        self._metrics.connections.set(len(self.server_state.connections))

    def _close_spare(self, *, has_sent: bool) -> float:
        """Close the connection that has been of no use longest, for a new one.

        Returns:
            0, or if there was none, the seconds after which to try again.
        """
        connections = [each for each in self.server_state.connections if isinstance(each, Connection)]
        spare = [(since, each) for each in connections if (since := each.spare_since) is not None]
        seconds = MIN_IDLE_SECONDS_FOR_DATA if has_sent else MIN_IDLE_SECONDS
        latest = asyncio.get_running_loop().time() - seconds
        for since, each in heapq.nsmallest(SPARE_TRIES, spare, key=itemgetter(0)):
            if since > latest:
                return since - latest
            unsent = each.transport.get_write_buffer_size()
            if not unsent and _is_readable(each.transport.get_extra_info("socket")):
                continue  # a request has arrived just now
            if unsent:
                each.transport.abort()
            else:
                each.transport.close()
            self.server_state.connections.discard(each)
            return 0.0
        return FULL_RETRY_SECONDS

    def _warn(self, message: str, facts: dict[str, Any]) -> None:
        if time.monotonic() - self._warned >= WARNING_SECONDS:
            self._warned = time.monotonic()
            log.warning(message, extra={"facts": facts})


def limit_connections(wanted: int) -> int:
    """Return how many connections the file descriptors of this process allow, at most `wanted`.

    If the limit is too low for `wanted`, it is raised as far as the system permits.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + RESERVED_DESCRIPTORS
    unlimited = resource.RLIM_INFINITY
    if soft not in {unlimited} and soft < needed:
        soft = needed if hard == unlimited else min(hard, needed)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    available = wanted if soft == unlimited else soft - RESERVED_DESCRIPTORS
    return min(wanted, max(MIN_CONNECTIONS, available))


def _is_readable(connection: socket.socket) -> bool:
    """Return whether the client of a connection has sent something that was not read, or has closed it."""
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))


def _peek(connection: socket.socket) -> bytes | None:
    """Return what the client has sent, at most a head of usual size; `None` if it has closed the connection."""
    try:
        return connection.recv(PEEK_BYTES, socket.MSG_PEEK) or None
    except BlockingIOError:
        return b""
    except OSError:
        return None


def _silent_seconds(connection: socket.socket) -> float:
    """Return how long ago the client has connected or last sent something, also in the system's queue."""
    try:
        (milliseconds,) = _LAST_DATA.unpack_from(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 64))
    except OSError:  # the connection has ended
        return 0.0
    return float(milliseconds / 1000)


_LAST_DATA: Final = struct.Struct("52xI")
"""`tcpi_last_data_recv` of Linux's `struct tcp_info`, in milliseconds."""


def _open_listeners(host: str, port: int) -> list[socket.socket]:
    """Listen at every address of a host, all with the same port, except addresses that this machine lacks.

    Raises:
        OSError: an address is in use, or there is none.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    listeners: list[socket.socket] = []
    missing: OSError | None = None
    for family, _, _, _, address in dict.fromkeys(found):
        chosen = listeners[0].getsockname()[1] if listeners else port
        try:
            listener = socket.create_server((address[0], chosen, *address[2:]), family=family, backlog=BACKLOG)
        except OSError as error:
            # `localhost` has an address of IPv6 also in containers without it.
            if error.errno in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}:
                missing = error
                continue
            for listener in listeners:
                listener.close()
            raise
        listener.setblocking(False)
        listeners.append(listener)
    if not listeners:
        raise missing or OSError(f"{host} has no address")
    return listeners
