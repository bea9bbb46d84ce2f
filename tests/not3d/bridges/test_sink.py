"""The sink with a real service: each tracklet enrolled once, or dropped for a named reason."""

import asyncio
import socket
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from model.errors import Not3dError
from not3d.bridges.state import State
from not3d.bridges.tracklet import Tracklet, make_id
from not3d.client import Client
from not3d.ports import free_port
from service.ids import SOURCES
from tests.not3d.bridges.conftest import Running
from tests.service.http.test_scopes import add_key
from tests.service.live import run_service, wait_for

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)


@pytest.fixture
def frames(tracklet):
    return tuple(path.read_bytes() for path in tracklet.frames)


@pytest.fixture
def start(tmp_path):
    running = []

    def start(source, client, **options):
        running.append(Running(source, client, tmp_path / "bridge.sqlite", **options))
        return running[-1]

    yield start
    for bridge in running:
        bridge.stop()


def submitting(*tracklets, then=None, unfinished=False):
    async def source(state, sink, telemetry):
        for tracklet in tracklets:
            sink.submit(tracklet, unfinished=unfinished)
        if then:
            then(sink)
        await asyncio.Event().wait()

    return source


def test_a_tracklet_is_enrolled_with_all_its_fields(client, frames, start):
    item = Tracklet("test:gate:1", "gate", frames, NOON, NOON + timedelta(seconds=4), {"zones": ["door"]})
    bridge = start(submitting(item, item), Client(client.url, attempts=1))
    wait_for(lambda: bridge.value("enrolled_total", result="new") == 1)
    record = client.get("test:gate:1")
    assert (record.camera_id, record.start_time, record.end_time) == ("gate", NOON, NOON + timedelta(seconds=4))
    assert record.metadata == {"zones": ["door"]}
    wait_for(lambda: bridge.value("waiting") == 0)
    wait_for(lambda: bridge.value("service_up") == 1)


def test_a_record_that_exists_counts_as_enrolled(client, frames, start):
    """The bridge was killed between the answer of the service and its note."""
    client.embed(frames, id="twice", camera_id="gate")
    bridge = start(submitting(Tracklet("twice", "gate", frames)), Client(client.url, attempts=1))
    wait_for(lambda: bridge.value("enrolled_total", result="already") == 1)
    bridge.stop()


def test_what_the_service_refuses_is_named(client, frames, start, tmp_path):
    broken = Tracklet("broken", "gate", (b"no picture",))
    good = Tracklet("good", "gate", frames)
    bridge = start(submitting(broken, Tracklet("none", "gate", ()), good), Client(client.url, attempts=1))
    wait_for(lambda: bridge.value("enrolled_total", result="new") == 1)
    wait_for(lambda: bridge.value("dropped_total", reason="refused_415") == 1)
    assert bridge.value("dropped_total", reason="no_pictures") == 1
    bridge.stop()
    with State(tmp_path / "bridge.sqlite") as state:
        letters = {letter.id: letter for letter in state.dead_letters()}
        assert letters.keys() == {"broken", "none"}
        assert "415" in letters["broken"].detail


def test_tracklets_wait_for_a_service_that_is_down_and_survive_a_restart_of_the_bridge(bundle, frames, start, tmp_path):
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    items = [Tracklet(f"t{number}", "gate", frames) for number in range(3)]
    bridge = start(submitting(*items), Client(url, attempts=1))
    wait_for(lambda: bridge.value("retries_total", call="enrol") > 2)
    assert bridge.value("waiting") == 3
    assert bridge.value("service_up") == 0
    bridge.stop()
    with run_service(bundle, tmp_path / "gallery") as live:
        again = start(submitting(items[0]), Client(live.url, attempts=1))
        wait_for(lambda: again.value("enrolled_total", result="new") == 3)
        assert sorted(item["id"] for item in live.client.get("/gallery").json()["items"]) == ["t0", "t1", "t2"]
        again.stop()


