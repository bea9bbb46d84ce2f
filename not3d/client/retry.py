"""When a call to a service that is busy, restarting or unreachable is repeated."""

import math
import random
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import TypeVar

import httpx

from not3d.client.responses import ClientError, ProblemError, UnreachableError

MAX_ATTEMPTS = 6
MAX_PAUSE_SECONDS = 10.0
MAX_ABORTS = 3
"""How often the service may abort one call while it answers others."""
_BUSY = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})
"""Statuses after which the request was certainly not executed."""
_TOO_LATE = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.GATEWAY_TIMEOUT})
"""Statuses of a request that did not arrive, or was not answered, in time: it may need more than one call may take."""
_TEMPORARY = _BUSY | _TOO_LATE | {HTTPStatus.BAD_GATEWAY}
"""Statuses of a service, or of a proxy in front of it, that go away without help."""

Returned = TypeVar("Returned")


class RepeatedlyAborted(ClientError):
    """A service that answers other calls aborts this one; the message says what happened."""


class RetryPolicy:
    """Repeats calls until they are answered. One policy serves several threads, until `stop` is called.

    Args:
        attempts: how often a call is made at most.
        seconds: for how long a call is repeated.
        idempotent: whether the calls may be executed twice. If so, a call is repeated also if it got no answer or an
            error of a proxy (502, 504), or arrived too late (408); otherwise only if the service was busy (429, 503).
    """

    def __init__(self, *, attempts: int | None = None, seconds: float = math.inf, idempotent: bool = False) -> None:
        self._attempts = attempts
        self._seconds = seconds
        self._idempotent = idempotent
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Repeat no more calls: those that wait fail with the error that they got last."""
        self._stopped.set()

    def call(self, function: Callable[[], Returned], is_ready: Callable[[], bool] = lambda: False) -> Returned:
        """Return what `function` returns, after as many attempts as it takes.

        Args:
            function: makes the call.
            is_ready: whether the service answers other calls.

        Raises:
            ProblemError: the service refuses, or is still busy at the last attempt.
            UnreachableError: the service did not accept the call in time.
            RepeatedlyAborted: the service is ready but aborted this call several times.
        """
        begun = time.monotonic()
        attempt = aborts = 0
        while True:
            attempt += 1
            try:
                return function()
            except ProblemError as error:
                if error.status not in (_TEMPORARY if self._idempotent else _BUSY):
                    raise
                failure: ProblemError | UnreachableError = error
                aborts += error.status in _TOO_LATE
            except UnreachableError as error:
                if not self._idempotent:
                    raise
                failure = error
                aborts += not isinstance(error.__cause__, httpx.ConnectError)
            if aborts >= MAX_ABORTS and is_ready():
                raise RepeatedlyAborted(f"{failure}, {aborts} times") from failure
            if attempt == self._attempts:
                raise failure
            left = self._seconds - (time.monotonic() - begun)
            if left <= 0 or self._wait(min(_pause(failure, attempt), left)):
                waited = f", for {self._seconds:g} seconds" if left <= 0 else ""
                raise UnreachableError(f"{failure}{waited}") from failure

    def _wait(self, seconds: float) -> bool:
        """Wait, and return whether the policy was stopped meanwhile."""
        return self._stopped.wait(seconds)


def _pause(failure: ProblemError | UnreachableError, attempt: int) -> float:
    """Return the seconds to wait: what the service asks for, otherwise doubling from half a second.

    A random factor keeps the clients of a service that restarts from calling all at once.
    """
    wanted = failure.retry_after if isinstance(failure, ProblemError) else None
    pause = min(0.25 * 2 ** min(attempt, 10) if wanted is None else wanted, MAX_PAUSE_SECONDS)
    return pause * random.uniform(0.8, 1.25)  # noqa: S311 - no secret
