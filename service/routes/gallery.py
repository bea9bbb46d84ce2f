"""The gallery's records: list, read, replace, delete, erase; and the audit log of what was removed."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response

from service.embedding.embedder import TrackletEmbedding
from service.embedding.footage import Footage
from service.gallery.records import Record
from service.http import tracklet_request
from service.http.access import name_caller
from service.http.cancellation import until_disconnected
from service.http.contract import json_body, tracklet_body
from service.http.dependencies import NO_QUERY, Ready
from service.http.problems import Problem
from service.http.schemas import (
    AuditAnswer,
    AuditEntryAnswer,
    AuditQuery,
    EmbedAnswer,
    EraseAnswer,
    EraseBody,
    ListQuery,
    PageAnswer,
    PutBody,
    RecordAnswer,
    RecordQuery,
)
from service.ids import TrackletId, record_path, thumbnail_path
from service.lifecycle import Service
from service.routes.embed import answer_of, record_of

router = APIRouter()

PathId = Annotated[TrackletId, Path(alias="id")]


@router.get("/gallery", response_model=PageAnswer, response_model_exclude_unset=True)
async def list_records(service: Ready, query: Annotated[ListQuery, Query()]) -> PageAnswer:
    """List records in the order of their ids, page by page."""
    _check_limit(query.limit, service)
    page = await service.gallery.list(
        camera_id=query.camera_id,
        after=query.after,
        before=query.before,
        limit=query.limit,
        cursor=query.cursor,
    )
    items = [_record_answer(record, service.bundle.embedding_space) for record in page.items]
    return PageAnswer(items=items, next_cursor=page.next_cursor)


@router.post("/gallery/erase", response_model=EraseAnswer, dependencies=NO_QUERY, openapi_extra=json_body(EraseBody))
async def erase(request: Request, service: Ready) -> EraseAnswer:
    """Delete all records that a filter matches; an empty filter is refused."""
    body = await tracklet_request.read_json(request, EraseBody, service)
    chosen = body.filter.to_filter()
    if chosen.is_empty:
        raise Problem.of_field("filter", "is empty, so it would erase every record; give at least one condition")
    erasure = await service.gallery.erase(chosen, dry_run=body.dry_run, by=name_caller(request))
    return EraseAnswer(matched=erasure.matched, erased=erasure.erased, receipt_id=erasure.receipt)


@router.get("/gallery/{id}", response_model=RecordAnswer, response_model_exclude_unset=True)
async def read_record(tracklet: PathId, service: Ready, query: Annotated[RecordQuery, Query()]) -> RecordAnswer:
    """Return one record."""
    record = await service.gallery.get(tracklet)
    if record is None:
        raise Problem.of_field("id", f"{tracklet} is not in the gallery", "not-found")
    answer = _record_answer(record, service.bundle.embedding_space)
    return answer.model_copy(update={"embedding": record.embedding.tolist()}) if query.include_embedding else answer


@router.get(
    "/gallery/{id}/thumbnail",
    response_class=Response,
    responses={200: {"content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}}}},
    dependencies=NO_QUERY,
)
async def read_thumbnail(tracklet: PathId, service: Ready) -> Response:
    """Return the small picture of a record, if the service keeps pictures; 404 if the record has none."""
    thumbnail = await service.gallery.thumbnail(tracklet)
    if thumbnail is None:
        raise Problem.of_field("id", f"no thumbnail is kept of {tracklet}", "not-found")
    # A cache must not keep a person's picture longer than the gallery does.
    return Response(thumbnail, media_type="image/jpeg", headers={"Cache-Control": "no-store"})


@router.put(
    "/gallery/{id}",
    response_model=EmbedAnswer,
    response_model_exclude_unset=True,
    responses={201: {"model": EmbedAnswer, "description": "The id was new"}},
    response_description="Replaced",
    openapi_extra=tracklet_body(PutBody),
)
async def put_record(
    request: Request, response: Response, tracklet: PathId, service: Ready, query: Annotated[RecordQuery, Query()]
) -> EmbedAnswer:
    """Enrol a tracklet under this id, or replace it: from footage, or from an embedding of the same model."""
    async with tracklet_request.read(request, PutBody, service) as (body, footage):
        if body.id is not None and body.id != tracklet:
            raise Problem.of_field("id", f"{body.id} is not the id in the path, {tracklet}")
        embedded = await _embed(request, body, footage, service)
    if await service.gallery.put(record_of(tracklet, body, embedded, service.settings.retention_days)):
        response.status_code = 201
        response.headers["Location"] = record_path(tracklet)
    return answer_of(tracklet, embedded, service.bundle, include_embedding=query.include_embedding)


@router.delete("/gallery/{id}", status_code=204, dependencies=NO_QUERY)
async def delete_record(request: Request, tracklet: PathId, service: Ready) -> Response:
    """Delete one record; the answer is the same if it does not exist."""
    await service.gallery.delete(tracklet, by=name_caller(request))
    return Response(status_code=204)


# Not below `/gallery`: there, `audit` can be the id of a record.
@router.get("/audit", response_model=AuditAnswer)
async def read_audit(service: Ready, query: Annotated[AuditQuery, Query()]) -> AuditAnswer:
    """List removals, newest first: who removed which records and when. Entries are never changed or removed."""
    _check_limit(query.limit, service)
    entries = [
        AuditEntryAnswer(
            receipt_id=entry.receipt,
            time=entry.time,
            action=entry.action,
            by=entry.by,
            filter=entry.filter,
            erased=entry.erased,
        )
        for entry in await service.gallery.audit(limit=query.limit, before=query.before)
    ]
    return AuditAnswer(entries=entries)


def _check_limit(limit: int, service: Service) -> None:
    if limit > service.settings.max_page:
        raise Problem.of_field("limit", f"must be at most {service.settings.max_page} (got {limit})")


async def _embed(request: Request, body: PutBody, footage: Footage | None, service: Service) -> TrackletEmbedding:
    if (footage is None) == (body.embedding is None):
        field = "frames" if footage is None else "embedding"
        raise Problem.of_field(field, "send either frames (or a video) or an embedding")
    if footage is not None:
        if body.embedding_space is not None:
            raise Problem.of_field("embedding_space", "is allowed only together with embedding")
        work = service.embedder.embed(footage, body.max_clips, thumbnail=service.settings.thumbnails)
        return await until_disconnected(request, work)
    if body.max_clips is not None:
        raise Problem.of_field("max_clips", "is allowed only together with frames or a video")
    vector = tracklet_request.check_embedding(body.embedding or [], body.embedding_space, service.bundle)
    return TrackletEmbedding(vector, frames=0, clips=0, rejected=())


def _record_answer(record: Record, space: str) -> RecordAnswer:
    answer = RecordAnswer(
        id=record.id,
        camera_id=record.camera_id,
        start_time=record.start_time,
        end_time=record.end_time,
        metadata=record.metadata,
        frames=record.frames,
        clips=record.clips,
        embedding_space=space,
        created_at=record.created_at,
        expires_at=record.expires_at,
    )
    return answer.model_copy(update={"thumbnail_url": thumbnail_path(record.id)}) if record.has_thumbnail else answer
