"""What Prometheus reads. Each application has its own registry, so that two in one process do not mix."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from model.cgroups import memory_limit
from model.engines import EngineInfo
from service.telemetry.request_cost import Cost, current_cost
from service.version import read_version

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each counter, which nobody asks for

STAGES = ("read", "parse", "decode", "queue", "infer", "index", "rerank")
"""Of a request, in its order: waiting for and receiving the body; form or JSON into bytes and fields; images to frames
of the model's size; a piece waits for the engine; one call of the engine; one call of the gallery; re-ranking."""
OUTCOMES = ("used", "rejected")
"""What becomes of a frame."""
REASONS = ("readers", "requests", "bytes")
"""Which limit refused a request: bodies on their way, requests being answered, bytes held."""

_REQUEST_SECONDS = (
    *(0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75),
    *(1.0, 1.5, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0),
)
_STAGE_SECONDS = (
    *(0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)


class Metrics:
    """The service's counters, gauges and histograms, and the process's own. Every series of a known label is there
    from the start at 0, so that a rate sees the first event.
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        GCCollector(registry=registry)
        self.requests = Counter(
            "not3d_requests",
            "Answers by route and status; 499: the client went away",
            ["method", "route", "status"],
            registry=registry,
        )
        self.seconds = Histogram(
            "not3d_request_seconds", "Time to answer, by route", ["route"], buckets=_REQUEST_SECONDS, registry=registry
        )
        self.stages = Histogram(
            "not3d_stage_seconds", "Time in one stage", ["stage"], buckets=_STAGE_SECONDS, registry=registry
        )
        # Looking a child up costs as much as observing it.
        self._stage = {name: self.stages.labels(name) for name in STAGES}
        self.open_requests = Gauge(
            "not3d_open_requests", "Requests whose body is on its way or being answered", registry=registry
        )
        self.pending_requests = Gauge(
            "not3d_pending_requests", "Requests with footage that are being answered", registry=registry
        )
        self.pending_requests_limit = Gauge(
            "not3d_pending_requests_limit", "How many may be; more are refused", registry=registry
        )
        self.pending_bytes = Gauge("not3d_pending_bytes", "Bytes of footage held for them", registry=registry)
        self.pending_bytes_limit = Gauge(
            "not3d_pending_bytes_limit", "How many may be; more are refused", registry=registry
        )
        self.refused = Counter(
            "not3d_refused", "Requests refused because a limit was reached", ["reason"], registry=registry
        )
        for reason in REASONS:
            self.refused.labels(reason)
        self.queued_clips = Gauge("not3d_queued_clips", "Clips that wait for the engine", registry=registry)
        self.batches = Histogram(
            "not3d_batch_clips",
            "Clips in one call of the engine; the sum is the clips computed",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
            registry=registry,
        )
        self.frames = Counter("not3d_frames", "Frames by what became of them", ["outcome"], registry=registry)
        for outcome in OUTCOMES:
            self.frames.labels(outcome)
        self.gallery_records = Gauge("not3d_gallery_records", "Records in the gallery", registry=registry)
        self.expired_records = Counter(
            "not3d_expired_records", "Records removed because their time had passed", registry=registry
        )
        self.ready = Gauge("not3d_ready", "1 when the service answers, 0 while it starts", registry=registry)
        self.engine = Gauge(
            "not3d_engine",
            "The engine really in use; always 1",
            ["engine", "version", "device", "precision", "threads", "embedding_space", "provider"],
            registry=registry,
        )
        self.engine_degraded = Gauge(
            "not3d_engine_degraded",
            "1 where something that was asked of the engine is not running; /info says what",
            registry=registry,
        )
        Gauge("not3d_build", "The version; always 1", ["version"], registry=registry).labels(read_version()).set(1)
        # No series where there is no limit: a share of it could not be told from a small one.
        if limit := memory_limit():
            Gauge("not3d_memory_limit_bytes", "What the container's limit leaves the process", registry=registry).set(
                limit
            )

    def describe_engine(self, info: EngineInfo, embedding_space: str) -> None:
        """Say what really computes."""
        self.engine.labels(
            info.name, info.version, info.device, info.precision, str(info.threads), embedding_space, info.provider
        ).set(1)
        self.engine_degraded.set(info.warning is not None)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time one stage of `STAGES`, whether it succeeds or not, also for the log of the request at hand."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.observe_stage(name, time.perf_counter() - start, current_cost.get())

    def observe_stage(self, name: str, seconds: float, cost: Cost | None = None) -> None:
        """Count `seconds` in a stage of `STAGES`, and for one request where its `cost` is given."""
        self._stage[name].observe(seconds)
        if cost is not None:
            cost.add(name, seconds)

    def exposition(self) -> bytes:
        """Everything in Prometheus's text format."""
        return generate_latest(self.registry)
