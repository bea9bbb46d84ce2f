"""A real redis-server on the loopback interface that keeps nothing on disk."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import redis

from not3d.ports import free_port


class RedisServer:
    """A server; the test is skipped if the program is missing, or fails if `REQUIRE_REDIS` is set."""

    def __init__(self, folder: Path) -> None:
        program = shutil.which("redis-server")
        if not program:
            if os.environ.get("REQUIRE_REDIS"):
                pytest.fail("redis-server is not installed, and REQUIRE_REDIS is set")
            pytest.skip("needs redis-server: apt-get install redis-server")
        self._folder = folder
        port = free_port()
        self.url = f"redis://127.0.0.1:{port}/0"
        self._command = [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)]
        self._command += ["--appendonly", "yes", "--appendfsync", "always", "--save", ""]
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        log = (self._folder / "redis.log").open("ab")
        with log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        self.client = redis.Redis.from_url(self.url)
        until = time.monotonic() + 60
        while True:
            try:
                self.client.ping()
            except redis.exceptions.ConnectionError:
                assert self._process.poll() is None, (self._folder / "redis.log").read_text()
                assert time.monotonic() < until, "redis-server did not start"
                time.sleep(0.02)
            else:
                return

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        self.client.close()
        if self._process:
            self._process.send_signal(number)
            self._process.wait(60)
            self._process = None
