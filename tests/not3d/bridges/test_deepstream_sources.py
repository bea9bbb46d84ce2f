"""DeepStream's messages from a real redis-server and from FastStream's in-memory Kafka, enrolled in a real service."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import redis

from not3d.bridges.deepstream import DeepStreamReader
from not3d.bridges.deepstream_redis import RedisStream
from not3d.bridges.grouped import GroupedOptions, GroupedSource
from not3d.bridges.observations import TrackGrouper
from not3d.client import Client
from tests.not3d.bridges.conftest import Running
from tests.not3d.bridges.redis_server import RedisServer
from tests.service.live import wait_for

START = datetime(2026, 5, 4, 9, 30, tzinfo=UTC)
STREAM = "metadata"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


@pytest.fixture
def redis_client(server):
    server.client.flushall()
    return server.client


@pytest.fixture
def space(client):
    return client.info().embedding_space


@pytest.fixture
def dimension(client):
    return client.info().dimension


def time_of(seconds):
    return (START + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")


def message(seconds, name, vector, sensor="gate"):
    node = {
        "id": name,
        "person": {},
        "bbox": {"topleftx": 192, "toplefty": 108, "bottomrightx": 384, "bottomrighty": 540},
        "embedding": {"embedding_length": len(vector), "embedding_vector": list(map(float, vector))},
    }
    return json.dumps({"@timestamp": time_of(seconds), "sensor": {"id": sensor}, "object": node})


def silence(seconds, sensor="gate"):
    return json.dumps({"@timestamp": time_of(seconds), "sensorId": sensor, "objects": []})


def person(number, dimension):
    return np.random.default_rng(number).normal(size=dimension)


def add(redis_client, *messages, field="metadata"):
    for each in messages:
        redis_client.xadd(STREAM, {field: each})


def pending(redis_client):
    try:
        return redis_client.xpending(STREAM, "not3d")["pending"]
    except redis.exceptions.ResponseError:  # the bridge has not made the group yet
        return None


@pytest.fixture
def start(client, server, tmp_path):
    """Start the bridge in this process; its state is kept between starts of a test."""
    running = []

    def start(space, **options):
        async def run(state, sink, telemetry):
            stream = RedisStream(server.url, STREAM, telemetry, **options)
            grouper = TrackGrouper(silence=5, longest=60)
            source = GroupedSource(
                grouper, state, sink, telemetry, GroupedOptions(embedding_space=space), stream.release
            )
            reader = DeepStreamReader(source, telemetry)
            async with asyncio.TaskGroup() as group:
                group.create_task(stream.run(reader.handle, source, sink))
                group.create_task(source.run())

        running.append(Running(run, Client(client.url, attempts=1), tmp_path / "bridge.sqlite"))
        return running[-1]

    yield start
    for each in running:
        each.stop()


def vectors(client):
    """Return the vectors of the gallery by camera and track."""
    found = {}
    for record in client.records():
        full = client.get(record.id, include_embedding=True)
        found[record.camera_id, record.metadata["track"]] = np.array(full.embedding)
    return found


def test_vectors_are_enrolled_by_sensor_and_object(client, redis_client, start, space, dimension):
    people = {("gate", "1"): 1, ("gate", "2"): 2, ("yard", "1"): 3}
    rng = np.random.default_rng(0)
    expected = {}
    for (sensor, name), seed in people.items():
        own = [person(seed, dimension) + 0.1 * rng.normal(size=dimension) for _ in range(3)]
        add(redis_client, *(message(second, name, vector, sensor) for second, vector in enumerate(own)))
        expected[sensor, name] = np.mean([vector / np.linalg.norm(vector) for vector in own], axis=0)
    add(redis_client, silence(20), silence(20, "yard"))
    start(space)
    wait_for(lambda: len(list(client.records())) == 3)
    for key, vector in vectors(client).items():
        assert vector @ expected[key] / np.linalg.norm(expected[key]) > 0.9999
    wait_for(lambda: pending(redis_client) == 0)
    (record,) = [each for each in client.records() if each.camera_id == "yard"]
    assert (record.start_time, record.end_time) == (START, START + timedelta(seconds=2))


def test_bad_messages_are_counted_and_released(client, redis_client, start, space, dimension):
    good = person(1, dimension)
    add(redis_client, "nonsense", json.dumps({"@timestamp": time_of(0)}), message(0, "1", good[:-1] * 0))
    add(redis_client, message(0, "1", good), field="other")
    add(redis_client, message(1, "1", good[:-1]), silence(20))
    running = start(space)
    wait_for(lambda: len(list(client.records())) == 1)
    wait_for(lambda: pending(redis_client) == 0)
    assert running.value("messages_total", outcome="malformed") == 2
    assert running.value("messages_total", outcome="object_unusable") == 2


def test_a_vector_of_another_dimension_than_the_gallery_is_dropped_by_name(client, redis_client, start, space):
    add(redis_client, message(0, "1", [1.0, 2.0, 3.0]), silence(20))
    running = start(space)
    wait_for(lambda: sum(running.value("dropped_total", reason=f"refused_{code}") for code in (400, 409, 422)) == 1)
    wait_for(lambda: pending(redis_client) == 0)


def test_a_vector_of_another_space_is_dropped_by_name(client, redis_client, start, dimension):
    add(redis_client, message(0, "1", person(1, dimension)), silence(20))
    running = start("another-space")
    wait_for(lambda: running.value("dropped_total", reason="refused_409") == 1)
    assert list(client.records()) == []


def test_entries_of_open_tracks_stay_pending_and_are_read_again(client, redis_client, start, space, dimension):
    own = person(1, dimension)
    add(redis_client, message(0, "1", own), message(1, "1", own))
    running = start(space)
    wait_for(lambda: pending(redis_client) == 2)
    running.stop()  # hands over what is open
    wait_for(lambda: pending(redis_client) == 0)


def test_entries_that_the_stream_has_trimmed_are_named(client, redis_client, start, space, dimension):
    redis_client.xgroup_create(STREAM, "not3d", id="0", mkstream=True)
    add(redis_client, message(0, "1", person(1, dimension)), silence(1))
    redis_client.xreadgroup("not3d", "bridge", {STREAM: ">"})  # the bridge was killed after it had read them
    redis_client.xtrim(STREAM, maxlen=0, approximate=False)
    running = start(space)
    wait_for(lambda: running.value("messages_total", outcome="trimmed") == 2)
    wait_for(lambda: pending(redis_client) == 0)


def test_a_cancellation_that_the_client_of_redis_drops_ends_the_bridge(server, start, space, monkeypatch):
    """It does so if an answer comes at the same time."""
    read, reads = redis.asyncio.Redis.xreadgroup, threading.Event()

    async def drop(self, *args, **options):
        reads.set()
        try:
            return await read(self, *args, **options)
        except asyncio.CancelledError:
            return []

    monkeypatch.setattr(redis.asyncio.Redis, "xreadgroup", drop)
    running = start(space)
    assert reads.wait(60)
    running.stop()


def test_entries_of_a_consumer_that_is_gone_are_taken_over(client, redis_client, start, space, dimension):
    redis_client.xgroup_create(STREAM, "not3d", id="0", mkstream=True)
    add(redis_client, message(0, "1", person(1, dimension)), silence(20))
    redis_client.xreadgroup("not3d", "another", {STREAM: ">"})
    start(space, idle_ms=10, claim_seconds=0.1)
    wait_for(lambda: len(list(client.records())) == 1)
    wait_for(lambda: pending(redis_client) == 0)


def test_a_redis_that_is_away_is_waited_for(client, redis_client, server, start, space, dimension):
    running = start(space)
    wait_for(lambda: running.value("connected") == 1)
    server.stop(signal.SIGKILL)
    wait_for(lambda: running.value("retries_total", call="read") >= 1)
    server.start()
    add(server.client, message(0, "1", person(1, dimension)), silence(20))
    wait_for(lambda: len(list(client.records())) == 1)


def test_kill_9_loses_nothing_and_makes_nothing_twice(client, redis_client, server, space, dimension, tmp_path):
    """Takes seconds: the bridge is a process, which is killed in mid-track and started again."""
    command = [sys.executable, "-m", "not3d", "bridge", "deepstream", "--redis", server.url, "--space", space]
    command += ["--url", client.url, "--state", str(tmp_path / "bridge.sqlite"), "--silence", "5"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}

    def run():
        with (tmp_path / "bridge.log").open("ab") as log:
            return subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    first, second = person(1, dimension), person(2, dimension)
    add(redis_client, message(0, "1", first), message(0, "2", second), message(3, "2", second), message(6, "2", second))
    bridge = run()
    try:
        wait_for(lambda: len(list(client.records())) == 1, 60)
        wait_for(lambda: pending(redis_client) == 3)
        bridge.kill()
        bridge.wait(20)
        add(redis_client, message(9, "2", second), silence(20))
        bridge = run()
        wait_for(lambda: len(list(client.records())) == 2, 60)
        wait_for(lambda: pending(redis_client) == 0)
    finally:
        bridge.send_signal(signal.SIGTERM)
        code = bridge.wait(30)
    assert code == 0, (tmp_path / "bridge.log").read_text()
    seen = {record.metadata["track"]: record.metadata["observations"] for record in client.records()}
    assert seen == {"1": 1, "2": 4}


class TestKafka:
    """With FastStream's in-memory broker; no real Kafka was run."""

    @pytest.fixture(autouse=True)
    def packages(self):
        pytest.importorskip("faststream")
        pytest.importorskip("aiokafka")

    def test_messages_reach_the_reader_and_their_offsets_are_committed(self, monkeypatch, telemetry):
        from faststream.kafka import TestKafkaBroker
        from faststream.kafka.message import FakeConsumer

        from not3d.bridges.deepstream_kafka import KafkaTopic

        committed, got = [], []

        async def commit(_self, offsets=None):
            committed.append(offsets)

        monkeypatch.setattr(FakeConsumer, "commit", commit)

        class Room:
            async def has_room(self):
                return None

        async def main():
            topic = KafkaTopic("127.0.0.1:9092", STREAM, telemetry)
            topic.subscribe(lambda payload, token: got.append((payload, token)), Room())
            async with TestKafkaBroker(topic.broker):
                await topic.broker.publish(silence(0).encode(), STREAM)
                await topic.broker.publish(b"not JSON", STREAM)
                await topic.commit()
                topic.release([token for _, token in got])
                await topic.commit()

        asyncio.run(main())
        assert [payload for payload, _ in got] == [silence(0).encode(), b"not JSON"]
        assert [list(offsets.values()) for offsets in committed] == [[0], [1]]
        assert [(key.topic, key.partition) for key in committed[0]] == [(STREAM, 0)]

    def test_offsets_are_committed_up_to_the_first_message_that_is_needed(self):
        from not3d.bridges.deepstream_kafka import Offsets

        offsets = Offsets()
        for offset in range(3, 8):
            offsets.read(("t", 0, offset))
        offsets.read(("t", 1, 40))
        for offset in (3, 4, 6):
            offsets.done(("t", 0, offset))
        assert offsets.committable() == {("t", 0): 5, ("t", 1): 40}
        for token in (("t", 0, 5), ("t", 0, 7), ("t", 1, 40), ("t", 9, 1)):
            offsets.done(token)
        assert offsets.committable() == {("t", 0): 8, ("t", 1): 41}


def test_a_redis_that_ends_at_the_same_time_does_not_keep_the_bridge(server, monkeypatch):
    async def stop() -> bool:
        reading = asyncio.Event()

        async def read(*_):
            reading.set()
            await asyncio.Event().wait()

        async def acknowledge(*_):
            raise redis.exceptions.ConnectionError("Redis has ended")

        stream = RedisStream(server.url, STREAM, SilentTelemetry())
        monkeypatch.setattr(stream, "_read", read)
        monkeypatch.setattr(stream, "_acknowledge", acknowledge)
        task = asyncio.ensure_future(stream.run(lambda *_: None, SilentTelemetry(), None))
        await asyncio.wait_for(reading.wait(), 30)
        task.cancel()
        await asyncio.wait([task], timeout=10)
        return task.cancelled()

    assert asyncio.run(stop())


class SilentTelemetry:
    """Takes every call."""

    def __getattr__(self, name):
        return self

    def __call__(self, *_, **__):
        return self
