"""From observations to tracklets: crops, vectors, recordings, and what is dropped by name."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import cv2
import numpy as np
import pytest

from model.frames import decode_frame
from not3d.bridges import grouped
from not3d.bridges.grouped import GroupedOptions, GroupedSource
from not3d.bridges.observations import Observation, TrackGrouper
from not3d.bridges.recordings import Recordings
from not3d.bridges.sink import Sink
from not3d.bridges.state import State
from not3d.bridges.telemetry import Telemetry
from not3d.bridges.tracklet import RelativeBox, Tracklet
from not3d.client import Client
from tests.videos import write

START = datetime(2026, 5, 4, 9, 30, tzinfo=UTC)
BOX = RelativeBox(0.25, 0, 0.75, 1)
CROP = cv2.imencode(".jpg", np.zeros((64, 32, 3), np.uint8))[1].tobytes()


def see(name="1", seconds=0.0, *, camera="gate", box=BOX, crop=None, vector=None):
    values = None if vector is None else np.array(vector, dtype=float)
    return Observation(camera, name, START + timedelta(seconds=seconds), box, crop, values)


class Bench:
    """A source whose tracklets nothing takes, so that the test sees them."""

    def __init__(self, path: Path, options: GroupedOptions, silence: float = 5) -> None:
        self.state = State(path)
        self.telemetry = Telemetry("deepstream")
        self.client = Client(attempts=1)
        self.released: list[object] = []
        self.sink = Sink(self.client, self.state, self.telemetry)
        self.source = GroupedSource(
            TrackGrouper(silence=silence), self.state, self.sink, self.telemetry, options, self.released.extend
        )

    def add(self, *seen: Observation, token: object = None) -> None:
        first = seen[0]
        self.source.add(first.camera, first.time, seen, token=token)

    def pass_by(self, seconds: float) -> None:
        """Let time pass at the gate."""
        self.source.add("gate", START + timedelta(seconds=seconds), [])

    async def run(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.source.run(), seconds)

    def run_until(self, condition: Callable[[], object], meanwhile: Callable[[], object] = lambda: None) -> None:
        """Run until a condition holds, after something else was done."""

        async def wait() -> None:
            running = asyncio.create_task(self.source.run())
            await asyncio.sleep(0.1)
            await asyncio.to_thread(meanwhile)
            while not condition():
                await asyncio.sleep(0.01)
            running.cancel()

        asyncio.run(asyncio.wait_for(wait(), 30))

    def waiting(self) -> list[Tracklet]:
        found: list[Tracklet] = []
        while tracklet := self.state.next_waiting({each.id for each in found}):
            found.append(tracklet)
        return found

    def dropped(self) -> dict[str, str]:
        return {each.id: each.reason for each in self.state.dead_letters()}

    def close(self) -> None:
        self.state.close()
        self.client.close()


@pytest.fixture
def bench(tmp_path):
    made = []

    def make(silence=5, **options):
        made.append(Bench(tmp_path / "state.sqlite", GroupedOptions(**options), silence))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_crops_in_messages_are_the_tracklet(bench):
    crops = [CROP + bytes([number]) for number in range(3)]
    source = bench()
    for number in (1, 0, 2):
        source.add(see(seconds=number, crop=crops[number]))
    source.pass_by(10)
    (tracklet,) = source.waiting()
    assert tracklet.frames == tuple(crops)
    assert (tracklet.camera_id, tracklet.start_time, tracklet.end_time) == ("gate", START, START + timedelta(seconds=2))
    assert tracklet.id == f"deepstream:gate:1:{START.timestamp():.3f}"
    assert tracklet.metadata == {"source": "deepstream", "track": "1", "observations": 3}


def test_of_many_crops_a_few_are_taken_evenly(bench):
    source = bench(crops=4)
    for number in range(40):
        source.add(see(seconds=number / 10, crop=CROP + bytes([number])))
    source.pass_by(10)
    taken = [frame[-1] for frame in source.waiting()[0].frames]
    assert len(taken) == 4
    assert min(np.diff(taken)) >= 8


def test_vectors_are_enrolled_in_the_space_that_the_operator_names(bench):
    source = bench(embedding_space="clip-market")
    source.add(see(vector=[2, 0]))
    source.add(see(seconds=1, vector=[0, 1]))
    source.pass_by(10)
    (tracklet,) = source.waiting()
    assert tracklet.frames == ()
    assert tracklet.embedding_space == "clip-market"
    np.testing.assert_allclose(tracklet.embedding, [2**-0.5, 2**-0.5])


@pytest.mark.parametrize(
    ("seen", "reason"), [(see(vector=[1, 0], box=None), "no_embedding_space"), (see(), "no_footage")]
)
def test_what_cannot_be_enrolled_is_dropped_by_name(bench, seen, reason):
    source = bench()
    source.add(seen)
    source.pass_by(10)
    assert source.waiting() == []
    assert list(source.dropped().values()) == [reason]


@pytest.fixture
def recordings(tmp_path):
    (tmp_path / "site" / "gate").mkdir(parents=True)
    return tmp_path / "site"


def record(folder, name="2026-05-04T09-30-00Z.mp4"):
    frames = [np.full((64, 96, 3), 20 + 8 * number, np.uint8) for number in range(20)]
    scratch = folder / f".{name}"
    write(scratch, frames, rate=10, format="mp4")
    scratch.rename(folder / "gate" / name)


def test_boxes_are_cut_out_of_recordings_that_come_later(bench, recordings, monkeypatch):
    monkeypatch.setattr(grouped, "FOOTAGE_PAUSE_SECONDS", 0.05)
    source = bench(recordings=Recordings(recordings))
    for tenth in (0, 5, 10):
        source.add(see(seconds=tenth / 10))
    source.pass_by(10)
    assert source.waiting() == []
    source.run_until(source.waiting, lambda: record(recordings))
    (tracklet,) = source.waiting()
    assert [round((decode_frame(frame).mean() - 20) / 8) for frame in tracklet.frames] == [0, 5, 10]
    assert decode_frame(tracklet.frames[0]).shape == (64, 48, 3)


def test_recordings_that_never_come_end_in_a_named_drop(bench, recordings, monkeypatch):
    monkeypatch.setattr(grouped, "FOOTAGE_PAUSE_SECONDS", 0.05)
    source = bench(recordings=Recordings(recordings), footage_wait=0.1)
    source.add(see())
    source.pass_by(10)
    source.run_until(source.dropped)
    assert list(source.dropped().values()) == ["no_footage"]


def test_the_end_of_the_bridge_ends_the_reading_of_a_long_recording(bench, recordings):
    begun, cancelled = threading.Event(), []

    class Long(Recordings):
        def cut(self, camera, wanted, ended=None):
            begun.set()
            cancelled.append(ended is not None and ended.wait(20))
            return [None] * len(wanted)

    source = bench(recordings=Long(recordings))
    source.add(see())
    source.pass_by(10)
    source.run_until(begun.is_set)
    assert cancelled == [True]
    assert source.dropped() == {}  # it is read again at the next start


def test_boxes_that_wait_for_recordings_survive_a_restart(bench, recordings):
    source = bench(recordings=Recordings(recordings))
    source.add(see())
    source.pass_by(10)
    source.close()
    record(recordings)
    again = bench(recordings=Recordings(recordings))
    again.run_until(again.waiting)
    assert len(again.waiting()) == 1


def test_the_end_of_the_bridge_hands_over_what_is_open(bench):
    source = bench()
    source.add(see(crop=CROP))
    asyncio.run(source.run(0.01))
    assert len(source.waiting()) == 1


def test_silence_by_the_clock_ends_a_track(bench, monkeypatch):
    monkeypatch.setattr(grouped, "TICK_SECONDS", 0.01)
    source = bench(silence=0.05)
    source.add(see(crop=CROP))
    source.run_until(source.waiting)
    assert len(source.waiting()) == 1


class TestMessages:
    """A message is released when everything in it is on disk."""

    def test_a_message_is_needed_until_all_its_tracks_have_ended(self, bench):
        source = bench()
        source.add(see("1", 0, crop=CROP), see("2", 0, crop=CROP), token="m0")
        source.add(see("2", 3, crop=CROP), token="m3")
        source.add(see("2", 6, crop=CROP), token="m6")
        assert source.released == []
        assert len(source.waiting()) == 1
        source.pass_by(20)
        assert sorted(source.released) == ["m0", "m3", "m6"]
        assert len(source.waiting()) == 2

    def test_a_message_without_people_is_not_needed(self, bench):
        source = bench()
        source.source.add("gate", START, [], token="empty")
        assert source.released == ["empty"]

    def test_messages_that_come_again_after_a_crash_make_the_same_tracklets(self, bench):
        """The first of two people is done at the crash, so only the second one's messages are open."""
        both = [see("1", 0, crop=CROP), see("2", 0, crop=CROP)]
        messages = [both, [see("2", 3, crop=CROP)], [see("2", 6, crop=CROP)]]
        source = bench()
        for number, people in enumerate(messages):
            source.add(*people, token=number)
        assert len(source.waiting()) == 1
        source.close()
        again = bench()
        for number, people in enumerate(messages):
            if number not in source.released:
                again.add(*people, token=number)
        again.pass_by(20)
        assert sorted(tracklet.metadata["observations"] for tracklet in again.waiting()) == [1, 3]
        assert sorted(again.released) == [0, 1, 2]