def test_a_key_that_is_refused_drops_nothing(bundle, frames, start, tmp_path, monkeypatch):
    monkeypatch.setattr("not3d.bridges.sink.BLOCKED_SECONDS", 0.05)
    with run_service(bundle, tmp_path / "gallery", api_keys="0123456789abcdef") as live:
        bridge = start(submitting(Tracklet("a", "gate", frames)), Client(live.url, "wrong", attempts=1))
        wait_for(lambda: bridge.value("retries_total", call="enrol") >= 2)
        bridge.stop()
        again = start(submitting(), Client(live.url, "0123456789abcdef", attempts=1))
        wait_for(lambda: again.value("enrolled_total", result="new") == 1)
        again.stop()


def test_a_key_of_some_cameras_enrols_these_and_the_others_are_dropped_by_name(bundle, frames, start, tmp_path):
    add_key(tmp_path / "gallery" / "keys.json", "gate", "secret", scopes=("enroll", "search"), cameras=("gate",))
    with run_service(bundle, tmp_path / "gallery") as live:
        ids = [make_id(source, "gate", "1.5-abc") for source in sorted(SOURCES)]
        items = [Tracklet("frigate:door:1", "door", frames), *(Tracklet(id_, "gate", frames) for id_ in ids)]
        bridge = start(submitting(*items), Client(live.url, "secret", attempts=1), workers=1)
        wait_for(lambda: bridge.value("enrolled_total", result="new") == len(ids))
        bridge.stop()
        found = live.client.get("/gallery", headers={"x-api-key": "secret"}).json()["items"]
        assert sorted(item["id"] for item in found) == ids
    with State(tmp_path / "bridge.sqlite") as state:
        (letter,) = state.dead_letters()
        assert (letter.id, letter.reason) == ("frigate:door:1", "refused_403")
        assert "door is not one of them" in letter.detail


def test_what_becomes_known_later_changes_the_record(client, frames, start):
    item = Tracklet("late", "gate", frames, NOON, NOON + timedelta(seconds=60), {"zones": []})

    def amend(sink):
        sink.amend("late", NOON + timedelta(seconds=90), {"zones": ["door"]})

    start(submitting(item, then=amend, unfinished=True), Client(client.url, attempts=1))

    def changed():
        return any(record.metadata == {"zones": ["door"]} for record in client.records())

    wait_for(changed)
    assert client.get("late").end_time == NOON + timedelta(seconds=90)


def test_a_full_backlog_drops_by_name_and_a_source_can_wait_for_room(frames, start):
    nowhere = Client(f"http://127.0.0.1:{free_port()}", attempts=1)
    waited = []

    async def source(state, sink, telemetry):
        for number in range(4):
            sink.submit(Tracklet(f"t{number}", "gate", frames))
        try:
            await asyncio.wait_for(sink.has_room(), 0.2)
        except TimeoutError:
            waited.append(True)
        await asyncio.Event().wait()

    bridge = start(source, nowhere, max_waiting=3)
    wait_for(lambda: waited)
    assert bridge.value("dropped_total", reason="backlog_full") == 1
    assert bridge.value("waiting") == 3
    bridge.stop()


def test_metrics_are_served(telemetry):
    port = free_port()
    with telemetry.served(f"127.0.0.1:{port}"):
        telemetry.dropped("a", "no_pictures")
        text = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=30).text
    assert 'not3d_bridge_dropped_total{reason="no_pictures",source="test"} 1.0' in text
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{port}/metrics")


def test_an_address_of_metrics_that_is_in_use_is_named(telemetry):
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        says = rf"{address} \(Address already in use\): choose another"
        with pytest.raises(Not3dError, match=says), telemetry.served(address):
            pass


PROBLEM = "application/problem+json"


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr("not3d.bridges.sink.BLOCKED_SECONDS", 0.02)
    monkeypatch.setattr("not3d.client.retry.MAX_PAUSE_SECONDS", 0.02)


