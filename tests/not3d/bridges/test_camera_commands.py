"""`not3d bridge axis` and `onvif` as processes, with a real broker, real recordings and a real service.

Each takes seconds to start, so all tests share one of each.
"""

import base64
import json
import os
import signal
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import cv2
import numpy as np
import pytest

from not3d.client import Client
from tests.not3d.bridges.mosquitto import Mosquitto
from tests.service.live import wait_for
from tests.videos import figure, write

START = datetime(2026, 5, 4, 9, 30, tzinfo=UTC)
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
STARTS, ENDS = 120, 120
"""Seconds that a process may take on a busy machine."""


@contextmanager
def bridge(folder: Path, name: str, broker: Mosquitto, client: Client, *options: object):
    """Run a bridge until the block ends; SIGTERM must end it without an error."""
    command = [sys.executable, "-m", "not3d", "bridge", name, "--mqtt", broker.url, "--url", client.url]
    command += ["--state", folder / f"{name}.sqlite", *options]
    log = folder / f"{name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(list(map(str, command)), env=ENVIRONMENT, stdout=output, stderr=output)
    try:
        yield log
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            code = process.wait(ENDS)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    assert code == 0, log.read_text()


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recordings")
    (folder / "door-1").mkdir()
    frames = [figure(160, 160, shift=number) for number in range(30)]
    write(folder / "door-1" / "2026-05-04T09-30-00Z.mp4", frames, rate=10)
    return folder


@pytest.fixture(scope="module")
def bridges(tmp_path_factory, broker, service, recordings):
    folder = tmp_path_factory.mktemp("bridges")
    onvif = ("--silence", "0.6", "--footage", recordings, "--footage-wait", "0.5")
    with ExitStack() as stack:
        logs = [
            stack.enter_context(bridge(folder, "axis", broker, service, "--settle-seconds", "0.3")),
            stack.enter_context(bridge(folder, "onvif", broker, service, *onvif)),
        ]
        for log in logs:
            wait_for(lambda log=log: '"connected"' in log.read_text(), STARTS)
        yield logs


@pytest.fixture
def peer(broker, bridges):
    peer = broker.connect("cameras")
    yield peer
    peer.close()


def picture(shift: int) -> bytes:
    return cv2.imencode(".jpg", figure(128, 64, shift)[..., ::-1])[1].tobytes()


def only(client: Client, **conditions: str):
    """Wait for the one record, and return it with its vector."""
    wait_for(lambda: len(list(client.records(**conditions))) == 1)
    (record,) = client.records(**conditions)
    return client.get(record.id, include_embedding=True)


def similarity(client: Client, record, frames) -> float:
    direct = client.embed(frames, enroll=False, include_embedding=True).embedding
    return float(np.dot(record.embedding, direct))


def axis_track(name: str, second: int, crop: bytes) -> str:
    return json.dumps(
        {
            "id": name,
            "channel_id": 1,
            "start_time": (START + timedelta(seconds=second)).isoformat(),
            "end_time": (START + timedelta(seconds=second + 3)).isoformat(),
            "classes": [{"type": "Human", "score": 0.9}],
            "image": {"data": base64.b64encode(crop).decode(), "bounding_box": {}},
        }
    )


def test_tracks_of_an_axis_camera_that_it_links_are_one_record(client, peer, bridges):
    peer.publish("axis/gate/object_track", b"nonsense")
    rename = {"timestamp": START.isoformat(), "track_events": [{"type": "Rename", "from_id": "a", "to_id": "b"}]}
    peer.publish("axis/gate/frame", json.dumps(rename))
    peer.publish("axis/gate/object_track", axis_track("a", 0, picture(0)))
    peer.publish("axis/gate/object_track", axis_track("b", 10, picture(9)))
    record = only(client, camera_id="gate")
    assert record.id == "axis:gate:a"
    assert (record.start_time, record.end_time) == (START, START + timedelta(seconds=13))
    assert record.metadata["tracks"] == ["a", "b"]
    assert similarity(client, record, [picture(0), picture(9)]) > 0.9999
    assert '"malformed"' in bridges[0].read_text()


