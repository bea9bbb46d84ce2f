"""The process of the service: its socket, its signals and its exit status."""

import asyncio
import logging
import os
import resource
import signal
from types import FrameType

from service.allocator import limit_heaps, map_large_blocks
from service.app import create_app
from service.http.listener import HttpServer
from service.lifecycle import Lifecycle, ServiceState
from service.settings import Settings
from service.telemetry.logs import configure_logs
from service.telemetry.stderr import captured_stderr
from service.variables import find_unknown_variables

log = logging.getLogger("not3d.service")


def serve(settings: Settings) -> None:
    """Run the service until SIGTERM or SIGINT; then stop to accept requests, finish the accepted ones, and return.

    While the model is loaded, the socket answers already, with `/readyz` 503.

    Raises:
        SystemExit: with a message, for a misspelt environment variable, if the service cannot start or the address
            cannot be used, or later if the gallery is broken, which a restart repairs.
    """
    unknown = find_unknown_variables(os.environ)
    if unknown.misspelt:
        raise SystemExit(f"not3d: {'; '.join(unknown.misspelt)}")
    # The memory of this process has footage and keys, which a crash must not write to a disk.
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    limit_heaps()
    map_large_blocks()
    with captured_stderr() as stream:
        configure_logs(settings.log_level, stream)
        for name in unknown.ignored:
            log.warning("variable ignored, because it is not a setting", extra={"facts": {"variable": name}})
        _serve(settings)


def _serve(settings: Settings) -> None:
    app = create_app(settings)
    lifecycle: Lifecycle = app.state.lifecycle
    server = HttpServer(app, settings, lifecycle.metrics, lifecycle.feed.close)

    def stop(_number: int = 0, _frame: FrameType | None = None) -> None:
        server.should_exit = True

    # While the server runs it handles signals itself, and raises them again at its end, which would end the process as
    # if killed. A signal that arrives before the server runs must not be lost either.
    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    lifecycle.on_end = stop
    try:
        asyncio.run(_run(server, lifecycle))
    except SystemExit:  # the server cannot listen; the reason is in the log
        address = f"{settings.host}:{settings.port}"
        raise SystemExit(f"not3d: cannot listen at {address}; is another program using it?") from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if lifecycle.reason:
        raise SystemExit(f"not3d: {lifecycle.reason}")


async def _run(server: HttpServer, lifecycle: Lifecycle) -> None:
    await server.serve()
    if lifecycle.state is ServiceState.STOPPING:
        # A normal exit would wait for the thread, however long its step takes. The gallery is closed, or was not open
        # yet: nothing is lost.
        log.warning("process ends while its last step is still being computed")
        logging.shutdown()
        os._exit(0 if lifecycle.reason is None else 1)
