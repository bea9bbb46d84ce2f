"""A limit for the number of decoded clips in memory."""

import asyncio

from service.progress import Progress


class FrameBudget:
    """Counts the decoded clips of all requests; decoding waits while the engine has enough to do.

    Decoded, a frame takes ten to twenty times the bytes that it was sent in, so waiting requests must not all be
    decoded at once. Requests take turns, one piece of a tracklet at a time. Use it in the event loop's thread only.
    """

    def __init__(self, clips: int) -> None:
        self._free = clips
        self.progress = Progress()
        # The lock keeps the order, the event reports released clips. Both are right if a waiter is cancelled, also
        # in the same turn of the event loop in which it would go on. Clips are counted without waiting in between.
        self._turn = asyncio.Lock()
        self._released = asyncio.Event()

    @property
    def free(self) -> int:
        """The clips that may be decoded now."""
        return self._free

    async def acquire(self, clips: int) -> None:
        """Wait, first come first served, until `clips` more may be decoded; at most the size of the budget."""
        self.progress.begin()
        try:
            async with self._turn:
                while clips > self._free:
                    self._released.clear()
                    await self._released.wait()
                self._free -= clips
        finally:
            self.progress.end()
        self.progress.step()

    def release(self, clips: int) -> None:
        """Return `clips` to the budget."""
        self._free += clips
        if clips:
            self.progress.step()
        self._released.set()
