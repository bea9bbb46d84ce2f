"""Run the real application under the real server in a thread, on a free port of the loopback interface."""

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI

from service.app import create_app
from service.http.listener import HttpServer
from service.lifecycle import Lifecycle, Service
from service.loaded_model import LoadedModel
from service.settings import Settings

TIMEOUT = 120.0
"""Seconds after which something never comes, also on a machine that is slow, busy or stops for a moment."""


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

    @property
    def model(self) -> LoadedModel:
        """The model that the service runs; it must have one."""
        assert self.service.model
        return self.service.model


@contextmanager
def run_service(
    bundle: Path | None, data_dir: Path, *, wait_until_ready: bool = True, **settings: Any
) -> Iterator[Live]:
    """Run the service until the context ends, with these `Settings`; without a bundle, they name a space."""
    values: dict[str, Any] = {"engine": "onnxruntime", "device": "cpu", "threads": 1, "port": 0} | settings
    values |= {"vectors_only": True} if bundle is None else {"bundle": bundle}
    chosen = Settings(data_dir=data_dir, **values)
    app = create_app(chosen)
    server = HttpServer(app, chosen, app.state.lifecycle.metrics, app.state.lifecycle.feed.close)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()))
    thread.start()
    try:
        wait_for(lambda: server.started)
        url = f"http://127.0.0.1:{server.port}"
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
