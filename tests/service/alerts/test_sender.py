"""One attempt to deliver an alert to a hostile or broken target: real sockets, and names that resolve as told."""

import asyncio
import base64
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from pydantic import SecretStr

from service.alerts import sender
from service.alerts.sender import Outcome, Sender
from service.alerts.webhooks import AllowedHosts, Webhook
from service.gallery.watch.records import Alert, AlertRules, Delivery, alert_id
from tests.service.live import TIMEOUT

ALERT = Alert(alert_id(1, "uid", "r"), "w", "uid", "r", None, None, None, 0.9, None, None, None, None)
NAME = "hooks.example.org"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "ATTEMPT_SECONDS", 0.5)


class Target:
    """A listener that answers each connection with `write`, and counts what it was sent."""

    def __init__(self, listener: socket.socket, write: Callable[[socket.socket], None]) -> None:
        self.port: int = listener.getsockname()[1]
        self.requests: list[bytes] = []
        self.ended = threading.Event()
        """Set when the client has closed the connection."""
        self._listener, self._write = listener, write

    def serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:  # closed
                return
            with connection:
                connection.settimeout(TIMEOUT)
                self.requests.append(connection.recv(65536))
                with suppress(OSError):
                    self._write(connection)
                self.ended.set()


@contextmanager
def target(write: Callable[[socket.socket], None], host: str = "127.0.0.1", port: int = 0) -> Iterator[Target]:
    with socket.create_server((host, port)) as listener:
        served = Target(listener, write)
        thread = threading.Thread(target=served.serve)
        thread.start()
        try:
            yield served
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(TIMEOUT)


def send(url: str, hosts: str = "127.0.0.0/8", times: int = 1) -> list[Outcome]:
    """Try to deliver an alert so many times."""
    secret = "whsec_" + base64.b64encode(bytes(range(32))).decode()
    webhook = Webhook(name="ops", url=url, secret=SecretStr(secret))

    async def run() -> list[Outcome]:
        tried = Sender(webhook, AllowedHosts.parse(hosts), AlertRules())
        try:
            return [await tried.send(Delivery("ops", ALERT, 0, 0)) for _ in range(times)]
        finally:
            await tried.close()

    return asyncio.run(run())


def resolve(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """Let `NAME` resolve to each of the answers in turn, the last one for ever; return the names that were asked."""
    asked: list[str] = []
    real = socket.getaddrinfo

    def look_up(host: Any, port: Any, *arguments: Any, **options: Any) -> Any:
        if host != NAME:
            return real(host, port, *arguments, **options)
        asked.append(host)
        chosen = answers[min(len(asked), len(answers)) - 1]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in chosen]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return asked


