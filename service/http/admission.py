"""How much footage the service holds at a time. What does not fit is refused at once, never queued without bound.

A request takes a place once its body is there, so that slow clients keep nobody out; until then its bytes count, and
bodies that are being read are bounded in number by themselves.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from service.http.problems import Problem
from service.telemetry.metrics import Metrics

RETRY_SECONDS = 1
READERS = 16
"""Bodies that may be on their way, for each request that may be answered."""


class RequestSlot:
    """One request's share. Its bytes grow as they arrive."""

    def __init__(self, admission: "Admission") -> None:
        self._admission = admission
        self.bytes = 0
        self.begun = False

    def begin(self) -> None:
        """The body is there: become one of the requests that are being answered.

        Raises:
            Problem: 503 with `Retry-After` when every place is taken.
        """
        self._admission.begin()
        self.begun = True

    def grow(self, count: int) -> None:
        """Take `count` more bytes.

        Raises:
            Problem: 503 when all requests together would hold more than the limit.
        """
        self._admission.take(count)
        self.bytes += count


class Admission:
    """Counts requests with footage and the bytes held for them. Used from the event loop's thread only."""

    def __init__(self, max_requests: int, max_bytes: int, metrics: Metrics) -> None:
        self._max_requests, self._max_bytes = max_requests, max_bytes
        self._metrics = metrics
        self._readers = self._requests = self._bytes = 0

    @contextmanager
    def enter(self) -> Iterator[RequestSlot]:
        """Start to read a body; what it takes is given back when the context ends.

        Raises:
            Problem: 503 with `Retry-After` when too many bodies are on their way.
        """
        if self._readers >= READERS * self._max_requests:
            raise self._refusal("readers", f"{self._readers} requests are on their way")
        place = RequestSlot(self)
        self._readers += 1
        self._metrics.open_requests.set(self._readers)
        try:
            yield place
        finally:
            self._readers -= 1
            self._metrics.open_requests.set(self._readers)
            self._requests -= place.begun
            self._bytes -= place.bytes
            self._metrics.pending_requests.set(self._requests)
            self._metrics.pending_bytes.set(self._bytes)

    def begin(self) -> None:
        """Count a request; see `RequestSlot.begin`."""
        if self._requests >= self._max_requests:
            raise self._refusal("requests", f"{self._requests} requests are being answered")
        self._requests += 1
        self._metrics.pending_requests.set(self._requests)

    def take(self, count: int) -> None:
        """Count `count` more bytes; see `RequestSlot.grow`."""
        if self._bytes + count > self._max_bytes:
            raise self._refusal("bytes", "the footage of the requests being answered fills the memory set aside for it")
        self._bytes += count
        self._metrics.pending_bytes.set(self._bytes)

    def _refusal(self, reason: str, detail: str) -> Problem:
        self._metrics.refused.labels(reason).inc()
        return Problem("busy", detail, headers={"Retry-After": str(RETRY_SECONDS)})
