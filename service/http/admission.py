"""Limits on requests with footage, all together: what is over a limit is refused at once and never queued.

A slot is taken only when the body is complete, so slow uploads cannot block others. Until then the bytes of a body
count, and the number of bodies that are being read has a limit of its own.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from service.http.problems import Problem
from service.telemetry.metrics import Metrics

RETRY_SECONDS = 1
READERS = 16
"""Bodies that may be read at the same time, for each slot."""


class RequestSlot:
    """One request's share of the limits."""

    def __init__(self, admission: "Admission") -> None:
        self._admission = admission
        self.bytes = 0
        self.taken = False

    def take(self) -> None:
        """Become one of the requests that are being answered; the body must be complete.

        Raises:
            Problem: 503 with `Retry-After` if all slots are taken.
        """
        self._admission.take_slot()
        self.taken = True

    def add_bytes(self, count: int) -> None:
        """Count bytes that have arrived.

        Raises:
            Problem: 503 if all requests together would hold more than the limit.
        """
        self._admission.add_bytes(count)
        self.bytes += count


class Admission:
    """Counts requests with footage and the bytes held for them. Used in the event loop's thread only."""

    def __init__(self, max_requests: int, max_bytes: int, metrics: Metrics) -> None:
        self._max_requests, self._max_bytes = max_requests, max_bytes
        self._metrics = metrics
        self._readers = self._requests = self._bytes = 0
        metrics.pending_requests_limit.set(max_requests)
        metrics.pending_bytes_limit.set(max_bytes)

    @contextmanager
    def enter(self) -> Iterator[RequestSlot]:
        """Start to read a body; release what the request took when the context ends.

        Raises:
            Problem: 503 with `Retry-After` if too many bodies are being read.
        """
        if self._readers >= READERS * self._max_requests:
            raise self._refusal("readers", f"{self._readers} request bodies are being read, which is the limit")
        slot = RequestSlot(self)
        self._readers += 1
        self._metrics.open_requests.set(self._readers)
        try:
            yield slot
        finally:
            self._readers -= 1
            self._metrics.open_requests.set(self._readers)
            self._requests -= slot.taken
            self._bytes -= slot.bytes
            self._metrics.pending_requests.set(self._requests)
            self._metrics.pending_bytes.set(self._bytes)

    def take_slot(self) -> None:
        """Count a request; see `RequestSlot.take`."""
        if self._requests >= self._max_requests:
            raise self._refusal("requests", f"{self._requests} requests are being answered, which is the limit")
        self._requests += 1
        self._metrics.pending_requests.set(self._requests)

    def add_bytes(self, count: int) -> None:
        """Count bytes; see `RequestSlot.add_bytes`."""
        if self._bytes + count > self._max_bytes:
            detail = f"all requests with footage together may hold {self._max_bytes} bytes, and {self._bytes} are held"
            raise self._refusal("bytes", detail)
        self._bytes += count
        self._metrics.pending_bytes.set(self._bytes)

    def _refusal(self, reason: str, detail: str) -> Problem:
        self._metrics.refused.labels(reason).inc()
        return Problem("busy", f"{detail}; send the request again later", retry_after=RETRY_SECONDS)