def test_matches_of_each_source_are_published_and_announced(client, peer, bridges):
    peer.subscribe("not3d/#")
    peer.subscribe("homeassistant/#")
    for number, device in enumerate(("north", "south")):
        peer.publish(f"axis/{device}/object_track", axis_track(f"{device}-1", 100 + number, picture(0)))
        only(client, camera_id=device)
    for number, device in enumerate(("east", "west")):
        image = {"Image": base64.b64encode(picture(3)).decode()}
        peer.publish(f"{device}/onvif-mj/VideoAnalytics/1/T", onvif_frame(number, image))
        only(client, camera_id=f"{device}-1")
    for source, camera, other in (("axis", "south", "north"), ("onvif", "west-1", "east-1")):
        topic = f"not3d/{source}/{camera}/match"
        wait_for(lambda topic=topic: peer.on(topic))
        match = json.loads(peer.on(topic)[0])
        assert match["camera"] == camera
        assert other in {each["camera_id"] for each in match["matches"]}
        config = f"homeassistant/event/not3d_{source}_{camera}_match/config"
        wait_for(lambda config=config: peer.on(config))
        assert json.loads(peer.on(config)[-1])["availability_topic"] == f"not3d/{source}/status"
        assert peer.on(f"not3d/{source}/status")[-1] == b"online"
    assert all("HTTP Request" not in log.read_text() for log in bridges)


def onvif_frame(tenth: int, appearance: dict) -> str:
    time = (START + timedelta(seconds=tenth / 10)).isoformat().replace("+00:00", "Z")
    node = {"@ObjectId": 7, "Appearance": {"Class": {"Type": [{"@Likelihood": 0.9, "#text": "Human"}]}, **appearance}}
    return json.dumps({"Frame": [{"@UtcTime": time, "@Source": "t", "Object": [node]}]})


def test_pictures_in_onvif_metadata_are_the_tracklet(client, peer):
    crops = [picture(0), picture(4), picture(8)]
    for number, crop in enumerate(crops):
        image = {"Image": base64.b64encode(crop).decode()}
        peer.publish("hall/onvif-mj/VideoAnalytics/1/T", onvif_frame(number, image))
    record = only(client, camera_id="hall-1")
    assert record.id == f"onvif:hall-1:7:{START.timestamp():.3f}"
    assert similarity(client, record, crops) > 0.9999


def test_boxes_in_onvif_metadata_are_cut_out_of_recordings(client, peer, recordings):
    """The middle of the frame is the person: from 0.3 to 0.7 of its width, and all of its height."""
    box = {"Shape": {"BoundingBox": {"@left": -0.4, "@top": 1, "@right": 0.4, "@bottom": -1}}}
    for tenth in (0, 2, 4):
        peer.publish("door/onvif-mj/VideoAnalytics/1/T", onvif_frame(tenth, box))
    record = only(client, camera_id="door-1")
    direct = client.embed(
        video=recordings / "door-1" / "2026-05-04T09-30-00Z.mp4",
        boxes=[(tenth, 48, 0, 64, 160) for tenth in (0, 2, 4)],
        enroll=False,
        include_embedding=True,
    )
    assert float(np.dot(record.embedding, direct.embedding)) > 0.999


def test_boxes_without_a_recording_are_dropped_by_name(client, peer, bridges):
    box = {"Shape": {"BoundingBox": {"@left": -0.4, "@top": 1, "@right": 0.4, "@bottom": -1}}}
    peer.publish("roof/onvif-mj/VideoAnalytics/1/T", onvif_frame(0, box))
    wait_for(lambda: '"no_footage"' in bridges[1].read_text())
    assert f"onvif:roof-1:7:{START.timestamp():.3f}" in bridges[1].read_text()


class TestOptions:
    """What is wrong on the command line is said with the cure, before anything is connected."""

    @pytest.mark.parametrize(
        ("arguments", "cure"),
        [
            (("deepstream", "--space", "x"), "give either --redis or --kafka"),
            (("deepstream", "--redis", "redis://x"), "--space enrols the vectors"),
            (("deepstream", "--redis", "redis://x", "--space", "x", "--frame-size", "1080p"), "write WIDTHxHEIGHT"),
            (("deepstream", "--redis", "broker:6379", "--space", "x"), "redis://host:6379/0"),
            (("onvif", "--mqtt", "mqtt://x", "--footage", "none"), "does not exist"),
            (("axis", "--mqtt", "http://x"), "mqtt://host:1883"),
            (("axis", "--mqtt", "mqtt://x", "--topic-prefix", "a/#"), "--topic-prefix must be a topic without + and #"),
            (("onvif", "--mqtt", "mqtt://x", "--discovery-prefix", ""), "--discovery-prefix must be a topic without"),
        ],
    )
    def test_mistakes(self, run, arguments, cure):
        code, _, errors = run("bridge", *arguments)
        assert code in {1, 2}
        assert cure in " ".join(errors.replace("│", " ").split())
