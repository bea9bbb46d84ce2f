"""A connection to an MQTT broker that comes back after every break.

Messages of QoS 1 and 2 are acknowledged after their handler has returned, and the broker keeps the session of a bridge
that is away. So a message that the handler stored is not lost by `kill -9`, and one that it did not store comes again.

What the bridge sends waits until the broker has acknowledged it, and nothing is left out: `deliver` returns after that,
and of the messages of `retain` only the newest of each topic waits, so memory is bounded by the number of topics.
"""

import asyncio
import contextlib
import random
import sqlite3
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote, urlsplit

import aiomqtt

from model.errors import Not3dError
from not3d.bridges.cancellation import check_cancelled
from not3d.bridges.telemetry import Telemetry

MAX_PAUSE_SECONDS = 30.0
MAX_QUEUE = 10_000
"""Messages that wait for their handler. Those of QoS 0 above it are dropped and counted; of the others a broker sends
only a few (mosquitto: 20) before the first is acknowledged."""

Handler = Callable[[aiomqtt.Message], Awaitable[None]]
Payload = str | bytes


class BrokerError(Not3dError):
    """The address of a broker cannot be used."""


@dataclass(frozen=True)
class Broker:
    """Where a broker is, and how to log in.

    Attributes:
        host: name or address.
        port: 1883 by default, 8883 with TLS.
        tls: how certificates are checked; `None` for a connection without TLS.
        username: `None` to log in without.
        password: of the user.
        client_id: names the session that the broker keeps; no other client may have it.
    """

    host: str
    port: int
    tls: ssl.SSLContext | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    client_id: str = "not3d"

    @classmethod
    def parse(
        cls,
        url: str,
        *,
        username: str | None = None,
        password: str | None = None,
        ca_file: Path | None = None,
        client_id: str = "not3d",
    ) -> Self:
        """Return the broker at `mqtt://[user:password@]host[:port]`, or `mqtts://...` with TLS.

        Raises:
            BrokerError: it is no such URL, or `ca_file` holds no certificates.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise BrokerError(f"the URL of the broker is wrong ({error}); write mqtt://host:1883") from None
        if parts.scheme not in {"mqtt", "mqtts"} or not parts.hostname or parts.path.strip("/") or parts.query:
            raise BrokerError("the URL of the broker must be mqtt://host:1883, or mqtts://host:8883 with TLS")
        tls = None
        if parts.scheme == "mqtts":
            try:
                tls = ssl.create_default_context(cafile=ca_file)
            except OSError as error:
                raise BrokerError(f"{ca_file} is not a file of certificates in PEM format: {error}") from error
        elif ca_file is not None:
            raise BrokerError("a CA file is only used with mqtts://; change the URL, or leave out the file")
        username = username or (unquote(parts.username) if parts.username else None)
        password = password or (unquote(parts.password) if parts.password else None)
        if password and not username:
            raise BrokerError("a password needs a user: add the user of the broker")
        return cls(parts.hostname, port or (8883 if tls else 1883), tls, username, password, client_id)


class _Client(aiomqtt.Client):
    """A client that acknowledges a message when it is told to."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._client.manual_ack_set(True)

    def acknowledge(self, message: aiomqtt.Message) -> None:
        """Tell the broker that a message was handled."""
        self._client.ack(message.mid, message.qos)


@dataclass(eq=False)
class _Outgoing:
    """A message that waits for the broker. `acknowledged` tells the caller that the broker has it."""

    topic: str
    payload: Payload
    retain: bool
    acknowledged: asyncio.Future[None] | None = None


