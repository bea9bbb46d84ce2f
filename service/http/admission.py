"""Limits on all requests together: what is over a limit is refused at once and never queued.

A slot is taken only when the body is complete, so slow uploads cannot block others. Until then the bytes of a body
count, and the number of bodies that are being read has a limit of its own.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from anyio import CapacityLimiter

from service.http.problems import Problem
from service.telemetry.metrics import Metrics

RETRY_SECONDS = 1
READERS = 16
"""Bodies that may be read at the same time, for each slot."""
SMALL_ANSWER = 64 * 1024
"""Answers with at most so many bytes do not count: the buffers of their connections hold them."""
LARGE_RESULT = 100
"""Requests for more records than this are answered one after the other."""
ANSWER_SHARE = 4
"""Answers that are being sent may hold this part, a quarter, of what bodies of requests may hold."""


class RequestSlot:
    """One request's share of the limits."""

    def __init__(self, admission: "Admission") -> None:
        self._admission = admission
        self.bytes = 0
        self.taken = False

    @property
    def turn(self) -> asyncio.Lock:
        """Held by the one request whose body is parsed or decompressed in the event loop.

        Its holder gives other callbacks a turn after half a millisecond. Without the lock, each of many requests
        would work in every turn of the event loop, and the others would wait for all of them.
        """
        return self._admission.turn

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
    """Counts requests, and the bytes held for those with footage. Used in the event loop's thread only.

    Attributes:
        large_json: for threads that parse or write large JSON, which is work of the interpreter: two of them would only
            wait for each other, and the event loop for both.
        reranking: the same for threads that re-rank.
        exposition: the same for threads that write the metrics or the OpenAPI document.
        exports: held by the one export of a case that is made, because its files are in memory.
        max_answer_bytes: maximum bytes of all answers that are being sent.
        turn: see `RequestSlot.turn`.
    """

    def __init__(self, max_requests: int, max_bytes: int, max_gallery_calls: int, metrics: Metrics) -> None:
        self._max_requests, self._max_bytes = max_requests, max_bytes
        self._max_readers = READERS * max_requests
        self._max_gallery_calls, self._gallery_calls = max_gallery_calls, 0
        self.max_answer_bytes, self._answer_bytes = max_bytes // ANSWER_SHARE, 0
        self.large_json, self.reranking, self.exposition = CapacityLimiter(1), CapacityLimiter(1), CapacityLimiter(1)
        self._large_results, self.exports = CapacityLimiter(1), CapacityLimiter(1)
        self.turn = asyncio.Lock()
        self._metrics = metrics
        self._readers = self._requests = self._bytes = 0
        metrics.pending_requests_limit.set(max_requests)
        metrics.pending_bytes_limit.set(max_bytes)

    def limit_readers(self, count: int) -> None:
        """Let at most `count` bodies be read at the same time, if that is fewer than `READERS` for each slot."""
        self._max_readers = min(self._max_readers, count)

    @contextmanager
    def enter(self) -> Iterator[RequestSlot]:
        """Start to read a body; release what the request took when the context ends.

        Raises:
            Problem: 503 with `Retry-After` if too many bodies are being read.
        """
        if self._readers >= self._max_readers:
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

    @contextmanager
    def gallery_call(self) -> Iterator[None]:
        """Count a request without footage that reads or changes the gallery, until its answer is made.

        Raises:
            Problem: 503 with `Retry-After` if too many such requests are being answered.
        """
        if self._gallery_calls >= self._max_gallery_calls:
            detail = f"{self._gallery_calls} requests to the gallery are being answered, which is the limit"
            raise self._refusal("gallery", detail)
        self._gallery_calls += 1
        self._metrics.gallery_calls.set(self._gallery_calls)
        try:
            yield
        finally:
            self._gallery_calls -= 1
            self._metrics.gallery_calls.set(self._gallery_calls)

    @asynccontextmanager
    async def result(self, records: int) -> AsyncIterator[None]:
        """Wait for the other large results, if this one can have more than `LARGE_RESULT` records.

        Reading them is work of the interpreter, and so is writing them as JSON.
        """
        if records <= LARGE_RESULT:
            yield
            return
        async with self._large_results:
            yield

    @contextmanager
    def answer(self, size: int) -> Iterator[None]:
        """Count the bytes of an answer while it is being sent.

        Raises:
            Problem: 503 with `Retry-After` if clients are slow to take the answers that are sent already.
        """
        counted = size if size > SMALL_ANSWER else 0
        if counted and self._answer_bytes + counted > self.max_answer_bytes:
            raise self._refusal("bytes", f"answers of {self._answer_bytes} bytes are being sent, which is the limit")
        self._answer_bytes += counted
        self._metrics.answer_bytes.set(self._answer_bytes)
        try:
            yield
        finally:
            self._answer_bytes -= counted
            self._metrics.answer_bytes.set(self._answer_bytes)

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
