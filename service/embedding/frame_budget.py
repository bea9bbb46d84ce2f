"""Bounded room for decoded frames: decoding waits while the engine has enough before it."""

import asyncio
from collections import deque


class FrameBudget:
    """Counts decoded clips, all requests together. Used from the event loop's thread only.

    Decoded, a frame takes ten to twenty times the bytes that it was sent in; without a bound, a full house of waiting
    requests would be held decoded. Requests take turns, a piece at a time.
    """

    def __init__(self, clips: int) -> None:
        self._free = clips
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, clips: int) -> None:
        """Wait, first come first served, until there is room for `clips` more, which must fit at all."""
        if not self._waiting and clips <= self._free:
            self._free -= clips
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((clips, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # it came at this very moment
                self.give_back(clips)
            else:
                self._waiting.remove((clips, turn))
                self.give_back(0)  # the next may be smaller
            raise

    def give_back(self, clips: int) -> None:
        """Let go of `clips`, and wake those for whom there is room now."""
        self._free += clips
        while self._waiting and self._waiting[0][0] <= self._free:
            wanted, turn = self._waiting.popleft()
            self._free -= wanted
            turn.set_result(None)
