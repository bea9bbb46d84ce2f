"""Watchlists: people to be told about when they probably appear."""

import math
import secrets
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response

from service.callers import Caller
from service.cases.view import CaseView
from service.gallery.checks import audit_condition
from service.gallery.visible import VisibleGallery
from service.gallery.watch.matching import fault_of, threshold_of
from service.gallery.watch.records import MAX_VECTORS, TooManyWatched, Watchlist, WatchVector
from service.gallery.watch.visible import VisibleAlerts, WatchlistView
from service.http.access import CurrentCaller, require_scope
from service.http.alert_schemas import (
    WatchlistAnswer,
    WatchlistBody,
    WatchlistName,
    WatchlistsAnswer,
    WatchVectorAnswer,
)
from service.http.contract import json_body
from service.http.dependencies import NO_QUERY, CallersGallery, Ready
from service.http.problems import Fault, Problem
from service.http.responses import respond
from service.http.tracklet_request import check_embedding, get_admission, read_json
from service.lifecycle import Service
from service.routes.cases import author_of, find_case
from service.settings import variable_name

router = APIRouter()

Admin = Annotated[Caller, require_scope("admin")]
CAN_SEARCH = require_scope("search")
PathName = Annotated[WatchlistName, Path(alias="name")]


@router.get("/watchlists", response_model=WatchlistsAnswer, dependencies=[*NO_QUERY, CAN_SEARCH])
async def list_watchlists(request: Request, service: Ready, caller: CurrentCaller) -> Response:
    """List the watchlists, by name. Needs the scope `search`."""
    admission = get_admission(request)
    with admission.gallery_call():
        views = await VisibleAlerts(service.gallery, caller).watchlists()
        return await respond(
            admission, len(views), lambda: {"items": [_answer(view, service).model_dump() for view in views]}
        )


@router.get("/watchlists/{name}", response_model=WatchlistAnswer, dependencies=[*NO_QUERY, CAN_SEARCH])
async def read_watchlist(request: Request, name: PathName, service: Ready, caller: CurrentCaller) -> WatchlistAnswer:
    """Return a watchlist. Needs the scope `search`."""
    with get_admission(request).gallery_call():
        return _answer(await _find(name, service, caller), service)


@router.put(
    "/watchlists/{name}",
    response_model=WatchlistAnswer,
    responses={201: {"model": WatchlistAnswer, "description": "The name was new"}},
    response_description="Replaced",
    dependencies=NO_QUERY,
    openapi_extra=json_body(WatchlistBody),
)
async def put_watchlist(
    request: Request, response: Response, name: PathName, service: Ready, gallery: CallersGallery, caller: Admin
) -> WatchlistAnswer:
    """Watch for a person in each tracklet that is enrolled from now on, or change how. Needs the scope `admin`.

    The examples are those of one person: enrolled tracklets, embeddings, or a case.
    """
    body = await read_json(request, WatchlistBody, service)
    if (body.min_score is None) == (body.min_probability is None):
        raise Problem.of_field("min_score", "send exactly one of min_score and min_probability")
    with get_admission(request).gallery_call():
        old = next((each for each in (await service.gallery.matcher()).watchlists if each.name == name), None)
        view = None if body.case is None else await find_case(body.case, service, gallery, caller)
        vectors = await _find_vectors(body, view, service, gallery)
        if not vectors and old is None:
            raise Problem.of_field("ids", "is empty: send ids, embeddings or a case of the person to watch for")
        now = datetime.now(UTC)
        new = Watchlist(
            name=name,
            uid=secrets.token_hex(8) if vectors or old is None else old.uid,
            min_score=body.min_score,
            min_probability=body.min_probability,
            prior=await _prior(body, service),
            filter=body.filter.to_filter(),
            cooldown=body.cooldown,
            expires_at=body.expires_at,
            created_at=now if old is None else old.created_at,
            updated_at=now,
            created_by=author_of(caller),
            vectors=vectors or (() if old is None else old.vectors),
        )
        _check_threshold(new, service)
        if new.expires_at is not None and new.expires_at <= now:
            raise Problem.of_field("expires_at", "is in the past: send a later time, or DELETE the watchlist")
        await _record(service, caller, "replace" if old else "create", new)
        try:
            is_new = await service.gallery.put_watchlist(new)
            await _forget_erased(vectors, new, service)
        except TooManyWatched as error:
            raise Problem.of_field("ids", str(error), "too-large") from None
        answer = _answer(await _find(name, service, caller), service)
    if is_new:
        response.status_code = 201
        response.headers["Location"] = f"{request.scope.get('root_path', '')}/watchlists/{name}"
    return answer


@router.delete("/watchlists/{name}", status_code=204, dependencies=NO_QUERY)
async def delete_watchlist(request: Request, name: PathName, service: Ready, caller: Admin) -> Response:
    """Remove a watchlist with its vectors; its alerts stay. The answer is the same if it does not exist.

    Needs the scope `admin`.
    """
    with get_admission(request).gallery_call():
        if await service.gallery.delete_watchlist(name):
            await service.audit.record("watchlist", caller, {"change": "delete", "watchlist": name})
    return Response(status_code=204)


