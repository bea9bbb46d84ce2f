"""Probes, metrics, and what is running."""

import asyncio
from contextlib import suppress
from dataclasses import asdict

import orjson
from anyio import to_thread
from fastapi import APIRouter, Depends, Request, Response

from service.calibration import ActiveCalibration
from service.gallery.records import GalleryError
from service.http.access import require_scope
from service.http.dependencies import (
    NO_QUERY,
    CallersGallery,
    CurrentLifecycle,
    Ready,
    require_no_lasting_stall,
    require_progress,
    require_ready,
    require_storage,
    require_working_gallery,
)
from service.http.info_schemas import (
    CalibrationFacts,
    EngineFacts,
    GalleryFacts,
    InfoAnswer,
    LimitFacts,
    StatusAnswer,
    ThresholdFacts,
)
from service.http.tracklet_request import get_admission
from service.telemetry.metrics import CONTENT_TYPE, read_version

COUNT_SECONDS = 2.0
"""Metrics wait no longer for the gallery."""

open_router = APIRouter()
"""Calls that never need a key: orchestrators make them."""
router = APIRouter()


@open_router.get(
    "/livez",
    response_model=StatusAnswer,
    dependencies=[*NO_QUERY, Depends(require_working_gallery), Depends(require_no_lasting_stall)],
)
async def livez() -> StatusAnswer:
    """Return 200 if the process answers; 503 if only a restart of it helps.

    That is so if its gallery is broken, or if nothing was embedded for five times `NOT3D_STALL_SECONDS` although
    requests wait.
    """
    return StatusAnswer(status="alive")


@open_router.get(
    "/readyz",
    response_model=StatusAnswer,
    dependencies=[*NO_QUERY, Depends(require_ready), Depends(require_progress), Depends(require_storage)],
)
async def readyz() -> StatusAnswer:
    """Return 200 when the model's self-test has passed and a gallery of its embedding space is open; 503 until then.

    Also 503 while requests with footage wait and none of their work is done for `NOT3D_STALL_SECONDS`, or while calls
    of the gallery wait and none ends.
    Also 503 while the gallery cannot be changed: its data directory was removed or replaced, is full, or is read-only.
    """
    return StatusAnswer(status="ready")


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}}},
    dependencies=[require_scope("metrics")],
)
async def metrics(request: Request, lifecycle: CurrentLifecycle) -> Response:
    """Return the metrics in Prometheus's text format. Needs the scope `metrics`."""
    if service := lifecycle.service:
        # If the gallery does not answer, its last count stays: the other metrics are needed most then.
        with suppress(GalleryError, TimeoutError):
            async with asyncio.timeout(COUNT_SECONDS):
                records = await service.gallery.count()
            service.metrics.gallery_records.set(records)
            async with asyncio.timeout(COUNT_SECONDS):
                matcher = await service.gallery.matcher()
            service.metrics.describe_watchlists(len(matcher.watchlists), len(matcher.faults), matcher.entries)
            if service.settings.webhooks is not None:
                async with asyncio.timeout(COUNT_SECONDS):
                    found = await service.gallery.count_deliveries()
                for name, outbox in found.items():
                    service.metrics.outbox.labels(name, "waiting").set(outbox.waiting)
                    service.metrics.outbox.labels(name, "dead").set(outbox.dead)
    limiter = get_admission(request).exposition
    return Response(await to_thread.run_sync(lifecycle.metrics.exposition, limiter=limiter), media_type=CONTENT_TYPE)


@open_router.get("/openapi.json", include_in_schema=False)
async def openapi_document(request: Request) -> Response:
    """Return the OpenAPI document, with the path prefix under which a proxy publishes the service."""
    # One after the other: the first call makes the document, and it is incomplete until that has returned.
    document = await to_thread.run_sync(request.app.openapi, limiter=get_admission(request).exposition)
    prefix = request.scope.get("root_path", "")
    servers = {"servers": [{"url": prefix}]} if prefix else {}
    return Response(orjson.dumps(document | servers), media_type="application/json")


@router.get("/info", response_model=InfoAnswer, dependencies=NO_QUERY)
async def info(service: Ready, gallery: CallersGallery) -> InfoAnswer:
    """Return the version, the model, its calibration, the engine that runs it, the gallery and the limits.

    A service of vectors only has neither a model nor an engine.
    """
    settings, active, model = service.settings, service.calibration, service.model
    return InfoAnswer(
        version=read_version(),
        model=model.bundle.spec if model else None,
        embedding_space=service.space.name,
        dimension=service.space.dimension,
        calibration=active and _calibration_facts(active),
        thresholds=[ThresholdFacts(**each.model_dump()) for each in active.calibration.thresholds] if active else [],
        engine=EngineFacts(**asdict(model.engine.info), self_test_min_cosine=model.self_test.min_cosine)
        if model
        else None,
        gallery=GalleryFacts(
            engine=service.gallery.engine,
            records=await gallery.count(),
            score_mode=gallery.score_mode,
            retention_days=settings.retention_days,
            thumbnails=settings.thumbnails,
        ),
        limits=LimitFacts(**{name: getattr(settings, name) for name in LimitFacts.model_fields}),
    )


def _calibration_facts(active: ActiveCalibration) -> CalibrationFacts:
    fitted = active.calibration
    return CalibrationFacts(
        id=fitted.id,
        source=active.source,
        mode=fitted.mode,
        prior=active.fixed_prior,
        fitted_people=fitted.people,
        fitted_cameras=fitted.cameras,
        fitted_at=active.fitted_at,
    )
