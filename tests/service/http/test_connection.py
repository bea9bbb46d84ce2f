"""Limits of connections and of the HTTP protocol, tried with raw sockets against the real server."""

import json
import resource
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.gallery.embedded.gallery import EmbeddedGallery
from service.http import connection, listener
from service.http.listener import RESERVED_DESCRIPTORS, limit_connections
from tests.service.live import TIMEOUT, Live, run_service, wait_for
from tests.service.test_server import end_of, running

HOST = b"Host: 127.0.0.1\r\n"
JSON = b"Content-Type: application/json\r\n"
GET = b"GET /livez HTTP/1.1\r\n" + HOST
SEARCH = b"POST /search HTTP/1.1\r\n" + HOST + JSON
CHUNKED = SEARCH + b"Transfer-Encoding: chunked\r\n\r\n"
QUERY = b'{"id":"none"}'
UPGRADE = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"


def port_of(url: str) -> int:
    return httpx.URL(url).port or 0


@contextmanager
def connected(live: Live, timeout: float = TIMEOUT) -> Iterator[socket.socket]:
    with closing(socket.create_connection(("127.0.0.1", port_of(live.url)), timeout=timeout)) as connection:
        yield connection


def read_to_end(client: socket.socket) -> bytes:
    received = b""
    while data := client.recv(65536):
        received += data
    return received


def read_answer(client: socket.socket) -> bytes:
    """Read one answer with a Content-Length."""
    received = b""
    while True:
        head, found, body = received.partition(b"\r\n\r\n")
        if found and len(body) >= int(head.lower().partition(b"content-length:")[2].split()[0]):
            return received
        data = client.recv(65536)
        assert data, f"closed after {received!r}"
        received += data


def send_until_answered(client: socket.socket, data: bytes, seconds: float) -> None:
    """Send `data` again and again, at most `seconds` apart, until an answer arrives."""
    for _ in range(400):
        if select.select([client], [], [], seconds)[0]:
            return
        client.sendall(data)
    pytest.fail("no answer")


def exchange(live: Live, data: bytes) -> bytes:
    """Send, and return all answers until the service closes the connection."""
    with connected(live) as client:
        client.sendall(data)
        return read_to_end(client)


def check(answer: bytes, status: int, kind: str) -> dict[str, Any]:
    """Assert that the last answer is this problem; return its document."""
    head, _, body = answer.rpartition(b"HTTP/1.1 ")[2].partition(b"\r\n\r\n")
    assert head.startswith(str(status).encode()), answer[:300]
    assert b"content-type: application/problem+json" in head
    assert b"cache-control: no-store" in head
    assert b"connection: close" in head
    document: dict[str, Any] = json.loads(body)
    assert document["type"] == f"urn:not3d:problem:{kind}"
    assert document["request_id"].encode() in head
    return document


def send_until_refused(client: socket.socket, data: bytes, times: int, pause: float = 0) -> int:
    """Send `data` until the service closes the connection; return the bytes that were sent."""
    sent = 0
    try:
        for _ in range(times):
            sent += client.send(data)
            time.sleep(pause)
    except OSError:
        return sent
    pytest.fail(f"the connection is still open after {sent} bytes")


def statuses(answer: bytes) -> list[int]:
    return [int(part[:3]) for part in answer.split(b"HTTP/1.1 ")[1:]]


