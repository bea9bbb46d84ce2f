"""Watchlists: people to be told about when they probably appear."""

import contextlib
import math
import secrets
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Request, Response

from service.callers import Caller
from service.cases.view import CaseOutline
from service.gallery.checks import audit_condition
from service.gallery.clock import format_timestamp
from service.gallery.visible import VisibleGallery
from service.gallery.watch.matching import fault_of, threshold_of
from service.gallery.watch.records import MAX_VECTORS, Role, TooManyWatched, Watchlist, WatchlistChanged, WatchVector
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
from service.routes.cases import author_of, find_outline
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
async def read_watchlist(
    request: Request, response: Response, name: PathName, service: Ready, caller: CurrentCaller
) -> WatchlistAnswer:
    """Return a watchlist. Needs the scope `search`."""
    with get_admission(request).gallery_call():
        view = await _find(name, service, caller)
    response.headers["ETag"] = _etag(view.watchlist)
    return _answer(view, service)


@router.put(
    "/watchlists/{name}",
    response_model=WatchlistAnswer,
    responses={201: {"model": WatchlistAnswer, "description": "The name was new"}},
    response_description="Replaced",
    dependencies=NO_QUERY,
    openapi_extra=json_body(WatchlistBody),
)
async def put_watchlist(
    request: Request,
    response: Response,
    name: PathName,
    service: Ready,
    gallery: CallersGallery,
    caller: Admin,
    if_none_match: Annotated[
        str | None, Header(description="`*`: 412 if the watchlist exists, so that none is replaced by mistake")
    ] = None,
    if_match: Annotated[
        str | None,
        Header(description="The `ETag` of the watchlist: 412 if another request changed or deleted it since"),
    ] = None,
) -> WatchlistAnswer:
    """Watch for a person in each tracklet that is enrolled from now on, or change how. Needs the scope `admin`.

    The examples are those of one person: enrolled tracklets, embeddings, or a case.
    """
    if if_none_match is not None and if_none_match.strip() != "*":
        raise Problem.of_field("if-none-match", "must be *: only whether the watchlist exists can be asked")
    body = await read_json(request, WatchlistBody, service)
    if (body.min_score is None) == (body.min_probability is None):
        raise Problem.of_field("min_score", "send exactly one of min_score and min_probability")
    with get_admission(request).gallery_call():
        case = None if body.case is None else await find_outline(body.case, service, gallery, caller)
        vectors = await _find_vectors(body, case, service, gallery)
        prior = await _prior(body, service)
        while True:
            old = await _stored(name, service)
            _check_conditions(name, old, if_match, must_be_new=if_none_match is not None)
            if not vectors and old is None:
                raise Problem.of_field("ids", "is empty: send ids, embeddings or a case of the person to watch for")
            now = datetime.now(UTC)
            new = Watchlist(
                name=name,
                uid=secrets.token_hex(8) if vectors or old is None else old.uid,
                min_score=body.min_score,
                min_probability=body.min_probability,
                prior=prior,
                filter=body.filter.to_filter(),
                cooldown=body.cooldown,
                expires_at=body.expires_at,
                created_at=now if old is None else old.created_at,
                updated_at=now if old is None else _later(now, old),
                created_by=author_of(caller),
                vectors=vectors or (() if old is None else old.vectors),
            )
            _check_threshold(new, service)
            if new.expires_at is not None and new.expires_at <= now:
                raise Problem.of_field("expires_at", "is in the past: send a later time, or DELETE the watchlist")
            await _record(service, caller, "replace" if old else "create", new)
            try:
                is_new = await service.gallery.put_watchlist(new, replaces=None if old is None else old.updated_at)
                await _forget_erased(vectors, new, service)
                break
            except TooManyWatched as error:
                raise Problem.of_field("ids", str(error), "too-large") from None
            except WatchlistChanged:  # look at it again, as if this request had come later
                await service.audit.record("watchlist", caller, {"change": "not made", "watchlist": name})
        view = await _find(name, service, caller)
    if is_new:
        response.status_code = 201
        response.headers["Location"] = f"{request.scope.get('root_path', '')}/watchlists/{name}"
    response.headers["ETag"] = _etag(view.watchlist)
    return _answer(view, service)


@router.delete("/watchlists/{name}", status_code=204, dependencies=NO_QUERY)
async def delete_watchlist(request: Request, name: PathName, service: Ready, caller: Admin) -> Response:
    """Remove a watchlist with its vectors; its alerts stay. The answer is the same if it does not exist.

    Needs the scope `admin`.
    """
    with get_admission(request).gallery_call():
        if await service.gallery.delete_watchlist(name):
            await service.audit.record("watchlist", caller, {"change": "delete", "watchlist": name})
    return Response(status_code=204)


