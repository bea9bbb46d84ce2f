"""What the bridge reads from Frigate's messages: lenient with what it does not know, strict with what it needs."""

import asyncio
import json
from itertools import pairwise

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from not3d.bridges.frigate.api import Frigate, FrigateError
from not3d.bridges.frigate.events import MAX_SIGHTS, MalformedEvent, Progress, parse_event, relative_box
from not3d.bridges.frigate.source import FrigateOptions, FrigateSource
from not3d.bridges.mqtt import Broker, Mqtt
from not3d.bridges.sink import Sink
from not3d.bridges.tracklet import RelativeBox
from not3d.client import Client

LEAST = {"id": "1.2-a", "camera": "yard", "label": "person", "box": [10, 20, 110, 220], "frame_time": 100.5}


def event(kind="update", before=None, **fields):
    return json.dumps({"type": kind, "before": before, "after": LEAST | fields})


def test_five_fields_are_enough():
    update = parse_event(event())
    assert (update.kind, update.event_id, update.camera, update.label) == ("update", "1.2-a", "yard", "person")
    assert update.sights == ((100.5, (10, 20, 110, 220)),)
    assert (update.start, update.end, update.false_positive, update.position_changes) == (None, None, False, None)
    assert update.facts == {"frigate_event": "1.2-a", "label": "person", "zones": []}


@pytest.mark.parametrize("missing", LEAST)
@pytest.mark.parametrize("value", [None, "", [], {}, True, float("nan"), -1])
def test_without_one_of_them_a_message_is_malformed(missing, value):
    with pytest.raises(MalformedEvent):
        parse_event(event(**{missing: value}))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
FIELDS = ("snapshot", "sub_label", "top_score", "start_time", "end_time", "entered_zones", "position_changes", "x")


@given(st.dictionaries(st.sampled_from((*FIELDS, *LEAST)), JSON), JSON, JSON)
def test_no_message_has_another_effect_than_being_read_or_malformed(fields, before, kind):
    try:
        update = parse_event(json.dumps({"type": kind, "before": before, "after": LEAST | fields}))
    except MalformedEvent:
        return
    progress = Progress("1.2-a", "yard")
    progress.add(update, (640, 360))
    assert Progress.from_json(json.loads(json.dumps(progress.to_json()))) == progress
    json.dumps(progress.facts)
    for time in (progress.start_time, progress.end_time):
        assert time is None or time.tzinfo is not None


@pytest.mark.parametrize("seconds", [-99_999_999_999, -5e10, 5e10, 99_999_999_999])
def test_a_time_that_no_calendar_has_is_unknown(seconds):
    progress = Progress("1.2-a", "yard")
    progress.add(parse_event(event(start_time=seconds, end_time=seconds)), (640, 360))
    assert progress.start_time.timestamp() == progress.end_time.timestamp() == 100.5


def test_the_box_of_before_and_of_the_snapshot_count_too():
    before = {"frame_time": 98.0, "box": [0, 0, 50, 50]}
    update = parse_event(event(before=before, snapshot={"frame_time": 99.0, "box": [5, 5, 55, 55]}))
    assert [at for at, _ in update.sights] == [98.0, 99.0, 100.5]
    assert (update.snapshot_time, update.snapshot_box) == (99.0, (5, 5, 55, 55))


def test_names_come_as_a_list_by_mqtt_and_as_a_text_by_http():
    assert parse_event(event(sub_label=["Ann", 0.9])).facts["sub_label"] == "Ann"
    progress = Progress("1.2-a", "yard")
    progress.add_stored({"id": "1.2-a", "label": "person", "sub_label": "Ann", "zones": ["gate"], "start_time": 1.0})
    assert (progress.facts["sub_label"], progress.facts["zones"], progress.start) == ("Ann", ["gate"], 1.0)


def test_both_conventions_of_boxes():
    progress = Progress("1.2-a", "yard")
    progress.add(parse_event(event(box=[160, 90, 320, 180])), (640, 360))
    (pair,) = progress.boxes
    assert pair == (100.5, RelativeBox(0.25, 0.25, 0.5, 0.5))
    assert relative_box([0.25, 0.25, 0.25, 0.25]) == pair[1]
    assert relative_box([0.25, 0.25, 0, 0.25]) is relative_box(None) is relative_box([1, 2]) is None


def test_messages_in_any_order_give_the_same():
    messages = [
        event("new", frame_time=100.0),
        event(frame_time=101.0, entered_zones=["gate"]),
        event("end", frame_time=102.0, entered_zones=["gate", "door"], end_time=102.5, start_time=99.5),
    ]
    results = []
    for order in ([0, 1, 2], [2, 1, 0], [1, 2, 0, 1, 0, 2]):
        progress = Progress("1.2-a", "yard")
        for number in order:
            progress.add(parse_event(messages[number]), (640, 360))
        results.append(progress)
    assert results[0] == results[1] == results[2]
    assert results[0].facts["zones"] == ["gate", "door"]
    assert results[0].end_time.timestamp() == 102.5


def boxes(times):
    return [(at, RelativeBox(0, 0, 0.1 + (at * 7919 % 13) / 20, 0.5)) for at in times]


@given(st.sets(st.floats(0, 1000), min_size=1, max_size=40), st.integers(1, 12))
def test_the_selection_is_spread_and_in_order(times, count):
    progress = Progress("a", "yard")
    progress.add_boxes(boxes(times))
    chosen = progress.select(count)
    assert len(chosen) == min(count, len(times))
    assert [at for at, _ in chosen] == sorted({at for at, _ in chosen})
    assert set(chosen) <= set(progress.boxes)


