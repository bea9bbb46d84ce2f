import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from tests.docker.compose import REPOSITORY


class Answer(BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/readyz" else 404)
        self.end_headers()
        self.wfile.write(b"the self-test has not run")

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def check(port: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-I", REPOSITORY / "docker/healthcheck.py"],
        env={"NOT3D_PORT": str(port)}, capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip


def test_ready_service_is_healthy(port: int) -> None:
    assert check(port).returncode == 0


def test_service_that_is_not_ready_is_unhealthy_and_says_why(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Answer, "status", 503)
    done = check(port)
    assert done.returncode == 1
    assert done.stderr.strip() == "503: the self-test has not run"


def test_closed_port_is_unhealthy() -> None:
    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        free = server.server_port
    done = check(free)
    assert done.returncode == 1
    assert "no answer" in done.stderr
