"""Run the real application under the real server in a thread, on a free port of the loopback interface."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI

from service.app import create_app
from service.lifecycle import Lifecycle, Service
from service.settings import Settings

TIMEOUT = 30.0


@dataclass(frozen=True)
class Live:
    """A running service and its client."""

    app: FastAPI
    url: str
    client: httpx.Client

    @property
    def lifecycle(self) -> Lifecycle:
        """The lifecycle of the application."""
        lifecycle: Lifecycle = self.app.state.lifecycle
        return lifecycle

    @property
    def service(self) -> Service:
        """What the application answers with; it must be ready."""
        service = self.lifecycle.service
        assert service
        return service


@contextmanager
def run_service(bundle: Path, data_dir: Path, *, wait_until_ready: bool = True, **settings: Any) -> Iterator[Live]:
    """Run the service until the context ends, with these `service.settings.Settings`."""
    values: dict[str, Any] = {"engine": "onnxruntime", "device": "cpu", "threads": 1} | settings
    app = create_app(Settings(bundle=bundle, data_dir=data_dir, **values))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, access_log=False, ws="none"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_for(lambda: server.started)
        port = server.servers[0].sockets[0].getsockname()[1]
        url = f"http://127.0.0.1:{port}"
        with httpx.Client(base_url=url, timeout=TIMEOUT) as client:
            if wait_until_ready:
                wait_for(lambda: client.get("/readyz").status_code == 200)
            yield Live(app, url, client)
    finally:
        server.should_exit = True
        thread.join()


def wait_for(condition: Any, seconds: float = TIMEOUT) -> None:
    """Wait until `condition()` is true; fail the test if it is not within `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.01)
