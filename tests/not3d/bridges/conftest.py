"""A broker, pictures of drawn people, and a bridge that runs in this process."""

import asyncio
import contextlib
import io
import threading
from collections.abc import Awaitable, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from not3d.bridges.sink import Sink
from not3d.bridges.state import State
from not3d.bridges.telemetry import Telemetry
from not3d.client import Client
from tests.not3d.bridges.mosquitto import Mosquitto


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    """A broker without passwords; a test may stop and start it."""
    broker = Mosquitto(tmp_path_factory.mktemp("broker"))
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture(scope="module")
def secure_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    """A broker with TLS and a password."""
    broker = Mosquitto(tmp_path_factory.mktemp("secure"), secure=True)
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    with State(tmp_path / "bridge.sqlite") as state:
        yield state


@pytest.fixture
def telemetry() -> Telemetry:
    return Telemetry("test")


@pytest.fixture
def answering() -> Iterator[Callable[..., str]]:
    """Start a program that answers every call but `/readyz` with this status, type and body."""
    servers: list[ThreadingHTTPServer] = []

    def answering(status: int, media_type: str, body: bytes, **headers: str) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.rfile.read(int(self.headers.get("content-length", 0)))
                ready = self.path == "/readyz"
                self.send_response(200 if ready else status)
                for name, value in {"Content-Type": media_type, "Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value if name != "Content-Length" or not ready else "0")
                self.end_headers()
                self.wfile.write(b"" if ready else body)

            do_POST = do_PUT = do_GET  # noqa: N815 - names of http.server

            def log_message(self, *_: object) -> None:
                pass

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield answering
    for server in servers:
        server.shutdown()
        server.server_close()


Source = Callable[[State, Sink, Telemetry], Awaitable[None]]


class Running:
    """A source and its sink in a thread of this process, with a state that is kept between runs; closes the client."""

    def __init__(self, source: Source, client: Client, state_file: Path, **sink_options: int) -> None:
        self._source = source
        self._client = client
        self._state_file = state_file
        self._options = sink_options
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self.telemetry = Telemetry("test")
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException as error:  # noqa: BLE001 - the test shows it
            self.error = error
        finally:
            self._client.close()

    async def _main(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        with State(self._state_file) as state:
            sink = Sink(self._client, state, self.telemetry, **self._options)
            tasks = [asyncio.create_task(sink.run())]
            tasks.append(asyncio.ensure_future(self._source(state, sink, self.telemetry)))
            stopped = asyncio.create_task(self._stop.wait())
            await asyncio.wait([*tasks, stopped], return_when=asyncio.FIRST_COMPLETED)
            sink.stop()
            for task in [*tasks, stopped]:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    def value(self, name: str, **labels: str) -> float:
        """Return a metric."""
        return self.telemetry.registry.get_sample_value(f"not3d_bridge_{name}", {"source": "test", **labels}) or 0.0

    def _waiting(self) -> str:
        """Return where each task of the bridge waits."""
        assert self._loop
        output = io.StringIO()
        for task in asyncio.all_tasks(self._loop):
            task.print_stack(file=output)
        return output.getvalue()

    def stop(self) -> None:
        if self._loop and self._stop and self._thread.is_alive():
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(300)  # it writes to the disk, which other work may keep busy
        assert not self._thread.is_alive(), f"the bridge does not stop: {self._waiting()}"
        if self.error:
            raise self.error
