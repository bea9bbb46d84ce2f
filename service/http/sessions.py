"""Sign-in of browsers: a key is exchanged for a cookie with a random id, so that a page keeps no key."""

import hashlib
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

COOKIE: Final = "not3d_session"
ID_BYTES: Final = 32
MAX_SESSIONS: Final = 10_000
"""Sessions at the same time; beyond it the oldest one ends."""


@dataclass(frozen=True, slots=True)
class Session:
    """A browser that signed in with the key of this digest; `ends` is in seconds since 1970."""

    digest: str
    ends: float

    @property
    def expires_at(self) -> datetime:
        """When the session ends."""
        return datetime.fromtimestamp(self.ends, UTC)


class Sessions:
    """The sessions of this process, kept in memory by the SHA-256 of their id. Used in the event loop's thread only.

    A session has no rights of its own: each request looks up the key that began it. So it ends with its key. The
    restart of the service ends all sessions.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._sessions: OrderedDict[bytes, Session] = OrderedDict()

    def begin(self, digest: str, key_ends: datetime | None) -> tuple[str, Session]:
        """Return the id of a new session of a key, and the session."""
        ends = time.time() + self._seconds
        if key_ends is not None:
            ends = min(ends, key_ends.timestamp())
        id_ = secrets.token_urlsafe(ID_BYTES)
        session = Session(digest, ends)
        self._sessions[_hash(id_)] = session
        if len(self._sessions) > MAX_SESSIONS:
            self._sessions.popitem(last=False)
        return id_, session

    def find(self, id: str) -> Session | None:
        """Return the session of an id if it has not ended."""
        session = self._sessions.get(_hash(id))
        if session is not None and session.ends <= time.time():
            self.end(id)
            return None
        return session

    def end(self, id: str) -> None:
        """End a session."""
        self._sessions.pop(_hash(id), None)


def given_ids(request: Request) -> Iterator[str]:
    """Yield the ids of sessions that the cookies of a request have.

    There are several if another service, at a shorter path of the same host, has signed in the browser, too.
    """
    name = _name(request)
    for header in request.headers.getlist("cookie"):
        for part in header.split(";"):
            key, _, value = part.strip().partition("=")
            if key == name:
                yield value


def set_cookie(request: Request, response: Response, id: str, session: Session) -> None:
    """Give the browser the cookie of a session. No script can read it, and no page of another site can use it."""
    response.set_cookie(
        _name(request),
        id,
        max_age=max(1, round(session.ends - time.time())),
        path=_path(request),
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="strict",
    )


def clear_cookie(request: Request, response: Response) -> None:
    """Remove the cookie from the browser."""
    secure = request.url.scheme == "https"
    response.delete_cookie(_name(request), path=_path(request), secure=secure, httponly=True, samesite="strict")


def _name(request: Request) -> str:
    """Return the name of the cookie: browsers send a cookie to all ports of a host, where other services may be."""
    port = re.search(r":(\d{1,5})$", request.headers.get("host", ""))
    return f"{COOKIE}_{port[1]}" if port else COOKIE


def _path(request: Request) -> str:
    return str(request.scope.get("root_path") or "/")


def _hash(id: str) -> bytes:
    return hashlib.sha256(id.encode()).digest()
