"""Metrics for Prometheus, and what each request cost for the log. Each application has its own registry."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from model.engines import EngineInfo

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each counter that is of no use

STAGES = ("read", "parse", "decode", "queue", "infer", "index", "rerank")
"""Stages of a request, in their order: waiting for and receiving the body; parsing it; decoding and resizing frames;
waiting for the engine; one call of the engine; one call of the gallery; re-ranking."""
OUTCOMES = ("used", "rejected")
"""Outcomes of a frame."""
REASONS = ("readers", "requests", "bytes", "gallery")
"""Limits that refuse a request: bodies being read, requests with footage being answered, bytes held, and requests
without footage to the gallery being answered."""
KEY_REASONS = ("missing", "wrong", "expired")

_REQUEST_SECONDS = (
    *(0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75),
    *(1.0, 1.5, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0),
)
_STAGE_SECONDS = (
    *(0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)


@dataclass
class RequestCost:
    """What one request took: seconds by stage, usable frames, embedded clips, bytes of the body."""

    seconds: dict[str, float] = field(default_factory=dict)
    frames: int = 0
    clips: int = 0
    bytes: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, stage: str, seconds: float) -> None:
        """Count time in a stage; called from several threads.

        Parts of one request can be in a stage at the same time, so the stages can add up to more than the request took.
        """
        with self._lock:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds


current_cost: ContextVar[RequestCost | None] = ContextVar("current_cost", default=None)
"""The cost of the request that the current task answers; `None` in a thread without the task's context."""


class Metrics:
    """The service's metrics and those of its process.

    Each series of a known label exists from the start with the value 0, so that a rate includes the first event.
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        GCCollector(registry=registry)
        self.requests = Counter(
            "not3d_requests",
            "Answers by route and status; 499: the client disconnected",
            ["method", "route", "status"],
            registry=registry,
        )
        self.seconds = Histogram(
            "not3d_request_seconds", "Time to answer, by route", ["route"], buckets=_REQUEST_SECONDS, registry=registry
        )
        self.stages = Histogram(
            "not3d_stage_seconds", "Time in one stage", ["stage"], buckets=_STAGE_SECONDS, registry=registry
        )
        # Looking a child up takes as long as observing it.
        self._stage = {name: self.stages.labels(name) for name in STAGES}
        self.connections = Gauge("not3d_connections", "Open connections", registry=registry)
        self.connections_limit = Gauge(
            "not3d_connections_limit", "Limit of not3d_connections; more wait until one is closed", registry=registry
        )
        self.open_requests = Gauge(
            "not3d_open_requests", "Requests whose body is being read or that are being answered", registry=registry
        )
        self.pending_requests = Gauge(
            "not3d_pending_requests", "Requests with footage that are being answered", registry=registry
        )
        self.pending_requests_limit = Gauge(
            "not3d_pending_requests_limit", "Limit of not3d_pending_requests; more are refused", registry=registry
        )
        self.pending_bytes = Gauge("not3d_pending_bytes", "Bytes held for requests with footage", registry=registry)
        self.pending_bytes_limit = Gauge(
            "not3d_pending_bytes_limit", "Limit of not3d_pending_bytes; more are refused", registry=registry
        )
        self.gallery_calls = Gauge(
            "not3d_pending_gallery_calls",
            "Requests without footage to the gallery that are being answered",
            registry=registry,
        )
        self.answer_bytes = Gauge("not3d_answer_bytes", "Bytes of large answers that are being sent", registry=registry)
        self.refused = Counter("not3d_refused", "Requests refused because of a limit", ["reason"], registry=registry)
        for reason in REASONS:
            self.refused.labels(reason)
        self.refused_keys = Counter(
            "not3d_refused_keys",
            "Requests refused because their API key is missing, wrong or expired",
            ["reason"],
            registry=registry,
        )
        for reason in KEY_REASONS:
            self.refused_keys.labels(reason)
        self.queued_clips = Gauge("not3d_queued_clips", "Clips that wait for the engine", registry=registry)
        self.batches = Histogram(
            "not3d_batch_clips",
            "Clips in one call of the engine; the sum is the clips embedded",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
            registry=registry,
        )
        self.frames = Counter("not3d_frames", "Frames, used or rejected", ["outcome"], registry=registry)
        for outcome in OUTCOMES:
            self.frames.labels(outcome)
        self.gallery_records = Gauge("not3d_gallery_records", "Records in the gallery", registry=registry)
        self.expired_records = Counter(
            "not3d_expired_records", "Records erased because they had expired", registry=registry
        )
        self.alerts = Counter("not3d_alerts", "Alerts raised by this process", ["watchlist"], registry=registry)
        self.suppressed_alerts = Counter(
            "not3d_suppressed_alerts", "Alerts that a cool-down kept back", ["watchlist"], registry=registry
        )
        self.alert_listeners = Gauge("not3d_alert_listeners", "Open streams of alerts", registry=registry)
        self.watchlists = Gauge(
            "not3d_watchlists", "Watchlists, by whether they can raise alerts", ["active"], registry=registry
        )
        self.watched_examples = Gauge(
            "not3d_watched_examples", "Examples with which each new record is compared", registry=registry
        )
        self.deliveries = Counter(
            "not3d_webhook_deliveries",
            "Attempts to deliver an alert; dead: the last one failed",
            ["webhook", "outcome"],
            registry=registry,
        )
        self.outbox = Gauge(
            "not3d_webhook_outbox",
            "Alerts that wait for a webhook, or were given up",
            ["webhook", "state"],
            registry=registry,
        )
        self.ready = Gauge("not3d_ready", "1 if the service is ready, otherwise 0", registry=registry)
        self.engine = Gauge(
            "not3d_engine",
            "The engine in use; always 1",
            ["engine", "version", "device", "precision", "threads", "embedding_space", "provider"],
            registry=registry,
        )
        self.engine_degraded = Gauge(
            "not3d_engine_degraded",
            "1 if the engine runs without something that was requested; /info says what",
            registry=registry,
        )
        Gauge("not3d_build", "The version; always 1", ["version"], registry=registry).labels(read_version()).set(1)
        # Without a limit there is no series, so that no share of a limit is computed.
        if limit := memory_limit():
            Gauge("not3d_memory_limit_bytes", "Memory limit of the container", registry=registry).set(limit)

    def describe_engine(self, info: "EngineInfo", embedding_space: str) -> None:
        """Set the series that describe the engine in use."""
        self.engine.labels(
            info.name, info.version, info.device, info.precision, str(info.threads), embedding_space, info.provider
        ).set(1)
        self.engine_degraded.set(info.warning is not None)

    def describe_watchlists(self, count: int, inactive: int, examples: int) -> None:
        """Set the number of watchlists, of those that raise no alert, and of the examples that are compared."""
        self.watchlists.labels("true").set(count - inactive)
        self.watchlists.labels("false").set(inactive)
        self.watched_examples.set(examples)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage of `STAGES`, also if it fails, and count it for the current request."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.observe_stage(name, time.perf_counter() - start, current_cost.get())

    def observe_stage(self, name: str, seconds: float, cost: RequestCost | None = None) -> None:
        """Count time in a stage of `STAGES`, and for one request if its `cost` is given."""
        self._stage[name].observe(seconds)
        if cost is not None:
            cost.add(name, seconds)

    def exposition(self) -> bytes:
        """Return all metrics in Prometheus's text format."""
        return generate_latest(self.registry)


def read_version() -> str:
    """Return the version of the installed distribution, or "unreleased" in a checkout that is not installed."""
    try:
        return version("not3d")
    except PackageNotFoundError:
        return "unreleased"
