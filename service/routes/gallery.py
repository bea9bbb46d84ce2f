"""The gallery's records: list, read, replace, delete, erase; and the audit log of what was removed."""

from contextlib import nullcontext
from dataclasses import asdict, replace
from datetime import timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response

from service.audit.chain import Entry
from service.callers import Caller
from service.embedding.tracklet import Footage, TrackletEmbedding
from service.gallery.clock import add_to_time
from service.gallery.records import Record
from service.http.access import check_scope, require_scope
from service.http.cancellation import until_disconnected
from service.http.contract import json_body, tracklet_body
from service.http.dependencies import NO_QUERY, CallersGallery, Ready, require_model
from service.http.links import thumbnail_url
from service.http.problems import Problem
from service.http.responses import respond, write_row
from service.http.schemas import (
    AuditAnswer,
    AuditEntryAnswer,
    AuditQuery,
    CameraAnswer,
    EmbedAnswer,
    EraseAnswer,
    EraseBody,
    ListQuery,
    NamingCaseAnswer,
    PageAnswer,
    PatchBody,
    PutBody,
    RecordAnswer,
    RecordQuery,
    ThumbnailQuery,
)
from service.http.tracklet_request import check_embedding, get_admission, read, read_json
from service.ids import TrackletId
from service.lifecycle import Service
from service.routes.embed import record_of, respond_embedded

router = APIRouter()

PathId = Annotated[TrackletId, Path(alias="id")]
Searcher = Annotated[Caller, require_scope("search")]
CAN_ENROLL = require_scope("enroll")
Enroller = Annotated[Caller, CAN_ENROLL]
CAN_SEARCH, CAN_ERASE, CAN_AUDIT = require_scope("search"), require_scope("erase"), require_scope("audit")


@router.get("/gallery", response_model=PageAnswer, response_model_exclude_unset=True, dependencies=[CAN_SEARCH])
async def list_records(
    request: Request, service: Ready, gallery: CallersGallery, query: Annotated[ListQuery, Query()]
) -> Response:
    """List records in the order of their ids, page by page. Needs the scope `search`.

    `metadata.KEY=VALUE` lists records with this value of a top-level key, as text, number, boolean or null; several are
    all required.
    """
    _check_limit(query.limit, service)
    admission = get_admission(request)
    with admission.gallery_call():
        async with admission.result(query.limit):
            page = await gallery.list(query.to_filter(), limit=query.limit, cursor=query.cursor)

            def make() -> dict[str, Any]:
                space = service.space.name
                items = [
                    write_row(_record_answer(request, record, space), metadata=record.metadata) for record in page.items
                ]
                return {"items": items, "next_cursor": page.next_cursor}

            return await respond(admission, len(page.items), make)


@router.post(
    "/gallery/erase",
    response_model=EraseAnswer,
    dependencies=[*NO_QUERY, CAN_ERASE],
    openapi_extra=json_body(EraseBody),
)
async def erase(request: Request, service: Ready, gallery: CallersGallery) -> EraseAnswer:
    """Delete all records that a filter matches; an empty filter is refused. Needs the scope `erase`.

    With `expected`, nothing is erased if another number of records passes; they are counted and erased in one step.
    """
    body = await read_json(request, EraseBody, service)
    chosen = body.filter.to_filter()
    if chosen.is_empty:
        raise Problem.of_field("filter", "is empty, so it would erase every record; give at least one condition")
    with get_admission(request).gallery_call():
        erasure = await gallery.erase(chosen, dry_run=body.dry_run, expected=body.expected)
    return EraseAnswer(
        matched=erasure.matched,
        erased=erasure.erased,
        receipt_id=erasure.receipt,
        without_time=erasure.without_time,
        verdicts=erasure.verdicts,
        cases=[
            NamingCaseAnswer(
                id=case.id,
                name=case.name,
                status="open" if case.is_open else "closed",
                query=case.query,
                verdicts=case.verdicts,
            )
            for case in erasure.cases
        ],
    )


