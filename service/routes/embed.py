"""`POST /embed`: a tracklet becomes an embedding and, unless the client says otherwise, a record of the gallery."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from model.bundle import Bundle
from service.embedding.embedder import TrackletEmbedding
from service.gallery.records import DuplicateId, Record
from service.http import tracklet_request
from service.http.cancellation import until_disconnected
from service.http.contract import tracklet_body
from service.http.dependencies import Ready
from service.http.problems import Problem
from service.http.schemas import EmbedAnswer, EmbedBody, EmbedQuery, RejectedFrame, TrackletBody
from service.ids import new_id, record_path

router = APIRouter()


@router.post(
    "/embed",
    response_model=EmbedAnswer,
    response_model_exclude_unset=True,
    responses={201: {"model": EmbedAnswer, "description": "Enrolled; `Location` is the record"}},
    response_description="Only embedded",
    openapi_extra=tracklet_body(EmbedBody),
)
async def embed(
    request: Request, response: Response, service: Ready, query: Annotated[EmbedQuery, Query()]
) -> EmbedAnswer:
    """Embed a tracklet and enrol it, all or nothing; 409 if its id is taken."""
    async with tracklet_request.read(request, EmbedBody, service) as (body, footage):
        if footage is None:
            raise Problem.of_field("frames", "send frames or a video")
        # Checked before the work to save the client time; the gallery checks again when it commits.
        if query.enroll and body.id and await service.gallery.get(body.id):
            raise DuplicateId(body.id)
        thumbnail = query.enroll and service.settings.thumbnails
        work = service.embedder.embed(footage, body.max_clips, thumbnail=thumbnail)
        embedded = await until_disconnected(request, work)
    tracklet = body.id
    if query.enroll:
        tracklet = body.id or new_id()
        await service.gallery.add(record_of(tracklet, body, embedded, service.settings.retention_days))
        response.status_code = 201
        response.headers["Location"] = record_path(tracklet)
    return answer_of(tracklet, embedded, service.bundle, include_embedding=query.include_embedding)


def record_of(tracklet: str, body: TrackletBody, embedded: TrackletEmbedding, retention_days: float | None) -> Record:
    """Return the record of an embedded tracklet; without an `expires_at` it expires after `retention_days`."""
    now = datetime.now(UTC)
    by_default = None if retention_days is None else now + timedelta(days=retention_days)
    return Record(
        id=tracklet,
        embedding=embedded.embedding,
        camera_id=body.camera_id,
        start_time=body.start_time,
        end_time=body.end_time,
        metadata=dict(body.metadata or {}),
        frames=embedded.frames,
        clips=embedded.clips,
        created_at=now,
        expires_at=body.expires_at or by_default,
        has_thumbnail=embedded.thumbnail is not None,
        thumbnail=embedded.thumbnail,
    )


def answer_of(
    tracklet: str | None, embedded: TrackletEmbedding, bundle: Bundle, *, include_embedding: bool
) -> EmbedAnswer:
    """Return the answer; the field of an embedding that is not included is absent."""
    answer = EmbedAnswer(
        id=tracklet,
        model=bundle.spec.name,
        embedding_space=bundle.embedding_space,
        dim=bundle.spec.dimension,
        frames=embedded.frames,
        clips=embedded.clips,
        rejected_frames=[RejectedFrame(index=index, reason=error.reason) for index, error in embedded.rejected],
    )
    return answer.model_copy(update={"embedding": embedded.embedding.tolist()}) if include_embedding else answer
