"""`POST /search`: rank the gallery for footage, an embedding or an enrolled id."""

import asyncio
import time

import numpy as np
from fastapi import APIRouter, Request
from numpy.typing import NDArray

from model.ranking import k_reciprocal_rerank
from service.embedding.footage import Footage
from service.gallery.records import Filter, Hit, SearchResult
from service.http import tracklet_request
from service.http.cancellation import until_disconnected
from service.http.contract import tracklet_body
from service.http.dependencies import NO_QUERY, Ready
from service.http.problems import Problem
from service.http.schemas import SearchAnswer, SearchBody, SearchHit
from service.ids import thumbnail_path
from service.lifecycle import Service
from service.settings import Settings

router = APIRouter()


@router.post(
    "/search",
    response_model=SearchAnswer,
    response_model_exclude_unset=True,
    dependencies=NO_QUERY,
    openapi_extra=tracklet_body(SearchBody),
)
async def search(request: Request, service: Ready) -> SearchAnswer:
    """Rank the gallery by similarity to footage, an embedding, or an enrolled tracklet (not in its own results)."""
    start = time.perf_counter()
    async with tracklet_request.read(request, SearchBody, service) as (body, footage):
        _check_options(body, footage, service.settings)
        embedding, camera = await _find_query(request, body, footage, service)
    if body.exclude_same_camera and camera is None:
        hint = "the enrolled tracklet has no camera_id" if body.id else "send the query's camera_id"
        raise Problem.of_field("camera_id", f"exclude_same_camera needs the query's camera; {hint}")
    chosen = body.filter.to_filter(
        exclude_cameras=(camera,) if body.exclude_same_camera and camera is not None else (),
        exclude_ids=(body.id,) if body.id else (),
    )
    found = await _rank(embedding, chosen, body, service)
    return SearchAnswer(
        results=[_hit(rank, hit) for rank, hit in enumerate(found.hits, 1)],
        embedding_space=service.bundle.embedding_space,
        searched=found.searched,
        exact=found.exact,
        took_ms=round((time.perf_counter() - start) * 1000, 3),
    )


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


async def _rank(embedding: NDArray[np.float32], chosen: Filter, body: SearchBody, service: Service) -> SearchResult:
    candidates = max(body.top_k, service.settings.rerank_candidates) if body.rerank else body.top_k
    found = await service.gallery.search(embedding, candidates, chosen, body.min_score)
    if not body.rerank:
        return found
    with service.metrics.stage("rerank"):
        hits = await asyncio.to_thread(_rerank, embedding, found.hits)
    return SearchResult(hits[: body.top_k], found.searched, found.exact)


def _rerank(embedding: NDArray[np.float32], hits: list[Hit]) -> list[Hit]:
    """Return the hits in the order of their k-reciprocal distance; ties rank by id."""
    if len(hits) < 2:
        return hits
    rows = np.stack([hit.record.embedding for hit in hits])
    distances = k_reciprocal_rerank(embedding[None], rows)[0]
    order = sorted(range(len(hits)), key=lambda index: (float(distances[index]), hits[index].record.id))
    return [hits[index] for index in order]


def _hit(rank: int, hit: Hit) -> SearchHit:
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
    return answer.model_copy(update={"thumbnail_url": thumbnail_path(record.id)}) if record.has_thumbnail else answer
