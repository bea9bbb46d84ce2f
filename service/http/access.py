"""Who calls: a key in `Authorization: Bearer KEY` or `X-API-Key: KEY`, a session, or the user of a trusted proxy.

Wrong keys are counted and slowed down.
"""

import asyncio
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Annotated, Any
from urllib.parse import unquote

from fastapi import Depends, Request
from limits import parse
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from service.callers import ANONYMOUS, Caller, Scope
from service.http.problems import Problem
from service.http.sessions import Session, Sessions, given_ids
from service.keys import ActiveKey, Keys
from service.telemetry.metrics import Metrics

OPERATOR_HEADER = "x-operator"
MAX_OPERATOR = 200
"""Maximum characters of the header `X-Operator`."""

FREE_TRIES = 5
"""Wrong keys of one address that are answered without a delay: a client with an old key is no attack."""
FIRST_DELAY = 0.1
MAX_DELAY = 2.0
"""Seconds before the answer to a wrong key. Each further one of an address doubles them, up to `MAX_DELAY`."""
FORGET_SECONDS = 600.0
"""After this time without a wrong key, an address starts again."""
MAX_DELAYED = 64
MAX_DELAYED_OF_ADDRESS = 8
"""Maximum wrong keys whose answers are delayed at the same time. Further ones are refused at once with 429."""
MAX_ADDRESSES = 1024
"""Addresses that are remembered; the one that was not seen for the longest time is forgotten first."""

log = logging.getLogger("not3d.service")


@dataclass(slots=True)
class _Tries:
    wrong: int = 0
    last: float = 0.0
    delayed: int = 0


class WrongKeys:
    """Delays the answers to wrong keys, per address and in bounded memory. Used in the event loop's thread only.

    Correct keys are never delayed, so clients behind the same proxy as an attacker are not locked out.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._addresses: OrderedDict[str, _Tries] = OrderedDict()
        self._delayed = 0

    async def refuse(self, address: str) -> Problem:
        """Count a wrong key, wait, and return the problem to answer with."""
        self._metrics.refused_keys.labels("wrong").inc()
        tries = self._tries_of(address)
        tries.wrong += 1
        if tries.wrong > FREE_TRIES and (tries.wrong & (tries.wrong - 1)) == 0:  # rarely: a log must not be flooded
            log.warning("wrong API keys", extra={"facts": {"address": address, "wrong": tries.wrong}})
        if tries.wrong <= FREE_TRIES:
            return _refused()
        if tries.delayed >= MAX_DELAYED_OF_ADDRESS or self._delayed >= MAX_DELAYED:
            detail = "too many requests with a wrong API key come from this address; use one of this service's keys"
            return Problem("too-many-wrong-keys", detail, retry_after=round(MAX_DELAY))
        tries.delayed += 1
        self._delayed += 1
        try:
            await asyncio.sleep(min(MAX_DELAY, FIRST_DELAY * 2 ** min(tries.wrong - FREE_TRIES - 1, 30)))
        finally:
            tries.delayed -= 1
            self._delayed -= 1
        return _refused()

    def _tries_of(self, address: str) -> _Tries:
        now = time.monotonic()
        tries = self._addresses.setdefault(address, _Tries())
        self._addresses.move_to_end(address)
        if now - tries.last > FORGET_SECONDS:
            tries.wrong = 0
        tries.last = now
        if len(self._addresses) > MAX_ADDRESSES:
            self._addresses.popitem(last=False)
        return tries


class RateLimits:
    """Counts the requests of each key that has a rate, in memory. Used in the event loop's thread only."""

    def __init__(self) -> None:
        self._limiter = MovingWindowRateLimiter(MemoryStorage())

    def check(self, key: ActiveKey) -> None:
        """Count a request.

        Raises:
            Problem: 429 with `Retry-After` if the key is over its rate.
        """
        if key.rate is None:
            return
        rate = parse(key.rate)
        if not self._limiter.hit(rate, key.name):
            wait = max(1, math.ceil(self._limiter.get_window_stats(rate, key.name).reset_time - time.time()))
            detail = f"the key {key.name} may make {key.rate} requests; send the request again in {wait} s"
            raise Problem("over-rate", detail, retry_after=wait)


