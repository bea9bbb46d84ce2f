"""Cases: named searches with a purpose, the verdicts of operators, and the file that is handed over."""

import asyncio
import base64
import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Path, Query, Request, Response

from service.callers import Caller
from service.cases.archive import write_archive
from service.cases.export import ExportTooLarge, export_files
from service.cases.records import Case, CaseQuery
from service.cases.view import CaseOutline, outline_case
from service.gallery.visible import VisibleGallery
from service.http.access import check_scope, require_scope
from service.http.admission import Admission
from service.http.case_schemas import (
    CaseAnswer,
    CaseBody,
    CasePatchBody,
    CaseQueryAnswer,
    CaseQueryBody,
    CasesAnswer,
    CasesQuery,
    CaseSummaryAnswer,
    DecidedAnswer,
    PictureQuery,
    VerdictAnswer,
    VerdictBody,
    VerdictQuery,
)
from service.http.contract import json_body
from service.http.dependencies import NO_QUERY, CallersGallery, Ready
from service.http.problems import Problem
from service.http.responses import CountedResponse, respond
from service.http.schemas import CaseId
from service.http.tracklet_request import check_embedding, get_admission, read_json
from service.ids import TrackletId
from service.lifecycle import Service
from service.telemetry.metrics import read_version
from service.verdicts import VERDICTS

router = APIRouter()

Searcher = Annotated[Caller, require_scope("search")]
Admin = Annotated[Caller, require_scope("admin")]
PathCase = Annotated[CaseId, Path(alias="case")]
PathId = Annotated[TrackletId, Path(alias="id")]
MAX_VERDICTS = 10_000
"""Maximum verdicts of a case."""


def author_of(caller: Caller) -> str:
    """Return who answers for a verdict: the operator whom the client names, otherwise the key."""
    return caller.operator or caller.name


@router.post(
    "/cases", response_model=CaseAnswer, status_code=201, dependencies=NO_QUERY, openapi_extra=json_body(CaseBody)
)
async def create_case(request: Request, service: Ready, gallery: CallersGallery, caller: Searcher) -> Response:
    """Open a case: what is searched for, and why. Needs the scope `search`."""
    body = await read_json(request, CaseBody, service)
    admission = get_admission(request)
    with admission.gallery_call():
        query = None if body.query is None else await _read_query(body.query, service, gallery)
        case = await service.cases.create(body.name, body.purpose, author_of(caller), caller.cameras)
        if query is not None:
            await service.cases.set_query(case.id, query)
        await _record(service, "case", caller, case, {"change": "create", "purpose": case.purpose})
        outline = await find_outline(case.id, service, gallery, caller)
    location = {"Location": f"{request.scope.get('root_path', '')}/cases/{case.id}"}
    return await _respond(admission, outline, 201, location)


@router.get("/cases", response_model=CasesAnswer)
async def list_cases(
    request: Request,
    service: Ready,
    gallery: CallersGallery,
    caller: Searcher,
    query: Annotated[CasesQuery, Query()],
) -> CasesAnswer:
    """List cases, newest first. Needs the scope `search`."""
    if query.limit > service.settings.max_page:
        raise Problem.of_field("limit", f"must be at most {service.settings.max_page} (got {query.limit})")
    admission = get_admission(request)
    with admission.gallery_call():
        is_open = None if query.status is None else query.status == "open"
        cases = await service.cases.find(
            is_open=is_open, before=query.before, limit=query.limit, cameras=caller.cameras
        )
        # One after the other, because only the counts of each are kept.
        return CasesAnswer(items=[await _summary_of(case, service, gallery, admission) for case in cases])


@router.get("/cases/{case}", response_model=CaseAnswer, dependencies=NO_QUERY)
async def read_case(
    request: Request, case: PathCase, service: Ready, gallery: CallersGallery, caller: Searcher
) -> Response:
    """Return a case with its verdicts. Needs the scope `search`."""
    admission = get_admission(request)
    with admission.gallery_call():
        return await _respond(admission, await find_outline(case, service, gallery, caller))


@router.patch("/cases/{case}", response_model=CaseAnswer, dependencies=NO_QUERY, openapi_extra=json_body(CasePatchBody))
async def change_case(
    request: Request, case: PathCase, service: Ready, gallery: CallersGallery, caller: Searcher
) -> Response:
    """Change the name, the purpose or the query of a case, close it, or open it again. Needs the scope `search`."""
    body = await read_json(request, CasePatchBody, service)
    admission = get_admission(request)
    with admission.gallery_call():
        found = (await find_outline(case, service, gallery, caller)).case
        if body.status == "open" and not found.is_open:
            await service.cases.reopen(case)
            found = replace(found, closed_at=None)
        if body.name is not None or body.purpose is not None or body.query is not None:
            _check_open(found)
            query = None if body.query is None else await _read_query(body.query, service, gallery)
            if query is not None and not await suits(found, query, caller, gallery):
                raise _of_other_cameras(found, "query")
            await service.cases.update(case, name=body.name, purpose=body.purpose)
            if query is not None:
                await service.cases.set_query(case, query)
        if body.status == "closed" and found.is_open:
            await service.cases.close_case(case, author_of(caller))
        changed = body.model_dump(mode="json", include={"name", "purpose", "status"}, exclude_none=True)
        await _record(service, "case", caller, found, {"change": "update", **changed})
        return await _respond(admission, await find_outline(case, service, gallery, caller))


