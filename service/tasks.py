"""Wait for work that uses something of its caller and must therefore end before the caller does."""

import asyncio
from collections.abc import Iterable
from typing import Any


async def finish(futures: Iterable[asyncio.Future[Any]]) -> None:
    """Wait until all futures are done, also if the current task is cancelled meanwhile, even repeatedly.

    Raises:
        CancelledError: when all are done, if the task was cancelled.
    """
    pending = {future for future in futures if not future.done()}
    cancelled: asyncio.CancelledError | None = None
    while pending:
        try:
            await asyncio.wait(pending)
        except asyncio.CancelledError as error:
            cancelled = error
        pending = {future for future in pending if not future.done()}
    if cancelled:
        raise cancelled
