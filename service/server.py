"""The process of the service: its socket, its signals and its exit status."""

import asyncio
import logging
import os
import signal
from types import FrameType

import uvicorn

from service.app import create_app
from service.lifecycle import Lifecycle, ServiceState
from service.settings import Settings, find_unknown_variables
from service.telemetry.logs import configure_logs

log = logging.getLogger("not3d.service")


def serve(settings: Settings) -> None:
    """Run the service until SIGTERM or SIGINT; then stop to accept requests, finish the accepted ones, and return.

    While the model is loaded, the socket answers already, with `/readyz` 503.

    Raises:
        SystemExit: with a message, for an environment variable that is not a setting, if the service cannot start or
            the address cannot be used, or later if the gallery is broken, which a restart repairs.
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

    # While the server runs it handles signals itself, and raises them again at its end, which would end the process as
    # if killed. A signal that arrives before the server runs must not be lost either.
    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    lifecycle: Lifecycle = app.state.lifecycle
    lifecycle.on_end = stop
    try:
        asyncio.run(_run(server, lifecycle))
    except SystemExit:  # the server cannot bind its socket; the reason is in the log
        address = f"{settings.host}:{settings.port}"
        raise SystemExit(f"not3d: cannot listen at {address}; is another program using it?") from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if lifecycle.reason:
        raise SystemExit(f"not3d: {lifecycle.reason}")


async def _run(server: uvicorn.Server, lifecycle: Lifecycle) -> None:
    await server.serve()
    if lifecycle.state is ServiceState.STOPPING:
        # A normal exit would wait for the thread, however long its step takes. The gallery is closed: nothing is lost.
        log.warning("process ends while a cancelled request is still being computed")
        logging.shutdown()
        os._exit(0 if lifecycle.reason is None else 1)
