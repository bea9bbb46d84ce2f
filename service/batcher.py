"""The micro-batcher: clips of concurrent requests share a call of the engine; nobody waits while it is idle."""

import threading
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from model.engines import Engine
from service.metrics import Metrics

__all__ = ["Batcher", "batch_sizes"]

Clips = NDArray[np.uint8]
Embeddings = NDArray[np.float32]


def batch_sizes(largest: int) -> tuple[int, ...]:
    """The sizes of a call, largest first: `largest` and the powers of two below. Engines prepare for each size.

    A batch takes the largest size that is full, so that no clip is ever computed for padding.
    """
    powers = [2**power for power in range(largest.bit_length()) if 2**power < largest]
    return (largest, *reversed(powers))


@dataclass(eq=False)  # compared by identity: arrays have no single truth value
class _Job:
    clips: Clips
    future: "Future[Embeddings]"
    taken: int = 0
    rows: list[Embeddings] = field(default_factory=list)


@dataclass(eq=False)
class _Share:
    """The clips of one job that are in a batch."""

    job: _Job
    clips: Clips


class Batcher:
    """One thread that feeds the engine, which itself uses as many threads as it was given.

    How much can wait is bounded by `Admission`: each request has two pieces in the queue at most.
    """

    def __init__(self, engine: Engine, max_batch: int, metrics: Metrics) -> None:
        self._engine = engine
        self._sizes = batch_sizes(max_batch)
        self._metrics = metrics
        self._jobs: deque[_Job] = deque()
        self._waiting = 0
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="batcher", daemon=True)
        self._thread.start()

    def submit(self, clips: Clips) -> "Future[Embeddings]":
        """Queue clips `[N, T, H, W, 3]`, N at least 1; the future gives embeddings `[N, D]` or the engine's error.

        Cancelling the future before its first clip is taken takes them all out of the queue.
        """
        job = _Job(clips, Future())
        with self._changed:
            if self._closed:
                raise RuntimeError("the batcher is closed")
            self._jobs.append(job)
            self._count(len(clips))
            self._changed.notify()
        return job.future

    def close(self) -> None:
        """Finish what is queued and stop the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while shares := self._next_batch():
            batch = shares[0].clips if len(shares) == 1 else np.concatenate([share.clips for share in shares])
            self._metrics.batches.observe(len(batch))
            try:
                with self._metrics.stage("infer"):
                    rows = self._engine.embed(batch)
            except Exception as error:  # noqa: BLE001 - it belongs to those who wait for it; the thread serves the next
                self._fail(shares, error)
            else:
                self._hand_out(shares, rows)

    def _next_batch(self) -> list[_Share]:
        """Wait for clips and take as many as fill the largest possible size; empty when closed and done."""
        with self._changed:
            while True:
                self._drop_cancelled()
                size = next((size for size in self._sizes if size <= self._waiting), 0)
                if size and self._begin(size):
                    return self._take(size)
                if not size and self._closed:
                    return []
                if not size:
                    self._changed.wait()

    def _drop_cancelled(self) -> None:
        for job in [job for job in self._jobs if job.future.cancelled()]:
            self._jobs.remove(job)
            self._count(job.taken - len(job.clips))

    def _begin(self, size: int) -> bool:
        """Mark the jobs of the next `size` clips as begun; False where one was cancelled at this very moment."""
        for job in self._jobs:
            if not job.future.running() and not job.future.set_running_or_notify_cancel():
                return False
            size -= len(job.clips) - job.taken
            if size <= 0:
                break
        return True

    def _take(self, size: int) -> list[_Share]:
        shares = []
        while size:
            job = self._jobs[0]
            clips = job.clips[job.taken : job.taken + size]
            job.taken += len(clips)
            size -= len(clips)
            shares.append(_Share(job, clips))
            if job.taken == len(job.clips):
                self._jobs.popleft()
            self._count(-len(clips))
        return shares

    def _fail(self, shares: list[_Share], error: Exception) -> None:
        with self._changed:
            for share in shares:
                job = share.job
                if job.taken < len(job.clips):
                    self._jobs.remove(job)
                    self._count(job.taken - len(job.clips))
                job.future.set_exception(error)

    def _hand_out(self, shares: list[_Share], rows: Embeddings) -> None:
        start = 0
        for share in shares:
            stop = start + len(share.clips)
            share.job.rows.append(rows[start:stop])
            start = stop
            if sum(map(len, share.job.rows)) == len(share.job.clips):
                share.job.future.set_result(np.concatenate(share.job.rows))

    def _count(self, clips: int) -> None:
        self._waiting += clips
        self._metrics.queued_clips.set(self._waiting)