async def require_key(request: Request) -> Caller:
    """Return the caller of a request: by its key, its session, or the user that a trusted proxy names.

    Raises:
        Problem: 401 without any of them, if one is required; 403 with a wrong key, after a delay if its address sent
            several, and with an expired one; 429 over the rate of the key, or if too many wrong keys are being delayed;
            400 if the name of the operator is malformed.
    """
    operator = _operator(request)
    state = request.app.state
    keys: Keys = state.keys
    if given := given_key(request.headers):
        if keys.required or keys.find(given):
            key = await find_key(request, given)
            state.rate_limits.check(key)
            return key.caller(operator)
    elif of_session := find_key_of_session(request):
        state.rate_limits.check(of_session)
        return of_session.caller(operator)
    if user := request.scope.get("state", {}).get("proxy_user"):
        return Caller(f"user:{user.name}", user.scopes, operator=operator or user.name)
    if not keys.required:
        return replace(ANONYMOUS, operator=operator)
    state.lifecycle.metrics.refused_keys.labels("missing").inc()
    header = {"WWW-Authenticate": "Bearer"}
    raise Problem("key-missing", "send the header Authorization: Bearer KEY or X-API-Key: KEY", headers=header)


async def find_key(request: Request, given: str) -> ActiveKey:
    """Return the key in force of a secret.

    Raises:
        Problem: 403 for a wrong one, after a delay if its address sent several, and for an expired one; 429 if too many
            are being delayed.
    """
    keys: Keys = request.app.state.keys
    key = keys.find(given)
    if key is None:
        wrong_keys: WrongKeys = request.app.state.wrong_keys
        raise await wrong_keys.refuse(_address(request))
    if key.expired:
        request.app.state.lifecycle.metrics.refused_keys.labels("expired").inc()
        detail = f"the API key {key.name} has expired; ask for a new one: not3d keys rotate {key.name}"
        raise Problem("key-refused", detail)
    return key


def find_key_of_session(request: Request) -> ActiveKey | None:
    """Return the key that began the session of a request; `None` if it was revoked or has expired."""
    keys: Keys = request.app.state.keys
    session = find_session(request)
    key = keys.find_digest(session.digest) if session else None
    return None if key is None or key.expired else key


def is_still_allowed(request: Request, caller: Caller, scope: Scope) -> bool:
    """Return whether what let a long request pass is still in force, and its caller still sees the same.

    What a proxy said about its user cannot be asked again.
    """
    keys: Keys = request.app.state.keys
    if not keys.required or caller.name.startswith("user:"):
        return True
    given = given_key(request.headers)
    key = keys.find(given) if given else find_key_of_session(request)
    return key is not None and not key.expired and key.caller(None).may(scope) and key.cameras == caller.cameras


def find_session(request: Request) -> Session | None:
    """Return the session that the cookie of a request names, if it has not ended."""
    sessions: Sessions = request.app.state.sessions
    return next(filter(None, map(sessions.find, given_ids(request))), None)


CurrentCaller = Annotated[Caller, Depends(require_key)]


def require_scope(scope: Scope) -> Any:
    """Return a dependency that gives the caller to a route; 403 if the caller does not have this scope."""

    async def check(caller: CurrentCaller) -> Caller:
        check_scope(caller, scope)
        return caller

    return Depends(check)


def check_scope(caller: Caller, scope: Scope) -> None:
    """Check a scope that only some requests of a call need.

    Raises:
        Problem: 403 that names the scope.
    """
    if not caller.may(scope):
        cure = f"use a key that has it: not3d keys create NAME --scope {scope}"
        raise Problem("scope-missing", f"the key {caller.name} does not have the scope {scope}; {cure}")


def _operator(request: Request) -> str | None:
    """Return the header `X-Operator`, which may be percent-encoded; `None` if it is missing or empty."""
    text = request.headers.get(OPERATOR_HEADER, "").strip()
    with suppress(UnicodeError):  # it was in Latin-1
        text = unquote(text.encode("latin-1").decode(), errors="strict")
    if len(text) > MAX_OPERATOR or not text.isprintable():
        raise Problem.of_field(OPERATOR_HEADER, f"must be at most {MAX_OPERATOR} printable characters")
    return text or None


def given_key(headers: Mapping[str, str]) -> str:
    """Return the key that a request sends in a header; "" if it sends none."""
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    return headers.get("x-api-key") or (credentials.strip() if scheme.lower() == "bearer" else "")


def _address(request: Request) -> str:
    """Return the client's address; of IPv6 the network, because one client can have all addresses of it."""
    host = request.client.host if request.client else ""
    try:
        address = ip_address(host)
    except ValueError:
        return host[:100]
    if isinstance(address, IPv6Address) and address.ipv4_mapped is None:
        return str(ip_network((address, 64), strict=False))
    return str(address)


def _refused() -> Problem:
    return Problem("key-refused", "the API key is not one of this service's keys")
