"""Axis scene metadata: tracks with one picture, and tracks that the camera links."""

import base64
import json
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from not3d.bridges.axis import AxisEvents, AxisTrack, read_message
from not3d.bridges.axis_source import AxisSource
from not3d.bridges.observations import MalformedMessage
from not3d.bridges.sink import Sink
from not3d.bridges.state import State
from not3d.bridges.telemetry import Telemetry
from not3d.bridges.tracklet import Tracklet
from not3d.client import Client


def picture(shade: int) -> bytes:
    return cv2.imencode(".jpg", np.full((64, 32, 3), shade, np.uint8))[1].tobytes()


def track(name="a", second=0, *, shade=40, **more):
    content = {
        "id": name,
        "channel_id": 1,
        "start_time": f"2026-05-04T09:30:{second:02d}.000000Z",
        "end_time": f"2026-05-04T09:30:{second + 4:02d}.500000Z",
        "duration": 4.5,
        "classes": [{"type": "Human", "score": 0.82}],
        "path": [
            {"timestamp": f"2026-05-04T09:30:{second:02d}Z", "position": {"x": 0.1, "y": 0.9}},
            {
                "timestamp": f"2026-05-04T09:30:{second + 4:02d}Z",
                "bounding_box": {"left": 0.4, "top": 0.2, "right": 0.6, "bottom": 0.8},
            },
        ],
        "image": {
            "data": base64.b64encode(picture(shade)).decode(),
            "bounding_box": {"left": 0.38, "top": 0.18, "right": 0.62, "bottom": 0.82},
        },
    }
    return json.dumps({name: value for name, value in {**content, **more}.items() if value is not None}).encode()


def frame(*events):
    return json.dumps(
        {"channel_id": 1, "timestamp": "2026-05-04T09:30:01Z", "detections": [], "track_events": list(events)}
    ).encode()


def rename(one, other):
    return frame({"type": "Rename", "from_id": one, "to_id": other})


def ended(name):
    return frame({"type": "TrackEnded", "object_track_id": name})


class TestReading:
    def test_a_track_has_a_picture_times_a_class_and_a_path(self):
        read = read_message(track(channel_id=2))
        assert isinstance(read, AxisTrack)
        assert (read.id, read.channel, read.score, read.parts) == ("a", "2", 0.82, ())
        assert (read.end - read.start).total_seconds() == 4.5
        assert read.crop == picture(40)
        assert [point[1:] for point in read.path] == [(0.1, 0.9), (0.5, 0.8)]

    def test_only_people_are_tracks(self):
        classes = [{"type": "Car", "score": 0.9}, {"type": "Human", "score": 0.2}]
        assert read_message(track(classes=classes)) is None
        assert read_message(track(classes=None)) is None
        assert isinstance(read_message(track(classes=list(reversed(classes))[:1])), AxisTrack)

    def test_the_beta_format_is_read_too(self):
        content = json.loads(track())
        content["observations"] = content.pop("path")
        del content["channel_id"]
        read = read_message(json.dumps({"data": content}))
        assert isinstance(read, AxisTrack)
        assert (read.channel, len(read.path)) == ("", 2)

    def test_parts_of_parts_are_found(self):
        parts = [{"object_track_id": "b", "parts": [{"object_track_id": "c"}]}, {"object_track_id": "d"}]
        read = read_message(track(parts=parts))
        assert isinstance(read, AxisTrack)
        assert read.parts == ("b", "c", "d")

    def test_events_of_frames(self):
        read = read_message(frame({"type": "TrackEnded", "object_track_id": "a"}, {"type": "Rename", "from_id": "b"}))
        assert isinstance(read, AxisEvents)
        assert (read.ended, read.renamed) == (("a",), ())
        assert [each.reason for each in read.problems] == ["no to_id"]

    @pytest.mark.parametrize(
        ("payload", "reason"),
        [
            (b"nonsense", "not JSON"),
            (b"{}", "neither a track nor a frame"),
            (track(start_time="soon"), "start_time is not a time"),
            (track(image={"data": "?"}), "image is not base64"),
            (track(image={"data": base64.b64encode(b"GIF89a").decode()}), "image is neither JPEG nor PNG"),
            (track(id=""), "no id"),
        ],
    )
    def test_malformed_messages_are_named(self, payload, reason):
        with pytest.raises(MalformedMessage) as refused:
            read_message(payload)
        assert refused.value.reason == reason


