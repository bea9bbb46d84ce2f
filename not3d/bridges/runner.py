"""Runs one source and its sink until the process is asked to stop."""

import asyncio
import signal
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path

from not3d.bridges.sink import MAX_WAITING, WORKERS, Sink
from not3d.bridges.state import State, StateError
from not3d.bridges.telemetry import Telemetry
from not3d.client import Client

Run = Callable[[State, Sink], Awaitable[None]]
"""A source: listens until it is cancelled."""


def run_bridge(
    run: Run,
    *,
    telemetry: Telemetry,
    client: Client,
    state_file: Path,
    metrics: str | None = None,
    workers: int = WORKERS,
    max_waiting: int = MAX_WAITING,
) -> None:
    """Run a source and enrol what it finds, until SIGTERM or Ctrl-C.

    Args:
        run: the source.
        telemetry: metrics and log.
        client: of the service, made with `attempts=1`.
        state_file: where the bridge keeps what it knows.
        metrics: `host:port` of `GET /metrics`; `None` for none.
        workers: number of tracklets that are sent at the same time.
        max_waiting: largest number of tracklets that wait for the service.

    Raises:
        StateError: the state cannot be used, or no longer.
        Not3dError: the address of the metrics cannot be used.
    """
    with State(state_file) as state, telemetry.served(metrics), client:
        try:
            asyncio.run(_run(run, state, telemetry, client, workers, max_waiting))
        except sqlite3.Error as error:
            cure = (
                "free disk space or mend its folder, then start the bridge again; nothing that was acknowledged is lost"
            )
            raise StateError(f"{state_file} cannot be read or written ({error}): {cure}") from error


async def _run(run: Run, state: State, telemetry: Telemetry, client: Client, workers: int, max_waiting: int) -> None:
    sink = Sink(client, state, telemetry, workers=workers, max_waiting=max_waiting)

    async def both() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(sink.run())
            await run(state, sink)

    work = asyncio.ensure_future(both())

    def stop() -> None:
        telemetry.log("stopping")
        sink.stop()
        work.cancel()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    telemetry.log("started", state=str(state.path), waiting=state.waiting(), open=state.opened())
    try:
        await work
    except ExceptionGroup as group:
        error: Exception = group
        while isinstance(error, ExceptionGroup):
            error = error.exceptions[0]
        raise error  # noqa: B904 - its own traceback says where
    except asyncio.CancelledError:
        telemetry.log("stopped", waiting=state.waiting(), open=state.opened())