async def _find_vectors(
    body: WatchlistBody, view: CaseView | None, service: Service, gallery: VisibleGallery
) -> tuple[WatchVector, ...]:
    ids = list(dict.fromkeys(body.ids))
    records = dict(await gallery.get_all(ids))
    faults = [
        Fault(field=f"ids[{index}]", reason=f"{id_} is not in the gallery")
        for index, id_ in enumerate(body.ids)
        if id_ not in records
    ]
    if faults:
        raise Problem("not-found", f"{faults[0].field}: {faults[0].reason}", errors=faults)
    if body.embedding_space is not None and not body.embeddings:
        raise Problem.of_field("embedding_space", "is allowed only together with embeddings")
    found = [WatchVector(records[id_].embedding, "example", id_, records[id_].camera_id) for id_ in ids]
    for index, values in enumerate(body.embeddings):
        vector = check_embedding(values, body.embedding_space, service.space, f"embeddings[{index}]")
        found.append(WatchVector(vector))
    if view is not None:
        found += _of_case(view, service, frozenset(ids))
    examples = sum(each.role == "example" for each in found)
    if (body.ids or body.embeddings or view is not None) and not examples:
        raise Problem.of_field("case", "has no query and no confirmed record: confirm one first, or send ids")
    if examples > MAX_VECTORS:
        field = "case" if view else "embeddings" if body.embeddings else "ids"
        raise Problem.of_field(field, f"all examples together must be at most {MAX_VECTORS} (got {examples})")
    return tuple(found)


async def _forget_erased(vectors: tuple[WatchVector, ...], new: Watchlist, service: Service) -> None:
    """Remove the vectors of records that were erased after they were read and before the watchlist was stored."""
    ids = {each.record for each in vectors if each.record is not None}
    gone = ids.difference(await service.gallery.get_all(sorted(ids))) if ids else set()
    if gone:
        kept = tuple(each for each in vectors if each.record not in gone)
        await service.gallery.put_watchlist(replace(new, uid=secrets.token_hex(8), vectors=kept))


def _of_case(view: CaseView, service: Service, known: frozenset[str]) -> list[WatchVector]:
    query, records = view.case.query, view.records
    found = []
    same = view.newest("same")
    if query is not None and query.vector is not None:
        if query.embedding_space != service.space.name:
            detail = f"the query of the case is of the embedding space {query.embedding_space}"
            raise Problem.of_field("case", f"{detail}: search with the case again", "other-embedding-space")
        found.append(WatchVector(query.vector, "example", None, query.camera_id, "case"))
    elif query is not None and query.id is not None and query.id not in same:
        same = [query.id, *same]
    found += [WatchVector(records[id_].embedding, "example", id_, records[id_].camera_id, "case")
              for id_ in same if id_ not in known]  # fmt: skip
    rejects = [id_ for id_ in view.newest("different") if id_ not in known][:MAX_VECTORS]
    found += [WatchVector(records[id_].embedding, "reject", id_, records[id_].camera_id, "case") for id_ in rejects]
    return found


async def _prior(body: WatchlistBody, service: Service) -> float | None:
    active = service.calibration
    if body.prior is not None or active is None:
        return body.prior
    if active.fixed_prior is not None:
        return active.fixed_prior
    # Rounded down to a power of ten, because it is in alerts and must not tell the number of records of all cameras.
    return 10.0 ** -(math.floor(math.log10(await service.gallery.count() + 1)) + 1)


def _check_threshold(new: Watchlist, service: Service) -> None:
    """Check that a probability can be given at all. Raises `Problem`, 409."""
    if new.min_probability is None:
        return
    calibration = service.alert_rules.calibration
    cure = f"fit one with `not3d calibrate` and name its file in {variable_name('calibration')}, or send min_score"
    if calibration is None:
        active = service.calibration
        reason = "this service has no calibration for its model"
        if active is not None:
            reason = (
                f"the calibration {active.calibration.id} was fitted on {active.calibration.mode} scores, not cosine"
            )
        raise Problem.of_field("min_probability", f"{reason}: {cure}", "not-calibrated")
    threshold = threshold_of(new, calibration)
    if new.of_role("example") and (threshold is None or threshold > 1):
        raise Problem.of_field("min_probability", fault_of(new, calibration), "not-calibrated")


async def _record(service: Service, caller: Caller, change: str, new: Watchlist) -> None:
    details: dict[str, Any] = {
        "change": change,
        "watchlist": new.name,
        "min_score": new.min_score,
        "min_probability": new.min_probability,
        "prior": new.prior,
        "filter": audit_condition(new.filter),
        "cooldown": new.cooldown,
        "expires_at": None if new.expires_at is None else new.expires_at.isoformat(),
        "examples": len(new.of_role("example")),
        "rejects": len(new.of_role("reject")),
    }
    named = [{"id": each.record, "role": each.role} for each in new.vectors if each.record is not None]
    await service.audit.record("watchlist", caller, details, named)


async def _find(name: str, service: Service, caller: Caller) -> WatchlistView:
    view = await VisibleAlerts(service.gallery, caller).find_watchlist(name)
    if view is None:
        raise Problem.of_field("name", f"there is no watchlist {name}", "not-found")
    return view


def _answer(view: WatchlistView, service: Service) -> WatchlistAnswer:
    watchlist = view.watchlist

    def vectors(found: tuple[WatchVector, ...]) -> list[WatchVectorAnswer]:
        return [WatchVectorAnswer(id=each.record, camera_id=each.camera_id, source=each.source) for each in found]

    return WatchlistAnswer(
        name=watchlist.name,
        active=view.fault is None,
        reason=view.fault,
        min_score=watchlist.min_score,
        min_probability=watchlist.min_probability,
        prior=watchlist.prior,
        threshold=view.threshold,
        filter=audit_condition(watchlist.filter),
        cooldown=watchlist.cooldown,
        expires_at=watchlist.expires_at,
        created_at=watchlist.created_at,
        updated_at=watchlist.updated_at,
        created_by=watchlist.created_by,
        examples=vectors(watchlist.of_role("example")),
        rejects=vectors(watchlist.of_role("reject")),
        embedding_space=service.space.name,
    )