class Bench:
    """A source with its state, and a sink that nothing empties."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.open()

    def open(self) -> None:
        self.state = State(self.path)
        self.telemetry = Telemetry("axis")
        self.client = Client(attempts=1)
        self.sink = Sink(self.client, self.state, self.telemetry)
        self.source = AxisSource(self.state, self.sink, self.telemetry, settle=10, hold=300)

    def restart(self) -> None:
        """Continue with what is on disk, as after `kill -9`."""
        self.close()
        self.open()

    def close(self) -> None:
        self.state.close()
        self.client.close()

    def send(self, *payloads: bytes, device: str = "gate") -> None:
        for payload in payloads:
            self.source.handle(payload, device)

    def waiting(self) -> list[Tracklet]:
        """Return what was handed over."""
        found, taken = [], set()
        while tracklet := self.state.next_waiting(taken):
            found.append(tracklet)
            taken.add(tracklet.id)
        return found

    def after(self, seconds: float) -> list[Tracklet]:
        """Return what is handed over some seconds from now."""
        self.source.hand_over(time.time() + seconds)
        return self.waiting()

    def outcomes(self) -> dict[str, float]:
        samples = [sample for metric in self.telemetry.registry.collect() for sample in metric.samples]
        return {
            sample.labels["outcome"]: sample.value for sample in samples if sample.name == "not3d_bridge_messages_total"
        }


@pytest.fixture
def bench(tmp_path):
    made = Bench(tmp_path / "state.db")
    yield made
    made.close()


class TestSource:
    def test_a_track_is_handed_over_after_it_has_settled(self, bench):
        bench.send(track(channel_id=2))
        assert bench.after(9) == []
        (tracklet,) = bench.after(11)
        assert (tracklet.id, tracklet.camera_id, tracklet.frames) == ("axis:gate-2:a", "gate-2", (picture(40),))
        assert (tracklet.end_time - tracklet.start_time).total_seconds() == 4.5
        assert tracklet.metadata["tracks"] == ["a"]
        assert tracklet.metadata["path"][1][1:] == [0.5, 0.8]

    def test_a_message_that_comes_twice_is_one_tracklet(self, bench):
        bench.send(track(), track())
        assert len(bench.after(11)[0].frames) == 1
        bench.send(track())
        assert len(bench.after(22)) == 1
        bench.restart()
        bench.send(track())
        assert len(bench.after(33)) == 1
        assert bench.outcomes() == {"track": 1, "duplicate": 1}

    @pytest.mark.parametrize(
        "messages",
        [
            (track("a", 0, shade=40), rename("a", "b"), track("b", 10, shade=80)),
            (rename("a", "b"), track("a", 0, shade=40), track("b", 10, shade=80)),
            (rename("b", "a"), track("b", 10, shade=80), track("a", 0, shade=40)),
            (track("a", 0, shade=40), track("b", 10, shade=80), rename("b", "a")),
            (track("a", 0, shade=40), track("b", 10, shade=80, parts=[{"object_track_id": "a"}])),
        ],
    )
    def test_tracks_that_the_camera_links_are_one_tracklet_with_all_pictures(self, bench, messages):
        bench.send(*messages)
        (tracklet,) = bench.after(11)
        assert tracklet.frames == (picture(40), picture(80))
        assert tracklet.metadata["tracks"] == ["a", "b"]
        assert (tracklet.end_time - tracklet.start_time).total_seconds() == 14.5

    def test_links_go_through_several_tracks(self, bench):
        bench.send(track("a", 0, shade=40), track("c", 20, shade=120), rename("b", "a"), rename("c", "b"))
        bench.send(track("b", 10, shade=80))
        (tracklet,) = bench.after(11)
        assert tracklet.frames == (picture(40), picture(80), picture(120))

    def test_a_track_waits_for_the_one_that_it_is_linked_to(self, bench):
        bench.send(track("a"), rename("a", "b"))
        assert bench.after(11) == []
        bench.send(ended("b"))
        assert len(bench.after(11)) == 1

    def test_a_track_does_not_wait_for_ever(self, bench):
        bench.send(track("a"), rename("a", "b"))
        assert bench.after(299) == []
        assert len(bench.after(301)) == 1

    def test_links_survive_a_restart(self, bench):
        bench.send(track("a", 0, shade=40), rename("a", "b"))
        bench.restart()
        bench.send(track("b", 10, shade=80))
        (tracklet,) = bench.after(11)
        assert tracklet.frames == (picture(40), picture(80))

    def test_links_of_tracks_that_are_not_known_yet_survive_a_restart(self, bench):
        bench.send(rename("a", "b"), rename("b", "c"))
        bench.restart()
        bench.send(track("a", 0, shade=40), track("c", 20, shade=120), track("b", 10, shade=80))
        (tracklet,) = bench.after(11)
        assert tracklet.frames == (picture(40), picture(80), picture(120))

    def test_a_link_that_comes_too_late_is_named_and_the_track_stands_alone(self, bench):
        bench.send(track("a"))
        bench.after(11)
        bench.send(rename("a", "b"), track("b", 10))
        assert [tracklet.id for tracklet in bench.after(11)] == ["axis:gate:a", "axis:gate:b"]
        assert bench.outcomes()["late_rename"] == 1

    def test_devices_do_not_mix(self, bench):
        bench.send(track("a"), rename("a", "b"))
        bench.send(track("b"), device="yard")
        bench.send(ended("b"))
        assert sorted(tracklet.id for tracklet in bench.after(11)) == ["axis:gate:a", "axis:yard:b"]

    def test_a_track_without_a_picture_is_dropped_by_name(self, bench):
        bench.send(track(image=None))
        assert bench.after(11) == []
        (dropped,) = bench.state.dead_letters()
        assert (dropped.id, dropped.reason) == ("axis:gate:a", "no_pictures")
        assert "best snapshots" in dropped.detail

    def test_malformed_messages_are_counted_and_do_not_end_the_source(self, bench):
        bench.send(b"nonsense", track(image={"data": "?"}), rename("a", ""), track("c"))
        assert len(bench.after(11)) == 1
        assert bench.outcomes() == {"malformed": 3, "track": 1, "frame": 1}

    def test_a_clock_that_is_set_back_holds_nothing(self, bench):
        bench.send(track("a"), rename("b", "c"), track("b", 10))
        assert [tracklet.id for tracklet in bench.after(-3600)] == ["axis:gate:a", "axis:gate:b"]

    def test_a_camera_that_links_everything_makes_tracklets_of_bounded_size(self, bench):
        for number in range(70):
            bench.send(track(f"t{number}"), rename("t0", f"t{number}"))
        (tracklet,) = bench.after(1)
        assert len(tracklet.metadata["tracks"]) == 70
        events = [{"type": "Rename", "from_id": "x0", "to_id": f"x{number}"} for number in range(1500)]
        read = read_message(frame(*events))
        assert len(read.renamed) == 1000
        assert [problem.reason for problem in read.problems] == ["too many items"]
