"""Alive, ready, metrics, and what is really running."""

from contextlib import suppress

from fastapi import APIRouter, Request, Response

from service.http.problems import Problem
from service.http.query import NO_QUERY
from service.http.schemas import (
    EngineFacts,
    GalleryFacts,
    InfoAnswer,
    LimitFacts,
    StatusAnswer,
)
from service.state import state_of
from service.telemetry.metrics import CONTENT_TYPE
from service.version import read_version

open_router = APIRouter()
"""Calls that never need a key: orchestrators make them."""
router = APIRouter()


@open_router.get("/livez", response_model=StatusAnswer, dependencies=NO_QUERY)
async def livez(request: Request) -> StatusAnswer:
    """The process answers; 503 where only a new start of it helps."""
    state_of(request).check_gallery()
    return StatusAnswer(status="alive")


@open_router.get("/readyz", response_model=StatusAnswer, dependencies=NO_QUERY)
async def readyz(request: Request) -> StatusAnswer:
    """The model's self-test has passed and the gallery, of the same embedding space, is open; 503 until then."""
    state_of(request).ready()
    return StatusAnswer(status="ready")


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(request: Request) -> Response:
    """Prometheus's text format."""
    state = state_of(request)
    if loaded := state.startup.loaded:
        # While the gallery is away, its last count stays: what else there is to read is most needed then.
        with suppress(Problem):
            state.metrics.gallery_records.set(await state.count_records(loaded))
    return Response(state.metrics.exposition(), media_type=CONTENT_TYPE)


@router.get("/info", response_model=InfoAnswer, dependencies=NO_QUERY)
async def info(request: Request) -> InfoAnswer:
    """Version, model, what computes it, the gallery and the limits."""
    state = state_of(request)
    loaded = state.ready()
    engine = loaded.engine.info
    settings = state.settings
    return InfoAnswer(
        version=read_version(),
        model=loaded.bundle.spec,
        embedding_space=loaded.bundle.embedding_space,
        engine=EngineFacts(
            name=engine.name,
            version=engine.version,
            device=engine.device,
            precision=engine.precision,
            threads=engine.threads,
            provider=engine.provider,
            warning=engine.warning,
            self_test_min_cosine=loaded.self_test.min_cosine,
        ),
        gallery=GalleryFacts(
            engine=loaded.gallery.engine,
            records=await state.count_records(loaded),
            retention_days=settings.retention_days,
            thumbnails=settings.thumbnails,
        ),
        limits=LimitFacts(**{name: getattr(settings, name) for name in LimitFacts.model_fields}),
    )
