"""The process: a socket, signals, and an exit status that says how it went."""

import asyncio
import logging
import os
import signal
from types import FrameType

import uvicorn

from service.app import create_app
from service.settings import Settings, find_unknown_variables
from service.state import State
from service.telemetry.logs import configure_logs

log = logging.getLogger("not3d.service")


def serve(settings: Settings) -> None:
    """Run the service until SIGTERM or SIGINT; then stop accepting, finish what was accepted, and return.

    The socket answers at once, with `/readyz` 503, while the model is loaded.

    Raises:
        SystemExit: with a message for an environment variable that names no setting, and where the bundle, the engine,
            its self-test or the gallery fails, or the address cannot be used. Also later, where the gallery is broken:
            a process that could only say so is of no use, and its next start mends it.
    """
    if unknown := find_unknown_variables(os.environ):
        raise SystemExit(f"not3d: {'; '.join(unknown)}")
    configure_logs(settings.log_level)
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        ws="none",
        timeout_graceful_shutdown=max(1, round(settings.drain_seconds)),
    )
    server = uvicorn.Server(config)

    def stop(_number: int = 0, _frame: FrameType | None = None) -> None:
        server.should_exit = True

    # The server takes signals itself while it runs and raises them again when it is done, which would end the process
    # as killed. Before it runs, a signal must not be lost either.
    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    app.state.service.on_failure = stop
    try:
        asyncio.run(_run(server, app.state.service))
    except SystemExit:  # how the server ends where it cannot bind; its reason is in the log
        address = f"{settings.host}:{settings.port}"
        raise SystemExit(f"not3d: cannot listen at {address}; is another program using it?") from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if error := app.state.service.startup.error:
        raise SystemExit(f"not3d: cannot start: {error}")
    if reason := app.state.service.broken:
        raise SystemExit(f"not3d: {reason}")


async def _run(server: uvicorn.Server, state: State) -> None:
    await server.serve()
    if state.stuck:
        # Python would wait for the thread, however long its step takes; the gallery is closed and nothing is lost.
        log.warning("ended beside work of a request that was given up")
        logging.shutdown()
        os._exit(0 if state.broken is None else 1)
