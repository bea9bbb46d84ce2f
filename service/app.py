"""The FastAPI application: its routes, its error responses, and the start and stop of the service."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from fastapi import Depends, FastAPI

from service.http.access import require_key
from service.http.admission import Admission
from service.http.contract import PROBLEMS, describe
from service.http.problems import add_problem_handlers
from service.http.request_log import RequestLog
from service.lifecycle import Lifecycle
from service.routes import embed, gallery, health, search
from service.settings import Settings

API_VERSION: Final = "1"
"""Version of the HTTP API; it does not change with every release."""


def create_app(settings: Settings) -> FastAPI:
    """Return the application. It loads the model in its lifespan, while `/readyz` answers 503."""
    lifecycle = Lifecycle(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        lifecycle.start()
        yield
        await lifecycle.stop()

    app = FastAPI(
        title="not3d",
        version=API_VERSION,
        summary="Video person re-identification search: tracklets in, ranked gallery ids out.",
        lifespan=lifespan,
        # These pages load scripts from another host. The OpenAPI document itself stays at /openapi.json.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        responses=PROBLEMS,
    )
    app.state.lifecycle = lifecycle
    app.state.admission = Admission(settings.max_pending_requests, settings.max_pending_bytes, lifecycle.metrics)
    add_problem_handlers(app)
    app.add_middleware(RequestLog, metrics=lifecycle.metrics)
    app.include_router(health.open_router, tags=["health"])
    guarded = [Depends(require_key)]
    app.include_router(health.router, tags=["health"], dependencies=guarded)
    app.include_router(embed.router, tags=["tracklets"], dependencies=guarded)
    app.include_router(search.router, tags=["tracklets"], dependencies=guarded)
    app.include_router(gallery.router, tags=["gallery"], dependencies=guarded)
    describe(app)
    return app