@pytest.mark.parametrize(
    "head",
    [
        b"nonsense\r\n\r\n",
        b"GET /livez\r\n\r\n",
        b"FOO / HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET /livez HTTP/2.0\r\n" + HOST + b"\r\n",
        b"GET /livez HTTP/1.2\r\n" + HOST + b"\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04",
        b"CONNECT example.org:443 HTTP/1.1\r\n" + HOST + b"\r\n",
        b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET http://evil.example/livez HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET /livez HTTP/1.1\r\n\r\n",
        b"GET /livez HTTP/1.1\r\n" + HOST + HOST + b"\r\n",
        b"GET /\x00 HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET /livez HTTP/1.1\n" + HOST + b"\r\n",
        GET + b"A : b\r\n\r\n",
        GET + b"A: b\r\n c\r\n\r\n",
        GET + b"A: b\x00c\r\n\r\n",
        GET + b"A\x00: b\r\n\r\n",
        GET + b"A: b\rc\r\n\r\n",
        GET + b"A: b\nC: d\r\n\r\n",
        GET + b"no colon\r\n\r\n",
        SEARCH + b"Content-Length: 13\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        SEARCH + b"Transfer-Encoding: chunked\r\nContent-Length: 13\r\n\r\n0\r\n\r\n",
        SEARCH + b"Content-Length: 13\r\nContent-Length: 13\r\n\r\n" + QUERY,
        SEARCH + b"Content-Length: 13\r\nContent-Length: 14\r\n\r\n" + QUERY,
        SEARCH + b"Content-Length: 13, 13\r\n\r\n" + QUERY,
        SEARCH + b"Content-Length: +13\r\n\r\n" + QUERY,
        SEARCH + b"Content-Length: 99999999999999999999\r\n\r\n" + QUERY,
        SEARCH + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        SEARCH + b"Transfer-Encoding: identity\r\n\r\n",
        b"POST /search HTTP/1.0\r\n" + HOST + JSON + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        CHUNKED + b"zz\r\n",
        CHUNKED + b"d\n" + QUERY + b"\n0\n\n",
        CHUNKED + b"d\r\n" + QUERY + b"X0\r\n\r\n",
        CHUNKED + b"-1\r\n",
        CHUNKED + b"0x1\r\na\r\n0\r\n\r\n",
    ],
)
def test_a_request_that_is_not_valid_http_gets_a_problem_and_the_connection_is_closed(
    shared: Live, head: bytes
) -> None:
    check(exchange(shared, head), 400, "malformed")


def test_a_request_after_an_invalid_one_is_not_answered(shared: Live) -> None:
    answer = exchange(shared, SEARCH + b"Content-Length: 5\r\nContent-Length: 0\r\n\r\n" + GET + b"\r\n")
    assert statuses(answer) == [400]


@pytest.mark.parametrize(
    ("data", "status", "kind"),
    [
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 414, "target-too-long"),
        (b"GET /?" + b"a=1&" * 100_000, 414, "target-too-long"),
        (GET + b"A: " + b"b" * 40_000 + b"\r\n\r\n", 431, "head-too-large"),
        (GET + b"A: " + b"b" * 400_000, 431, "head-too-large"),
        (GET + b"a" * 400_000, 431, "head-too-large"),
        (GET + b"A: b\r\n" * 200 + b"\r\n", 431, "head-too-large"),
        (GET + b"A: b\r\n" * 90_000, 431, "head-too-large"),
        (b"\r\n" * 90_000, 431, "head-too-large"),
        (b"A" * 90_000, 400, "malformed"),
        (CHUNKED + b"d\r\n" + QUERY + b"\r\n0\r\n" + b"A: b\r\n" * 200 + b"\r\n", 431, "head-too-large"),
        (CHUNKED + b"d\r\n" + QUERY + b"\r\n0\r\nA: " + b"b" * 400_000, 400, "malformed"),
        (CHUNKED + b"d;" + b"a" * 400_000, 400, "malformed"),
        (CHUNKED + b"d\r\n" + QUERY + b"\r\n" + b"0" * 400_000, 400, "malformed"),
    ],
    ids=[*"abcdefghijklm"],
)
def test_heads_trailers_and_chunk_extensions_are_limited(shared: Live, data: bytes, status: int, kind: str) -> None:
    check(exchange(shared, data), status, kind)


def test_a_flood_of_header_lines_uses_no_memory_and_is_closed(shared: Live) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    lines = b"".join(b"x%d: y\r\n" % number for number in range(5000))
    with connected(shared) as client:
        client.sendall(GET)
        assert send_until_refused(client, lines, 5000) < 3 * connection.LINGER_HEAD_BYTES
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000


