"""Metrics of a bridge, and log lines that say what was dropped and why."""

import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    start_http_server,
)

from model.errors import Not3dError

LOG_LINES, LOG_SECONDS = 100, 60.0
"""Lines about messages of one outcome in so many seconds: a wrong setting makes every message of a camera unusable."""
disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each counter that is of no use
_log = logging.getLogger("not3d.bridge")


def check_address(address: str) -> tuple[str, int]:
    """Return host and port of `host:port`.

    Raises:
        Not3dError: it is no such address.
    """
    host, _, port = address.rpartition(":")
    if not port.isdecimal() or int(port) > 65_535:
        raise Not3dError(f"{address} is not an address of metrics; write 127.0.0.1:9464")
    return host.strip("[]") or "127.0.0.1", int(port)


class Telemetry:
    """The metrics of one bridge, in a registry of their own, and its log.

    Args:
        source: name of the source, the label `source` of each metric.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self._logged: dict[str, tuple[float, int]] = {}
        """Of each outcome: since when lines are counted, and how many there would be."""
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._messages = self._counter("messages", "Messages of the other system by what became of them.", "outcome")
        self._enrolled = self._counter("enrolled", "Tracklets by result: new, or enrolled already.", "result")
        self._dropped = self._counter("dropped", "Tracks that were not enrolled, by reason.", "reason")
        self._frames = self._counter("frames", "Pictures of tracks by what became of them.", "outcome")
        self._retries = self._counter("retries", "Calls that will be repeated, by what was called.", "call")
        self.open = self._gauge("open", "Tracks in progress.")
        self.waiting = self._gauge("waiting", "Tracklets on disk that wait for the service.")
        self.connected = self._gauge("connected", "1 while the bridge is connected to the other system.")
        self.caught_up = self._gauge("caught_up", "1 after everything since the last connection was asked for.")
        self.service_up = self._gauge("service_up", "0 after the service did not answer a call.")
        self.delay = Histogram(
            "not3d_bridge_delay_seconds",
            "From the last sight of a person to the enrolment.",
            ["source"],
            registry=self.registry,
            buckets=(1, 2, 5, 10, 30, 60, 90, 120, 180, 300, 600, 1800, 3600, 4 * 3600),
        ).labels(source)

    def _counter(self, name: str, text: str, label: str) -> Counter:
        return Counter(f"not3d_bridge_{name}", text, ["source", label], registry=self.registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        gauge = Gauge(f"not3d_bridge_{name}", text, ["source"], registry=self.registry)
        return gauge.labels(self.source)

    def message(self, outcome: str, **facts: Any) -> None:
        """Count a message of the other system; one that was ignored for a `reason` is logged, if not too many are."""
        self._messages.labels(self.source, outcome).inc()
        if not facts:
            return
        now = time.monotonic()
        began, count = self._logged.get(outcome, (-math.inf, 0))
        if now - began >= LOG_SECONDS:
            if count > LOG_LINES:
                self.log("messages not used", outcome=outcome, not_shown=count - LOG_LINES)
            began, count = now, 0
        self._logged[outcome] = began, count + 1
        if count < LOG_LINES:
            self.log("message not used", outcome=outcome, **facts)

    def frame(self, outcome: str) -> None:
        """Count a picture of a track."""
        self._frames.labels(self.source, outcome).inc()

    def retry(self, call: str, **facts: Any) -> None:
        """Count and log a call that will be repeated."""
        self._retries.labels(self.source, call).inc()
        self.log("call will be repeated", logging.WARNING, call=call, **facts)

    def enrolled(self, id: str, result: str, delay: float | None, **facts: Any) -> None:
        """Count and log a tracklet that the service has. `delay` is in seconds since its last sight."""
        self._enrolled.labels(self.source, result).inc()
        if delay is not None:
            self.delay.observe(max(0.0, delay))
        self.log("enrolled", id=id, result=result, **facts)

    def dropped(self, id: str, reason: str, detail: str = "", **facts: Any) -> None:
        """Count and log a track that will not be enrolled."""
        self._dropped.labels(self.source, reason).inc()
        self.log("dropped", logging.WARNING, id=id, reason=reason, detail=detail, **facts)

    def log(self, event: str, level: int = logging.INFO, **facts: Any) -> None:
        """Write one line of JSON: the event, and facts as fields. Never pixels, vectors, keys or passwords."""
        _log.log(level, event, extra={"facts": {"source": self.source, **facts}})

    @contextmanager
    def served(self, address: str | None) -> Iterator[None]:
        """Answer `GET /metrics` at `host:port` meanwhile; at no address if `None`.

        Raises:
            Not3dError: it is no address, or cannot be used.
        """
        if address is None:
            yield
            return
        host, port = check_address(address)
        try:
            server, thread = start_http_server(port, host, self.registry)
        except OSError as error:
            raise Not3dError(f"metrics cannot be served at {address} ({error.strerror}): choose another one") from error
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()
            thread.join()
