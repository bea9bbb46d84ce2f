"""`POST /embed`: a tracklet becomes an embedding and, unless the client says otherwise, a record of the gallery."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request, Response

from model.space import EmbeddingSpace
from service.callers import Caller
from service.embedding.tracklet import TrackletEmbedding
from service.gallery.records import DuplicateId, Record
from service.http import tracklet_request
from service.http.access import check_scope, require_scope
from service.http.cancellation import until_disconnected
from service.http.contract import tracklet_body
from service.http.dependencies import CallersGallery, Ready, require_model
from service.http.links import record_location
from service.http.problems import Problem
from service.http.responses import respond
from service.http.schemas import EmbedAnswer, EmbedBody, EmbedQuery, RejectedFrame, TrackletBody
from service.http.tracklet_request import get_admission
from service.ids import new_id

router = APIRouter()

REJECTED_PER_RECORD: Final = 8
"""So many rejected frames of an answer take as long to write as one record."""


@router.post(
    "/embed",
    response_model=EmbedAnswer,
    response_model_exclude_unset=True,
    responses={201: {"model": EmbedAnswer, "description": "Enrolled; `Location` is the record"}},
    response_description="Only embedded",
    openapi_extra=tracklet_body(EmbedBody),
)
async def embed(
    request: Request,
    service: Ready,
    gallery: CallersGallery,
    caller: Annotated[Caller, require_scope("enroll")],
    query: Annotated[EmbedQuery, Query()],
) -> Response:
    """Embed a tracklet and enrol it, all or nothing; 409 if its id is taken. Needs the scope `enroll`.

    A service of vectors only has no model and answers 409: send embeddings to `PUT /gallery/{id}`.
    """
    if query.include_embedding:
        check_scope(caller, "vectors")
    model = require_model(service)
    async with tracklet_request.read(request, EmbedBody, service) as (body, footage):
        if footage is None:
            raise Problem.of_field("frames", "send frames or a video")
        # Checked before the work to save the client time; the gallery checks again when it commits.
        if query.enroll:
            gallery.check_camera(body.camera_id)
            if body.id:
                await gallery.check_id(body.id, body.camera_id)
                if await gallery.get(body.id):
                    raise DuplicateId(body.id)
        thumbnails = service.settings.thumbnails if query.enroll else 0
        work = model.embedder.embed(footage, body.max_clips, thumbnails=thumbnails)
        embedded = await until_disconnected(request, work)
    tracklet = body.id
    if query.enroll:
        tracklet = body.id or new_id()
        await gallery.add(record_of(tracklet, body, embedded, service.settings.retention_days))
    return await respond_embedded(
        request, tracklet, embedded, service.space, include_embedding=query.include_embedding, is_new=query.enroll
    )


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
        thumbnail_count=len(embedded.thumbnails),
        thumbnails=embedded.thumbnails,
    )


async def respond_embedded(
    request: Request,
    tracklet: str | None,
    embedded: TrackletEmbedding,
    space: EmbeddingSpace,
    *,
    include_embedding: bool,
    is_new: bool,
) -> Response:
    """Return the answer: 201 with the record's `Location` if it `is_new`, otherwise 200.

    The field of an embedding that is not included is absent.
    """

    def make() -> dict[str, Any]:
        answer = EmbedAnswer(
            id=tracklet,
            model=space.model,
            embedding_space=space.name,
            dim=space.dimension,
            frames=embedded.frames,
            clips=embedded.clips,
            rejected_frames=[RejectedFrame(index=index, reason=reason) for index, reason in embedded.rejected],
            warnings=list(embedded.warnings),
        )
        if include_embedding:
            answer = answer.model_copy(update={"embedding": embedded.embedding.tolist()})
        return answer.model_dump(exclude_unset=True)

    headers = {"Location": record_location(request, tracklet)} if is_new and tracklet else {}
    records = len(embedded.rejected) // REJECTED_PER_RECORD
    return await respond(get_admission(request), records, make, 201 if is_new else 200, headers)
