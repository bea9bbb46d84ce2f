"""`POST /search`: rank the gallery for footage, an embedding or an enrolled id."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from fastapi import APIRouter, Request
from numpy.typing import NDArray

from model.ranking import k_reciprocal_rerank
from service.calibration import ActiveCalibration
from service.embedding.footage import Footage
from service.gallery.records import Filter, Hit, SearchResult
from service.http import tracklet_request
from service.http.cancellation import until_disconnected
from service.http.contract import tracklet_body
from service.http.dependencies import NO_QUERY, Ready
from service.http.problems import Problem
from service.http.schemas import CalibrationUsed, SearchAnswer, SearchBody, SearchHit
from service.ids import thumbnail_path
from service.lifecycle import Service
from service.settings import Settings, variable_name

router = APIRouter()


@router.post(
    "/search",
    response_model=SearchAnswer,
    response_model_exclude_unset=True,
    dependencies=NO_QUERY,
    openapi_extra=tracklet_body(SearchBody),
)
async def search(request: Request, service: Ready) -> SearchAnswer:
    """Rank the gallery by similarity to footage, an embedding, or an enrolled tracklet (not in its own results).

    If a calibration is in force, each hit also has the probability that it shows the query's person.
    """
    start = time.perf_counter()
    async with tracklet_request.read(request, SearchBody, service) as (body, footage):
        _check_options(body, footage, service.settings)
        calibration = _find_calibration(body, service)
        embedding, camera = await _find_query(request, body, footage, service)
    if body.exclude_same_camera and camera is None:
        hint = "the enrolled tracklet has no camera_id" if body.id else "send the query's camera_id"
        raise Problem.of_field("camera_id", f"exclude_same_camera needs the query's camera; {hint}")
    chosen = body.filter.to_filter(
        exclude_cameras=(camera,) if body.exclude_same_camera and camera is not None else (),
        exclude_ids=(body.id,) if body.id else (),
    )
    ranked = await _rank(embedding, camera, chosen, body, service, calibration)
    found = ranked.found
    answer = SearchAnswer(
        results=[_hit(rank, hit, ranked.probabilities) for rank, hit in enumerate(found.hits, 1)],
        embedding_space=service.bundle.embedding_space,
        score_mode=service.gallery.score_mode,
        searched=found.searched,
        exact=found.exact,
        took_ms=round((time.perf_counter() - start) * 1000, 3),
    )
    return answer.model_copy(update={"calibration": ranked.calibration}) if ranked.calibration else answer


def _check_options(body: SearchBody, footage: Footage | None, settings: Settings) -> None:
    queries = {"embedding": body.embedding, "id": body.id, "frames": footage}
    given = [name for name, value in queries.items() if value is not None]
    if len(given) != 1:
        field = given[-1] if given else "embedding"
        found = " and ".join(given) or "none of them"
        raise Problem.of_field(field, f"send exactly one of embedding, id, or frames (or a video); got {found}")
    if body.embedding_space is not None and body.embedding is None:
        raise Problem.of_field("embedding_space", "is allowed only together with embedding")
    if body.max_clips is not None and footage is None:
        raise Problem.of_field("max_clips", "is allowed only together with frames or a video")
    if body.top_k > settings.max_top_k:
        raise Problem.of_field("top_k", f"must be at most {settings.max_top_k} (got {body.top_k})")


def _find_calibration(body: SearchBody, service: Service) -> ActiveCalibration | None:
    """Return the calibration for the scores of this answer, or `None` if there is none.

    Raises:
        Problem: 409 if the request needs one.
    """
    active = service.calibration
    mode = _mode(body, service)
    cure = f"fit one with `not3d calibrate` and name its file in {variable_name('calibration')}, or send min_score"
    if active is None:
        reason = "this service has no calibration for its model"
    elif active.calibration.embedding_space != service.gallery.embedding_space:
        spaces = f"{active.calibration.embedding_space}, the gallery is of {service.gallery.embedding_space}"
        reason = f"the calibration {active.calibration.id} was fitted in the embedding space {spaces}"
    elif active.calibration.mode != mode:
        reason = f"the calibration {active.calibration.id} was fitted on {active.calibration.mode} scores, not {mode}"
        cure = f"leave out rerank, or {cure}" if active.calibration.mode == service.gallery.score_mode else cure
    else:
        return active
    if body.min_probability is not None:
        raise Problem.of_field("min_probability", f"{reason}: {cure}", "not-calibrated")
    return None


def _mode(body: SearchBody, service: Service) -> str:
    """Return which scores an answer has, in the words of `Calibration.mode`."""
    if not body.rerank:
        return service.gallery.score_mode
    # A calibration of re-ranked answers was fitted on cosines.
    return "reranked" if service.gallery.score_mode == "cosine" else "reranked and centred"


async def _find_query(
    request: Request, body: SearchBody, footage: Footage | None, service: Service
) -> tuple[NDArray[np.float32], str | None]:
    """Return the query's embedding `[D]` and its camera."""
    if footage is not None:
        embedded = await until_disconnected(request, service.embedder.embed(footage, body.max_clips))
        return embedded.embedding, body.camera_id
    if body.embedding is not None:
        vector = tracklet_request.check_embedding(body.embedding, body.embedding_space, service.bundle)
        return vector, body.camera_id
    record = await service.gallery.get(str(body.id))
    if record is None:
        raise Problem.of_field("id", f"{body.id} is not in the gallery", "not-found")
    return record.embedding, body.camera_id or record.camera_id


