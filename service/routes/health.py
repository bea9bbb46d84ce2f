"""Probes, metrics, and what is running."""

from contextlib import suppress
from dataclasses import asdict

from fastapi import APIRouter, Depends, Response

from service.calibration import ActiveCalibration
from service.gallery.records import GalleryError
from service.http.dependencies import NO_QUERY, CurrentLifecycle, Ready, require_ready, require_working_gallery
from service.http.schemas import (
    CalibrationFacts,
    EngineFacts,
    GalleryFacts,
    InfoAnswer,
    LimitFacts,
    StatusAnswer,
    ThresholdFacts,
)
from service.telemetry.metrics import CONTENT_TYPE, read_version

open_router = APIRouter()
"""Calls that never need a key: orchestrators make them."""
router = APIRouter()


@open_router.get("/livez", response_model=StatusAnswer, dependencies=[*NO_QUERY, Depends(require_working_gallery)])
async def livez() -> StatusAnswer:
    """Return 200 if the process answers; 503 if only a restart of it helps."""
    return StatusAnswer(status="alive")


@open_router.get("/readyz", response_model=StatusAnswer, dependencies=[*NO_QUERY, Depends(require_ready)])
async def readyz() -> StatusAnswer:
    """Return 200 when the model's self-test has passed and a gallery of its embedding space is open; 503 until then."""
    return StatusAnswer(status="ready")


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(lifecycle: CurrentLifecycle) -> Response:
    """Return the metrics in Prometheus's text format."""
    if service := lifecycle.service:
        # If the gallery does not answer, its last count stays: the other metrics are needed most then.
        with suppress(GalleryError):
            service.metrics.gallery_records.set(await service.gallery.count())
    return Response(lifecycle.metrics.exposition(), media_type=CONTENT_TYPE)


@router.get("/info", response_model=InfoAnswer, dependencies=NO_QUERY)
async def info(service: Ready) -> InfoAnswer:
    """Return the version, the model, its calibration, the engine that runs it, the gallery and the limits."""
    settings, active = service.settings, service.calibration
    return InfoAnswer(
        version=read_version(),
        model=service.bundle.spec,
        embedding_space=service.bundle.embedding_space,
        calibration=active and _calibration_facts(active),
        thresholds=[ThresholdFacts(**each.model_dump()) for each in active.calibration.thresholds] if active else [],
        engine=EngineFacts(**asdict(service.engine.info), self_test_min_cosine=service.self_test.min_cosine),
        gallery=GalleryFacts(
            engine=service.gallery.engine,
            records=await service.gallery.count(),
            score_mode=service.gallery.score_mode,
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
