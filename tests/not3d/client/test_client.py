"""The client against a real service; retries against a small server that is busy on purpose."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest

from model.tracklet import choose_frames as chosen_by_the_model
from not3d.client import Client, ClientError, ProblemError, UnreachableError, retry
from not3d.client.clips import choose_frames
from not3d.client.responses import format_probability
from not3d.client.transport import problem_of
from tests.not3d.videos import write_video
from tests.service.live import run_service
from training.datasets.tracklet import Tracklet

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)


def test_embeds_enrolls_and_finds_a_tracklet(client: Client, tracklet: Tracklet) -> None:
    answer = client.embed(
        tracklet.frames,
        id="gate-1",
        camera_id="gate",
        start_time=NOON,
        end_time=NOON + timedelta(seconds=2.5),
        metadata={"person": "0001", "nested": {"a": [1, 2]}},
        include_embedding=True,
    )
    assert (answer.id, answer.frames, answer.clips, answer.dim) == ("gate-1", 5, 2, 32)
    assert answer.rejected_frames == ()
    assert np.linalg.norm(answer.embedding or ()) == pytest.approx(1)

    record = client.get("gate-1", include_embedding=True)
    assert (record.camera_id, record.start_time, record.end_time) == ("gate", NOON, NOON + timedelta(seconds=2.5))
    assert record.metadata == {"person": "0001", "nested": {"a": [1, 2]}}
    assert record.embedding == answer.embedding

    (hit,) = client.search(tracklet.frames, top_k=3).hits
    assert (hit.rank, hit.id, hit.camera_id, hit.start_time) == (1, "gate-1", "gate", NOON)
    assert hit.score == pytest.approx(1, abs=1e-4)


def test_only_computing_enrolls_nothing(client: Client, tracklet: Tracklet) -> None:
    answer = client.embed([path.read_bytes() for path in tracklet.frames], enroll=False)
    assert (answer.id, answer.embedding) == (None, None)
    assert client.list().items == ()


def test_fewer_clips_may_be_computed(client: Client, tracklet: Tracklet) -> None:
    """Of 5 frames these are the 4 of the first clip, not the one that is left for a second."""
    frames = tracklet.frames
    alone = client.embed(frames[:4], enroll=False, include_embedding=True)
    answer = client.embed(frames, id="fewer", max_clips=1, include_embedding=True)
    assert (answer.frames, answer.clips) == (4, 1)
    assert answer.embedding == pytest.approx(alone.embedding, abs=1e-6)
    client.put(frames, id="all")
    put = client.put(frames, id="put", max_clips=1)
    assert (put.frames, put.clips) == (4, 1)
    assert (client.get("put").clips, client.get("all").clips) == (1, 2)
    best = client.search(frames, max_clips=1, top_k=3).hits
    assert {hit.id for hit in best[:2]} == {"fewer", "put"}
    assert best[0].score == pytest.approx(1, abs=1e-5)
    assert best[2].score < best[1].score - 1e-7
    with pytest.raises(ProblemError) as refused:
        client.search(id="all", max_clips=1)
    assert (refused.value.status, refused.value.errors[0]["field"]) == (400, "max_clips")


def test_a_tracklet_of_any_length_is_sent_with_max_clips(client: Client, tracklet: Tracklet, tmp_path: Path) -> None:
    limit = client.info().limits["max_frames"]
    frames = [*tracklet.frames] * (limit // 5 + 3)
    frames[8] = tmp_path / "unread.jpg"
    with pytest.raises(ProblemError, match="max_clips"):
        client.embed([frames[0]] * len(frames), enroll=False)
    answer = client.embed(frames, enroll=False, max_clips=2, include_embedding=True)
    assert (answer.frames, answer.clips) == (8, 2)
    assert len(client.search(frames, max_clips=1).hits) == 0
    client.put(frames, id="long", max_clips=1)
    chosen = choose_frames(len(frames), 4, 2)
    frames[chosen[5]] = b"no image"
    assert [frame.index for frame in client.embed(frames, enroll=False, max_clips=2).rejected_frames] == [chosen[5]]


def test_boxes_and_their_frames_are_chosen_together(client: Client, tracklet: Tracklet) -> None:
    frames, order = tracklet.frames, [4, 0, 3, 1, 2]
    boxes = [(number, 2.0 * number, 0.0, 40.0, 100.0) for number in order]
    ours = client.embed(frames, boxes=boxes, max_clips=1, enroll=False, include_embedding=True)
    alone = client.embed(frames, boxes=sorted(boxes)[:4], enroll=False, include_embedding=True)
    assert (ours.frames, ours.embedding) == (4, pytest.approx(alone.embedding, abs=1e-6))
    boxes[1] = (0, 500.0, 0.0, 40.0, 100.0)
    answer = client.embed(frames, boxes=boxes, max_clips=1, enroll=False)
    assert [frame.index for frame in answer.rejected_frames] == [1]


def test_the_client_chooses_the_frames_that_the_service_would_choose() -> None:
    for count in range(1, 60):
        for clip_length in (1, 3, 4, 8):
            for max_clips in (None, 1, 2, 5):
                theirs = chosen_by_the_model(count, clip_length, max_clips)
                assert choose_frames(count, clip_length, max_clips) == theirs.tolist()


def test_searches_by_id_and_by_embedding(client: Client, people: Path, tracklet: Tracklet) -> None:
    for number in (1, 2):
        frames = sorted((people / "0001" / f"c{number}" / "t1").glob("*.jpg"))
        client.embed(frames, id=f"one-{number}", camera_id=f"c{number}")
    assert [hit.id for hit in client.search(id="one-1").hits] == ["one-2"]
    embedding = client.get("one-1", include_embedding=True).embedding
    space = client.info().embedding_space
    result = client.search(embedding=embedding, embedding_space=space, camera_ids=["c1"])
    assert [hit.id for hit in result.hits] == ["one-1"]
    assert (result.searched, result.embedding_space, result.exact) == (1, space, True)


def test_filters_reach_the_service(client: Client, tracklet: Tracklet) -> None:
    for number, camera in enumerate(["a", "b", "c"]):
        start = NOON + timedelta(hours=number)
        client.embed(tracklet.frames, id=f"t{number}", camera_id=camera, start_time=start, metadata={"n": number})

    def ids(**options: object) -> list[str]:
        return sorted(hit.id for hit in client.search(tracklet.frames, **options).hits)  # type: ignore[arg-type]

    assert ids(exclude_camera_ids=["b"]) == ["t0", "t2"]
    assert ids(camera_id="a", exclude_same_camera=True) == ["t1", "t2"]
    assert ids(after=NOON + timedelta(minutes=30), before=NOON + timedelta(minutes=90)) == ["t1"]
    assert ids(metadata={"n": 2}) == ["t2"]
    assert ids(min_score=1.0) in (["t0", "t1", "t2"], [])
    assert len(ids(rerank=True)) == 3
    assert ids(top_k=1) == ["t0"]


def test_probabilities_and_thresholds_of_a_calibrated_service(calibrated: Client, tracklet: Tracklet) -> None:
    for record in list(calibrated.records()):  # of other tests in this process
        calibrated.delete(record.id)
    calibrated.put(tracklet.frames, id="gate-1")
    (hit,) = calibrated.search(tracklet.frames).hits
    result = calibrated.search(tracklet.frames, prior=0.05)
    assert result.calibration
    assert (result.calibration.source, result.calibration.prior, result.calibration.fitted_people) == ("site", 0.05, 50)
    assert result.calibration.fitted_at == datetime(2026, 11, 28, 12, tzinfo=UTC)
    (less_likely,) = result.hits
    assert hit.probability is not None
    assert less_likely.probability is not None
    assert 0 < less_likely.probability < hit.probability < 1
    assert calibrated.search(tracklet.frames, min_probability=hit.probability).hits == (hit,)
    assert calibrated.search(tracklet.frames, prior=0.05, min_probability=hit.probability).hits == ()
    info = calibrated.info()
    assert info.calibration
    assert (info.calibration.id, info.calibration.prior) == (result.calibration.id, 0.3)
    assert [(each.fmr, each.score, each.fnmr_high) for each in info.thresholds] == [
        (0.01, 0.55, 0.2),
        (0.001, 0.7, 0.5),
    ]


def test_without_a_calibration_there_is_no_probability(client: Client, tracklet: Tracklet) -> None:
    client.embed(tracklet.frames, id="a")
    result = client.search(tracklet.frames, prior=0.05)
    assert (result.calibration, result.hits[0].probability) == (None, None)
    assert (client.info().calibration, client.info().thresholds) == (None, ())
    with pytest.raises(ProblemError, match="not3d calibrate") as refused:
        client.search(tracklet.frames, min_probability=0.5)
    assert (refused.value.status, refused.value.errors[0]["field"]) == (409, "min_probability")


@pytest.mark.parametrize(
    ("probability", "text"),
    [
        (0.0, "< 0.01 %"),
        (0.000123, "0.012 %"),
        (0.0567, "5.7 %"),
        (0.5, "50 %"),
        (0.989, "99 %"),
        (0.9949, "99.5 %"),
        (0.9996, "> 99.9 %"),
        (1.0, "> 99.9 %"),
    ],
)
def test_a_probability_never_reads_as_certain(probability: float, text: str) -> None:
    assert format_probability(probability) == text


def test_put_replaces_with_footage_or_an_embedding(client: Client, tracklet: Tracklet) -> None:
    client.put(tracklet.frames, id="x", camera_id="a")
    client.put(tracklet.frames, id="x", camera_id="b")
    assert client.get("x").camera_id == "b"
    vector = [1.0, *([0.0] * 31)]
    client.put(id="x", embedding=vector, embedding_space=client.info().embedding_space)
    assert client.get("x", include_embedding=True).embedding == pytest.approx(vector)


def test_a_paged_search_is_continued(client: Client) -> None:
    dimension = client.info().model["dimension"]
    for number in range(5):
        client.put(embedding=[1.0 + number * place for place in range(dimension)], id=f"paged-{number}", camera_id="p")
    query = {"id": "paged-0", "camera_ids": ["p"]}
    first = client.search(**query, top_k=3, paged=True)  # type: ignore[arg-type]
    second = client.more(first)
    assert [hit.rank for hit in second.hits] == [4]
    assert (*first.hits, *second.hits) == client.search(**query, top_k=9).hits  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no next_cursor"):
        client.more(second)
    for number in range(5):
        client.delete(f"paged-{number}")


def test_a_search_names_its_purpose_and_operator(bundle: Path, tmp_path: Path) -> None:
    with run_service(bundle, tmp_path, require_purpose=True) as live, Client(live.url, operator="ann") as client:
        client.put(embedding=[1.0] * client.info().model["dimension"], id="a")
        with pytest.raises(ProblemError) as problem:
            client.search(id="a")
        assert "purpose" in str(problem.value)
        client.search(id="a", purpose="report 12/26")
        [entry] = live.client.get("/audit?kind=search").json()["entries"]
        assert (entry["details"]["purpose"], entry["operator"]) == ("report 12/26", "ann")


def test_lists_page_by_page_deletes_and_erases(client: Client, tracklet: Tracklet) -> None:
    for number in range(5):
        client.embed(tracklet.frames[:1], id=f"t{number}", camera_id="ab"[number % 2])
    page = client.list(limit=2)
    assert [record.id for record in page.items] == ["t0", "t1"]
    assert [record.id for record in client.list(limit=2, cursor=page.next_cursor).items] == ["t2", "t3"]
    assert [record.id for record in client.records(camera_id="b")] == ["t1", "t3"]
    client.delete("t0")
    client.delete("t0")
    assert client.erase(camera_ids=["b"], dry_run=True).erased == 0
    assert client.erase(camera_ids=["b"], dry_run=True).receipt_id is None
    erased = client.erase(camera_ids=["b"])
    assert erased.erased == 2
    last, first = client.audit(limit=2)
    assert (last.receipt_id, last.action, last.filter, last.erased) == (
        erased.receipt_id,
        "erase",
        {"camera_ids": ["b"]},
        2,
    )
    assert (first.action, first.filter, first.by) == ("delete", {"id": "t0"}, "anonymous")
    assert client.audit(limit=1, before=last.receipt_id) == [first]
    assert [record.id for record in client.records()] == ["t2", "t4"]
    with pytest.raises(ProblemError) as refused:
        client.erase()
    assert refused.value.status == 400


def test_a_record_says_when_it_expires(client: Client, tracklet: Tracklet) -> None:
    soon, late = (datetime.now(UTC) + timedelta(days=days) for days in (1, 2))
    client.embed(tracklet.frames[:1], id="x", expires_at=soon)
    assert client.get("x").expires_at == soon
    client.put(tracklet.frames[:1], id="x", expires_at=late)
    assert client.get("x").expires_at == late
    client.put(tracklet.frames[:1], id="x")
    record = client.get("x")
    assert (record.expires_at, record.thumbnail_url) == (None, None)
    with pytest.raises(ProblemError) as refused:
        client.thumbnail("x")
    assert refused.value.status == 404


def test_the_thumbnail_of_a_record_is_returned(bundle: Path, tmp_path: Path, tracklet: Tracklet) -> None:
    with run_service(bundle, tmp_path, thumbnails=True) as live, Client(live.url) as client:
        client.embed(tracklet.frames, id="a:1")
        client.embed(tracklet.frames, id="b")
        assert client.thumbnail("a:1").startswith(b"\xff\xd8\xff")
        assert client.get("a:1").thumbnail_url == "/gallery/a:1/thumbnail"
        assert [hit.thumbnail_url for hit in client.search(id="b").hits] == ["/gallery/a:1/thumbnail"]


def test_sends_a_video_with_boxes(client: Client, tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.avi", frames=6)
    boxes = [(index, 10.0, 5.0, 32.0, 64.0) for index in range(6)]
    assert client.embed(video=video, boxes=boxes, id="boxed").frames == 6
    assert client.embed(video=video, id="whole").frames == 6


def test_a_problem_names_what_is_wrong(client: Client, tracklet: Tracklet) -> None:
    client.embed(tracklet.frames, id="x")
    with pytest.raises(ProblemError, match=r"The id is enrolled already \(409\)") as taken:
        client.embed(tracklet.frames, id="x")
    assert taken.value.errors[0]["field"] == "id"
    with pytest.raises(ProblemError) as text:
        client.embed([b"this is text"], id="y")
    assert text.value.status == 415
    assert text.value.errors[0]["frame"] == 0
    with pytest.raises(ProblemError) as missing:
        client.get("y")
    assert missing.value.status == 404


def test_ids_cannot_lead_to_other_paths(client: Client, tracklet: Tracklet) -> None:
    client.embed(tracklet.frames, id="x")
    for wrong in ("nobody/../x", "x?include_embedding=true", "../info"):
        with pytest.raises(ProblemError) as refused:
            client.get(wrong)
        assert refused.value.status in {400, 404}


def test_rejected_frames_are_returned(client: Client, tracklet: Tracklet) -> None:
    answer = client.embed([*tracklet.frames, b"no image"], id="x")
    assert [frame.index for frame in answer.rejected_frames] == [5]


def test_warnings_are_returned(client: Client, tracklet: Tracklet) -> None:
    full = cv2.imencode(".png", np.zeros((90, 160, 3), np.uint8))[1].tobytes()
    answer = client.embed([full], id="full")
    assert "160x90 pixels" in answer.warnings[0]
    assert client.search([full]).warnings == answer.warnings
    assert client.put(tracklet.frames, id="full").warnings == ()
    assert client.search(id="full").warnings == ()


def test_invalid_calls_are_refused_before_anything_is_sent() -> None:
    with Client("http://127.0.0.1:9") as nowhere:
        with pytest.raises(ValueError, match="either at least one frame or a video"):
            nowhere.embed([b""], video=Path("a.mp4"))
        with pytest.raises(ValueError, match="at least one"):
            nowhere.search([])
        with pytest.raises(ValueError, match="no time zone"):
            nowhere.search(id="x", after=datetime(2026, 5, 1))


def test_an_unreachable_service_is_not_ready() -> None:
    with Client("http://127.0.0.1:9") as nowhere:
        assert not nowhere.is_ready()
        with pytest.raises(UnreachableError, match="no service answers at http://127"):
            nowhere.info()
        with pytest.raises(UnreachableError, match=r"not ready within 0\.2 seconds"):
            nowhere.wait_until_ready(timeout=0.2)


def test_an_invalid_url_is_refused() -> None:
    with pytest.raises(ClientError, match="is not a URL"):
        Client("http://[::")


@contextmanager
def busy_server(busy: int, retry_after: str | None) -> Iterator[tuple[str, list[bytes]]]:
    """Answers 503 so many times, then like `GET /info`; gives its URL and the bodies that it got."""
    bodies: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["content-length"])))
            if len(bodies) <= busy:
                problem = {"type": "urn:not3d:problem:busy", "title": "The service is at its limit", "detail": "full"}
                content = json.dumps(problem).encode()
                self.send_response(503)
                if retry_after is not None:
                    self.send_header("Retry-After", retry_after)
                self.send_header("Content-Type", "application/problem+json")
            else:
                content = json.dumps({"matched": 3, "erased": 3}).encode()
                self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", bodies
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Pauses between attempts, which the tests do not sit out, without their random factor."""
    taken: list[float] = []
    monkeypatch.setattr(retry.RetryPolicy, "_wait", lambda self, seconds: taken.append(seconds))
    monkeypatch.setattr("random.uniform", lambda low, high: 1.0)
    return taken