@dataclass(frozen=True)
class _Ranked:
    """What was found, and if a calibration is in force, the probability of each hit by its id."""

    found: SearchResult
    probabilities: dict[str, float] = field(default_factory=dict)
    calibration: CalibrationUsed | None = None


async def _rank(
    embedding: NDArray[np.float32],
    camera: str | None,
    chosen: Filter,
    body: SearchBody,
    service: Service,
    calibration: ActiveCalibration | None,
) -> _Ranked:
    candidates = max(body.top_k, service.settings.rerank_candidates) if body.rerank else body.top_k
    found = await service.gallery.search(embedding, candidates, chosen, body.min_score, camera)
    ranked = _assess(found, body, calibration)
    if not body.rerank:
        return ranked
    found = ranked.found
    with service.metrics.stage("rerank"):
        hits = await asyncio.to_thread(_rerank, embedding, found)
    return replace(ranked, found=replace(found, hits=hits[: body.top_k]))


def _assess(found: SearchResult, body: SearchBody, calibration: ActiveCalibration | None) -> _Ranked:
    """Compute the probability of each hit, and leave out those below `min_probability`.

    The comparison uses the numbers of the answer and no score computed from `min_probability`, whose rounding could let
    a hit pass or fail against its own number.
    """
    if calibration is None:
        return _Ranked(found)
    prior = calibration.prior_of(body.prior, found.searched)
    probabilities = calibration.probabilities(found.hits, prior)
    least = body.min_probability or 0.0
    hits = [hit for hit in found.hits if probabilities[hit.record.id] >= least]
    fitted = calibration.calibration
    used = CalibrationUsed(
        id=fitted.id,
        source=calibration.source,
        prior=prior,
        fitted_people=fitted.people,
        fitted_cameras=fitted.cameras,
        fitted_at=calibration.fitted_at,
    )
    return _Ranked(replace(found, hits=hits), probabilities, used)


def _rerank(embedding: NDArray[np.float32], found: SearchResult) -> list[Hit]:
    """Return the hits in the order of their k-reciprocal distance; ties rank by id."""
    hits = found.hits
    if len(hits) < 2:
        return hits
    query = embedding if found.centred_query is None else found.centred_query
    rows = np.stack([hit.record.embedding if hit.centred is None else hit.centred for hit in hits])
    distances = k_reciprocal_rerank(query[None], rows)[0]
    order = sorted(range(len(hits)), key=lambda index: (float(distances[index]), hits[index].record.id))
    return [hits[index] for index in order]


def _hit(rank: int, hit: Hit, probabilities: Mapping[str, float]) -> SearchHit:
    record = hit.record
    answer = SearchHit(
        rank=rank,
        id=record.id,
        score=hit.score,
        camera_id=record.camera_id,
        start_time=record.start_time,
        end_time=record.end_time,
        metadata=record.metadata,
    )
    # Fields that are not set are absent from the answer.
    optional: dict[str, object] = {}
    if record.has_thumbnail:
        optional["thumbnail_url"] = thumbnail_path(record.id)
    if record.id in probabilities:
        optional["probability"] = probabilities[record.id]
    return answer.model_copy(update=optional)
