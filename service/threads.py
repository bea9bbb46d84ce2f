"""Start the threads of a pool before they are needed."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, BrokenBarrierError
from typing import Final

START_SECONDS: Final = 10.0


def start_threads(pool: ThreadPoolExecutor, count: int) -> None:
    """Start all `count` threads of a pool.

    A pool starts a thread only when all others are busy, so the threads of a busy hour would come one after the other,
    each with a stack and buffers of its own, and the memory of the service would seem to grow for that long.
    """
    together = Barrier(count)
    try:
        for job in [pool.submit(together.wait, START_SECONDS) for _ in range(count)]:
            job.result()
    except (RuntimeError, BrokenBarrierError):  # the system allows no more threads now; the pool tries again later
        together.abort()
