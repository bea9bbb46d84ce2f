"""The application: routes, problems, and what is opened when it starts and closed when it ends."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Depends, FastAPI

from service.http.access import require_key
from service.http.contract import PROBLEMS, describe
from service.http.problems import add_problem_handlers
from service.http.request_log import RequestLog
from service.routes import audit, embed, gallery, health, search
from service.settings import Settings
from service.state import State
from service.version import API_VERSION


def create_app(settings: Settings) -> FastAPI:
    """Make the application. Loading the model begins with its lifespan and goes on while `/readyz` answers 503."""
    state = State(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        state.begin()
        yield
        await state.end()

    app = FastAPI(
        title="not3d",
        version=API_VERSION,
        summary="Video person re-identification search: tracklets in, ranked gallery ids out.",
        lifespan=lifespan,
        # These pages would load scripts from another host; the document itself stays at /openapi.json.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        responses=PROBLEMS,
    )
    app.state.service = state
    add_problem_handlers(app)
    app.add_middleware(RequestLog, metrics=state.metrics)
    app.include_router(health.open_router, tags=["health"])
    guarded = [Depends(require_key)]
    app.include_router(health.router, tags=["health"], dependencies=guarded)
    app.include_router(embed.router, tags=["tracklets"], dependencies=guarded)
    app.include_router(search.router, tags=["tracklets"], dependencies=guarded)
    app.include_router(gallery.router, tags=["gallery"], dependencies=guarded)
    app.include_router(audit.router, tags=["gallery"], dependencies=guarded)
    describe(app)
    return app