def test_trailers_are_never_headers(shared: Live) -> None:
    body = b"d\r\n" + QUERY + b"\r\n0\r\nX-Request-Id: trailer\r\nHost: evil.example\r\n\r\n"
    with connected(shared) as client:
        client.sendall(CHUNKED + body + GET + b"Connection: close\r\n\r\n")
        answer = read_to_end(client)
    assert statuses(answer) == [404, 200]
    assert b"x-request-id: trailer" not in answer


def test_an_incomplete_head_is_answered_with_408(bundle: Path, tmp_path: Path) -> None:
    """Also if its bytes keep coming. A connection on which nothing is sent is closed."""
    with run_service(bundle, tmp_path / "data", head_seconds=0.4) as live:
        with connected(live) as silent, connected(live) as slow:
            slow.sendall(b"GET /livez")
            send_until_answered(slow, b"a", 0.05)
            check(read_to_end(slow), 408, "too-slow")
            assert read_to_end(silent) == b""
        check(exchange(live, GET + b"A: b\r\n"), 408, "too-slow")
        with connected(live) as used:  # the time starts again with each head
            for _ in range(3):
                used.sendall(GET + b"\r\n")
                assert read_answer(used).startswith(b"HTTP/1.1 200")
                time.sleep(0.3)
            used.sendall(GET)
            check(read_to_end(used), 408, "too-slow")


def test_the_time_of_a_head_does_not_run_while_a_request_is_answered(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    get = EmbeddedGallery.get

    def slow(self: EmbeddedGallery, *arguments: Any, **more: Any) -> Any:
        time.sleep(0.8)
        return get(self, *arguments, **more)

    monkeypatch.setattr(EmbeddedGallery, "get", slow)
    request = SEARCH + b"Content-Length: 13\r\n\r\n" + QUERY
    large = GET + b"A: " + b"b" * 9000 + b"\r\nConnection: close\r\n\r\n"
    with run_service(bundle, tmp_path / "data", head_seconds=0.4) as live:
        assert statuses(exchange(live, request + large)) == [404, 200]


def test_a_slow_body_is_answered_with_408(bundle: Path, tmp_path: Path) -> None:
    with run_service(bundle, tmp_path / "data", read_seconds=0.4, min_bytes_per_second=1000) as live:
        no_data = check(exchange(live, SEARCH + b"Content-Length: 13\r\n\r\n{"), 408, "too-slow")["detail"]
        assert "no data arrived" in no_data
        detail = no_data
        while detail == no_data:  # again if this machine stopped for so long that no data arrived here too
            with connected(live) as client:
                client.sendall(SEARCH + b"Content-Length: 100000\r\n\r\n")
                send_until_answered(client, b" ", 0.1)
                detail = check(read_to_end(client), 408, "too-slow")["detail"]
        assert "minimum is 1000 per second" in detail


def test_idle_connections_are_closed_after_the_setting(bundle: Path, tmp_path: Path) -> None:
    with run_service(bundle, tmp_path / "data", keep_alive_seconds=1.5) as live:
        while not _is_idle_twice(live):
            pass
    assert live.lifecycle.settings.keep_alive_seconds == 1.5
    assert type(live.lifecycle.settings)().keep_alive_seconds == 75


def _is_idle_twice(live: Live) -> bool:
    """Be idle two times for less than the setting, and for longer than it together.

    Returns:
        False if this machine stopped for so long that one of these times was longer.
    """
    with connected(live) as client:
        last = time.monotonic()
        for _ in range(3):
            answer = b""
            with suppress(OSError, AssertionError):
                client.sendall(GET + b"\r\n")
                answer = read_answer(client)
            if not answer:
                assert time.monotonic() - last > 1.4, "closed too early"
                return False
            last = time.monotonic()
            assert answer.startswith(b"HTTP/1.1 200")
            time.sleep(0.9)
        assert client.recv(10) == b""
    return True


def test_a_client_that_does_not_read_its_answer_is_disconnected(bundle: Path, tmp_path: Path) -> None:
    with run_service(bundle, tmp_path / "data", read_seconds=0.5) as live, closing(socket.socket()) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", port_of(live.url)))
        client.sendall((b"GET /openapi.json HTTP/1.1\r\n" + HOST + b"\r\n") * 400)
        wait_for(lambda: gauge(live, "not3d_connections") == 1)


def test_a_client_that_does_not_read_gives_way_to_others(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "STALL_SECONDS", 0.2)
    request = (b"GET /openapi.json HTTP/1.1\r\n" + HOST + b"\r\n") * 400
    with run_service(bundle, tmp_path / "data", max_connections=8) as live, ExitStack() as stack:
        live.client.close()
        for _ in range(8):
            client = stack.enter_context(closing(socket.socket()))
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", port_of(live.url)))
            client.sendall(request)
        begin = time.monotonic()
        assert httpx.get(f"{live.url}/livez", timeout=30).status_code == 200
        assert time.monotonic() - begin < 20


def gauge(live: Live, name: str) -> float:
    lines = live.client.get("/metrics").text.splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(name + " ")))


