"""The FastAPI application: its routes, its error responses, and the start and stop of the service."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from fastapi import Depends, FastAPI

from service.http.access import RateLimits, WrongKeys, require_key
from service.http.admission import Admission
from service.http.contract import PROBLEMS, describe
from service.http.deadline import Deadline
from service.http.entry import Entry
from service.http.listener import limit_connections
from service.http.problems import add_problem_handlers
from service.http.request_log import RequestLog
from service.http.sessions import Sessions
from service.keys import Keys
from service.lifecycle import Lifecycle
from service.routes import alerts, cases, embed, gallery, health, page, search, session, track, watchlists
from service.settings import Settings

API_VERSION: Final = "1"
"""Version of the HTTP API; it does not change with every release."""
NO_PATH: Final = "/-"
"""A path that no route has."""


def create_app(settings: Settings) -> FastAPI:
    """Return the application. It loads the model in its lifespan, while `/readyz` answers 503."""
    lifecycle = Lifecycle(settings)
    keys = Keys(
        settings.keys,
        settings.keys_path,
        must_exist=settings.keys_file is not None,
        required=settings.trusted_user_header is not None,
    )

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
        # The framework writes the document in the event loop for each request; service/routes/health.py does not.
        openapi_url=None,
        # These pages load scripts from another host.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        responses=PROBLEMS,
    )
    app.state.lifecycle = lifecycle
    app.state.admission = Admission(
        settings.max_pending_requests, settings.max_pending_bytes, settings.max_gallery_calls, lifecycle.metrics
    )
    # The other half of the connections is for requests without a body, such as probes, and for refusals.
    app.state.admission.limit_readers(limit_connections(settings.max_connections) // 2)
    app.state.keys = keys
    app.state.sessions = Sessions(settings.session_hours * 3600)
    app.state.rate_limits = RateLimits()
    app.state.wrong_keys = WrongKeys(lifecycle.metrics)
    add_problem_handlers(app)
    app.add_middleware(Entry, settings=settings, keys=keys)
    app.add_middleware(Deadline, seconds=settings.request_seconds)
    app.add_middleware(RequestLog, metrics=lifecycle.metrics)
    app.include_router(health.open_router, tags=["health"])
    app.include_router(page.router)
    app.include_router(session.open_router, tags=["session"])
    guarded = [Depends(require_key)]
    app.include_router(health.router, tags=["health"], dependencies=guarded)
    app.include_router(embed.router, tags=["tracklets"], dependencies=guarded)
    app.include_router(search.router, tags=["tracklets"], dependencies=guarded)
    app.include_router(cases.router, tags=["cases"], dependencies=guarded)
    app.include_router(watchlists.router, tags=["alerts"], dependencies=guarded)
    app.include_router(alerts.router, tags=["alerts"], dependencies=guarded)
    app.include_router(gallery.router, tags=["gallery"], dependencies=guarded)
    app.include_router(track.router, tags=["gallery"], dependencies=guarded)
    app.include_router(session.router, tags=["session"], dependencies=guarded)
    describe(app, vectors_only=settings.vectors_only)
    prepare_routes(app)
    return app


def prepare_routes(app: FastAPI) -> None:
    """Let FastAPI make the validators of all routes now. It would when the first request comes, and take 0.2 s."""
    for route in app.routes:
        route.matches({"type": "http", "method": "GET", "path": NO_PATH, "root_path": "", "headers": []})
