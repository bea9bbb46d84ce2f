"""A refusal that is sent before the body is read is seen by every client, and what it sends afterwards is bounded."""

import http.client
import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest
import requests

from not3d.client import Client, ProblemError
from not3d.ports import free_port
from service.http import connection
from service.http.listener import LINGER_SHARE
from tests.service.http.test_connection import (
    connected,
    gauge,
    port_of,
    read_answer,
    read_to_end,
    send_until_refused,
    statuses,
)
from tests.service.live import Live, run_service, wait_for

KEY = "0123456789abcdef"
BODY = b'--B\r\nContent-Disposition: form-data; name="frames"\r\n\r\n' + bytes(30_000_000) + b"\r\n--B--\r\n"
FORM = {"content-type": "multipart/form-data; boundary=B"}
KNOWN = FORM | {"x-api-key": KEY}


@pytest.fixture(scope="module")
def strict(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A service that refuses the body of these tests, with and without a key."""
    with run_service(bundle, tmp_path_factory.mktemp("data"), api_keys=KEY, max_request_bytes=100_000) as live:
        live.client.headers["x-api-key"] = KEY
        yield live


def by_urllib(url: str, body: bytes, headers: dict[str, str]) -> int:
    request = urllib.request.Request(url, data=body, headers=headers, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code if b"urn:not3d:problem" in error.read() else -1


def by_http_client(url: str, body: bytes, headers: dict[str, str]) -> int:
    where = httpx.URL(url)
    with closing(http.client.HTTPConnection(where.host, where.port, timeout=30)) as client:
        client.request("POST", where.path, body, headers)
        answer = client.getresponse()
        assert b"urn:not3d:problem" in answer.read()
        return answer.status


def by_requests(url: str, body: bytes, headers: dict[str, str]) -> int:
    answer = requests.post(url, data=body, headers=headers, timeout=30)
    assert answer.json()["type"].startswith("urn:not3d:problem")
    return answer.status_code


def by_requests_in_chunks(url: str, body: bytes, headers: dict[str, str]) -> int:
    chunks = (body[begin : begin + 65536] for begin in range(0, len(body), 65536))
    answer = requests.post(url, data=chunks, headers=headers, timeout=30)
    return answer.status_code


def by_httpx(url: str, body: bytes, headers: dict[str, str]) -> int:
    answer = httpx.post(url, content=body, headers=headers, timeout=30)
    assert answer.json()["type"].startswith("urn:not3d:problem")
    return answer.status_code


def by_httpx_in_chunks(url: str, body: bytes, headers: dict[str, str]) -> int:
    chunks = (body[begin : begin + 65536] for begin in range(0, len(body), 65536))
    return httpx.post(url, content=chunks, headers=headers, timeout=30).status_code


def by_curl(url: str, body: bytes, headers: dict[str, str], *more: str) -> int:
    if not shutil.which("curl"):
        pytest.skip("curl is not installed")
    options = [option for name, value in headers.items() for option in ("-H", f"{name}: {value}")]
    with tempfile.NamedTemporaryFile() as file:
        file.write(body)
        file.flush()
        command = ["curl", "-sS", "-m", "30", "-o", os.devnull, "-w", "%{http_code}", "--data-binary", f"@{file.name}"]
        done = subprocess.run([*command, *options, *more, url], capture_output=True, text=True, check=True)
    return int(done.stdout)


def by_curl_without_expect(url: str, body: bytes, headers: dict[str, str]) -> int:
    return by_curl(url, body, headers, "-H", "Expect:")


def by_curl_in_chunks(url: str, body: bytes, headers: dict[str, str]) -> int:
    return by_curl(url, body, headers, "-H", "Transfer-Encoding: chunked")


def head_of(url: str, body: bytes, headers: dict[str, str], *more: str) -> bytes:
    where = httpx.URL(url)
    lines = [f"POST {where.path} HTTP/1.1", f"Host: {where.host}", f"Content-Length: {len(body)}", *more]
    return "\r\n".join([*lines, *(f"{name}: {value}" for name, value in headers.items()), "", ""]).encode()


def by_socket_that_sends_everything_first(url: str, body: bytes, headers: dict[str, str]) -> int:
    with closing(socket.create_connection(("127.0.0.1", port_of(url)), timeout=30)) as client:
        client.sendall(head_of(url, body, headers) + body)
        time.sleep(0.2)
        [status] = statuses(read_to_end(client))
        return status


def by_socket_like_dotnet(url: str, body: bytes, headers: dict[str, str]) -> int:
    """With `Connection: close`, the head alone first, then pieces, and the answer read at the end."""
    with closing(socket.create_connection(("127.0.0.1", port_of(url)), timeout=30)) as client:
        client.sendall(head_of(url, body, headers, "Connection: close"))
        time.sleep(0.1)
        for begin in range(0, len(body), 1_000_000):
            client.sendall(body[begin : begin + 1_000_000])
        [status] = statuses(read_to_end(client))
        return status


def by_socket_that_expects_100(url: str, body: bytes, headers: dict[str, str]) -> int:
    """The body is never sent, because the answer is not 100."""
    with closing(socket.create_connection(("127.0.0.1", port_of(url)), timeout=30)) as client:
        client.sendall(head_of(url, body, headers, "Expect: 100-continue"))
        [status] = statuses(read_to_end(client))
        return status


CLIENTS: list[Callable[[str, bytes, dict[str, str]], int]] = [
    by_urllib,
    by_http_client,
    by_requests,
    by_requests_in_chunks,
    by_httpx,
    by_httpx_in_chunks,
    by_curl,
    by_curl_without_expect,
    by_curl_in_chunks,
    by_socket_that_sends_everything_first,
    by_socket_like_dotnet,
    by_socket_that_expects_100,
]


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.__name__)
def test_an_early_refusal_is_seen(strict: Live, client: Callable[[str, bytes, dict[str, str]], int]) -> None:
    assert client(f"{strict.url}/embed", BODY, FORM) == 401
    assert client(f"{strict.url}/embed", BODY, KNOWN) == 413
    assert client(f"{strict.url}/embed", BODY, KNOWN | {"content-type": "text/plain"}) == 415
    assert client(f"{strict.url}/nowhere", BODY, KNOWN) == 404
    assert client(f"{strict.url}/livez", BODY, KNOWN) == 405


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.__name__)
def test_a_service_at_its_limit_is_seen(
    bundle: Path, tmp_path: Path, client: Callable[[str, bytes, dict[str, str]], int]
) -> None:
    with run_service(bundle, tmp_path / "data", max_pending_requests=1) as live:
        live.app.state.admission._readers = 10**6
        wait_for(lambda: live.client.get("/readyz").status_code == 200)
        assert client(f"{live.url}/embed", BODY, FORM) == 503


def test_the_client_of_this_project_sees_it(strict: Live, tmp_path: Path) -> None:
    video = tmp_path / "v.mp4"
    video.write_bytes(BODY)
    for key, status in ((None, 401), (KEY, 413)):
        with Client(strict.url, api_key=key) as client:
            for footage in ({"frames": [BODY]}, {"video": video}):
                with pytest.raises(ProblemError) as refused:
                    client.embed(**footage)  # type: ignore[arg-type]
                assert refused.value.status == status


def test_the_connection_of_a_refused_request_ends(strict: Live) -> None:
    with connected(strict) as client:
        client.sendall(head_of(f"{strict.url}/embed", BODY, FORM) + BODY)
        answer = read_to_end(client)
    assert b"connection: close" in answer
    assert statuses(answer) == [401]
    wait_for(lambda: gauge(strict, "not3d_connections") <= 2)


def test_a_small_body_that_arrived_keeps_the_connection(strict: Live) -> None:
    with connected(strict) as client:
        for _ in range(2):
            client.sendall(head_of(f"{strict.url}/embed", b"abc", FORM) + b"abc")
            assert b"connection: close" not in read_answer(client)


def test_draining_ends_after_its_bytes(strict: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "LINGER_BYTES", 5_000_000)
    with connected(strict) as client:
        client.sendall(endless_head(strict))
        assert send_until_refused(client, bytes(1_000_000), 100) < 30_000_000


def endless_head(live: Live) -> bytes:
    return b"POST /embed HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 900000000000\r\n\r\n"


def test_draining_ends_after_its_time(strict: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "LINGER_SECONDS", 0.5)
    monkeypatch.setattr(connection, "LINGER_IDLE_SECONDS", 0.2)
    with connected(strict) as idle, connected(strict) as slow:
        idle.sendall(endless_head(strict))
        slow.sendall(endless_head(strict))
        send_until_refused(slow, b"a", 200, 0.05)
        send_until_refused(idle, b"a", 5, 0.05)


def test_few_connections_are_drained_at_the_same_time(bundle: Path, tmp_path: Path) -> None:
    with run_service(bundle, tmp_path / "data", api_keys=KEY, max_connections=40) as live:
        live.client.headers["x-api-key"] = KEY
        clients = [socket.create_connection(("127.0.0.1", port_of(live.url)), timeout=30) for _ in range(30)]
        try:
            for client in clients:
                client.sendall(endless_head(live))
                assert read_answer(client).startswith(b"HTTP/1.1 401")
            wait_for(lambda: gauge(live, "not3d_connections") <= 40 // LINGER_SHARE + 1)
        finally:
            for client in clients:
                client.close()


# Behind nginx


@pytest.fixture(scope="module", params=["1.0", "1.1"])
def proxied(request: pytest.FixtureRequest, strict: Live, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an nginx with its defaults in front of the service, with either version of HTTP behind it."""
    nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if not nginx:
        if os.environ.get("REQUIRE_NGINX"):
            pytest.fail("nginx is not installed, and REQUIRE_NGINX is set")
        pytest.skip("nginx is not installed")
    folder = tmp_path_factory.mktemp("nginx")
    port = free_port()
    temporary = "".join(
        f"{name}_temp_path {folder}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    keep = 'proxy_set_header Connection "";' if request.param == "1.1" else ""
    (folder / "nginx.conf").write_text(f"""
daemon off; master_process off; pid {folder}/pid; error_log {folder}/errors;
events {{}}
http {{
  access_log off; {temporary}
  upstream service {{ server 127.0.0.1:{port_of(strict.url)}; keepalive 4; }}
  server {{
    listen 127.0.0.1:{port};
    location /reid/ {{
      proxy_pass http://service/;
      proxy_http_version {request.param}; {keep}
      proxy_set_header X-Forwarded-Prefix /reid;
    }}
  }}
}}
""")
    process = subprocess.Popen([nginx, "-p", folder, "-c", folder / "nginx.conf", "-e", folder / "errors"])
    try:
        url = f"http://127.0.0.1:{port}/reid"

        def answers() -> bool:
            try:
                return httpx.get(f"{url}/readyz", timeout=30).status_code == 200
            except httpx.TransportError:
                return False

        wait_for(answers)
        yield url
    finally:
        process.terminate()
        process.wait()


def test_early_refusals_are_seen_through_nginx(proxied: str) -> None:
    body = BODY[:900_000]  # its default limit is 1 MB
    for client in (by_urllib, by_requests, by_httpx, by_curl, by_socket_like_dotnet):
        for _ in range(5):
            assert client(f"{proxied}/embed", body, FORM) == 401
            assert client(f"{proxied}/embed", body, KNOWN) == 413


def test_addresses_are_right_through_nginx(proxied: str) -> None:
    with httpx.Client(headers={"x-api-key": KEY}, timeout=30) as client:
        client.delete(f"{proxied}/gallery/through")
        answer = client.put(f"{proxied}/gallery/through", json={"embedding": [1.0] * 32})
        assert answer.headers["location"].endswith("/reid/gallery/through")
        assert client.get(answer.url.join(answer.headers["location"])).status_code == 200
        assert client.head(f"{proxied}/gallery/through").status_code == 200
        assert client.get(f"{proxied}/openapi.json").json()["servers"] == [{"url": "/reid"}]
        for _ in range(50):  # kept connections between nginx and the service
            assert client.get(f"{proxied}/info").status_code == 200
