"""Tracks of any tracker by MQTT: the examples of the guide, hostile messages, and nothing outside the shared folder."""

import base64
import json
import os
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from not3d.bridges.mqtt import Broker, Mqtt
from not3d.bridges.shared_folder import ForbiddenPath, read_file
from not3d.bridges.state import State
from not3d.bridges.tracks import TracksOptions, TracksSource
from not3d.client import Client
from tests.not3d.bridges.conftest import Running
from tests.not3d.bridges.drawn_walk import HEIGHT, WIDTH, Walk
from tests.service.live import run_service, wait_for

GUIDE = Path(__file__).parents[3] / "docs" / "integrate" / "mqtt.md"


@pytest.fixture(scope="module")
def service(bundle, tmp_path_factory):
    with run_service(bundle, tmp_path_factory.mktemp("gallery")) as live:
        yield live


@pytest.fixture
def records(service):
    """The records by id; the gallery is empty at first."""

    def records():
        return {item["id"]: item for item in service.client.get("/gallery?limit=1000").json()["items"]}

    for name in records():
        service.client.delete(f"/gallery/{name}")
    return records


@pytest.fixture
def start(broker, service, tmp_path, request):
    running = []

    def start(**options):
        async def source(state, sink, telemetry):
            mqtt = Mqtt(Broker.parse(broker.url, client_id=request.node.name), telemetry)
            await TracksSource(mqtt, state, sink, telemetry, TracksOptions(**options)).run()

        running.append(Running(source, Client(service.url, attempts=1), tmp_path / "bridge.sqlite"))
        wait_for(lambda: running[-1].value("connected") == 1)
        return running[-1]

    yield start
    for bridge in running:
        bridge.stop()


@pytest.fixture
def peer(broker):
    peer = broker.connect("tracker")
    yield peer
    peer.close()


class PlainClient:
    """What the examples need of paho's client."""

    def __init__(self, peer):
        self._peer = peer

    def publish(self, topic, payload, qos):
        self._peer.publish(topic, payload, qos=qos)


def example(number):
    """The names that an example of the guide defines."""
    code = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)[number]
    names = {}
    exec(compile(code, f"{GUIDE.name}, example {number + 1}", "exec"), names)
    return names


def scene(walk, seconds):
    """A frame in OpenCV's order of colours, and one box in pixels."""
    at = walk.start + seconds
    return walk.frame(at)[..., ::-1].copy(), np.multiply(walk.box(at), (WIDTH, HEIGHT) * 2)


def test_the_example_for_ultralytics(peer, records, start):
    start()
    tracks = example(0)["Tracks"](PlainClient(peer), "gate")
    walk = Walk(3, 1_777_887_000.0)
    for step in range(12):
        frame, box = scene(walk, 0.5 * step)
        tracks.add(frame, [box.tolist()], [17.0], walk.start + 0.5 * step)
    tracks.add(frame, [], [], walk.start + 20)
    wait_for(lambda: set(records()) == {"mqtt:gate:17:1777887000.000"})
    record = records()["mqtt:gate:17:1777887000.000"]
    assert (record["camera_id"], record["start_time"]) == ("gate", "2026-05-04T09:30:00Z")
    assert record["end_time"] == "2026-05-04T09:30:05.500000Z"