def write_ok(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")


def forever(start: bytes, piece: bytes) -> Callable[[socket.socket], None]:
    def write(connection: socket.socket) -> None:
        connection.sendall(start)
        while True:
            connection.sendall(piece)

    return write


def test_a_body_without_end_is_not_read() -> None:
    endless = forever(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + bytes(65536) + b"\r\n")
    with target(endless) as served:
        assert send(f"http://127.0.0.1:{served.port}/") == [Outcome()]
        assert served.ended.wait(TIMEOUT)


@pytest.mark.parametrize(
    ("start", "piece", "reason"),
    [
        (b"HTTP/1.1 200 OK\r\n", b"X-Padding: " + b"a" * 1000 + b"\r\n", "RemoteProtocolError"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n", "no answer within"),
        (b"", b"a" * 1000, "RemoteProtocolError"),
    ],
)
def test_an_answer_without_end_fails_and_is_closed(
    request: pytest.FixtureRequest, start: bytes, piece: bytes, reason: str
) -> None:
    if reason == "no answer within":
        request.getfixturevalue("quick")
    with target(forever(start, piece)) as served:
        (outcome,) = send(f"http://127.0.0.1:{served.port}/")
        assert reason in outcome.reason
        assert served.ended.wait(TIMEOUT)


@pytest.mark.usefixtures("quick")
def test_a_target_that_answers_bit_by_bit_gets_no_more_time() -> None:
    def write(connection: socket.socket) -> None:
        for byte in b"HTTP/1.1 200 OK\r\n" * 1000:
            connection.sendall(bytes([byte]))
            time.sleep(0.02)

    with target(write) as served:
        (outcome,) = send(f"http://127.0.0.1:{served.port}/")
        assert "no answer within" in outcome.reason
        assert served.ended.wait(TIMEOUT)


def test_a_name_that_changes_after_the_check_leads_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = f"{NAME},127.0.0.1/32"
    with target(write_ok) as checked, target(write_ok, "127.0.0.2", checked.port) as other:
        asked = resolve(monkeypatch, ["127.0.0.1"], ["127.0.0.2"])
        first, second = send(f"http://{NAME}:{checked.port}/", hosts, times=2)
        assert first == Outcome()
        assert "127.0.0.2, which is not public" in second.reason
        assert len(asked) == 2  # once for each attempt: what was checked is what is connected to
        assert len(checked.requests) == 1
        assert f"Host: {NAME}:{checked.port}".lower() in checked.requests[0].decode().lower()
        assert other.requests == []


def test_only_the_allowed_ones_of_several_addresses_are_connected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    with target(write_ok) as allowed, target(write_ok, "127.0.0.2", allowed.port) as private:
        resolve(monkeypatch, ["127.0.0.2", "127.0.0.1"])
        assert send(f"http://{NAME}:{allowed.port}/", f"{NAME},127.0.0.1/32") == [Outcome()]
        assert private.requests == []


def test_http_to_a_public_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve(monkeypatch, ["93.184.216.34"])
    (outcome,) = send(f"http://{NAME}/", NAME)
    assert "use https" in outcome.reason


def test_a_redirect_is_not_followed_and_410_is_final() -> None:
    with target(write_ok) as elsewhere:
        moved = f"HTTP/1.1 307 Moved\r\nLocation: http://127.0.0.1:{elsewhere.port}/\r\nContent-Length: 0\r\n\r\n"
        with target(lambda connection: connection.sendall(moved.encode())) as served:
            (outcome,) = send(f"http://127.0.0.1:{served.port}/")
        assert "redirects (307)" in outcome.reason
        assert not outcome.gone
        assert elsewhere.requests == []
    with target(lambda connection: connection.sendall(b"HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n")) as served:
        (outcome,) = send(f"http://127.0.0.1:{served.port}/")
        assert outcome.gone


@pytest.mark.parametrize(
    "text",
    [
        "Fri, 31 Dec 9999 23:59:59 -2300",
        "Fri, 31 Dec 99999999999999999999 23:59:59 GMT",
        "Fri, 31 Dec 2026 23:59:59 +999999999999",
        "Fri, 99 Dec 2026 23:59:59 GMT",
        "soon",
        "nan",
        "",
    ],
)
def test_a_retry_after_that_is_no_time_is_ignored(text: str) -> None:
    head = f"HTTP/1.1 503 Busy\r\nRetry-After: {text}\r\nContent-Length: 0\r\n\r\n".encode()
    with target(lambda connection: connection.sendall(head)) as served:
        assert send(f"http://127.0.0.1:{served.port}/") == [Outcome("the target answered 503")]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("120", 120),
        ("-5", 0),
        ("1e999", sender.MAX_RETRY_AFTER),
        ("Fri, 31 Dec 9999 23:59:59 GMT", sender.MAX_RETRY_AFTER),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
    ],
)
def test_a_retry_after_is_bounded(text: str, seconds: float) -> None:
    head = f"HTTP/1.1 429 Slow\r\nRetry-After: {text}\r\nContent-Length: 0\r\n\r\n".encode()
    with target(lambda connection: connection.sendall(head)) as served:
        assert send(f"http://127.0.0.1:{served.port}/") == [Outcome("the target answered 429", seconds)]


def test_a_name_that_cannot_be_encoded_fails_the_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise UnicodeError("label too long")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    (outcome,) = send(f"https://{NAME}/", NAME)
    assert outcome.reason == f"the name {NAME} cannot be resolved: label too long"


@pytest.mark.usefixtures("quick")
def test_a_name_server_that_does_not_answer_ends_the_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()

    def hang(*_: Any, **__: Any) -> Any:
        released.wait(2 * TIMEOUT)
        raise socket.gaierror(socket.EAI_AGAIN, "later")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    began = time.monotonic()

    async def run() -> Outcome:
        secret = SecretStr("whsec_" + base64.b64encode(bytes(range(32))).decode())
        webhook = Webhook(name="ops", url=f"https://{NAME}/", secret=secret)
        tried = Sender(webhook, AllowedHosts.parse(NAME), AlertRules())
        outcome = await tried.send(Delivery("ops", ALERT, 0, 0))
        await tried.close()
        return outcome

    assert "no answer within" in asyncio.run(run()).reason
    assert time.monotonic() - began < TIMEOUT
    released.set()
