"""DeepStream's messages from a Redis stream, as a member of a consumer group.

An entry is acknowledged after everything in it is on disk. So after `kill -9` the entries of tracks that had not ended
are read again, and make the same tracklets.
"""

import asyncio
import random
import sqlite3
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import redis.asyncio
from redis.exceptions import RedisError, ResponseError

from model.errors import Not3dError
from not3d.bridges.cancellation import check_cancelled
from not3d.bridges.grouped import GroupedSource
from not3d.bridges.sink import Sink
from not3d.bridges.telemetry import Telemetry

FIELD = b"metadata"
"""The field that DeepStream's Redis adaptor writes by default (`payloadkey`)."""
BATCH = 200
BLOCK_MS = 500
CLAIM_SECONDS = 30.0
"""How often entries of consumers that are gone are looked for."""
IDLE_MS = 180_000
"""An entry that is pending for longer belongs to a consumer that is gone: tracks end earlier."""
MAX_PAUSE_SECONDS = 15.0

Handler = Callable[[bytes, Hashable], None]
"""Takes a message and the token that names it."""


class RedisUrlError(Not3dError):
    """The address of Redis cannot be used."""


def check_url(url: str) -> None:
    """Refuse what is no URL of Redis.

    Raises:
        RedisUrlError: says what is expected.
    """
    try:
        redis.asyncio.ConnectionPool.from_url(url)
    except ValueError:
        raise RedisUrlError("the URL of Redis must be redis://host:6379/0, or rediss:// with TLS") from None


class RedisStream:
    """Reads one stream.

    Args:
        url: `redis://[user:password@]host:6379/0`, or `rediss://` with TLS.
        stream: its key.
        telemetry: metrics and log.
        group: the consumer group.
        consumer: the name of this bridge in the group.
        idle_ms: when a pending entry of another consumer is taken over.
        claim_seconds: how often that is looked for.
    """

    def __init__(
        self,
        url: str,
        stream: str,
        telemetry: Telemetry,
        *,
        group: str = "not3d",
        consumer: str = "bridge",
        idle_ms: int = IDLE_MS,
        claim_seconds: float = CLAIM_SECONDS,
    ) -> None:
        self._url, self._stream, self._group, self._consumer = url, stream, group, consumer
        self._idle_ms, self._claim_seconds = idle_ms, claim_seconds
        self._telemetry = telemetry
        self._released: list[bytes] = []

    def release(self, tokens: Sequence[Hashable]) -> None:
        """Acknowledge entries with the next call of Redis."""
        self._released += [token for token in tokens if isinstance(token, bytes)]

    async def run(self, handler: Handler, source: GroupedSource, sink: Sink) -> None:
        """Read until the task is cancelled; connect again after each break."""
        failures = 0
        while True:
            try:
                async with redis.asyncio.Redis.from_url(self._url, socket_timeout=30) as client:
                    await self._make_group(client)
                    self._telemetry.connected.set(1)
                    failures = 0
                    try:
                        await self._read(client, handler, source, sink)
                    except asyncio.CancelledError:
                        source.close()
                        raise
                    finally:
                        await asyncio.shield(self._acknowledge(client))
            except (RedisError, OSError) as error:
                check_cancelled()  # if Redis ends at the same time as the bridge
                self._telemetry.connected.set(0)
                failures += 1
                pause = min(0.25 * 2 ** min(failures, 10), MAX_PAUSE_SECONDS) * random.uniform(0.8, 1.25)  # noqa: S311
                self._telemetry.retry("read", reason=f"{type(error).__name__}: {error}", pause=pause)
                await asyncio.sleep(pause)

    async def _make_group(self, client: Any) -> None:
        try:
            await client.xgroup_create(self._stream, self._group, id="0", mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):  # it exists
                raise

    async def _read(self, client: Any, handler: Handler, source: GroupedSource, sink: Sink) -> None:
        loop = asyncio.get_running_loop()
        await self._read_own_pending(client, handler, source)
        claim_at = loop.time()
        while True:
            check_cancelled()
            await sink.has_room()
            if loop.time() >= claim_at:
                await self._claim(client, handler, source)
                claim_at = loop.time() + self._claim_seconds
            answer = await client.xreadgroup(
                self._group, self._consumer, {self._stream: ">"}, count=BATCH, block=BLOCK_MS
            )
            for _, entries in _streams(answer):
                self._handle(entries, handler, source)
            await self._acknowledge(client)

    async def _read_own_pending(self, client: Any, handler: Handler, source: GroupedSource) -> None:
        """Read what was delivered to this bridge before it stopped, and was not acknowledged."""
        last: bytes | str = "0"
        while True:
            check_cancelled()
            answer = await client.xreadgroup(self._group, self._consumer, {self._stream: last}, count=BATCH)
            entries = [entry for _, part in _streams(answer) for entry in part]
            if not entries:
                return
            self._handle(entries, handler, source)
            last = entries[-1][0]
            await self._acknowledge(client)

    async def _claim(self, client: Any, handler: Handler, source: GroupedSource) -> None:
        """Take over entries of consumers that are gone."""
        start: bytes | str = "0-0"
        while True:
            check_cancelled()
            start, entries, *deleted = await client.xautoclaim(
                self._stream, self._group, self._consumer, min_idle_time=self._idle_ms, start_id=start, count=BATCH
            )
            self._handle([(key, fields) for key, fields in entries if key is not None], handler, source)
            self._trimmed(len(deleted[0]) if deleted else 0)
            if start in (b"0-0", "0-0"):
                return

    def _handle(
        self, entries: Sequence[tuple[bytes, Mapping[bytes, bytes] | None]], handler: Handler, source: GroupedSource
    ) -> None:
        for key, fields in entries:
            if source.is_needed(key):
                continue
            if not fields:  # the stream was trimmed before the entry was read
                self._trimmed(1)
                self.release([key])
                continue
            payload = fields.get(FIELD)
            if payload is None:  # the operator chose another `payloadkey`
                payload = max(fields.values(), key=len)
            try:
                handler(payload, key)
            except sqlite3.Error:  # nothing can be kept: the message is not acknowledged
                raise
            except Exception as error:  # noqa: BLE001 - a message must not end the bridge
                self._telemetry.message("error", reason=f"{type(error).__name__}: {error}")
                self.release([key])

    def _trimmed(self, count: int) -> None:
        for _ in range(count):
            self._telemetry.message("trimmed", reason="the stream was trimmed before the entry was read; lengthen it")

    async def _acknowledge(self, client: Any) -> None:
        while self._released:
            part = self._released[:BATCH]
            await client.xack(self._stream, self._group, *part)
            del self._released[: len(part)]


def _streams(answer: Any) -> list[tuple[Any, Any]]:
    """Return streams and entries of an answer, which is a list in RESP2 and a mapping in RESP3."""
    if isinstance(answer, dict):
        return [(name, parts[0] if parts and isinstance(parts[0], list) else parts) for name, parts in answer.items()]
    return list(answer or ())
