"""`POST /embed`: a tracklet becomes a vector and, unless asked otherwise, a record of the gallery."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from service.embedding.embedder import Embedded
from service.gallery.records import Record
from service.http.cancellation import until_disconnected
from service.http.contract import tracklet_body
from service.http.problems import Problem
from service.http.schemas import EmbedAnswer, EmbedBody, EmbedQuery, RejectedFrame, TrackletBody
from service.http.tracklet_request import receive
from service.ids import new_id, record_path
from service.startup import Loaded
from service.state import state_of

router = APIRouter()


@router.post(
    "/embed",
    response_model=EmbedAnswer,
    response_model_exclude_unset=True,
    responses={201: {"model": EmbedAnswer, "description": "Enrolled; `Location` is the record"}},
    response_description="Only computed",
    openapi_extra=tracklet_body(EmbedBody),
)
async def embed(request: Request, response: Response, query: Annotated[EmbedQuery, Query()]) -> EmbedAnswer:
    """Embed a tracklet and enrol it, all or nothing; 409 where its id is taken."""
    state = state_of(request)
    loaded = state.ready()
    async with receive(request, EmbedBody, state) as (body, footage):
        if footage is None:
            raise Problem.of_field("frames", "send frames or a video")
        # Before the work, for the client's sake; the gallery looks again when it commits.
        taken = await state.in_gallery(loaded.gallery.get, body.id) if query.enroll and body.id else None
        if taken:
            raise Problem.of_field("id", f"{body.id} is enrolled already; PUT replaces", "duplicate-id")
        thumbnail = query.enroll and state.settings.thumbnails
        work = loaded.embedder.embed(footage, body.max_clips, thumbnail=thumbnail)
        embedded = await until_disconnected(request, work)
    tracklet = body.id
    if query.enroll:
        tracklet = body.id or new_id()
        record = record_of(tracklet, body, embedded, state.settings.retention_days)
        await state.in_gallery(loaded.gallery.add, record)
        response.status_code = 201
        response.headers["Location"] = record_path(tracklet)
    return answer_of(tracklet, embedded, loaded, include_embedding=query.include_embedding)


def record_of(tracklet: str, body: TrackletBody, embedded: Embedded, retention_days: float | None) -> Record:
    """The record of an embedded tracklet, which expires when the client says, else by the service's default."""
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


def answer_of(tracklet: str | None, embedded: Embedded, loaded: Loaded, *, include_embedding: bool) -> EmbedAnswer:
    """The answer; without the embedding its field is absent, not empty."""
    answer = EmbedAnswer(
        id=tracklet,
        model=loaded.bundle.spec.name,
        embedding_space=loaded.bundle.embedding_space,
        dim=loaded.bundle.spec.dimension,
        frames=embedded.frames,
        clips=embedded.clips,
        rejected_frames=[RejectedFrame(index=index, reason=error.reason) for index, error in embedded.rejected],
    )
    return answer.model_copy(update={"embedding": embedded.embedding.tolist()}) if include_embedding else answer