@pytest.mark.parametrize(
    ("status", "media_type", "body"),
    [
        (200, "text/html", b"<html>Sign in</html>"),
        (302, "text/html", b""),
        (400, "text/html", b"<html>Bad Request</html>"),
        (403, PROBLEM, b'{"type": "about:blank", "status": 403}'),
        (409, "text/html", b"<html>Conflict</html>"),
        (422, "application/json", b'{"detail": []}'),
        (500, "text/html", b"<html>nginx</html>"),
        (500, PROBLEM, b'{"title": "cut o'),
        (507, PROBLEM, b'{"type": "urn:not3d:problem:disk-full", "title": "The disk is full"}'),
        (409, PROBLEM, b'{"type": "urn:not3d:problem:no-model", "title": "x", "errors": [{"field": "frames"}]}'),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("impatient")
def test_an_answer_that_is_not_about_the_tracklet_drops_nothing(start, answering, frames, status, media_type, body):
    url = answering(status, media_type, body, Location="/elsewhere")
    bridge = start(submitting(Tracklet("a", "gate", frames)), Client(url, attempts=1))
    wait_for(lambda: bridge.value("retries_total", call="enrol") >= 3)
    assert bridge.value("waiting") == 1


@pytest.mark.parametrize(
    ("status", "media_type", "body", "reason"),
    [
        (413, "text/html", b"<html>nginx</html>", "refused_413"),
        (408, PROBLEM, b'{"type": "urn:not3d:problem:too-slow", "title": "x"}', "repeatedly_aborted"),
        (500, PROBLEM, b'{"type": "urn:not3d:problem:internal", "title": "x"}', "refused_500"),
        (409, PROBLEM, b'{"type": "urn:not3d:problem:other-embedding-space", "title": "x", '
                       b'"errors": [{"field": "embedding"}]}', "refused_409"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("impatient")
def test_an_answer_about_the_tracklet_drops_it_by_name(start, answering, frames, status, media_type, body, reason):
    url = answering(status, media_type, body)
    bridge = start(submitting(Tracklet("a", "gate", frames)), Client(url, attempts=1))
    wait_for(lambda: bridge.value("dropped_total", reason=reason) == 1)
    wait_for(lambda: bridge.value("waiting") == 0)


def test_pictures_for_a_service_without_a_model_wait(frames, start, tmp_path, impatient, caplog):
    caplog.set_level("INFO")
    with run_service(None, tmp_path / "gallery", space="other", dimension=4) as live:
        bridge = start(submitting(Tracklet("a", "gate", frames)), Client(live.url, attempts=1))
        wait_for(lambda: bridge.value("retries_total", call="enrol") >= 2)
        bridge.stop()
    assert bridge.value("enrolled_total", result="already") == 0
    assert any("NOT3D_VECTORS_ONLY" in str(getattr(record, "facts", "")) for record in caplog.records)


def test_a_tracklet_that_cannot_be_written_as_json_is_dropped_by_name(start, tmp_path):
    with run_service(None, tmp_path / "gallery", space="other", dimension=4) as live:
        common = {"embedding": (1.0, 0.0, 0.0, 0.0), "embedding_space": "other"}
        items = [Tracklet("nan", "gate", (), metadata={"speed": float("nan")}, **common),
                 Tracklet("good", "gate", (), **common)]  # fmt: skip
        bridge = start(submitting(*items), Client(live.url, attempts=1))
        wait_for(lambda: bridge.value("enrolled_total", result="new") == 1)
        wait_for(lambda: bridge.value("dropped_total", reason="unexpected_error") == 1)
        bridge.stop()


def test_a_flood_of_messages_that_cannot_be_used_is_counted_and_not_all_logged(telemetry, caplog, monkeypatch):
    caplog.set_level("INFO")
    clock = [0.0]
    monkeypatch.setattr("not3d.bridges.telemetry.time.monotonic", lambda: clock[0])
    for number in range(1000):
        telemetry.message("malformed", reason=f"reason {number}")
    telemetry.message("error", reason="another")
    assert len(caplog.records) == 101
    assert (
        telemetry.registry.get_sample_value("not3d_bridge_messages_total", {"source": "test", "outcome": "malformed"})
        == 1000
    )
    clock[0] = 60.0
    telemetry.message("malformed", reason="later")
    assert [record.facts.get("not_shown") for record in caplog.records[-2:]] == [900, None]
    assert caplog.records[-1].facts["reason"] == "later"
