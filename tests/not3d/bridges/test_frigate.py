"""The bridge between a Frigate that behaves as the real one and a real service: nothing twice, nothing lost unnamed."""

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from model.bundle import BUNDLED
from model.frames import decode_frame
from not3d.bridges.frigate.api import Frigate
from not3d.bridges.frigate.source import FrigateOptions, FrigateSource
from not3d.bridges.mqtt import Broker, Mqtt
from not3d.bridges.state import State
from not3d.client import Client
from not3d.ports import free_port
from tests.not3d.bridges.conftest import Running
from tests.not3d.bridges.drawn_walk import HEIGHT, WIDTH
from tests.not3d.bridges.fake_frigate import DETECT, FakeFrigate, encode
from tests.not3d.bridges.mosquitto import PASSWORD, USER, Mosquitto
from tests.service.live import run_service, wait_for

ROOT = Path(__file__).parents[3]


class Clock:
    """A clock of the bridge that stands still until a test moves it."""

    def __init__(self):
        self.now = time.time()

    def __call__(self):
        return self.now


QUICK: dict[str, Any] = {"settle_seconds": 0.1, "open_seconds": 30.0, "give_up_seconds": 1.5, "margin": 0.0}


@pytest.fixture(scope="module")
def service(bundle, tmp_path_factory):
    with run_service(bundle, tmp_path_factory.mktemp("gallery")) as live:
        yield live


@pytest.fixture
def gallery(service):
    """The ids of all records; the gallery is empty at first."""
    for item in service.client.get("/gallery", params={"limit": 1000}).json()["items"]:
        service.client.delete(f"/gallery/{item['id']}")
    return lambda: sorted(item["id"] for item in service.client.get("/gallery", params={"limit": 1000}).json()["items"])


@pytest.fixture
def fake(broker):
    with FakeFrigate(broker).serve() as fake:
        yield fake


@pytest.fixture
def start(tmp_path, request):
    """Starts the bridge in this process; its state is kept from start to start."""
    running = []

    def start(fake, url, *, login=None, ca_file=None, wait_for_value="caught_up", now=time.time, **options):
        async def source(state, sink, telemetry):
            secure = {"username": USER, "password": PASSWORD, "ca_file": fake.broker.ca_file}
            address = Broker.parse(
                fake.broker.url, client_id=request.node.name, **(secure if fake.broker.secure else {})
            )
            mqtt = Mqtt(address, telemetry, status_topic="not3d/status")
            user, password = login or (None, None)
            async with Frigate(fake.url, user=user, password=password, ca_file=ca_file) as api:
                await FrigateSource(mqtt, api, state, sink, telemetry, FrigateOptions(**QUICK | options), now=now).run()

        bridge = Running(source, Client(url, attempts=1), tmp_path / "bridge.sqlite")
        running.append(bridge)
        wait_for(lambda: bridge.value(wait_for_value) == 1 or bridge.error)
        return bridge

    yield start
    for bridge in running:
        bridge.stop()


def record_id(event):
    return f"frigate:{event.camera}:{event.id}"


def dropped(tmp_path):
    with State(tmp_path / "bridge.sqlite") as state:
        return {letter.id: letter.reason for letter in state.dead_letters()}


def test_a_walk_is_enrolled_with_times_zones_and_label(fake, service, gallery, start):
    start(fake, service.url)
    event = fake.walk()
    wait_for(lambda: gallery() == [record_id(event)])
    record = service.client.get(f"/gallery/{record_id(event)}").json()
    assert record["camera_id"] == "yard"
    start_time, end_time = event.walk.start + 0.5, event.seen_until
    for name, expected in (("start_time", start_time), ("end_time", end_time)):
        shown = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(expected))
        assert record[name].startswith(shown)
    assert record["metadata"] == {
        "frigate_event": event.id, "label": "person", "zones": ["path"], "top_score": 0.87, "pictures": "recording",
    }  # fmt: skip
    assert fake.busiest <= 2


