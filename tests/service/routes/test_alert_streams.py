"""Streams of alerts, and what a key that is limited to cameras sees of watchlists and alerts."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from service.gallery import Record
from service.http.deadline import Deadline
from tests.service.http.test_scopes import add_key
from tests.service.live import TIMEOUT, Live, run_service, wait_for
from tests.service.problem import check_problem
from tests.service.watching import alerts_of, enrol, near, watch

NUMBERS = count()
ALL, GATE = {"x-api-key": "secret-of-all"}, {"x-api-key": "secret-of-gate"}


class Listener:
    """Reads the stream of alerts in a thread."""

    def __init__(self, live: Live, headers: dict[str, str] | None = None, **query: Any) -> None:
        self.events: list[dict[str, str]] = []
        self.lines: list[str] = []
        self.status = 0
        self._stop = threading.Event()
        self._live, self._headers, self._query = live, headers or {}, query
        self.thread = threading.Thread(target=self._read)
        self.thread.start()

    def _read(self) -> None:
        with (
            httpx.Client(base_url=self._live.url, timeout=TIMEOUT) as client,
            client.stream("GET", "/alerts/stream", headers=self._headers, params=self._query) as answer,
        ):
            self.headers, self.status = answer.headers, answer.status_code
            event: dict[str, str] = {}
            for line in answer.iter_lines():
                self.lines.append(line)
                name, _, value = line.partition(": ")
                if line == "" and "data" in event:
                    self.events.append(event)
                    event = {}
                elif name in {"id", "event", "data"}:
                    event[name] = value
                if self._stop.is_set():
                    return

    @property
    def records(self) -> list[str]:
        return [json.loads(event["data"])["record_id"] for event in self.events]


@contextmanager
def listening(live: Live, **options: Any) -> Iterator[Listener]:
    listener = Listener(live, **options)
    try:
        wait_for(lambda: listener.lines or not listener.thread.is_alive())
        yield listener
    finally:
        listener._stop.set()
        enrol(live, f"wake-{next(NUMBERS)}", near(29, 1.0))
        listener.thread.join(TIMEOUT)


@pytest.fixture(scope="module", autouse=True)
def often() -> Iterator[None]:
    """Streams send a line often, after which a listener may end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("service.routes.alerts.HEARTBEAT_SECONDS", 0.5)
        yield


