"""What Prometheus reads. Each application has its own registry, so that two in one process do not mix."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

__all__ = ["CONTENT_TYPE", "Metrics"]

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each counter, which nobody asks for
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """The service's counters, gauges and histograms; stages are read, decode, infer, gallery and rerank."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "not3d_requests", "Answers by route and status", ["method", "route", "status"], registry=registry
        )
        self.seconds = Histogram(
            "not3d_request_seconds", "Time to answer, by route", ["route"], buckets=_SECONDS, registry=registry
        )
        self.stages = Histogram(
            "not3d_stage_seconds", "Time in one stage of a request", ["stage"], buckets=_SECONDS, registry=registry
        )
        self.open_requests = Gauge(
            "not3d_open_requests", "Requests whose body is on its way or being answered", registry=registry
        )
        self.pending_requests = Gauge(
            "not3d_pending_requests", "Requests with footage that are being answered", registry=registry
        )
        self.pending_bytes = Gauge("not3d_pending_bytes", "Bytes of footage held for them", registry=registry)
        self.refused = Counter(
            "not3d_refused", "Requests refused because a limit was reached", ["reason"], registry=registry
        )
        self.queued_clips = Gauge("not3d_queued_clips", "Clips that wait for the engine", registry=registry)
        self.batches = Histogram(
            "not3d_batch_clips",
            "Clips in one call of the engine",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
            registry=registry,
        )
        self.frames = Counter("not3d_frames", "Frames by what became of them", ["outcome"], registry=registry)
        self.gallery_records = Gauge("not3d_gallery_records", "Records in the gallery", registry=registry)
        self.ready = Gauge("not3d_ready", "1 when the service answers, 0 while it starts", registry=registry)
        self.engine = Gauge(
            "not3d_engine",
            "The engine really in use; always 1",
            ["engine", "version", "device", "precision", "threads", "embedding_space"],
            registry=registry,
        )

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time one stage, whether it succeeds or not."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.stages.labels(name).observe(time.perf_counter() - start)

    def exposition(self) -> bytes:
        """Everything in Prometheus's text format."""
        return generate_latest(self.registry)