def test_the_vector_is_that_of_the_same_pixels_sent_by_hand(broker, start, tmp_path):
    """With the real model, a recording of another resolution than the detect stream's, and one that is 0.4 s late."""
    options = {"engine": "onnxruntime"}
    with run_service(BUNDLED, tmp_path / "gallery", **options) as live, FakeFrigate(broker, offset=0.4).serve() as fake:
        start(fake, live.url)
        event = fake.begin()
        boxes = {}
        for number, seconds in enumerate((0.5, 2.0, 3.5, 5.0)):
            after = fake.see(event, seconds, kind="update" if number else "new")["after"]
            boxes[after["frame_time"]] = after["box"]
        fake.end(event)
        wait_for(lambda: live.client.get(f"/gallery/{record_id(event)}").status_code == 200, 120)
        answer = live.client.get(f"/gallery/{record_id(event)}", params={"include_embedding": "true"}).json()
        crops = []
        for at, (left, top, right, bottom) in boxes.items():
            frame = decode_frame(encode(event.walk.frame(at)))  # the pixels of the recording
            across, down = WIDTH / DETECT[0], HEIGHT / DETECT[1]
            crops.append(frame[round(top * down) : round(bottom * down), round(left * across) : round(right * across)])
        files = [("frames", ("x", cv2.imencode(".png", crop[..., ::-1])[1].tobytes())) for crop in crops]
        params = {"enroll": "false", "include_embedding": "true"}
        by_hand = live.client.post("/embed", params=params, files=files).json()
    one, other = np.array(answer["embedding"]), np.array(by_hand["embedding"])
    assert one @ other / np.linalg.norm(one) / np.linalg.norm(other) > 0.999


def test_duplicates_late_updates_and_reordered_messages_change_nothing(fake, service, gallery, start):
    clock = Clock()
    bridge = start(fake, service.url, now=clock)
    event = fake.begin()
    messages = [fake.see(event, seconds, publish=False) for seconds in (0.5, 2.0, 3.5, 5.0)]
    end = fake.end(event, publish=False)
    for message in (messages[2], end, messages[0], end, messages[3], messages[1], end):
        fake.publish("frigate/events", message)
    wait_for(lambda: bridge.value("messages_total", outcome="used") == 7)
    clock.now += 1
    wait_for(lambda: gallery() == [record_id(event)])
    for message in (end, messages[0], end):
        fake.publish("frigate/events", message)
    wait_for(lambda: bridge.value("messages_total", outcome="late") == 3)
    wait_for(lambda: bridge.value("enrolled_total", result="new") == 1)
    wait_for(lambda: bridge.value("frames_total", outcome="recording") == 4)
    assert gallery() == [record_id(event)]


def test_what_is_no_person_is_left_out(fake, service, gallery, start, tmp_path):
    bridge = start(fake, service.url, cameras=("yard",))
    fake.walk(label="cat")
    fake.walk("street")
    doubtful, statue = fake.walk(false_positive=True), fake.walk(position_changes=0)
    person = fake.walk()
    for payload in ("not JSON", "[]", '{"after": {"id": "x"}}', '{"after": null}', "{" * 100_000):
        fake.publish("frigate/events", payload)
    wait_for(lambda: gallery() == [record_id(person)])
    wait_for(lambda: bridge.value("messages_total", outcome="malformed") == 5)
    assert bridge.value("messages_total", outcome="other_label") > 0
    assert bridge.value("messages_total", outcome="other_camera") > 0
    assert bridge.value("messages_total", outcome="error") == 0
    bridge.stop()
    assert dropped(tmp_path) == {record_id(doubtful): "false_positive", record_id(statue): "never_moved"}


def test_a_recording_that_is_not_there_yet_is_waited_for(fake, service, gallery, start):
    fake.no_recordings = True
    clock = Clock()
    bridge = start(fake, service.url, live_pictures=False, give_up_seconds=math.inf, now=clock)
    event = fake.walk()
    wait_for(lambda: bridge.value("messages_total", outcome="used") == 8)

    def is_later_and(condition):
        clock.now += 1
        return condition()

    wait_for(lambda: is_later_and(lambda: fake.calls["recordings"] == 3))
    fake.no_recordings = False
    wait_for(lambda: is_later_and(lambda: gallery() == [record_id(event)]))
    wait_for(lambda: bridge.value("frames_total", outcome="recording") == 7)


