"""Wake the listeners of the stream of alerts; each of them reads what is new from the gallery itself."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from service.telemetry.metrics import Metrics

HEARTBEAT_SECONDS: Final = 15.0
"""Time without an alert after which a listener gets a comment: proxies close connections that are silent for 60 s."""
POLL_SECONDS: Final = 1.0
"""The same between two looks for alerts of other replicas."""


class TooManyListeners(Exception):
    """All places of listeners are taken."""


class AlertFeed:
    """The listeners of one process. It keeps no alert: a listener that is slow or comes back reads from the gallery.

    Used in the event loop's thread, except `notify`.
    """

    def __init__(self, max_listeners: int, metrics: Metrics) -> None:
        self._max, self._metrics = max_listeners, metrics
        self._listeners = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._polls = False
        self._changed = asyncio.Event()
        self.version = 0
        self.closed = False

    def begin(self, loop: asyncio.AbstractEventLoop, *, polls: bool) -> None:
        """Start to wake listeners in this loop; with `polls` they also look for alerts of other processes."""
        self._loop, self._polls = loop, polls

    def notify(self) -> None:
        """Say that there are new alerts; called from any thread."""
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop was closed, so nothing waits any more
                self._loop.call_soon_threadsafe(self._wake)

    @contextmanager
    def listen(self) -> Iterator[None]:
        """Be a listener until the context ends.

        Raises:
            TooManyListeners: there are as many as there may be.
        """
        if self._listeners >= self._max:
            raise TooManyListeners(f"{self._listeners} streams of alerts are open, which is the limit")
        self._listeners += 1
        self._metrics.alert_listeners.set(self._listeners)
        try:
            yield
        finally:
            self._listeners -= 1
            self._metrics.alert_listeners.set(self._listeners)

    async def wait(self, version: int, seconds: float) -> None:
        """Wait until there may be something newer than at `version`, at most so many seconds, or until `close`."""
        if self.version != version or self.closed:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(min(seconds, POLL_SECONDS) if self._polls else seconds):
                await self._changed.wait()

    def close(self) -> None:
        """End all streams."""
        self.closed = True
        self._wake()

    def _wake(self) -> None:
        self.version += 1
        self._changed.set()
        self._changed = asyncio.Event()
