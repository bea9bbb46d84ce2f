"""Notice that work waits and none is done."""

import threading
import time


class Progress:
    """Adds up for how long work has waited since some was last done. Safe for threads.

    The times of several waiters that give up one after the other add up, so clients with a short timeout do not hide
    that nothing is done.

    Args:
        at_once: number of items that can be in work; only more than these wait.
    """

    def __init__(self, at_once: int = 0) -> None:
        self._at_once = at_once
        self._lock = threading.Lock()
        self._items = 0
        self._waited = 0.0
        self._since = 0.0

    def begin(self) -> None:
        """Count an item that waits or is in work."""
        with self._lock:
            self._items += 1
            if self._items == self._at_once + 1:
                self._since = time.monotonic()

    def end(self) -> None:
        """Stop counting an item, done or not."""
        with self._lock:
            if self._items == self._at_once + 1:
                self._waited += time.monotonic() - self._since
            self._items -= 1

    def step(self) -> None:
        """Note that something was done."""
        with self._lock:
            self._waited, self._since = 0.0, time.monotonic()

    @property
    def stalled_seconds(self) -> float:
        """For how many seconds work has waited since something was last done."""
        with self._lock:
            waiting = time.monotonic() - self._since if self._items > self._at_once else 0.0
            return self._waited + waiting