def test_an_empty_recording_at_the_end_costs_its_pictures_only(fake, service, gallery, start):
    bridge = start(fake, service.url)
    events = [fake.walk(age=20 + 10 * number) for number in range(4)]
    wait_for(lambda: gallery() == sorted(map(record_id, events)))
    wait_for(lambda: bridge.value("frames_total", outcome="unreadable_picture") == 2)


def test_without_a_recording_live_pictures_of_the_same_frame_are_used(fake, service, gallery, start, tmp_path):
    fake.no_recordings = True
    bridge = start(fake, service.url, give_up_seconds=0.2)
    event = fake.begin()
    fake.see(event, 0.5, kind="new")
    wait_for(lambda: bridge.value("frames_total", outcome="live") == 1)
    fake.see(event, 2.5)
    wait_for(lambda: bridge.value("frames_total", outcome="live") == 2)
    fake.end(event)
    unseen = fake.begin()
    message = fake.see(unseen, 0.5, kind="new", publish=False)
    unseen.snapshot_time += 1.0  # by the time the bridge asks, Frigate shows another frame
    fake.publish("frigate/events", message)
    wait_for(lambda: bridge.value("frames_total", outcome="live_other_time") == 1)
    fake.end(unseen)
    wait_for(lambda: gallery() == [record_id(event)])
    assert service.client.get(f"/gallery/{record_id(event)}").json()["metadata"]["pictures"] == "live"
    wait_for(lambda: bridge.value("dropped_total", reason="recording_missing") == 1)
    bridge.stop()
    assert dropped(tmp_path) == {record_id(unseen): "recording_missing"}


def test_an_event_that_goes_on_is_enrolled_once_and_its_end_is_added(fake, service, gallery, start):
    bridge = start(fake, service.url, open_seconds=0.2)
    event = fake.begin(age=30)
    for seconds in (0.5, 2.0):
        fake.see(event, seconds, kind="new" if seconds < 1 else "update")
    wait_for(lambda: gallery() == [record_id(event)])
    fake.see(event, 6.0)
    event.zones = ["gate"]
    fake.end(event)
    fake.end(event)

    def ended():
        record = service.client.get(f"/gallery/{record_id(event)}").json()
        shown = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(event.seen_until))
        return record["end_time"].startswith(shown) and record["metadata"]["zones"] == ["gate"]

    wait_for(ended)
    wait_for(lambda: bridge.value("enrolled_total", result="new") == 1)


def test_port_8971_with_tls_a_login_and_tokens_that_end(secure_broker, service, gallery, start):
    certificate = secure_broker.ca_file
    with FakeFrigate(secure_broker, login=True).serve(certificate=certificate) as fake:
        bridge = start(fake, service.url, login=("vic", "a viewer's password"), ca_file=certificate)
        first = fake.walk()
        wait_for(lambda: gallery() == [record_id(first)])
        fake.end_tokens()
        second = fake.walk()
        wait_for(lambda: gallery() == sorted(map(record_id, (first, second))))
        assert fake.calls["login"] == 2
        bridge.stop()


def test_a_wrong_password_drops_nothing(broker, service, gallery, start):
    with FakeFrigate(broker, login=True).serve() as fake:
        bridge = start(fake, service.url, login=("vic", "wrong"), wait_for_value="connected")
        event = fake.walk()
        wait_for(lambda: bridge.value("retries_total", call="backfill") >= 1)
        bridge.stop()
        again = start(fake, service.url, login=("ann", "an admin's password"))
        wait_for(lambda: gallery() == [record_id(event)])
        again.stop()


