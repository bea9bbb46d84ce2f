"""Sign-in of the page: a session in place of a key, and who the caller is."""

from typing import Literal

from fastapi import APIRouter, Request, Response

from service.callers import Caller
from service.http.access import CurrentCaller, find_key, find_session, given_key
from service.http.contract import json_body
from service.http.dependencies import NO_QUERY, Ready
from service.http.schemas import SessionAnswer, SessionBody
from service.http.sessions import Session, Sessions, clear_cookie, given_ids, set_cookie
from service.http.tracklet_request import read_json

open_router = APIRouter()
"""The call that has the key in its body."""
router = APIRouter()


@open_router.post(
    "/session",
    response_model=SessionAnswer,
    status_code=201,
    dependencies=NO_QUERY,
    openapi_extra=json_body(SessionBody),
)
async def sign_in(request: Request, response: Response, service: Ready) -> SessionAnswer:
    """Sign in with a key: the answer sets a cookie that stands for it, until it ends or the key does.

    The cookie is `HttpOnly`, `SameSite=Strict`, and over HTTPS `Secure`.
    """
    body = await read_json(request, SessionBody, service)
    key = await find_key(request, body.key.get_secret_value())
    request.app.state.rate_limits.check(key)
    _end(request)
    sessions: Sessions = request.app.state.sessions
    id_, session = sessions.begin(key.digest, key.expires_at)
    caller = key.caller(None)
    await service.audit.record("session", caller, {"action": "begin"})
    set_cookie(request, response, id_, session)
    return _answer(caller, "session", session)


@router.get("/session", response_model=SessionAnswer, dependencies=NO_QUERY)
async def read_session(request: Request, caller: CurrentCaller) -> SessionAnswer:
    """Return who the caller is and what they may do."""
    session = None if given_key(request.headers) else find_session(request)
    match caller.name.partition(":")[0]:
        case "anonymous":
            return _answer(caller, "nothing", None)
        case "user":
            return _answer(caller, "proxy", None)
        case _:
            return _answer(caller, "session" if session else "key", session)


@router.delete("/session", status_code=204, dependencies=NO_QUERY)
async def sign_out(request: Request, service: Ready, caller: CurrentCaller) -> Response:
    """End the session and remove its cookie; the answer is the same without one."""
    if find_session(request):
        await service.audit.record("session", caller, {"action": "end"})
    _end(request)
    response = Response(status_code=204)
    clear_cookie(request, response)
    return response


def _end(request: Request) -> None:
    sessions: Sessions = request.app.state.sessions
    for id_ in given_ids(request):
        sessions.end(id_)


def _answer(
    caller: Caller, by: Literal["key", "session", "proxy", "nothing"], session: Session | None
) -> SessionAnswer:
    return SessionAnswer(
        name=caller.name,
        scopes=sorted(caller.scopes),
        cameras=None if caller.cameras is None else sorted(caller.cameras),
        signed_in_by=by,
        expires_at=session.expires_at if session else None,
    )
