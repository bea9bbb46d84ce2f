"""Multipart bodies, also as an attacker would send them."""

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.service.live import TIMEOUT, Live, run_service, wait_for
from tests.service.pictures import draw, form, tracklet, write_video
from tests.service.problem import check_problem

BOUNDARY = {"content-type": "multipart/form-data; boundary=x"}


@pytest.fixture(scope="module")
def small(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A service with small limits."""
    limits: dict[str, Any] = {
        "max_request_bytes": 300_000,
        "max_pending_bytes": 600_000,
        "max_frame_bytes": 100_000,
        "max_field_bytes": 1000,
        "max_pending_requests": 3,
        "read_seconds": 2 * TIMEOUT,
        "temp_dir": tmp_path_factory.mktemp("videos"),
    }
    with run_service(bundle, tmp_path_factory.mktemp("data"), **limits) as live:
        yield live


def part(name: str, data: bytes, more: bytes = b"") -> bytes:
    return b'--x\r\nContent-Disposition: form-data; name="' + name.encode() + b'"' + more + b"\r\n\r\n" + data + b"\r\n"


def temporary(live: Live) -> list[Path]:
    return list(live.service.settings.temp_dir.iterdir())


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_body_is_read_the_same_in_chunks_of_any_size(shared: Live, size: int) -> None:
    body = part("id", b"cut-%d" % size)
    body += b"".join(part("frames", data) for data in tracklet(1, 2)) + b"--x--\r\n"
    pieces = (body[start : start + size] for start in range(0, len(body), size))
    answer = shared.client.post("/embed", content=pieces, headers=BOUNDARY)
    assert answer.status_code == 201, answer.text
    assert (answer.json()["id"], answer.json()["frames"]) == (f"cut-{size}", 2)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (part("frames", b"data"), None),  # no closing boundary
        (b"--y\r\n\r\n", None),
        (b"--x\r\nContent-Type: text/plain\r\n\r\nhello\r\n--x--\r\n", None),  # no name
        (b"--x\r\n" + b"A: b\r\n" * 100 + b"\r\nhello\r\n--x--\r\n", None),
        (b"--x\r\nA: " + b"b" * 100_000 + b"\r\n\r\nhello\r\n--x--\r\n", None),
        (part("id", b"a") + part("id", b"b") + b"--x--\r\n", "id"),
        (part("what", b"a") + b"--x--\r\n", "what"),
        (part("w" * 1000, b"a") + b"--x--\r\n", "w" * 100),
    ],
)
def test_malformed_forms_are_refused(small: Live, body: bytes, field: str | None) -> None:
    check_problem(small.client.post("/embed", content=body, headers=BOUNDARY), 400, "malformed", field=field)


def test_a_boundary_that_is_too_long_is_refused(small: Live) -> None:
    headers = {"content-type": "multipart/form-data; boundary=" + "x" * 5000}
    check_problem(small.client.post("/embed", content=b"--x--", headers=headers), 400, "malformed")


def test_a_frame_over_its_limit_is_named(small: Live) -> None:
    frames = [*tracklet(1, 1), b"\xff\xd8\xff" + bytes(100_000)]
    check_problem(small.client.post("/embed", files=form(frames)), 413, "too-large", frame=1)


def test_a_field_over_its_limit_is_named(small: Live) -> None:
    answer = small.client.post("/embed", files=form(tracklet(1, 1)), data={"metadata": "x" * 1001})
    check_problem(answer, 413, "too-large", field="metadata")


def test_too_many_parts_of_a_form_are_refused(small: Live) -> None:
    body = b"".join(part("metadata" if number else "id", b"") for number in range(2))
    body += b"".join(part("frames", b"") for _ in range(10)) + b"--x--\r\n"
    assert small.client.post("/embed", content=body, headers=BOUNDARY).status_code == 400
    body = b"".join(part("video", b"") for _ in range(2)) + b"--x--\r\n"
    check_problem(small.client.post("/embed", content=body, headers=BOUNDARY), 400, "malformed", field="video")


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("kind", ["multipart/form-data; boundary=x", "application/json"])
def test_a_body_over_its_limit_is_refused(small: Live, kind: str, declared: bool) -> None:
    body = part("video", bytes(400_000)) + b"--x--\r\n"
    content = body if declared else (body[start : start + 10_000] for start in range(0, len(body), 10_000))
    answer = small.client.post("/embed", content=content, headers={"content-type": kind})
    check_problem(answer, 413, "too-large")
    assert temporary(small) == []


def test_a_video_is_stored_under_a_name_of_the_server_and_removed(small: Live, tmp_path: Path) -> None:
    video = write_video(tmp_path / "v.mp4", [draw(1, seed) for seed in range(3)])
    body = part("video", video, b'; filename="../../../evil.mp4"') + part("id", b"v") + b"--x--\r\n"
    assert small.client.post("/embed", content=body, headers=BOUNDARY).status_code == 201
    bad = part("video", b"text", b'; filename="/etc/passwd"') + b"--x--\r\n"
    check_problem(small.client.post("/embed", content=bad, headers=BOUNDARY), 415, "unsupported-content")
    assert temporary(small) == []
    assert not list(tmp_path.parent.rglob("evil*"))


def test_without_its_temporary_folder_the_service_refuses_videos_only(bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    with run_service(bundle, tmp_path / "data", temp_dir=folder) as live:
        folder.rmdir()
        answer = live.client.post("/embed", content=part("video", b"video") + b"--x--\r\n", headers=BOUNDARY)
        problem = check_problem(answer, 503, "busy")
        assert "cannot be stored" in problem["detail"]
        assert answer.headers["retry-after"] == "5"
        assert live.client.post("/embed", files=form(tracklet(1, 2))).status_code == 201


def connect(live: Live, body: bytes, length: int) -> socket.socket:
    """Connect a client that sends the beginning of a form and then nothing."""
    port = int(live.url.rpartition(":")[2])
    connection = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT)
    kind = BOUNDARY["content-type"]
    head = f"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n"
    connection.sendall(head.encode() + body)
    return connection


def test_a_client_that_stalls_gets_408(bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    with run_service(bundle, tmp_path / "data", temp_dir=folder, read_seconds=0.5) as live:
        with connect(live, part("video", bytes(1000))[:500], 5000) as connection:
            answer = b"".join(iter(lambda: connection.recv(4000), b""))
            assert answer.startswith(b"HTTP/1.1 408")
            assert b"too-slow" in answer
        assert temporary(live) == []


def test_slow_uploads_do_not_block_other_requests(small: Live) -> None:
    wait_for(lambda: "not3d_open_requests 0.0" in small.client.get("/metrics").text)
    connections = [connect(small, part("frames", b"x")[:60], 5000) for _ in range(3)]
    wait_for(lambda: "not3d_open_requests 3.0" in small.client.get("/metrics").text)
    assert small.client.post("/embed?enroll=false", files=form(tracklet(1, 1))).status_code == 200
    assert small.client.post("/gallery/erase", json={"filter": {"camera_ids": ["none"]}}).status_code == 200
    for connection in connections:
        connection.close()
    wait_for(lambda: "not3d_open_requests 0.0" in small.client.get("/metrics").text)


def test_the_bytes_of_all_requests_together_are_limited(small: Live) -> None:
    wait_for(lambda: "not3d_pending_bytes 0.0" in small.client.get("/metrics").text)
    video = part("video", bytes(250_000))
    with connect(small, video, 290_000), connect(small, video, 290_000):
        wait_for(lambda: "not3d_pending_bytes 500" in small.client.get("/metrics").text)
        frames = form([bytes(90_000), bytes(90_000)])
        check_problem(small.client.post("/embed", files=frames), 503, "busy")
    wait_for(lambda: "not3d_pending_bytes 0.0" in small.client.get("/metrics").text)
    assert 'not3d_refused_total{reason="bytes"} 1.0' in small.client.get("/metrics").text


def test_a_json_body_counts_twice(small: Live) -> None:
    """While a video of 250,000 bytes arrives, a form of 198,000 bytes is read, but such a JSON body is refused."""
    wait_for(lambda: "not3d_pending_bytes 0.0" in small.client.get("/metrics").text)
    with connect(small, part("video", bytes(250_000)), 290_000):
        wait_for(lambda: "not3d_pending_bytes 250" in small.client.get("/metrics").text)
        body = {"frames": ["A" * 200_000]}
        check_problem(small.client.post("/embed", json=body), 503, "busy")
        frames = [bytes(66_000)] * 3
        check_problem(small.client.post("/embed", files=form(frames)), 415, "unsupported-content")