def test_what_happened_while_the_bridge_was_away_is_caught_up(fake, service, gallery, start):
    bridge = start(fake, service.url)
    seen = fake.walk()
    half = fake.begin()
    fake.see(half, 0.5, kind="new")
    wait_for(lambda: gallery() == [record_id(seen)])
    wait_for(lambda: bridge.value("open") == 1)
    bridge.stop()
    fake.see(half, 6.0, publish=False)
    fake.end(half, publish=False)
    missed = [fake.walk(publish=False, age=20 + number) for number in range(3)]
    fake.walk(label="cat", publish=False)
    again = start(fake, service.url)
    wait_for(lambda: gallery() == sorted(map(record_id, [seen, half, *missed])))
    wait_for(lambda: again.value("enrolled_total", result="new") == 4)


def test_frigate_restarts_in_the_middle_of_an_event(broker, service, gallery, start):
    port = free_port()
    fake = FakeFrigate(broker)
    with fake.serve(port):
        bridge = start(fake, service.url)
        event = fake.begin()
        fake.see(event, 0.5, kind="new")
        fake.see(event, 3.0)
        fake.publish("frigate/available", "offline")
        wait_for(lambda: bridge.value("open") == 1)
    fake.end(event, publish=False)  # Frigate ends its events at its stop, and nobody hears it
    with fake.serve(port):
        fake.publish("frigate/available", "online")
        wait_for(lambda: gallery() == [record_id(event)])
        after = fake.walk()
        wait_for(lambda: gallery() == sorted(map(record_id, (event, after))))


def test_the_broker_restarts_in_the_middle_of_an_event(service, gallery, start, tmp_path):
    broker = Mosquitto(tmp_path / "broker")
    broker.start()
    with FakeFrigate(broker).serve() as fake:
        bridge = start(fake, service.url)
        event = fake.begin()
        fake.see(event, 0.5, kind="new")
        wait_for(lambda: bridge.value("open") == 1)
        broker.kill()
        wait_for(lambda: bridge.value("connected") == 0)
        fake.disconnect()
        fake.see(event, 5.0, publish=False)
        fake.end(event, publish=False)  # QoS 0: lost
        broker.start()
        wait_for(lambda: gallery() == [record_id(event)])
        bridge.stop()
    broker.stop()


def test_the_service_is_down_for_a_while(fake, bundle, start, tmp_path):
    """Five minutes, scaled down to several attempts of every event."""
    port = free_port()
    bridge = start(fake, f"http://127.0.0.1:{port}")
    events = [fake.walk(age=20 + number) for number in range(5)]
    wait_for(lambda: bridge.value("retries_total", call="enrol") >= 4)
    assert bridge.value("dropped_total", reason="backlog_full") == 0
    with run_service(bundle, tmp_path / "gallery", port=port) as live:
        wait_for(lambda: bridge.value("enrolled_total", result="new") == 5)
        found = [item["id"] for item in live.client.get("/gallery").json()["items"]]
        assert sorted(found) == sorted(map(record_id, events))
        bridge.stop()


def test_the_bridge_is_killed_again_and_again(fake, service, gallery, tmp_path):
    """As a user starts it; each event is enrolled once, whenever the bridge dies."""
    events = []
    process = None
    try:
        for round_ in range(3):
            process = spawn(fake, service.url, tmp_path)
            wait_for(lambda: "backfill" in log_of(tmp_path))
            events += [fake.walk(age=20 + 10 * number) for number in range(2)]
            time.sleep(0.15 * (round_ + 1))  # in a different phase each time
            process.send_signal(signal.SIGKILL)
            process.wait(60)
            events.append(fake.walk(publish=False))
            (tmp_path / "log").unlink()
        process = spawn(fake, service.url, tmp_path)
        wait_for(lambda: gallery() == sorted(map(record_id, events)), 120)
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 0
    finally:
        if process and process.poll() is None:
            process.kill()
            process.wait()
    assert dropped(tmp_path) == {}


def spawn(fake, url, folder):
    command = [
        *(sys.executable, "-m", "not3d", "bridge", "frigate", "--mqtt", fake.broker.url, "--frigate", fake.url),
        *("--settle-seconds", "0.1", "--give-up-seconds", "1.5", "--state", str(folder / "bridge.sqlite")),
    ]
    environment = os.environ | {"NOT3D_URL": url, "NOT3D_BRIDGE_CLIENT_ID": folder.name}
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=log)


def log_of(folder):
    return (folder / "log").read_text()