def test_the_example_for_supervision(peer, records, start, tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    bridge = start(folder=folder)
    tracks = example(1)["FrameTracks"](PlainClient(peer), "yard", folder)
    walk = Walk(4, 1_777_887_000.0)
    for step in range(6):
        frame, box = scene(walk, step)
        tracks.add(frame, np.array([box], np.float32), np.array([3]), walk.start + step / 2)
    tracks.add(frame, np.empty((0, 4)), np.empty(0, int), walk.start + 30)
    wait_for(lambda: set(records()) == {"mqtt:yard:3:1777887000.000"})
    wait_for(lambda: bridge.value("frames_total", outcome="used") == 6)


def crop(person=1):
    frame, box = scene(Walk(person, 0.0), 2.0)
    left, top, right, bottom = map(round, box)
    return base64.b64encode(cv2.imencode(".jpg", frame[top:bottom, left:right])[1].tobytes()).decode()


def test_a_message_twice_is_one_record_and_a_broken_crop_costs_only_itself(peer, records, start):
    bridge = start()
    message = {
        "camera": "gate",
        "id": "door-1",
        "start": "2026-05-04T09:30:00+02:00",
        "crops": [crop(), "%%", "Ä===", crop()],
    }
    for _ in range(3):
        peer.publish("not3d/tracks/a/b", json.dumps(message))
    wait_for(lambda: bridge.value("messages_total", outcome="late") == 2)
    wait_for(lambda: list(records()) == ["door-1"])
    assert records()["door-1"]["start_time"] == "2026-05-04T07:30:00Z"
    assert bridge.value("frames_total", outcome="not_base64") == 2


MALFORMED = {
    "no JSON": "crops",
    "no object": "[]",
    "no camera": {"id": "x", "crops": ["AA=="]},
    "empty camera": {"camera": "", "id": "x", "crops": ["AA=="]},
    "neither id nor track": {"camera": "gate", "crops": ["AA=="]},
    "track without start": {"camera": "gate", "track": 1, "crops": ["AA=="]},
    "no pictures": {"camera": "gate", "id": "x", "crops": []},
    "crops and frames": {"camera": "gate", "id": "x", "crops": ["AA=="], "frames": [{"file": "a.jpg"}]},
    "both boxes": {"camera": "g", "id": "x", "frames": [{"file": "a", "xyxy": [0, 0, 9, 9], "xywh": [0, 0, 9, 9]}]},
    "time without zone": {"camera": "gate", "id": "x", "start": "2026-05-04T09:30:00", "crops": ["AA=="]},
    "time that is none": {"camera": "gate", "id": "x", "start": 1e300, "crops": ["AA=="]},
    "time of hundreds of digits": '{"camera": "gate", "id": "x", "start": 1%s, "crops": ["AA=="]}' % ("0" * 400),
    "time not a number": '{"camera": "gate", "id": "x", "start": NaN, "crops": ["AA=="]}',
    "time true": {"camera": "gate", "id": "x", "start": True, "crops": ["AA=="]},
    "end before start": {"camera": "gate", "id": "x", "start": 20, "end": 10, "crops": ["AA=="]},
    "typing error": {"camera": "gate", "id": "x", "crop": ["AA=="]},
    "deep": '{"camera": ' + "[" * 100_000,
    "not UTF-8": b'{"camera": "\xff"}',
    "NaN in metadata": '{"camera": "gate", "id": "x", "crops": ["AA=="], "metadata": {"speed": [NaN]}}',
    "too large a number": '{"camera": "gate", "id": "x", "crops": ["AA=="], "metadata": {"speed": 1e400}}',
    "too large an integer": '{"camera": "gate", "id": "x", "crops": ["AA=="], "metadata": {"count": 1%s}}' % ("0" * 30),
    "surrogate in metadata": '{"camera": "gate", "id": "x", "crops": ["AA=="], "metadata": {"\\ud800": 1}}',
    "surrogate": '{"camera": "\\ud800", "id": "x", "crops": ["AA=="]}',
}


def test_malformed_messages_are_counted_and_named(peer, records, start, caplog):
    caplog.set_level("INFO")
    bridge = start()
    for message in MALFORMED.values():
        peer.publish("not3d/tracks/x", message if isinstance(message, str | bytes) else json.dumps(message))
    wait_for(lambda: bridge.value("messages_total", outcome="malformed") == len(MALFORMED))
    reasons = [record.facts["reason"] for record in caplog.records if record.facts.get("outcome") == "malformed"]
    assert all(reasons)
    assert bridge.value("messages_total", outcome="error") == 0
    peer.publish("not3d/tracks/x", json.dumps({"camera": "gate", "id": "good", "crops": [crop()]}))
    wait_for(lambda: list(records()) == ["good"])


def test_files_outside_the_folder_are_dropped_by_name(peer, records, start, tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(base64.b64decode(crop()))
    (folder / "link.jpg").symlink_to(secret)
    bridge = start(folder=folder)
    for number, name in enumerate(("../secret.jpg", str(secret), "link.jpg", "missing.jpg")):
        message = {"camera": "gate", "id": f"t{number}", "frames": [{"file": name}]}
        peer.publish("not3d/tracks/x", json.dumps(message))
    wait_for(lambda: bridge.value("dropped_total", reason="forbidden_path") == 3)
    wait_for(lambda: bridge.value("dropped_total", reason="file_missing") == 1)
    bridge.stop()
    with State(tmp_path / "bridge.sqlite") as state:
        assert {letter.id for letter in state.dead_letters()} == {"t0", "t1", "t2", "t3"}
    assert records() == {}


def test_without_a_folder_files_are_refused(peer, start):
    bridge = start()
    peer.publish("not3d/tracks/x", json.dumps({"camera": "gate", "id": "t", "frames": [{"file": "a.jpg"}]}))
    wait_for(lambda: bridge.value("dropped_total", reason="forbidden_path") == 1)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "a.jpg").write_bytes(b"picture")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "a.jpg").write_bytes(b"secret")
    return folder


def test_a_file_in_the_folder_is_read(folder, tmp_path):
    assert read_file(folder, "sub/a.jpg") == read_file(folder, "./sub//a.jpg") == b"picture"
    (tmp_path / "link").symlink_to(folder)
    assert read_file(tmp_path / "link", "sub/a.jpg") == b"picture"


@pytest.mark.parametrize(
    "name",
    ["", ".", "/", "//etc/passwd", "/etc/passwd", "..", "../outside/a.jpg", "sub/../../outside/a.jpg", "sub/..",
     "sub\\..\\a", "a\0b", "sub", "outside/a.jpg", "file.jpg", "pipe", "large"],
)  # fmt: skip
def test_nothing_outside_the_folder_is_read(folder, tmp_path, name):
    (folder / "outside").symlink_to(tmp_path / "outside")
    (folder / "file.jpg").symlink_to(tmp_path / "outside" / "a.jpg")
    os.mkfifo(folder / "pipe")
    (folder / "large").write_bytes(b"x" * 101)
    with pytest.raises((ForbiddenPath, OSError)):
        read_file(folder, name, max_bytes=100)
