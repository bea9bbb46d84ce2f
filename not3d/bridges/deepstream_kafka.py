"""DeepStream's messages from a Kafka topic, with FastStream. It was tested with FastStream's in-memory broker only.

The offset of a partition is committed up to the first message that a track in progress needs, so after a crash these
messages are read again.
"""

import asyncio
import random
import sqlite3
from collections.abc import Hashable, Sequence
from typing import Any

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError
from faststream import AckPolicy
from faststream.kafka import KafkaBroker
from faststream.kafka.annotations import KafkaMessage

from not3d.bridges.cancellation import check_cancelled
from not3d.bridges.deepstream_redis import MAX_PAUSE_SECONDS, Handler
from not3d.bridges.grouped import GroupedSource
from not3d.bridges.sink import Sink
from not3d.bridges.telemetry import Telemetry

COMMIT_SECONDS = 1.0

Token = tuple[str, int, int]
"""Topic, partition and offset of a message."""


class Offsets:
    """Which messages were read and which are done; the offsets that may be committed."""

    def __init__(self) -> None:
        self._next: dict[tuple[str, int], int] = {}
        self._open: dict[tuple[str, int], set[int]] = {}

    def read(self, token: Token) -> None:
        """Note that a message was read."""
        topic, partition, offset = token
        self._next[topic, partition] = offset + 1
        self._open.setdefault((topic, partition), set()).add(offset)

    def done(self, token: Token) -> None:
        """Note that a message is no longer needed."""
        topic, partition, offset = token
        self._open.get((topic, partition), set()).discard(offset)

    def committable(self) -> dict[tuple[str, int], int]:
        """Return for each topic and partition the offset of the first message that is needed, or of the next one."""
        return {key: min(self._open[key], default=following) for key, following in self._next.items()}


class KafkaTopic:
    """Reads one topic.

    Args:
        servers: `host:9092`, several separated by commas.
        topic: its name.
        telemetry: metrics and log.
        group: the consumer group.
    """

    def __init__(self, servers: str, topic: str, telemetry: Telemetry, *, group: str = "not3d") -> None:
        self.broker = KafkaBroker(servers.split(","), logger=None)
        self._topic, self._group = topic, group
        self._telemetry = telemetry
        self._offsets = Offsets()
        self._consumer: Any = None
        self._committed: dict[tuple[str, int], int] = {}

    def release(self, tokens: Sequence[Hashable]) -> None:
        """Note messages that are no longer needed; their offsets are committed soon."""
        for token in tokens:
            self._offsets.done(token)  # type: ignore[arg-type]

    def subscribe(self, handler: Handler, sink: Sink) -> None:
        """Call `handler` with each message, after the broker has started."""

        @self.broker.subscriber(
            self._topic, group_id=self._group, auto_offset_reset="earliest", ack_policy=AckPolicy.MANUAL
        )
        async def handle(message: KafkaMessage) -> None:
            record = message.raw_message
            if isinstance(record, tuple):  # only with `batch=True`
                return
            await sink.has_room()
            self._consumer = message.consumer
            token = (record.topic, record.partition, record.offset)
            self._offsets.read(token)
            body = message.body if isinstance(message.body, bytes) else bytes(message.body or b"")
            try:
                handler(body, token)
            except sqlite3.Error:  # nothing can be kept: the message is not acknowledged
                raise
            except Exception as error:  # noqa: BLE001 - a message must not end the bridge
                self._telemetry.message("error", reason=f"{type(error).__name__}: {error}")
                self.release([token])

    async def run(self, handler: Handler, source: GroupedSource, sink: Sink) -> None:
        """Read until the task is cancelled."""
        self.subscribe(handler, sink)
        failures = 0
        while True:
            try:
                async with self.broker:
                    await self.broker.start()
                    failures = 0
                    self._telemetry.connected.set(1)
                    try:
                        while True:
                            check_cancelled()
                            await asyncio.sleep(COMMIT_SECONDS)
                            await self.commit()
                    except asyncio.CancelledError:
                        source.close()
                        await asyncio.shield(self.commit())
                        raise
            except (KafkaError, OSError) as error:
                check_cancelled()
                failures += 1
                pause = min(0.25 * 2 ** min(failures, 10), MAX_PAUSE_SECONDS) * random.uniform(0.8, 1.25)  # noqa: S311
                self._telemetry.retry("read", reason=f"{type(error).__name__}: {error}", pause=pause)
                await asyncio.sleep(pause)
            finally:
                self._telemetry.connected.set(0)

    async def commit(self) -> None:
        """Commit the offsets of what is done."""
        offsets = self._offsets.committable()
        if self._consumer is None or offsets == self._committed:
            return
        await self._consumer.commit({TopicPartition(*key): offset for key, offset in offsets.items()})
        self._committed = offsets
