import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from service.audit import writer


class _Thread:
    """Stands for the process that writes entries, so that a test can change what it does."""

    def __init__(self, directory: Path, channel: socket.socket) -> None:
        self._channel = channel.dup()
        self._thread = threading.Thread(target=self._run, args=(directory,))
        self._thread.start()

    def _run(self, directory: Path) -> None:
        with self._channel:
            writer.serve(self._channel, directory)

    def wait(self, timeout: float | None = None) -> int:
        self._thread.join(timeout)
        return 0


@pytest.fixture
def writer_in_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write entries in a thread of the test instead of a process."""
    start: Any = _Thread
    monkeypatch.setattr(writer, "start", start)