def test_requests_on_one_connection_are_answered_in_turn(shared: Live) -> None:
    many = GET + b"\r\n"
    answer = exchange(shared, many * 300 + GET + b"Connection: close\r\n\r\n")
    assert statuses(answer) == [200] * 301
    large = GET + b"A: " + b"b" * 20_000 + b"\r\n\r\n"
    with connected(shared) as client:  # more than is held: the rest waits in the system's buffers
        sender = threading.Thread(target=client.sendall, args=(large * 150 + GET + b"Connection: close\r\n\r\n",))
        sender.start()
        assert statuses(read_to_end(client)) == [200] * 151
        sender.join()
    answer = exchange(shared, many + SEARCH + b"Content-Length: 13\r\n\r\n" + QUERY + many + b"BAD\r\n\r\n")
    assert statuses(answer) == [200, 404, 200, 400]


@pytest.mark.parametrize("piece", [1, 7])
def test_bytes_may_come_in_any_pieces(shared: Live, piece: int) -> None:
    requests = CHUNKED + b"6;x=y\r\n" + QUERY[:6] + b"\r\n7\r\n" + QUERY[6:] + b"\r\n0\r\nT: x\r\n\r\n"
    requests += GET + b"Connection: close\r\n\r\n"
    with connected(shared) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for begin in range(0, len(requests), piece):
            client.sendall(requests[begin : begin + piece])
        assert statuses(read_to_end(client)) == [404, 200]


@pytest.mark.parametrize(
    "request_",
    [
        GET + b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n",
        SEARCH + UPGRADE + b"Content-Length: 13\r\n\r\n" + QUERY,
        SEARCH
        + b"Connection: Upgrade\r\nUpgrade: h2c\r\nTransfer-Encoding: chunked\r\n\r\nd\r\n"
        + QUERY
        + b"\r\n0\r\n\r\n",
    ],
    ids=["websocket", "h2c with a body", "h2c with chunks"],
)
def test_an_upgrade_is_ignored_and_the_connection_stays_usable(shared: Live, request_: bytes) -> None:
    """Java's HTTP client asks for an upgrade to HTTP/2 with its first request, also with a body."""
    expected = 200 if request_.startswith(b"GET") else 404
    answer = exchange(shared, request_ + GET + b"Connection: close\r\n\r\n")
    assert statuses(answer) == [expected, 200]


def test_absolute_targets_of_the_same_host_are_accepted(shared: Live) -> None:
    for target in (b"http://127.0.0.1/livez", b"HTTP://127.0.0.1/livez?"):
        head = b"GET " + target + b" HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n"
        assert statuses(exchange(shared, head)) == [200]


def test_the_status_100_is_for_clients_that_know_it(shared: Live) -> None:
    expecting = JSON + b"Expect: 100-continue\r\nContent-Length: 13\r\nConnection: close\r\n\r\n" + QUERY
    answer = exchange(shared, b"POST /search HTTP/1.1\r\n" + HOST + expecting)
    assert statuses(answer) == [100, 404]
    answer = exchange(shared, b"POST /search HTTP/1.0\r\n" + HOST + expecting)
    assert statuses(answer) == [404]


