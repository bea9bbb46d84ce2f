"""Calling a service that may be busy, restarting or gone for a while."""

import random
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import TypeVar

import httpx

from not3d.client.client import Client, ProblemError, UnreachableError

LONGEST_PAUSE = 10.0
"""Seconds; a service that is back is noticed about so soon."""
MAX_ABORTS = 3
"""So many times the service may break off one and the same call while it answers others."""
_PASSING = {
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
}
"""Statuses of a service, or of a proxy before it, that passes by itself."""

Answer = TypeVar("Answer")


class RepeatedlyAborted(Exception):
    """One call cannot be answered by a service that answers others; the message says what happened."""


class RetryPolicy:
    """Makes calls again until they are answered, from several threads, until `end` is called.

    Args:
        seconds: how long one call is made again while the service does not take it.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._ended = threading.Event()

    def end(self) -> None:
        """Wait no longer: calls that would be made again fail with what they got last."""
        self._ended.set()

    def call(self, client: Client, made: Callable[[], Answer]) -> Answer:
        """What ``made`` gives in the end.

        Raises:
            ProblemError: the service refuses.
            UnreachableError: it did not take the call for as long as the patience lasts.
            RepeatedlyAborted: it broke the call off several times, by silence or by dying, and is there.
        """
        until = time.monotonic() + self._seconds
        attempt = strikes = 0
        while True:
            attempt += 1
            try:
                return made()
            except ProblemError as error:
                if error.status not in _PASSING:
                    raise
                failure: ProblemError | UnreachableError = error
            except UnreachableError as error:
                failure = error
                strikes += not isinstance(error.__cause__, httpx.ConnectError)
            if strikes >= MAX_ABORTS and client.is_ready():
                raise RepeatedlyAborted(f"{failure}, {strikes} times") from failure
            pause = _pause(failure, attempt)
            left = until - time.monotonic()
            if left <= 0 or self._ended.wait(min(pause, left)):
                waited = f", for {self._seconds:g} seconds" if left <= 0 else ""
                raise UnreachableError(f"{failure}{waited}") from failure


def _pause(failure: ProblemError | UnreachableError, attempt: int) -> float:
    """Seconds to wait: what the service says, else doubling from half a second; by chance more or less.

    Chance keeps the clients of a service that is back from all coming at once.
    """
    said = failure.retry_after if isinstance(failure, ProblemError) else None
    pause = min(0.25 * 2 ** min(attempt, 10) if said is None else said, LONGEST_PAUSE)
    return pause * random.uniform(0.8, 1.25)  # noqa: S311 - no secret