class Mqtt:
    """A connection that `run` keeps up. Subscribe before `run`.

    Args:
        broker: where to connect.
        telemetry: metrics and log.
        status_topic: a retained topic that says `online`, and `offline` after the connection is lost (the broker's
            will).
        is_source: whether this is the other system's broker, whose connection the metric `connected` shows.
    """

    def __init__(
        self, broker: Broker, telemetry: Telemetry, *, status_topic: str | None = None, is_source: bool = True
    ) -> None:
        self._broker = broker
        self._is_source = is_source
        self._telemetry = telemetry
        self._status_topic = status_topic
        self._handlers: list[tuple[str, int, Handler]] = []
        self._on_connect: list[Callable[[], Awaitable[None]]] = []
        self._on_loss: list[Callable[[], None]] = []
        self._outbox: dict[object, _Outgoing] = {}
        """In the order of sending; the key of a retained message that no caller waits for is its topic."""
        self._out = asyncio.Event()

    def subscribe(self, topic: str, handler: Handler, qos: int = 1) -> None:
        """Call `handler` with each message of a topic, which may have wildcards; one after the other.

        Raises:
            BrokerError: a broker would refuse such a topic.
        """
        try:
            aiomqtt.Wildcard(topic)
        except ValueError:
            raise BrokerError(
                f"{topic!r} is not a topic: + stands for one level and # for all that follow, at the end; no level may "
                "have other characters beside them"
            ) from None
        self._handlers.append((topic, qos, handler))

    def on_connect(self, callback: Callable[[], Awaitable[None]]) -> None:
        """Call this after each connection, when all topics are subscribed."""
        self._on_connect.append(callback)

    def on_loss(self, callback: Callable[[], None]) -> None:
        """Call this after messages of QoS 0 were lost, because too many waited for their handler."""
        self._on_loss.append(callback)

    def retain(self, topic: str, payload: Payload) -> None:
        """Let the broker keep a message of this topic, now or after the next connection; it replaces one that waits.

        It is lost if the process ends before that: use it for what is sent again at the next start.
        """
        self._outbox.pop(topic, None)
        self._outbox[topic] = _Outgoing(topic, payload, True)
        self._out.set()

    async def deliver(self, topic: str, payload: Payload, *, retain: bool = False) -> None:
        """Send a message and return when the broker has acknowledged it, however long that takes.

        If the connection breaks in between, it is sent again, so it can come twice.
        """
        acknowledged = asyncio.get_running_loop().create_future()
        message = _Outgoing(topic, payload, retain, acknowledged)
        if retain:
            self._outbox.pop(topic, None)  # older
        self._outbox[message] = message
        self._out.set()
        try:
            await acknowledged
        finally:
            self._outbox.pop(message, None)

    async def run(self) -> None:
        """Connect, handle messages, and connect again, until the task is cancelled."""
        failures = 0
        while True:
            began = asyncio.get_running_loop().time()
            try:
                await self._run_once()
            except aiomqtt.MqttError as error:
                reason = str(error)
            except OSError as error:  # names that cannot be resolved, certificates that do not fit
                reason = f"{type(error).__name__}: {error}"
            finally:
                self._set_connected(0)
            check_cancelled()
            failures = 0 if asyncio.get_running_loop().time() - began > 2 * MAX_PAUSE_SECONDS else failures + 1
            pause = min(0.25 * 2 ** min(failures, 10), MAX_PAUSE_SECONDS) * random.uniform(0.8, 1.25)  # noqa: S311
            self._telemetry.retry(
                "connect", reason=_with_cure(reason), broker=f"{self._broker.host}:{self._broker.port}", pause=pause
            )
            await asyncio.sleep(pause)

    def _set_connected(self, value: int) -> None:
        if self._is_source:
            self._telemetry.connected.set(value)

    async def _run_once(self) -> None:
        broker, status = self._broker, self._status_topic
        client = _Client(
            broker.host,
            broker.port,
            username=broker.username,
            password=broker.password,
            identifier=broker.client_id,
            clean_session=False,
            tls_context=broker.tls,
            will=aiomqtt.Will(status, "offline", qos=1, retain=True) if status else None,
            max_queued_incoming_messages=MAX_QUEUE,
            queue_type=self._make_queue_type(),
        )
        async with client:
            for topic, qos, _ in self._handlers:
                codes = await client.subscribe(topic, qos)
                if any(getattr(code, "value", code) >= 128 for code in codes):
                    raise aiomqtt.MqttError(f"the broker refuses the subscription to {topic}: check the user's rights")
            check_cancelled()
            self._set_connected(1)
            self._telemetry.log("connected", broker=f"{broker.host}:{broker.port}")
            if status:
                await client.publish(status, "online", qos=1, retain=True)
            try:
                async with asyncio.TaskGroup() as tasks:
                    check_cancelled()
                    tasks.create_task(self._send(client))
                    for callback in self._on_connect:
                        await callback()
                    async for message in client.messages:
                        await self._handle(message)
                        client.acknowledge(message)
            except* aiomqtt.MqttError as group:
                raise group.exceptions[0] from None
            finally:
                if status:  # a will is only sent for a connection that breaks
                    with contextlib.suppress(aiomqtt.MqttError):
                        await client.publish(status, "offline", qos=1, retain=True, timeout=2)

    async def _handle(self, message: aiomqtt.Message) -> None:
        for topic, _, handler in self._handlers:
            if message.topic.matches(topic):
                try:
                    await handler(message)
                except sqlite3.Error:  # nothing can be kept: the message is not acknowledged, and comes again
                    raise
                except Exception as error:  # noqa: BLE001 - a message must not end the bridge
                    self._telemetry.message(
                        "error", topic=message.topic.value, reason=f"{type(error).__name__}: {error}"
                    )

    async def _send(self, client: _Client) -> None:
        while True:
            while self._outbox:
                key, first = next(iter(self._outbox.items()))
                await client.publish(first.topic, first.payload, qos=1, retain=first.retain)
                if self._outbox.get(key) is first:
                    del self._outbox[key]
                if first.acknowledged and not first.acknowledged.done():
                    first.acknowledged.set_result(None)
                check_cancelled()
            self._out.clear()
            await self._out.wait()

    def _make_queue_type(self) -> type[asyncio.Queue[aiomqtt.Message]]:
        telemetry, lost = self._telemetry, self._on_loss

        class Queue(asyncio.Queue[aiomqtt.Message]):
            """Counts the messages that do not fit."""

            def put_nowait(self, item: aiomqtt.Message) -> None:
                if self.full():
                    telemetry.message("overflow")
                    for callback in lost:
                        callback()
                super().put_nowait(item)

        return Queue


def _with_cure(reason: str) -> str:
    plain = reason.lower()
    if "not authori" in plain or "bad user name" in plain:
        return f"{reason}: check the user and the password of the broker, and what the user may do"
    if "certificate verify failed" in plain:
        return f"{reason}: name the file of the broker's authority (--mqtt-ca-file), and a host of its certificate"
    if any(sign in plain for sign in ("connection reset", "timed out", "wrong version number", "eof occurred")):
        return f"{reason}: check host and port; a port with TLS needs mqtts://, one without TLS mqtt://"
    return reason