@router.delete("/cases/{case}", status_code=204, dependencies=NO_QUERY)
async def delete_case(request: Request, case: PathCase, service: Ready, caller: Admin) -> Response:
    """Remove a case with its query and all verdicts; the answer is the same if it does not exist.

    Needs the scope `admin`.
    """
    with get_admission(request).gallery_call():
        found = await service.cases.get(case)
        if found is not None and await service.cases.remove(case):
            await _record(service, "case", caller, found, {"change": "delete"})
    return Response(status_code=204)


@router.put(
    "/cases/{case}/verdicts/{id}",
    response_model=CaseAnswer,
    dependencies=NO_QUERY,
    openapi_extra=json_body(VerdictBody),
)
async def put_verdict(
    request: Request, case: PathCase, tracklet: PathId, service: Ready, gallery: CallersGallery, caller: Searcher
) -> Response:
    """Say whether a record shows the person of the query, or replace what the caller said. Needs the scope `search`."""
    body = await read_json(request, VerdictBody, service)
    admission = get_admission(request)
    with admission.gallery_call():
        outline = await find_outline(case, service, gallery, caller)
        _check_open(outline.case)
        if (record := await gallery.get(tracklet)) is None:
            raise Problem.of_field("id", f"{tracklet} is not in the gallery", "not-found")
        if outline.case.cameras is not None and record.camera_id not in outline.case.cameras:
            raise _of_other_cameras(outline.case, "id")
        if len(outline.verdicts) >= MAX_VERDICTS:
            raise Problem.of_field("case", f"has {MAX_VERDICTS} verdicts: open another case", "too-large")
        author = author_of(caller)
        if not await service.cases.put_verdict(case, tracklet, body.verdict, author, caller.name, body.note):
            raise _closed(outline.case)  # closed meanwhile
        details = {"case": case, "verdict": body.verdict}
        await service.audit.record("verdict", caller, details, [{"id": tracklet}])
        return await _respond(admission, await find_outline(case, service, gallery, caller))


@router.delete("/cases/{case}/verdicts/{id}", response_model=CaseAnswer)
async def remove_verdict(
    request: Request,
    case: PathCase,
    tracklet: PathId,
    service: Ready,
    gallery: CallersGallery,
    caller: Searcher,
    query: Annotated[VerdictQuery, Query()],
) -> Response:
    """Take back what the caller said about a record. Needs the scope `search`, and for others' verdicts `admin`."""
    author = author_of(caller) if query.author is None else query.author
    is_own = author == author_of(caller)
    if not is_own:
        check_scope(caller, "admin")
    key = caller.name if is_own else None
    admission = get_admission(request)
    with admission.gallery_call():
        outline = await find_outline(case, service, gallery, caller)
        _check_open(outline.case)
        is_known = any(each.record == tracklet for each in outline.verdicts)
        if is_known and await service.cases.remove_verdict(case, tracklet, author, key):
            details = {"case": case, "verdict": None, "author": author}
            await service.audit.record("verdict", caller, details, [{"id": tracklet}])
        return await _respond(admission, await find_outline(case, service, gallery, caller))


