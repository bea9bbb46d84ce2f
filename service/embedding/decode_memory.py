"""A limit for the memory of pictures that are decoded at the same time."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class DecodeMemory:
    """Counts the bytes of the pictures that the decoder threads decode; a thread waits while there are too many.

    Crops need little. Without a limit, several pictures of the largest legal size would need gigabytes together.

    Args:
        limit: bytes; a single picture that needs more is decoded alone.
    """

    def __init__(self, limit: int) -> None:
        self._limit = self._free = limit
        self._released = threading.Condition()
        self._next = threading.Lock()

    @contextmanager
    def reserve(self, size: int) -> Iterator[None]:
        """Reserve `size` bytes; wait, in turn, until they are free."""
        size = min(size, self._limit)
        with self._next, self._released:  # the first in turn waits for memory, the others for their turn
            self._released.wait_for(lambda: self._free >= size)
            self._free -= size
        try:
            yield
        finally:
            with self._released:
                self._free += size
                self._released.notify()