def test_a_call_to_a_busy_service_is_repeated_after_retry_after(pauses: list[float]) -> None:
    with busy_server(2, "3") as (url, bodies), Client(url) as client:
        assert client.erase(camera_ids=["a"]).erased == 3
    assert pauses == [3, 3]
    assert len(set(bodies)) == 1


def test_without_retry_after_the_pauses_double(pauses: list[float]) -> None:
    with busy_server(3, None) as (url, _), Client(url) as client:
        client.erase(camera_ids=["a"])
    assert pauses == [0.5, 1, 2]


def test_a_service_that_stays_busy_fails_after_all_attempts(pauses: list[float]) -> None:
    with busy_server(99, "86400") as (url, bodies), Client(url) as client, pytest.raises(ProblemError) as given_up:
        client.erase(camera_ids=["a"])
    assert (given_up.value.status, given_up.value.detail) == (503, "full")
    assert len(bodies) == retry.MAX_ATTEMPTS
    assert max(pauses) == retry.MAX_PAUSE_SECONDS


@pytest.mark.parametrize(("asked", "waited"), [("1", 3), ("10", 10), ("9" * 400, 60)])
def test_a_stream_waits_as_long_as_it_is_asked_to_and_at_most_a_minute(
    monkeypatch: pytest.MonkeyPatch, asked: str, waited: float
) -> None:
    taken: list[float] = []

    class EnoughError(Exception):
        pass

    def sleep(seconds: float) -> None:
        taken.append(seconds)
        raise EnoughError

    answer = httpx.Response(503, headers={"Retry-After": asked})

    def refuse(*_: object, **__: object) -> None:
        raise problem_of(answer)

    monkeypatch.setattr("time.sleep", sleep)
    with Client("http://127.0.0.1:9") as client:
        monkeypatch.setattr(client, "_stream", refuse)
        with pytest.raises(EnoughError):
            next(iter(client.follow_alerts(after="0")))
    assert taken == [waited]


def test_each_attempt_sends_the_complete_video(pauses: list[float], tmp_path: Path) -> None:
    video = tmp_path / "a.mp4"
    video.write_bytes(b"video" * 1000)
    with busy_server(1, "0") as (url, bodies), Client(url) as client, pytest.raises(ClientError, match="not Embedded"):
        client.embed(video=video)  # this server does not answer uploads
    assert [b"video" * 1000 in body for body in bodies] == [True, True]


def test_a_file_of_certificates_that_is_none_is_named(tmp_path: Path) -> None:
    for name in ("missing.pem", "text.pem"):
        (tmp_path / "text.pem").write_text("no certificate")
        with pytest.raises(ClientError, match=f"{name} is not a file of certificates"):
            Client("https://127.0.0.1:1", ca_file=tmp_path / name)


@pytest.mark.parametrize(
    "url", ["http://ann:pass/w@rd@127.0.0.1:1", "http://ann:pass%40w0rd@127.0.0.1:1", "ann:passw0rd@host"]
)
def test_no_message_repeats_a_password_of_the_url(url: str) -> None:
    with pytest.raises(ClientError) as refused, Client(url, attempts=1) as client:
        client.info()
    shown = str(refused.value)
    assert "ann" not in shown
    assert "pass" not in shown