async def _stored(name: str, service: Service) -> Watchlist | None:
    return next((each for each in (await service.gallery.matcher()).watchlists if each.name == name), None)


def _etag(watchlist: Watchlist) -> str:
    return f'"{format_timestamp(watchlist.updated_at)}"'


def _later(now: datetime, old: Watchlist) -> datetime:
    """Return the time of a change: the clock may have been set back since the one before."""
    return max(now, old.updated_at + timedelta(microseconds=1))


def _check_conditions(name: str, old: Watchlist | None, if_match: str | None, *, must_be_new: bool) -> None:
    """Check the conditional headers of a request. Raises `Problem`, 412."""
    if must_be_new and old is not None:
        reason = f"the watchlist {name} exists: choose another name, or send the request without If-None-Match"
        raise Problem.of_field("if-none-match", reason, "precondition-failed")
    if if_match is None:
        return
    tags = [tag.strip() for tag in if_match.split(",")]
    if old is None or not ("*" in tags or _etag(old) in tags):
        what = "does not exist any more" if old is None else "was changed meanwhile"
        reason = f"the watchlist {name} {what}: read it again"
        raise Problem.of_field("if-match", reason, "precondition-failed")


async def _find_vectors(
    body: WatchlistBody, case: CaseOutline | None, service: Service, gallery: VisibleGallery
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
    if case is not None:
        found += await _of_case(case, service, gallery, frozenset(ids), MAX_VECTORS - len(found))
    examples = sum(each.role == "example" for each in found)
    if (body.ids or body.embeddings or case is not None) and not examples:
        raise Problem.of_field("case", "has no query and no confirmed record: confirm one first, or send ids")
    _check_examples(examples, "embeddings" if body.embeddings else "ids")
    return tuple(found)


def _check_examples(count: int, field: str, most: int = MAX_VECTORS) -> None:
    if count > most:
        raise Problem.of_field(
            field, f"all examples together must be at most {MAX_VECTORS} (got {MAX_VECTORS - most + count})"
        )


async def _forget_erased(vectors: tuple[WatchVector, ...], new: Watchlist, service: Service) -> None:
    """Remove the vectors of records that were erased after they were read and before the watchlist was stored."""
    ids = {each.record for each in vectors if each.record is not None}
    gone = ids.difference(await service.gallery.get_all(sorted(ids))) if ids else set()
    uid = new.uid
    while gone:
        stored = await _stored(new.name, service)
        if stored is None or stored.uid != uid:
            return  # deleted, or put with other examples
        kept = tuple(each for each in stored.vectors if each.record not in gone)
        changed = replace(stored, uid=secrets.token_hex(8), updated_at=_later(datetime.now(UTC), stored), vectors=kept)
        with contextlib.suppress(WatchlistChanged):
            await service.gallery.put_watchlist(changed, replaces=stored.updated_at)
            return


async def _of_case(
    case: CaseOutline, service: Service, gallery: VisibleGallery, known: frozenset[str], most: int
) -> list[WatchVector]:
    """Return the examples and rejects of a case. Only the records that are needed are read: it may have thousands.

    Args:
        case: the case.
        service: the service.
        gallery: the gallery as the caller sees it.
        known: ids that are examples already.
        most: maximum number of examples.
    """
    query = case.case.query
    same = [id_ for id_ in case.newest("same") if id_ not in known]
    found = []
    if query is not None and query.vector is not None:
        if query.embedding_space != service.space.name:
            detail = f"the query of the case is of the embedding space {query.embedding_space}"
            raise Problem.of_field("case", f"{detail}: search with the case again", "other-embedding-space")
        found.append(WatchVector(query.vector, "example", None, query.camera_id, "case"))
    elif query is not None and query.id is not None and query.id not in known:
        same = list(dict.fromkeys([query.id, *same]))
    _check_examples(len(found) + len(same), "case", most)
    rejects = [id_ for id_ in case.newest("different") if id_ not in known][:MAX_VECTORS]
    records = await gallery.get_all([*same, *rejects])

    def copy(ids: list[str], role: Role) -> list[WatchVector]:
        kept = (records[id_] for id_ in ids if id_ in records)  # the others were erased meanwhile
        return [WatchVector(each.embedding, role, each.id, each.camera_id, "case") for each in kept]

    return found + copy(same, "example") + copy(rejects, "reject")


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