class TestOpenTracksOfMqtt:
    """A broker does not send messages again that were acknowledged, so what is open is in the state."""

    def test_a_track_that_was_open_at_the_end_of_the_process_goes_on(self, tmp_path):
        path = tmp_path / "bridge.sqlite"
        first = open_source(path)
        crops = [cv2.imencode(".jpg", np.full((64, 32, 3), 6 * number, np.uint8))[1].tobytes() for number in range(40)]
        for number in range(25):
            first.see(see("7", number / 10, crop=crops[number]))
        first.see(see("8", 2.4, crop=CROP))
        first.state.close()  # as `kill -9`: nothing was handed over
        again = open_source(path)
        again.see(see("7", 2.4, crop=crops[24]))  # was not acknowledged
        for number in range(25, 40):
            again.see(see("7", number / 10, crop=crops[number]))
        again.source.close()
        whole = open_source(tmp_path / "whole.sqlite")
        for number in range(40):
            whole.see(see("7", number / 10, crop=crops[number]))
        whole.see(see("8", 2.4, crop=CROP))
        whole.source.close()
        (one, other), expected = again.handed_over(), whole.handed_over()
        assert [one, other] == expected
        assert (one.start_time, one.end_time) == (START, START + timedelta(seconds=3.9))
        assert (one.metadata["observations"], len(one.frames)) == (40, 8)
        assert again.state.observed() == []

    def test_what_is_kept_of_an_open_track_is_bounded(self, tmp_path):
        source = open_source(tmp_path / "bridge.sqlite")
        for number in range(500):
            source.see(see("7", number / 10))
        ((_, _, facts, sights),) = source.state.observed()
        assert facts["seen"] == 500
        assert len(sights) <= 16

    def test_a_track_that_was_silent_while_the_bridge_was_away_ends(self, tmp_path):
        first = open_source(tmp_path / "bridge.sqlite")
        first.see(see("7", crop=CROP))
        first.state.close()
        again = open_source(tmp_path / "bridge.sqlite")
        again.see(see("7", 3600, crop=CROP))  # the number of another person
        (ended,) = again.handed_over()
        assert ended.end_time == START
        (kept,) = again.state.observed()
        assert kept[2]["start"] == (START + timedelta(hours=1)).isoformat()


