"""The example configurations of proxies, run with the real programs in front of the real service."""

import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from not3d.ports import free_port
from tests.bundles import make_bundle
from tests.docker.compose import REPOSITORY
from tests.service.live import Live, run_service, wait_for
from tests.service.pictures import form, tracklet

EXAMPLES = REPOSITORY / "docker" / "proxy"
CONFIGURATIONS = {"nginx": "nginx.conf", "caddy": "Caddyfile"}
KEY = "a-key-that-is-long-enough"
NAME = "reid.example.com"


def require(program: str) -> None:
    if shutil.which(program) is None and os.environ.get(f"REQUIRE_{program.upper()}"):
        pytest.fail(f"not installed: {program}")
    if shutil.which(program) is None:
        pytest.skip(f"not installed: {program} (a Debian package)")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a certificate for `NAME` and its key."""
    require("openssl")
    folder = tmp_path_factory.mktemp("certificate")
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-days", "2", "-subj", f"/CN={NAME}", "-addext", f"subjectAltName=DNS:{NAME}"),
            *("-keyout", folder / "key.pem", "-out", folder / "certificate.pem"),
        ],
        check=True,
        capture_output=True,
    )
    return folder


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    bundle = make_bundle(tmp_path_factory.mktemp("bundle"))
    with run_service(
        bundle, tmp_path_factory.mktemp("data"), wait_until_ready=False, api_keys=KEY, thumbnails=True
    ) as live:
        wait_for(lambda: live.client.get("/readyz").status_code == 200)
        yield live


def fill_in(example: str, service: Live, certificate: Path, port: int) -> str:
    """Return an example with the addresses and files of this test."""
    text = (EXAMPLES / example).read_text()
    for old, new in (
        ("127.0.0.1:8000", service.url.removeprefix("http://")),
        ("/etc/ssl/not3d", str(certificate)),
        ("listen 443", f"listen 127.0.0.1:{port}"),
        (f"https://{NAME} {{", f"https://{NAME}:{port} {{\n\tbind 127.0.0.1"),
    ):
        text = text.replace(old, new)
    return text


def write_nginx(folder: Path, server: str) -> list[str]:
    """Write a complete configuration around the example and return the command that runs it."""
    (folder / "not3d.conf").write_text(server)
    places = "".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; pid {folder}/pid; error_log {folder}/log; user root; events {{}}\n"
        f"http {{ {places} include {folder}/not3d.conf; }}\n"
    )
    return ["nginx", "-e", str(folder / "log"), "-c", str(folder / "nginx.conf")]


def write_caddy(folder: Path, text: str) -> list[str]:
    (folder / "Caddyfile").write_text(text)
    return ["caddy", "run", "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile"]


@contextmanager
def run_proxy(program: str, example: str, port: int, folder: Path, certificate: Path) -> Iterator[httpx.Client]:
    """Run a proxy with a configuration until the context ends, and return a client of it, with a key."""
    command = {"nginx": write_nginx, "caddy": write_caddy}[program](folder, example)
    with (folder / "output").open("w") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env=os.environ | {"HOME": str(folder), "XDG_DATA_HOME": str(folder)}
        )
    trusted = ssl.create_default_context(cafile=str(certificate / "certificate.pem"))
    try:
        with httpx.Client(
            base_url=f"https://127.0.0.1:{port}", verify=trusted, timeout=30,
            headers={"Host": NAME, "Authorization": f"Bearer {KEY}"},
        ) as client:  # fmt: skip
            client.event_hooks["request"] = [lambda sent: sent.extensions.update(sni_hostname=NAME)]

            def answers() -> bool:
                assert process.poll() is None, (folder / "output").read_text()
                try:
                    return client.get("/livez").status_code == 200
                except httpx.TransportError:
                    return False

            wait_for(answers)
            yield client
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture(scope="module", params=["nginx", "caddy"])
def proxy(
    request: pytest.FixtureRequest, service: Live, certificate: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    """A client of the proxy with the example as it is."""
    program: str = request.param
    require(program)
    port = free_port()
    example = fill_in(CONFIGURATIONS[program], service, certificate, port)
    with run_proxy(program, example, port, tmp_path_factory.mktemp(program), certificate) as client:
        yield client


def test_a_tracklet_is_enrolled_found_and_shown(proxy: httpx.Client) -> None:
    assert proxy.put("/gallery/one", files=form(tracklet(1))).is_success
    answer = proxy.post("/search", files=form(tracklet(1)), headers={"X-Forwarded-Prefix": "//evil.example"})
    (hit, *_) = answer.json()["results"]
    assert (hit["id"], hit["thumbnail_url"]) == ("one", "/gallery/one/thumbnail")
    assert proxy.get(hit["thumbnail_url"]).headers["content-type"] == "image/jpeg"
    assert answer.headers["strict-transport-security"] == "max-age=31536000"


def test_requests_without_a_key_get_the_problem_document_of_the_service(proxy: httpx.Client) -> None:
    answer = proxy.get("/gallery", headers={"Authorization": ""})
    assert answer.status_code == 401
    assert answer.json()["type"] == "urn:not3d:problem:key-missing"


def test_metrics_are_not_for_the_outside(proxy: httpx.Client) -> None:
    assert proxy.get("/metrics").status_code == 403


def test_large_heads_are_refused(proxy: httpx.Client) -> None:
    assert proxy.get("/livez", headers={"X-Large": "x" * 100_000}).status_code in {400, 431}


def test_a_refusal_before_the_end_of_the_body_is_seen(proxy: httpx.Client) -> None:
    answer = proxy.post("/search", content=b"x" * 3_000_000, headers={"Content-Type": "text/plain"})
    assert answer.status_code == 415
    assert answer.json()["type"] == "urn:not3d:problem:unsupported-content"


def test_a_body_that_is_too_large_is_refused_early(proxy: httpx.Client) -> None:
    """Only the head and the first bytes are sent. Caddy connects to the service only when it has some of the body."""
    port = proxy.base_url.port
    assert port
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    lines = ["POST /embed HTTP/1.1", f"Host: {NAME}", f"Authorization: Bearer {KEY}", "Content-Type: application/json"]
    with (
        socket.create_connection(("127.0.0.1", port), 10) as plain,
        context.wrap_socket(plain, server_hostname=NAME) as connection,
    ):
        connection.sendall("\r\n".join([*lines, "Content-Length: 300000000", "", ""]).encode() + b" " * 65_536)
        assert b" 413 " in connection.recv(1000).split(b"\r\n")[0]


def test_plain_http_is_refused(proxy: httpx.Client) -> None:
    url = str(proxy.base_url).replace("https", "http")
    assert httpx.get(f"{url}/livez", timeout=60).status_code == 400


class Stream:
    """The stream of alerts, read by curl through a proxy."""

    def __init__(self, client: httpx.Client, certificate: Path, *arguments: str) -> None:
        self.lines: list[tuple[float, str]] = []
        self.process = subprocess.Popen(
            [
                *("curl", "--silent", "--no-buffer", "--max-time", "60", *arguments),
                *("--cacert", str(certificate / "certificate.pem"), "--header", f"Authorization: Bearer {KEY}"),
                *("--resolve", f"{NAME}:{client.base_url.port}:127.0.0.1"),
                f"https://{NAME}:{client.base_url.port}/alerts/stream",
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        self._thread = threading.Thread(target=self._read)
        self._thread.start()
        wait_for(lambda: self.lines or self.process.poll() is not None)

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.lines.append((time.monotonic(), line.strip()))

    def alerts(self) -> list[dict[str, Any]]:
        return [json.loads(line[6:]) for _, line in self.lines if line.startswith("data: ")]

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self._thread.join()
        assert self.process.stdout
        self.process.stdout.close()


@pytest.mark.parametrize("protocol", ["--http1.1", "--http2"])
@pytest.mark.parametrize("program", ["nginx", "caddy"])
def test_the_stream_of_alerts_outlives_the_timeouts_of_the_proxy_and_is_resumed(
    program: str,
    protocol: str,
    service: Live,
    certificate: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every timeout of the example is 1 s here, and heartbeats come 75 times as often."""
    require(program)
    require("curl")
    monkeypatch.setattr("service.routes.alerts.HEARTBEAT_SECONDS", 0.2)
    port = free_port()
    example = fill_in(CONFIGURATIONS[program], service, certificate, port)
    example = re.sub(r"\b((?:\w+_)?(?:timeout|body|idle|keepalive|header)) \d+[sm]\b", r"\1 1s", example)
    headers = {"Authorization": f"Bearer {KEY}"}
    streams: list[Stream] = []

    def enrol(id: str) -> None:
        answer = service.client.put(f"/gallery/{id}", files=form(tracklet(1)), headers=headers)
        assert answer.is_success, answer.text

    with run_proxy(program, example, port, tmp_path, certificate) as proxy:
        enrol("first")
        body = {"ids": ["first"], "min_score": 0.5, "cooldown": 0}
        assert service.client.put("/watchlists/case", json=body, headers=headers).is_success
        try:
            for number in range(5):  # a busy machine may be silent for a second
                streams.append(stream := Stream(proxy, certificate, protocol))
                time.sleep(2.2)
                if stream.process.poll() is None:
                    enrol(f"second-{number}")
                    wait_for(lambda stream=stream: stream.alerts() or stream.process.poll() is not None)
                if stream.alerts():
                    break
            assert [alert["record_id"] for alert in stream.alerts()] == [f"second-{number}"], stream.lines
            stream.end()
            enrol("third")
            last = f"Last-Event-ID: {stream.alerts()[0]['id']}"
            streams.append(again := Stream(proxy, certificate, protocol, "--header", last))
            wait_for(again.alerts)
            assert [alert["record_id"] for alert in again.alerts()] == ["third"]
        finally:
            for each in streams:
                each.end()
            service.client.delete("/watchlists/case", headers=headers)