def test_of_each_part_the_largest_box_is_selected():
    progress = Progress("a", "yard")
    sizes = {0: 0.1, 1: 0.3, 2: 0.2, 10: 0.1, 11: 0.2, 12: 0.1, 20: 0.3, 21: 0.1}
    progress.add_boxes([(float(at), RelativeBox(0, 0, size, 1)) for at, size in sizes.items()])
    assert [at for at, _ in progress.select(3)] == [1.0, 11.0, 20.0]


def test_a_long_event_keeps_few_boxes_spread_over_it():
    progress = Progress("a", "yard")
    for start in range(0, 5000, 50):
        progress.add_boxes(boxes([float(at) for at in range(start, start + 50, 5)]))
    assert len(progress.boxes) == MAX_SIGHTS
    times = [at for at, _ in progress.boxes]
    assert (times[0], times[-1]) == (0.0, 4995.0)
    assert max(later - at for at, later in pairwise(times)) < 500


@pytest.mark.parametrize("name", ["id", "camera"])
@pytest.mark.parametrize("value", ["\ud800", "x" * 100_000])
def test_a_name_that_no_url_can_hold_is_malformed(name, value):
    """Frigate is asked about the event by its id."""
    with pytest.raises(MalformedEvent, match=f"after.{name}"):
        parse_event(event(**{name: value}))


def test_a_zone_or_a_name_that_cannot_be_sent_is_left_out():
    facts = parse_event(event(entered_zones=["door", "\ud800", 3], sub_label=["\udfff", 0.9])).facts
    assert facts == {"frigate_event": "1.2-a", "label": "person", "zones": ["door"]}


def answering(monkeypatch, body):
    """A Frigate that answers everything with these bytes."""
    frigate = Frigate("http://frigate.invalid:5000")
    transport = httpx.MockTransport(lambda request: httpx.Response(200, content=body))
    monkeypatch.setattr(frigate, "_http", httpx.AsyncClient(transport=transport, base_url="http://frigate.invalid"))
    return frigate


def test_events_with_an_id_that_is_none_do_not_end_the_backfill(monkeypatch):
    body = json.dumps([{"id": {"a": 1}}, {"id": [2]}, {"id": None}, {"id": "3.4-b"}]).encode()

    async def read():
        async with answering(monkeypatch, body) as frigate:
            return [event["id"] async for event in frigate.events(["person"], 0)]

    assert asyncio.run(read()) == [{"a": 1}, [2], None, "3.4-b"]


@pytest.mark.parametrize("body", [b"[" * 100_000, b"<html>", b"5"])
def test_an_answer_that_is_not_of_frigate_is_named(monkeypatch, body):
    async def read():
        async with answering(monkeypatch, body) as frigate:
            await frigate.event("1.2-a")

    with pytest.raises(FrigateError, match=r"not JSON|not as expected"):
        asyncio.run(read())


def test_a_clock_that_is_set_back_holds_no_event(state, telemetry, monkeypatch):
    clock = [1_777_887_000.0]
    finished = []

    async def finish(self, track, progress):
        finished.append(track)

    monkeypatch.setattr(FrigateSource, "_finish", finish)

    async def run():
        mqtt = Mqtt(Broker.parse("mqtt://broker.invalid"), telemetry)
        frigate = answering(monkeypatch, b"{}")
        sink = Sink(Client(attempts=1), state, telemetry)
        source = FrigateSource(
            mqtt, frigate, state, sink, telemetry, FrigateOptions(settle_seconds=0.05), now=lambda: clock[0]
        )
        source._take_stored({"id": "1.2-a", "camera": "yard", "label": "person", "start_time": clock[0]})
        task = asyncio.create_task(source._finish_due())
        await asyncio.sleep(0.1)
        before = list(finished)
        clock[0] -= 3600
        while not finished:
            await asyncio.sleep(0.01)
        task.cancel()
        return before

    assert asyncio.run(asyncio.wait_for(run(), 20)) == []
    assert finished[0] == "frigate:yard:1.2-a"


def test_events_that_wait_for_a_frigate_that_is_away_are_bounded_and_the_oldest_are_dropped(
    state, telemetry, monkeypatch
):
    monkeypatch.setattr("not3d.bridges.frigate.source.MAX_OPEN", 3)
    mqtt = Mqtt(Broker.parse("mqtt://broker.invalid"), telemetry)
    sink = Sink(Client(attempts=1), state, telemetry)
    source = FrigateSource(mqtt, answering(monkeypatch, b"{}"), state, sink, telemetry, FrigateOptions())
    stored = [{"id": f"{number}.5-a", "camera": "yard", "label": "person", "start_time": number} for number in range(5)]
    source._finishing.add("frigate:yard:0.5-a")  # its pictures are being fetched
    for each in [*stored, stored[-1]]:
        source._take_stored(each)
    assert [letter.id for letter in reversed(state.dead_letters())] == ["frigate:yard:1.5-a", "frigate:yard:2.5-a"]
    assert {letter.reason for letter in state.dead_letters()} == {"backlog_full"}
    assert sorted(track for track, _ in state.open_tracks()) == [f"frigate:yard:{number}.5-a" for number in (0, 3, 4)]