@router.get("/gallery/{id}", response_model=RecordAnswer, response_model_exclude_unset=True)
async def read_record(
    request: Request,
    tracklet: PathId,
    service: Ready,
    gallery: CallersGallery,
    caller: Searcher,
    query: Annotated[RecordQuery, Query()],
) -> Response:
    """Return one record. Needs the scope `search`, and for its embedding `vectors`."""
    if query.include_embedding:
        check_scope(caller, "vectors")
    admission = get_admission(request)
    with admission.gallery_call():
        record = await gallery.get(tracklet)
    if record is None:
        raise Problem.of_field("id", f"{tracklet} is not in the gallery", "not-found")
    answer = _record_answer(request, record, service.space.name)
    if query.include_embedding:
        await service.audit.record("read_vectors", caller, {}, [{"id": tracklet}])
        answer = answer.model_copy(update={"embedding": record.embedding.tolist()})
    return await respond(admission, 1, lambda: write_row(answer, metadata=record.metadata))


@router.get(
    "/gallery/{id}/thumbnail",
    response_class=Response,
    responses={200: {"content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}}}},
    dependencies=[CAN_SEARCH],
)
async def read_thumbnail(
    request: Request, tracklet: PathId, gallery: CallersGallery, query: Annotated[ThumbnailQuery, Query()]
) -> Response:
    """Return a small picture of a record, if the service keeps pictures: the middle one, or one of those in time order.

    404 if there is none. Needs the scope `search`.
    """
    with get_admission(request).gallery_call():
        thumbnail = await gallery.thumbnail(tracklet, query.frame)
    if thumbnail is None and query.frame:
        raise Problem.of_field("frame", f"no thumbnail {query.frame} is kept of {tracklet}", "not-found")
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
    request: Request,
    tracklet: PathId,
    service: Ready,
    gallery: CallersGallery,
    caller: Enroller,
    query: Annotated[RecordQuery, Query()],
) -> Response:
    """Enrol a tracklet under this id, or replace it: from footage, or from an embedding of the same model.

    Needs the scope `enroll`.
    """
    if query.include_embedding:
        check_scope(caller, "vectors")
    async with read(request, PutBody, service) as (body, footage):
        if body.id is not None and body.id != tracklet:
            raise Problem.of_field("id", f"{body.id} is not the id in the path, {tracklet}")
        gallery.check_camera(body.camera_id)
        await gallery.check_id(tracklet, body.camera_id)
        embedded = await _embed(request, body, footage, service)
    record = record_of(tracklet, body, embedded, service.settings.retention_days)
    with get_admission(request).gallery_call() if footage is None else nullcontext():
        is_new = await gallery.put(record)
    if not is_new:
        await service.audit.record("replace", caller, {}, [{"id": tracklet}])
    return await respond_embedded(
        request, tracklet, embedded, service.space, include_embedding=query.include_embedding, is_new=is_new
    )


@router.patch(
    "/gallery/{id}",
    response_model=RecordAnswer,
    response_model_exclude_unset=True,
    dependencies=NO_QUERY,
    openapi_extra=json_body(PatchBody),
)
async def patch_record(
    request: Request, tracklet: PathId, service: Ready, gallery: CallersGallery, caller: Enroller
) -> Response:
    """Change the camera, the times, the metadata or the expiry of a record; its embedding stays what it is.

    Needs the scope `enroll`.
    """
    body = await read_json(request, PatchBody, service)
    sent = {name: getattr(body, name) for name in body.model_fields_set}
    if not sent:
        raise Problem.of_field("body", "is empty: send at least one field to change")
    if "metadata" in sent:
        sent["metadata"] = dict(body.metadata or {})
    days = service.settings.retention_days

    def change(record: Record) -> Record:
        by_default = None if days is None else add_to_time(record.created_at, timedelta(days=days))
        given = sent | ({"expires_at": body.expires_at or by_default} if "expires_at" in sent else {})
        return replace(record, **given)

    admission = get_admission(request)
    with admission.gallery_call():
        record = await gallery.update(tracklet, change)
    if record is None:
        raise Problem.of_field("id", f"{tracklet} is not in the gallery", "not-found")
    await service.audit.record("change", caller, {"fields": [*sorted(sent)]}, [{"id": tracklet}])
    answer = _record_answer(request, record, service.space.name)
    return await respond(admission, 1, lambda: write_row(answer, metadata=record.metadata))


@router.delete("/gallery/{id}", status_code=204, dependencies=[*NO_QUERY, CAN_ERASE])
async def delete_record(request: Request, tracklet: PathId, gallery: CallersGallery) -> Response:
    """Delete one record; the answer is the same if it does not exist. Needs the scope `erase`."""
    with get_admission(request).gallery_call():
        await gallery.delete(tracklet)
    return Response(status_code=204)


@router.get("/cameras", response_model=list[CameraAnswer], dependencies=[*NO_QUERY, CAN_SEARCH])
async def list_cameras(request: Request, gallery: CallersGallery) -> Response:
    """List the cameras that have records, by id; records without a camera come last. Needs the scope `search`."""
    admission = get_admission(request)
    with admission.gallery_call():
        cameras = await gallery.cameras()
        return await respond(
            admission, len(cameras), lambda: [CameraAnswer(**asdict(camera)).model_dump() for camera in cameras]
        )


# Not below `/gallery`: there, `audit` can be the id of a record.
@router.get("/audit", response_model=AuditAnswer, dependencies=[CAN_AUDIT])
async def read_audit(request: Request, service: Ready, query: Annotated[AuditQuery, Query()]) -> Response:
    """List who did what, newest first: searches, reads of vectors, replacements, removals, verdicts, changes of keys.

    Needs the scope `audit`.
    """
    _check_limit(query.limit, service)
    admission = get_admission(request)
    with admission.gallery_call():
        async with admission.result(query.limit):
            await service.removals.copy()
            entries = await service.audit.read(query.limit, query.before, query.kind)
            return await respond(
                admission, len(entries), lambda: {"entries": [_audit_answer(entry).model_dump() for entry in entries]}
            )


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
        work = require_model(service).embedder.embed(footage, body.max_clips, thumbnails=service.settings.thumbnails)
        return await until_disconnected(request, work)
    if body.max_clips is not None:
        raise Problem.of_field("max_clips", "is allowed only together with frames or a video")
    vector = check_embedding(body.embedding or [], body.embedding_space, service.space)
    return TrackletEmbedding(vector, frames=0, clips=0, rejected=())


def _audit_answer(entry: Entry) -> AuditEntryAnswer:
    details: dict[str, Any] = entry.details
    operator, filter_, erased = details.pop("operator", None), details.get("filter"), details.get("erased")
    return AuditEntryAnswer.model_construct(
        receipt_id=entry.receipt,
        time=entry.time,
        kind=entry.kind,
        by=entry.by,
        operator=operator,
        details=details,
        records=entry.records,
        erased_records=entry.erased_records,
        position=entry.position,
        hash=entry.hash.hex(),
        action=entry.kind,
        filter=filter_ or {},
        erased=erased or 0,
    )


def _record_answer(request: Request, record: Record, space: str) -> RecordAnswer:
    """Return a record without its metadata."""
    answer = RecordAnswer(
        id=record.id,
        camera_id=record.camera_id,
        start_time=record.start_time,
        end_time=record.end_time,
        metadata={},
        frames=record.frames,
        clips=record.clips,
        embedding_space=space,
        created_at=record.created_at,
        expires_at=record.expires_at,
        thumbnails=record.thumbnail_count,
    )
    if not record.thumbnail_count:
        return answer
    return answer.model_copy(update={"thumbnail_url": thumbnail_url(request, record.id)})
