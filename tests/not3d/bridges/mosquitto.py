"""A real mosquitto on the loopback interface, also with TLS and a password, that tests can kill and start again."""

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from not3d.ports import free_port

USER, PASSWORD = "bridge", "a password: with @ and /"
_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin"


def find_mosquitto() -> str:
    """Return the program; the test is skipped if it is missing, or fails if `REQUIRE_MOSQUITTO` is set."""
    found = shutil.which("mosquitto", path=_PATH)
    if not found:
        if os.environ.get("REQUIRE_MOSQUITTO"):
            pytest.fail("mosquitto is not installed, and REQUIRE_MOSQUITTO is set")
        pytest.skip("needs mosquitto: apt-get install mosquitto")
    return found


class Mosquitto:
    """A broker in a folder of its own. Its sessions and retained messages survive `kill` and `start`."""

    def __init__(self, folder: Path, *, secure: bool = False) -> None:
        self._program = find_mosquitto()
        self.folder = folder
        self.port = free_port()
        self.secure = secure
        self.ca_file = folder / "ca.pem" if secure else None
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        lines = [
            f"listener {self.port} 127.0.0.1",
            "persistence true",
            f"persistence_location {folder}/",
            "autosave_on_changes true",
            "autosave_interval 1",
            *(["user root"] if os.geteuid() == 0 else []),
        ]
        if secure:
            self._make_certificate()
            self._make_passwords()
            lines += [
                f"certfile {folder}/ca.pem",
                f"keyfile {folder}/key.pem",
                f"password_file {folder}/passwords",
                "allow_anonymous false",
            ]
        else:
            lines += ["allow_anonymous true"]
        (folder / "mosquitto.conf").write_text("\n".join(lines) + "\n")

    def _make_certificate(self) -> None:
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
                *("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"),
                *("-keyout", str(self.folder / "key.pem"), "-out", str(self.folder / "ca.pem")),
            ],
            check=True,
            capture_output=True,
        )

    def _make_passwords(self) -> None:
        program = shutil.which("mosquitto_passwd", path=_PATH)
        assert program, "mosquitto_passwd comes with mosquitto"
        command = [program, "-b", "-c", str(self.folder / "passwords"), USER, PASSWORD]
        subprocess.run(command, check=True, capture_output=True)

    @property
    def url(self) -> str:
        return f"{'mqtts' if self.secure else 'mqtt'}://127.0.0.1:{self.port}"

    def start(self) -> None:
        log = (self.folder / "mosquitto.log").open("ab")
        with log:
            self._process = subprocess.Popen(
                [self._program, "-c", str(self.folder / "mosquitto.conf")], stdout=log, stderr=log
            )
        until = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                assert self._process.poll() is None, (self.folder / "mosquitto.log").read_text()
                assert time.monotonic() < until, "mosquitto did not start"
                time.sleep(0.02)
            else:
                return

    def stop(self) -> None:
        """End the broker; it writes its sessions first."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def _end(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(60)
            self._process = None

    def connect(self, name: str = "test") -> "Peer":
        return Peer(self, name)


class Peer:
    """A client of the broker beside the bridge: publishes, and remembers what it hears."""

    def __init__(self, broker: Mosquitto, name: str) -> None:
        self.heard: list[tuple[str, bytes, bool]] = []
        """Topic, payload, and whether the broker had retained it."""
        self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id=name)
        if broker.secure:
            self._client.username_pw_set(USER, PASSWORD)
            self._client.tls_set(str(broker.ca_file))
        self._client.on_message = lambda _c, _u, message: self.heard.append(
            (message.topic, bytes(message.payload), message.retain)
        )
        self._client.connect("127.0.0.1", broker.port)
        self._client.loop_start()

    def publish(self, topic: str, payload: str | bytes, *, qos: int = 1, retain: bool = False) -> None:
        self._client.publish(topic, payload, qos, retain).wait_for_publish(20)

    def subscribe(self, topic: str) -> None:
        self._client.subscribe(topic, 1)

    def on(self, topic: str) -> list[bytes]:
        """Return the payloads that were heard on a topic."""
        return [payload for name, payload, _ in self.heard if name == topic]

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()