class OpenSource:
    def __init__(self, path: Path) -> None:
        self.state = State(path)
        telemetry = Telemetry("onvif")
        self.sink = Sink(CLIENT, self.state, telemetry)
        grouper = TrackGrouper(silence=5)
        self.source = GroupedSource(grouper, self.state, self.sink, telemetry, GroupedOptions())

    def see(self, seen: Observation) -> None:
        self.source.add(seen.camera, seen.time, [seen])

    def handed_over(self) -> list[Tracklet]:
        found: list[Tracklet] = []
        while tracklet := self.state.next_waiting({each.id for each in found}):
            found.append(tracklet)
        return sorted(found, key=lambda each: each.id)


CLIENT = Client(attempts=1)
OPENED: list[OpenSource] = []


def open_source(path: Path) -> OpenSource:
    OPENED.append(OpenSource(path))
    return OPENED[-1]


@pytest.fixture(autouse=True)
def close_states():
    yield
    while OPENED:
        OPENED.pop().state.close()


def test_a_clock_that_is_set_back_does_not_lengthen_the_wait_for_recordings(bench, recordings, monkeypatch):
    monkeypatch.setattr(grouped, "FOOTAGE_PAUSE_SECONDS", 0.05)
    source = bench(recordings=Recordings(recordings), footage_wait=0.2)
    source.add(see())
    source.pass_by(10)
    back = time.time() - 3600
    monkeypatch.setattr(grouped.time, "time", lambda: back)
    source.run_until(source.dropped)
    assert list(source.dropped().values()) == ["no_footage"]