def test_parser_errors_are_counted_and_logged_like_other_answers(shared: Live) -> None:
    name = 'not3d_requests_total{method="other",route="unmatched",status="431"}'
    before = gauge(shared, name) if name in shared.client.get("/metrics").text else 0
    exchange(shared, GET + b"A: " + b"b" * 40_000 + b"\r\n\r\n")
    assert gauge(shared, name) == before + 1


def test_the_connections_of_a_flood_are_bounded_and_others_still_answered(bundle: Path, tmp_path: Path) -> None:
    with run_service(bundle, tmp_path / "data", max_connections=20) as live:
        idle = []
        try:
            for _ in range(400):
                idle.append(socket.create_connection(("127.0.0.1", port_of(live.url)), timeout=30))  # noqa: PERF401
            # The oldest idle connections give way after a quarter of a second, or sooner to a client with a request.
            begin = time.monotonic()
            for _ in range(3):
                assert httpx.get(f"{live.url}/livez", timeout=30).status_code == 200
            assert time.monotonic() - begin < 15
            assert gauge(live, "not3d_connections") <= 20
        finally:
            for each in idle:
                each.close()
        wait_for(lambda: gauge(live, "not3d_connections") <= 2)


@pytest.mark.parametrize("sent", [b"", b"GET /livez HT"], ids=["nothing", "part of a head"])
def test_a_request_does_not_wait_for_a_crowd_that_was_idle_in_the_queue(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    for name in ("MIN_IDLE_SECONDS", "MIN_IDLE_SECONDS_FOR_DATA"):
        monkeypatch.setattr(listener, name, 1.0)
    with run_service(bundle, tmp_path / "data", max_connections=20) as live, ExitStack() as stack:
        live.client.close()
        for _ in range(400):
            client = stack.enter_context(connected(live))
            client.sendall(sent)
        time.sleep(1.1)
        begin = time.monotonic()
        assert statuses(exchange(live, GET + b"Connection: close\r\n\r\n")) == [200]
        assert time.monotonic() - begin < 8  # it would be 19 s, one for each 20 of them


def test_with_256_descriptors_the_service_neither_fails_nor_fills_its_log(bundle: Path, tmp_path: Path) -> None:
    """More clients than descriptors connect at once and stay; a request in between is answered."""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256)); "
    command = limit + "from service.server import serve; from service.settings import Settings; serve(Settings())"
    with running(bundle, tmp_path / "data", command) as (process, url):
        address = ("127.0.0.1", port_of(url))
        crowd = [socket.create_connection(address, timeout=20) for _ in range(300)]
        try:
            cpu = cpu_seconds(process.pid)
            for _ in range(3):
                assert httpx.get(f"{url}/info", timeout=30).status_code == 200
            time.sleep(1)
            assert cpu_seconds(process.pid) - cpu < 1
        finally:
            for each in crowd:
                each.close()
        assert httpx.get(f"{url}/readyz", timeout=30).status_code == 200
        process.terminate()
        status, errors = end_of(process)
    assert status == 0
    assert "Too many open files" not in errors
    assert "Traceback" not in errors
    assert len(errors.splitlines()) < 60


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def test_connections_leave_descriptors_for_the_rest_of_the_process() -> None:
    code = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 300))
from service.http.listener import limit_connections
print(limit_connections(512), limit_connections(8), resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(300 - RESERVED_DESCRIPTORS), "8", "300"]
    assert limit_connections(8) == 8


def test_a_service_that_stops_closes_idle_connections_at_once(bundle: Path, tmp_path: Path) -> None:
    with run_service(bundle, tmp_path / "data") as live:
        clients = [socket.create_connection(("127.0.0.1", port_of(live.url)), timeout=10) for _ in range(5)]
        clients[0].sendall(GET)
        clients[1].sendall(GET + b"\r\n")
        assert read_answer(clients[1]).startswith(b"HTTP/1.1 200")
        begin = time.monotonic()
    assert time.monotonic() - begin < 5
    for client in clients:
        assert client.recv(10_000) == b""
        client.close()
