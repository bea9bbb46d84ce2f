"""The audit log. Its path is beside `/gallery`, under which every word may be a record's id, `audit` too."""

from typing import Annotated

from fastapi import APIRouter, Query, Request

from service.http.problems import Problem
from service.http.schemas import AuditAnswer, AuditEntryAnswer, AuditQuery
from service.state import state_of

router = APIRouter()


@router.get("/audit", response_model=AuditAnswer)
async def read_audit(request: Request, query: Annotated[AuditQuery, Query()]) -> AuditAnswer:
    """Who removed which records and when, newest first. Entries are never changed or taken out."""
    state = state_of(request)
    gallery = state.ready().gallery
    if query.limit > state.settings.max_page:
        raise Problem.of_field("limit", f"at most {state.settings.max_page} is allowed")
    found = await state.in_gallery(gallery.audit, limit=query.limit, before=query.before)
    entries = [
        AuditEntryAnswer(
            receipt_id=entry.receipt,
            time=entry.time,
            action=entry.action,
            by=entry.by,
            filter=entry.filter,
            erased=entry.erased,
        )
        for entry in found
    ]
    return AuditAnswer(entries=entries)
