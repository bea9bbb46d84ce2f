"""Enrolling many tracklets at a time."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from not3d.client import Client, ProblemError, UnreachableError
from not3d.demo import running_service
from not3d.enrol.comparison import DIGEST, digest_of, find_enrolled
from not3d.enrol.discovery import list_tracklets, read_footage
from not3d.enrol.enrolment import EnrolOptions, Outcome, Result, enroll_all
from not3d.enrol.tracklets import LocalTracklet

ENROLLED, SKIPPED, REFUSED = Result


def collect(client: Client, items: object, **options: object) -> dict[str, Outcome]:
    outcomes: dict[str, Outcome] = {}

    def report(outcome: Outcome) -> None:
        assert outcome.id not in outcomes
        outcomes[outcome.id] = outcome

    enroll_all(client, items, report=report, **options)  # type: ignore[arg-type]
    return outcomes


@pytest.mark.parametrize("workers", [1, 4])
def test_everything_is_enrolled_and_reported_once(client: Client, people: Path, workers: int) -> None:
    items = list_tracklets(people).items
    outcomes = collect(client, items, workers=workers)
    assert set(outcomes) == {item.id for item in items} == {record.id for record in client.records()}
    assert {outcome.result for outcome in outcomes.values()} == {ENROLLED}
    record = client.get("0002-c1-t1")
    assert (record.camera_id, record.metadata["person"]) == ("c1", "0002")


def test_a_refused_tracklet_does_not_stop_the_others(client: Client, people: Path, tmp_path: Path) -> None:
    good, bad, gone, empty = (*read_footage(people)[:3], LocalTracklet("empty", problem="no boxes"))
    bad, gone = replace(bad, frames=(b"text",)), replace(gone, frames=(tmp_path / "1.jpg",))
    outcomes = collect(client, [bad, empty, gone, good])
    assert outcomes[good.id].result is ENROLLED
    assert {outcomes[item.id].result for item in (bad, gone, empty)} == {REFUSED}
    assert outcomes[bad.id].status in {415, 422}
    assert "not" in outcomes[bad.id].reason
    assert outcomes["empty"].reason == "no boxes"
    assert outcomes[gone.id].reason.startswith("cannot be read: ")
    assert outcomes[gone.id].source == str(tmp_path / "1.jpg")
    assert [record.id for record in client.records()] == [good.id]


def test_an_enrolled_id_is_skipped_unless_replaced(client: Client, people: Path) -> None:
    (item, *_) = read_footage(people)
    collect(client, [item])
    outcome = collect(client, [item])[item.id]
    assert (outcome.result, outcome.status) == (SKIPPED, 409)
    changed = collect(client, [replace(item, camera="other")], options=EnrolOptions(replace=True))
    assert changed[item.id].result is ENROLLED
    assert client.get(item.id).camera_id == "other"


def test_enrolled_ids_are_found_by_listing_and_by_lookup(
    client: Client, people: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third, *_ = list_tracklets(people).items
    collect(client, [first, third])
    ids = [item.id for item in (first, second, third)]
    for each in (1, 0):  # each asked for, all listed
        monkeypatch.setattr("not3d.enrol.comparison.LISTED_PER_LOOKUP", 0 if each else 200)
        counts: list[int] = []
        assert set(find_enrolled(client, ids, counts.append)) == {first.id, third.id}
        assert counts[-1] == 2


def test_footage_is_read_only_a_little_ahead(client: Client, people: Path) -> None:
    (item, *_) = read_footage(people)
    done = 0
    furthest = 0

    def read() -> Iterator[LocalTracklet]:
        nonlocal furthest
        for number in range(20):
            furthest = max(furthest, number - done)
            yield replace(item, id=f"t{number}")

    def report(_outcome: Outcome) -> None:
        nonlocal done
        done += 1

    enroll_all(client, read(), workers=2, report=report)
    assert done == 20
    assert furthest <= 4


def test_an_outcome_is_reported_before_the_next_footage_is_read(people: Path) -> None:
    """Cutting the next track out of a video may take minutes, and a full disk must end it before."""
    reported, before_the_end = list[Outcome](), 0

    def read() -> Iterator[LocalTracklet]:
        nonlocal before_the_end
        for number in range(100):  # fewer than may be on their way
            yield LocalTracklet(f"t{number}", problem="no boxes")
            time.sleep(0.05)
            if before_the_end := len(reported):
                return

    with Client("http://127.0.0.1:9") as nowhere:
        enroll_all(nowhere, read(), workers=64, report=reported.append)
    assert before_the_end


def test_an_unreachable_service_ends_the_enrolment(people: Path) -> None:
    with Client("http://127.0.0.1:9") as nowhere, pytest.raises(UnreachableError, match=r"for 0\.3 seconds"):
        collect(nowhere, list_tracklets(people).items, options=EnrolOptions(retry_seconds=0.3))


def test_a_restart_of_the_service_does_not_end_the_enrolment(bundle: Path, people: Path, tmp_path: Path) -> None:
    (item, *_) = read_footage(people)
    items = [replace(item, id=f"t{number}") for number in range(60)]
    outcomes: list[Outcome] = []
    options = ("--engine", "onnxruntime")
    ended: list[BaseException] = []
    reached, is_down = threading.Event(), threading.Event()

    def read() -> Iterator[LocalTracklet]:
        yield from items[:40]
        reached.set()
        assert is_down.wait(120)
        yield from items[40:]

    def run(url: str) -> None:
        try:
            with Client(url, attempts=1) as client:
                enroll_all(client, read(), options=EnrolOptions(retry_seconds=120), workers=4, report=outcomes.append)
        except BaseException as error:  # noqa: BLE001 - shown by the test
            ended.append(error)

    with running_service(bundle, tmp_path, *options) as first:
        thread = threading.Thread(target=run, args=[first.url])
        thread.start()
        assert reached.wait(120)
    assert len(outcomes) < len(items)
    is_down.set()
    with running_service(bundle, tmp_path, *options, port=int(first.url.rpartition(":")[2])) as second:
        thread.join(120)
        assert not thread.is_alive()
        assert not ended
        assert sorted(outcome.id for outcome in outcomes) == sorted(item.id for item in items)
        assert {outcome.result for outcome in outcomes} <= {ENROLLED, SKIPPED}
        assert {record.id for record in second.records()} == {item.id for item in items}


class Scripted(BaseHTTPRequestHandler):
    """Answers each upload with the next of the statuses; none at all for 0. It is always ready."""

    statuses: Iterator[int]
    record: bytes

    def do_GET(self) -> None:
        self._answer(200, self.record if self.path.startswith("/gallery") else b"")

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        status = next(self.statuses)
        if status:
            self._answer(status)

    def _answer(self, status: int, body: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.send_header("retry-after", "0")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


def serve(statuses: list[int], people: Path) -> dict[str, Outcome]:
    """What becomes of one tracklet, and of another one after it where there are statuses left."""
    (item, *_) = read_footage(people)
    record = {
        "id": item.id,
        "camera_id": item.camera,
        "start_time": None,
        "end_time": None,
        "frames": 1,
        "clips": 1,
        "embedding_space": "x",
        "created_at": "2026-05-01T12:00:00Z",
        "metadata": item.metadata | {DIGEST: digest_of(item)},
    }
    handler = type("Handler", (Scripted,), {"statuses": iter(statuses), "record": json.dumps(record).encode()})
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            with closing(Client(f"http://127.0.0.1:{server.server_port}", attempts=1)) as client:
                return collect(client, [item], options=EnrolOptions(retry_seconds=20), workers=1)
        finally:
            server.shutdown()
            thread.join()


def test_calls_to_a_busy_service_are_repeated(people: Path) -> None:
    (outcome,) = serve([503, 502, 429, 409], people).values()
    assert outcome.result is SKIPPED


@pytest.mark.parametrize(("status", "reason"), [(0, ", 3 times"), (504, "Gateway Timeout (504), 3 times")])
def test_a_tracklet_whose_call_is_aborted_repeatedly_is_refused(status: int, reason: str, people: Path) -> None:
    (outcome,) = serve([status] * 3, people).values()
    assert outcome.result is REFUSED
    assert outcome.reason.endswith(reason)


@pytest.mark.parametrize("status", [401, 507])
def test_a_refusal_that_all_tracklets_would_get_ends_the_enrolment(people: Path, status: int) -> None:
    with pytest.raises(ProblemError) as refused:
        serve([status], people)
    assert refused.value.status == status


def test_giving_up_does_not_wait_for_the_retries_of_other_tracklets(people: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]

    def read() -> Iterator[LocalTracklet]:
        yield from read_footage(people)[:1]
        raise KeyboardInterrupt

    begun = time.monotonic()
    with Client(f"http://127.0.0.1:{port}") as client, pytest.raises(KeyboardInterrupt):
        collect(client, read(), options=EnrolOptions(retry_seconds=600))
    assert time.monotonic() - begun < 30


def test_an_id_that_another_process_gave_away_meanwhile_is_not_shared(client: Client, people: Path) -> None:
    first, second, *_ = read_footage(people)
    collect(client, [first])
    other = replace(second, id=first.id)  # other footage whose name gives the same id
    outcome = collect(client, [other])[second.fallback_id]
    assert outcome.result is ENROLLED
    assert {record.id for record in client.records()} == {first.id, second.fallback_id}
    changed = replace(first, frames=first.frames[:3])
    outcome = collect(client, [changed])[first.id]
    assert (outcome.result, outcome.status) == (REFUSED, 409)
    assert "other frames" in outcome.reason
