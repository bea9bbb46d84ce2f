"""A slow video delays no other request; its decoder ends with the client, at the time limit, or with the service."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.model.test_video_process import decoders, wait_for
from tests.service.live import Live, run_service
from tests.service.pictures import form, tracklet
from tests.videos import figure, repeat_png, write


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A legal video of a few MB that takes minutes to decode."""
    return repeat_png(tmp_path_factory.mktemp("slow") / "slow.mov", 4900, 300).read_bytes()


@pytest.fixture(scope="module")
def service(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with run_service(bundle, tmp_path_factory.mktemp("data"), max_request_pixels=10**12) as live:
        yield live


def send(live: Live, video: bytes, timeout: float = 60) -> httpx.Response:
    files = {"video": ("v", video, "video/mp4")}
    return httpx.post(f"{live.url}/embed", params={"enroll": "false"}, files=files, timeout=timeout)


@contextmanager
def waiting(live: Live, video: bytes) -> Iterator[None]:
    """Send a video, and wait for the answer without reading it; leave at the end of the context."""
    files = {"video": ("v", video, "video/mp4")}
    request = httpx.Request("POST", f"{live.url}/embed?enroll=false", files=files)
    head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    with socket.create_connection((request.url.host, request.url.port or 80), timeout=60) as connection:
        connection.sendall(f"POST {request.url.raw_path.decode()} HTTP/1.1\r\n{head}\r\n".encode() + request.read())
        yield


def test_client_that_leaves_stops_the_decoder(service: Live, slow: bytes) -> None:
    with waiting(service, slow):
        wait_for(lambda: len(decoders()) == 1)
    wait_for(lambda: not decoders())


def test_two_slow_videos_keep_no_honest_request_waiting(service: Live, slow: bytes, tmp_path: Path) -> None:
    honest = write(tmp_path / "v.mp4", [figure(128, 64)] * 8).read_bytes()
    frames = form(tracklet(1, 4))
    assert send(service, honest).status_code == 200
    with waiting(service, slow), waiting(service, slow):
        wait_for(lambda: len(decoders()) == 2)
        for _ in range(3):
            for work in (
                lambda: service.client.post("/embed", params={"enroll": "false"}, files=frames),
                lambda: send(service, honest),
            ):
                assert work().status_code == 200
        assert len(decoders()) == 2  # none of them waited for the end of a slow one


def test_request_that_takes_too_long_gets_504(bundle: Path, tmp_path: Path, slow: bytes) -> None:
    with run_service(bundle, tmp_path / "data", max_request_pixels=10**12, request_seconds=2) as live:
        start = time.monotonic()
        answer = send(live, slow)
        assert time.monotonic() - start > 1.5
        assert answer.status_code == 504
        assert answer.json()["type"] == "urn:not3d:problem:timed-out"
        assert "NOT3D_REQUEST_SECONDS" in answer.json()["detail"]
        wait_for(lambda: not decoders())
        frames = form(tracklet(1, 4))
        query = {"enroll": "false"}
        wait_for(lambda: live.client.post("/embed", params=query, files=frames).status_code == 200)


def test_upload_that_takes_too_long_gets_504(bundle: Path, tmp_path: Path) -> None:
    with run_service(bundle, tmp_path / "data", request_seconds=1) as live:
        host, port = live.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            connection.sendall(
                b"POST /search HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
                b"Content-Length: 100\r\n\r\n{"
            )
            assert connection.recv(100).startswith(b"HTTP/1.1 504")


def test_stopping_ends_a_slow_video_in_time(bundle: Path, tmp_path: Path, slow: bytes) -> None:
    with run_service(bundle, tmp_path / "data", max_request_pixels=10**12, drain_seconds=1) as live:
        thread = threading.Thread(target=lambda: _ignore_errors(live, slow))
        thread.start()
        wait_for(lambda: len(decoders()) == 1)
        start = time.monotonic()
    assert time.monotonic() - start < 30  # of the minutes that the video takes
    thread.join()
    wait_for(lambda: not decoders())


def _ignore_errors(live: Live, video: bytes) -> None:
    try:
        send(live, video)
    except httpx.HTTPError:
        return
