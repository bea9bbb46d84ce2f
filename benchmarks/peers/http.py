"""The service's application in one HTTP server: `python -m benchmarks.peers.http SERVER --port PORT`."""

import argparse
import asyncio
from typing import Final

from starlette.types import ASGIApp

SERVERS: Final = ("not3d", "uvicorn-httptools", "uvicorn-h11", "hypercorn", "granian")
"""Hypercorn and Granian are measured if they are installed."""


def __getattr__(name: str) -> ASGIApp:
    """Return `application`, which Granian imports in its worker."""
    if name != "application":
        raise AttributeError(name)
    from service.app import create_app
    from service.settings import Settings

    return create_app(Settings())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("server", choices=SERVERS)
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()
    server, port = arguments.server, arguments.port
    if server == "not3d":
        from service.server import serve
        from service.settings import Settings

        serve(Settings(port=port))
    elif server == "granian":
        from granian import Granian

        Granian(f"{__spec__.name}:application", port=port, interface="asgi", workers=1, log_access=False).serve()
    elif server == "hypercorn":
        import hypercorn
        import hypercorn.asyncio

        config = hypercorn.Config.from_mapping(bind=[f"127.0.0.1:{port}"], accesslog=None)
        asyncio.run(hypercorn.asyncio.serve(__getattr__("application"), config))
    else:
        import uvicorn

        kind = server.removeprefix("uvicorn-")
        uvicorn.run(__getattr__("application"), port=port, http=kind, loop="asyncio", access_log=False, log_config=None)


if __name__ == "__main__":
    main()
