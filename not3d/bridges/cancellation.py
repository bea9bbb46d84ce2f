"""Cancellations that a library has dropped."""

import asyncio


def check_cancelled() -> None:
    """Raise the cancellation of this task if a call dropped it; to be used where a loop begins again.

    Clients of brokers drop one that comes together with an answer, for example because they wait with
    `asyncio.wait_for` before Python 3.12. An error while a connection is closed also takes the place of a cancellation.

    Raises:
        asyncio.CancelledError: the task was cancelled.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
