"""The gallery's records: list, read, replace, delete, erase."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response

from service.embedding.embedder import Embedded
from service.embedding.footage import Footage
from service.gallery.records import Record
from service.http.access import name_caller
from service.http.cancellation import until_disconnected
from service.http.contract import json_body, tracklet_body
from service.http.problems import Problem
from service.http.query import NO_QUERY
from service.http.query_vector import check_embedding
from service.http.schemas import (
    EmbedAnswer,
    EraseAnswer,
    EraseBody,
    ListQuery,
    PageAnswer,
    PutBody,
    RecordAnswer,
    RecordQuery,
)
from service.http.tracklet_request import read_json, receive
from service.ids import TrackletId, record_path, thumbnail_path
from service.routes.embed import answer_of, record_of
from service.startup import Loaded
from service.state import state_of

router = APIRouter(prefix="/gallery")

PathId = Annotated[TrackletId, Path(alias="id")]


@router.get("", response_model=PageAnswer, response_model_exclude_unset=True)
async def list_records(request: Request, query: Annotated[ListQuery, Query()]) -> PageAnswer:
    """List records in the order of their ids, page by page."""
    state = state_of(request)
    gallery = state.ready().gallery
    if query.limit > state.settings.max_page:
        raise Problem.of_field("limit", f"at most {state.settings.max_page} is allowed")
    page = await state.in_gallery(
        gallery.list,
        camera_id=query.camera_id,
        after=query.after,
        before=query.before,
        limit=query.limit,
        cursor=query.cursor,
    )
    items = [_record_answer(record, gallery.embedding_space) for record in page.items]
    return PageAnswer(items=items, next_cursor=page.next_cursor)


@router.post("/erase", response_model=EraseAnswer, dependencies=NO_QUERY, openapi_extra=json_body(EraseBody))
async def erase(request: Request) -> EraseAnswer:
    """Delete every record that a filter matches; an empty filter is refused."""
    state = state_of(request)
    gallery = state.ready().gallery
    body = await read_json(request, EraseBody, state)
    chosen = body.filter.to_filter()
    if chosen.is_empty:
        raise Problem.of_field("filter", "is empty, and would erase every record")
    erasure = await state.in_gallery(gallery.erase, chosen, dry_run=body.dry_run, by=name_caller(request))
    return EraseAnswer(matched=erasure.matched, erased=erasure.erased, receipt_id=erasure.receipt)


@router.get("/{id}", response_model=RecordAnswer, response_model_exclude_unset=True)
async def read_record(request: Request, tracklet: PathId, query: Annotated[RecordQuery, Query()]) -> RecordAnswer:
    """One record."""
    state = state_of(request)
    gallery = state.ready().gallery
    record = await state.in_gallery(gallery.get, tracklet)
    if record is None:
        raise Problem.of_field("id", f"{tracklet} is not in the gallery", "not-found")
    answer = _record_answer(record, gallery.embedding_space)
    return answer.model_copy(update={"embedding": record.embedding.tolist()}) if query.include_embedding else answer


@router.get(
    "/{id}/thumbnail",
    response_class=Response,
    responses={200: {"content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}}}},
    dependencies=NO_QUERY,
)
async def read_thumbnail(request: Request, tracklet: PathId) -> Response:
    """The small picture kept with a record, where the service keeps them; 404 where there is none."""
    state = state_of(request)
    thumbnail = await state.in_gallery(state.ready().gallery.thumbnail, tracklet)
    if thumbnail is None:
        raise Problem.of_field("id", f"no thumbnail is kept of {tracklet}", "not-found")
    # No cache between here and the reader is to keep a person's picture longer than the gallery does.
    return Response(thumbnail, media_type="image/jpeg", headers={"Cache-Control": "no-store"})


@router.put(
    "/{id}",
    response_model=EmbedAnswer,
    response_model_exclude_unset=True,
    responses={201: {"model": EmbedAnswer, "description": "The id was new"}},
    response_description="Replaced",
    openapi_extra=tracklet_body(PutBody),
)
async def put_record(
    request: Request, response: Response, tracklet: PathId, query: Annotated[RecordQuery, Query()]
) -> EmbedAnswer:
    """Enrol a tracklet under this id, or replace it: from footage, or from an embedding that this model made."""
    state = state_of(request)
    loaded = state.ready()
    async with receive(request, PutBody, state) as (body, footage):
        if body.id is not None and body.id != tracklet:
            raise Problem.of_field("id", f"{body.id} is not the id in the path")
        embedded = await _embed(request, body, footage, loaded, thumbnail=state.settings.thumbnails)
    record = record_of(tracklet, body, embedded, state.settings.retention_days)
    if await state.in_gallery(loaded.gallery.put, record):
        response.status_code = 201
        response.headers["Location"] = record_path(tracklet)
    return answer_of(tracklet, embedded, loaded, include_embedding=query.include_embedding)


@router.delete("/{id}", status_code=204, dependencies=NO_QUERY)
async def delete_record(request: Request, tracklet: PathId) -> Response:
    """Delete one record; the same answer where there is none."""
    state = state_of(request)
    await state.in_gallery(state.ready().gallery.delete, tracklet, by=name_caller(request))
    return Response(status_code=204)


async def _embed(
    request: Request, body: PutBody, footage: Footage | None, loaded: Loaded, *, thumbnail: bool
) -> Embedded:
    if (footage is None) == (body.embedding is None):
        field = "frames" if footage is None else "embedding"
        raise Problem.of_field(field, "send either frames (or a video) or an embedding")
    if footage is not None:
        if body.embedding_space is not None:
            raise Problem.of_field("embedding_space", "goes with embedding only")
        return await until_disconnected(request, loaded.embedder.embed(footage, body.max_clips, thumbnail=thumbnail))
    if body.max_clips is not None:
        raise Problem.of_field("max_clips", "goes with frames or a video only")
    vector = check_embedding(body.embedding or [], body.embedding_space, loaded)
    return Embedded(vector, frames=0, clips=0, rejected=())


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