@pytest.fixture(scope="module")
def streaming(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with run_service(bundle, tmp_path_factory.mktemp("stream"), max_alert_listeners=3) as live:
        watch(live, "wake", embeddings=[near(29, 1.0)], min_score=0.99)
        watch(live, "s", embeddings=[near(0, 1.0)], filter={"exclude_camera_ids": ["nowhere"]})
        yield live


def test_a_stream_sends_alerts_and_goes_on_after_a_break(streaming: Live) -> None:
    with listening(streaming, watchlist="s") as first:
        enrol(streaming, "s-1", near(0, 0.9))
        wait_for(lambda: first.records == ["s-1"])
    assert first.headers["content-type"].startswith("text/event-stream")
    assert first.headers["x-accel-buffering"] == "no"
    assert first.events[0]["event"] == "alert"
    assert first.lines[0] == "retry: 3000"
    (listed,) = alerts_of(streaming, "s")
    assert json.loads(first.events[0]["data"]) == listed
    assert first.events[0]["id"] == listed["id"]
    for number in (2, 3):
        enrol(streaming, f"s-{number}", near(0, 0.9))
    with listening(streaming, headers={"Last-Event-ID": listed["id"]}, watchlist="s") as second:
        wait_for(lambda: second.records == ["s-2", "s-3"])


def test_a_stream_is_not_ended_by_the_time_of_a_request(streaming: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    deadline = streaming.app.middleware_stack
    while not isinstance(deadline, Deadline):
        deadline = deadline.app  # type: ignore[union-attr]
    with monkeypatch.context() as patch:
        patch.setattr(deadline, "seconds", 2.0)
        listener = Listener(streaming, watchlist="s")
        wait_for(lambda: listener.lines)
    time.sleep(2.2)
    enrol(streaming, "long-1", near(0, 0.9))
    wait_for(lambda: listener.records == ["long-1"])
    listener._stop.set()
    enrol(streaming, "long-2", near(0, 0.9))
    listener.thread.join(TIMEOUT)


def test_the_number_of_streams_is_bounded(streaming: Live) -> None:
    with listening(streaming), listening(streaming), listening(streaming):
        answer = streaming.client.get("/alerts/stream")
        assert answer.headers["retry-after"] == "10"
        check_problem(answer, 503, "busy")
        assert streaming.client.head("/alerts/stream").status_code == 200


def test_a_stream_refuses_what_is_not_its_id(streaming: Live) -> None:
    check_problem(streaming.client.get("/alerts/stream", headers={"Last-Event-ID": "x"}), 400, "malformed")


def test_a_listener_that_does_not_read_is_dropped(bundle: Path, tmp_path: Path) -> None:
    """Takes some seconds: the system's buffers hold thousands of alerts."""
    with run_service(bundle, tmp_path, read_seconds=1.0) as live, socket.socket() as deaf:
        watch(live, "w", embeddings=[near(0, 1.0)])
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(("127.0.0.1", int(live.url.rpartition(":")[2])))
        deaf.sendall(b"GET /alerts/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
        listeners = live.lifecycle.metrics.alert_listeners
        wait_for(lambda: listeners._value.get() == 1)
        vector, number = np.array(near(0, 0.9), np.float32), count()
        end = time.monotonic() + 120
        while listeners._value.get() and time.monotonic() < end:  # until the buffers of both sockets are full
            names = [f"deaf-{next(number)}" for _ in range(500)]
            records = [Record(name, vector, "gate", None, None, {}, 1, 1, datetime.now(UTC)) for name in names]
            live.service.gallery._gallery.enrol(records, "error")
        assert listeners._value.get() == 0
        assert live.client.get("/alerts", params={"limit": 1}).status_code == 200


def test_a_stream_ends_when_the_service_stops(bundle: Path, tmp_path: Path) -> None:
    with run_service(bundle, tmp_path, drain_seconds=20.0) as live:
        listener = Listener(live)
        wait_for(lambda: listener.lines)
        start = time.monotonic()
    assert time.monotonic() - start < 10
    listener.thread.join(TIMEOUT)
    assert not listener.thread.is_alive()


@pytest.fixture(scope="module")
def limited(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """Alerts of gate and door, of watchlists whose examples are of the door."""
    data = tmp_path_factory.mktemp("limited")
    add_key(data / "keys.json", "all", ALL["x-api-key"], scopes=("admin",))
    add_key(data / "keys.json", "gate", GATE["x-api-key"], scopes=("search", "enroll"), cameras=("gate",))
    with run_service(bundle, data) as live:
        live.client.headers.update(ALL)
        enrol(live, "example", near(0, 1.0), "door")
        watch(live, "both", ids=["example"])
        watch(live, "door-only", embeddings=[near(0, 1.0)], filter={"camera_ids": ["door"]})
        enrol(live, "d1", near(0, 0.9), "door")
        enrol(live, "g1", near(0, 0.9), "gate")
        enrol(live, "d2", near(0, 0.9), "door")
        yield live


def test_a_limited_key_sees_what_concerns_its_cameras(limited: Live) -> None:
    listed = limited.client.get("/alerts", headers=GATE).json()
    assert [item["record_id"] for item in listed["items"]] == ["g1"]
    (alert,) = listed["items"]
    assert alert["example_id"] is None
    assert listed["cursor"] == alert["id"]
    assert not listed["more"]
    (found,) = limited.client.get("/watchlists", headers=GATE).json()["items"]
    assert found["name"] == "both"
    assert found["examples"] == []
    assert found["filter"] == {"camera_ids": ["gate"]}
    assert limited.client.get("/watchlists/door-only", headers=GATE).status_code == 404
    hidden = next(item for item in limited.client.get("/alerts").json()["items"] if item["camera_id"] == "door")
    missing = hidden["id"][:-4] + "0000"
    for method, path, body in (("GET", "/alerts/{}", None), ("PUT", "/alerts/{}/verdict", {"verdict": "same"})):
        answers = [
            limited.client.request(method, path.format(id_), headers=GATE, json=body) for id_ in (hidden["id"], missing)
        ]
        assert [answer.status_code for answer in answers] == [404, 404]
        texts = {
            answers[0].json()["detail"].replace(hidden["id"], "ID"),
            answers[1].json()["detail"].replace(missing, "ID"),
        }
        assert len(texts) == 1
    check_problem(
        limited.client.put("/watchlists/x", headers=GATE, json={"min_score": 0.5, "ids": ["g1"]}), 403, "scope-missing"
    )


def test_a_stream_of_a_limited_key_has_its_cameras_only(limited: Live) -> None:
    with listening(limited, headers=GATE | {"Last-Event-ID": f"{0:016x}-{0:016x}"}) as listener:
        wait_for(lambda: listener.records == ["g1"])
        enrol(limited, "d3", near(0, 0.9), "door")
        enrol(limited, "g2", near(0, 0.9), "gate")
        wait_for(lambda: len(listener.records) > 1)
        assert listener.records == ["g1", "g2"]


def test_a_stream_ends_with_its_key(bundle: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    add_key(keys, "all", ALL["x-api-key"], scopes=("admin",))
    add_key(keys, "gate", GATE["x-api-key"], scopes=("search",), cameras=("gate",))
    with run_service(bundle, tmp_path) as live:
        live.client.headers.update(ALL)
        watch(live, "w", embeddings=[near(0, 1.0)])
        listener = Listener(live, headers=GATE)
        wait_for(lambda: listener.lines)
        file = json.loads(keys.read_text())
        file["keys"] = [key for key in file["keys"] if key["name"] == "all"]
        keys.write_text(json.dumps(file))
        enrol(live, "after", near(0, 0.9), "gate")
        listener.thread.join(TIMEOUT)
        assert not listener.thread.is_alive()
        assert listener.records == []
