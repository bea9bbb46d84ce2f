"""A limit for the number of decoded clips in memory."""

import asyncio
from collections import deque


class FrameBudget:
    """Counts the decoded clips of all requests; decoding waits while the engine has enough to do.

    Decoded, a frame takes ten to twenty times the bytes that it was sent in, so waiting requests must not all be
    decoded at once. Requests take turns, one piece of a tracklet at a time. Use it in the event loop's thread only.
    """

    def __init__(self, clips: int) -> None:
        self._free = clips
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def acquire(self, clips: int) -> None:
        """Wait, first come first served, until `clips` more may be decoded; at most the size of the budget."""
        if not self._waiting and clips <= self._free:
            self._free -= clips
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((clips, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # acquired just before the cancellation
                self.release(clips)
            else:
                self._waiting.remove((clips, turn))
                self.release(0)  # the next waiter may need less
            raise

    def release(self, clips: int) -> None:
        """Return `clips` to the budget, and wake the waiters that fit now."""
        self._free += clips
        while self._waiting and self._waiting[0][0] <= self._free:
            wanted, turn = self._waiting.popleft()
            self._free -= wanted
            turn.set_result(None)