@router.get(
    "/cases/{case}/picture",
    response_class=Response,
    responses={200: {"content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}}}},
)
async def read_picture(
    request: Request,
    case: PathCase,
    service: Ready,
    gallery: CallersGallery,
    caller: Searcher,
    query: Annotated[PictureQuery, Query()],
) -> Response:
    """Return a picture of the footage that the case asks with. Needs the scope `search`."""
    with get_admission(request).gallery_call():
        found = (await find_outline(case, service, gallery, caller)).case.query
    pictures = found.pictures if found else ()
    if query.frame >= len(pictures):
        raise Problem.of_field("frame", f"the case keeps {len(pictures)} pictures of its query", "not-found")
    return Response(pictures[query.frame], media_type="image/jpeg", headers={"Cache-Control": "no-store"})


@router.get(
    "/cases/{case}/export",
    response_class=Response,
    responses={200: {"content": {"application/zip": {"schema": {"type": "string", "format": "binary"}}}}},
    dependencies=NO_QUERY,
)
async def export_case(
    request: Request, case: PathCase, service: Ready, gallery: CallersGallery, caller: Searcher
) -> Response:
    """Return a case as a zip file: a page that opens offline, the pictures, JSON, and the SHA-256 of each file.

    Equal cases give equal files. `not3d case verify` checks one. Needs the scope `search`.
    """
    admission = get_admission(request)
    with admission.gallery_call():
        async with admission.exports:
            outline = await find_outline(case, service, gallery, caller)
            try:
                files = await export_files(
                    outline, gallery, _facts(service), admission.max_answer_bytes, admission.large_json
                )
            except ExportTooLarge as error:
                raise Problem.of_field("case", str(error), "too-large") from None
            data = await asyncio.to_thread(write_archive, files, case)
    digest = await asyncio.to_thread(lambda: hashlib.sha256(data).digest())
    named: list[dict[str, Any]] = [{"id": id_} for id_ in outline.ids]
    await service.audit.record("export", caller, {"case": case, "sha256": digest.hex()}, named)
    headers = {
        "Content-Disposition": f'attachment; filename="case-{case}.zip"',
        "Repr-Digest": f"sha-256=:{base64.b64encode(digest).decode('ascii')}:",
        "Cache-Control": "no-store",
    }
    return CountedResponse(data, admission, headers=headers, media_type="application/zip")


async def find_outline(case: str, service: Service, gallery: VisibleGallery, caller: Caller) -> CaseOutline:
    """Return a case as the caller sees it, without its records.

    Raises:
        Problem: 404 if there is no such case.
    """
    found = await service.cases.get(case, caller.cameras)
    if found is None:
        raise Problem.of_field("case", f"there is no case {case}", "not-found")
    return await outline_case(found, await service.cases.verdicts(case), gallery, service.settings)


async def suits(case: Case, query: CaseQuery, caller: Caller, gallery: VisibleGallery) -> bool:
    """Return whether a caller may give a case this query: only of its cameras, unless they are the caller's own."""
    if case.cameras is None or case.cameras == caller.cameras:
        return True
    record = None if query.id is None else await gallery.get(query.id)
    return (record.camera_id if record else query.camera_id) in case.cameras


async def _read_query(body: CaseQueryBody, service: Service, gallery: VisibleGallery) -> CaseQuery:
    if (body.id is None) == (body.embedding is None):
        raise Problem.of_field("query", "send exactly one of id and embedding")
    if body.embedding is not None:
        vector = check_embedding(body.embedding, body.embedding_space, service.space, "query.embedding")
        return CaseQuery(None, vector.astype(np.float32), service.space.name, body.camera_id)
    if await gallery.get(str(body.id)) is None:
        raise Problem.of_field("query.id", f"{body.id} is not in the gallery", "not-found")
    return CaseQuery(body.id, camera_id=body.camera_id)


def _check_open(case: Case) -> None:
    if not case.is_open:
        raise _closed(case)


def _of_other_cameras(case: Case, field: str) -> Problem:
    cameras = ", ".join(sorted(case.cameras or ()))
    reason = f"the case was opened with a key that is limited to {cameras}; open another case for other cameras"
    return Problem.of_field(field, reason, "camera-refused")


def _closed(case: Case) -> Problem:
    return Problem.of_field(
        "case", f'{case.id} is closed: open it again with PATCH and {{"status": "open"}}', "case-closed"
    )


async def _record(service: Service, kind: Any, caller: Caller, case: Case, details: dict[str, Any]) -> None:
    await service.audit.record(kind, caller, {"case": case.id, **details}, [])


def _facts(service: Service) -> dict[str, Any]:
    active, space = service.calibration, service.space
    calibration = active and {
        "id": active.calibration.id,
        "source": active.source,
        "mode": active.calibration.mode,
        "fitted_people": active.calibration.people,
        "fitted_cameras": active.calibration.cameras,
        "fitted_at": active.calibration.fitted_at,
    }
    return {
        "service": {"name": "not3d", "version": read_version()},
        "model": {"name": space.model, "embedding_space": space.name, "dimension": space.dimension},
        "calibration": calibration,
        "score_mode": service.gallery.score_mode,
    }


async def _summary_of(case: Case, service: Service, gallery: VisibleGallery, admission: Admission) -> CaseSummaryAnswer:
    verdicts = await service.cases.verdicts(case.id)
    async with admission.result(len(verdicts)):
        outline = await outline_case(case, verdicts, gallery, service.settings)
        return CaseSummaryAnswer(**await asyncio.to_thread(_summarise, outline))


async def _respond(
    admission: Admission, outline: CaseOutline, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    return await respond(
        admission, len(outline.verdicts), lambda: _answer(outline).model_dump(), status=status, headers=headers
    )


def _answer(view: CaseOutline) -> CaseAnswer:
    return CaseAnswer(
        **_summarise(view),
        confirmations=view.confirmations,
        decided=DecidedAnswer(**{kind: view.newest(kind) for kind in VERDICTS}),
        verdicts=[
            VerdictAnswer(id=each.record, verdict=each.verdict, author=each.author, note=each.note, time=each.time)
            for each in view.verdicts
        ],
    )


def _summarise(view: CaseOutline) -> dict[str, Any]:
    case, query, decided = view.case, view.case.query, list(view.decided.values())
    return {
        "id": case.id,
        "name": case.name,
        "purpose": case.purpose,
        "status": "open" if case.is_open else "closed",
        "created_at": case.created_at,
        "created_by": case.created_by,
        "closed_at": case.closed_at,
        "closed_by": case.closed_by,
        "cameras": None if case.cameras is None else sorted(case.cameras),
        "query": query and CaseQueryAnswer(id=query.id, camera_id=query.camera_id, pictures=len(query.pictures)),
        "counts": {kind: decided.count(kind) for kind in VERDICTS},
    }
