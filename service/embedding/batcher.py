"""The micro-batcher: clips of concurrent requests share one engine call. The engine is never idle while clips wait."""

import threading
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from model.engines import Engine
from model.engines.protocol import batch_sizes
from service.progress import Progress
from service.telemetry.metrics import Metrics, RequestCost, current_cost

Clips = NDArray[np.uint8]
Embeddings = NDArray[np.float32]


@dataclass(eq=False)  # compared by identity: arrays have no single truth value
class _Job:
    clips: Clips
    future: "Future[Embeddings]"
    since: float
    cost: RequestCost | None
    taken: int = 0
    rows: dict[int, Embeddings] = field(default_factory=dict)
    """Embeddings by the index of their first clip; parallel calls may end in any order."""


@dataclass(eq=False)
class _Share:
    """The clips of one job that are part of a batch; `start` is the index of the first."""

    job: _Job
    start: int
    clips: Clips


class Batcher:
    """Calls the engine with batches of waiting clips, from one thread for each of its streams.

    The callers limit how many clips wait: each request has at most two pieces in the queue.
    """

    def __init__(self, engine: Engine, max_batch: int, metrics: Metrics) -> None:
        self._engine = engine
        self._sizes = batch_sizes(max_batch)
        self._metrics = metrics
        self.progress = Progress()
        self._jobs: deque[_Job] = deque()
        self._waiting = 0
        self._closed = False
        self._changed = threading.Condition()
        self._threads = [
            threading.Thread(target=self._run, name=f"batcher-{number}", daemon=True)
            for number in range(engine.streams)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, clips: Clips) -> "Future[Embeddings]":
        """Queue clips `[N, T, H, W, 3]`, N at least 1; the future returns embeddings `[N, D]` or the engine's error.

        Cancelling the future removes the clips from the queue, unless the first one has been taken.
        """
        job = _Job(clips, Future(), time.perf_counter(), current_cost.get())
        with self._changed:
            if self._closed:
                raise RuntimeError("the batcher is closed")
            self.progress.begin()
            job.future.add_done_callback(lambda _: self.progress.end())
            self._jobs.append(job)
            self._count(len(clips))
            self._changed.notify_all()
        return job.future

    def close(self) -> None:
        """Compute all queued clips, then stop the threads."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while shares := self._next_batch():
            try:
                batch = shares[0].clips if len(shares) == 1 else np.concatenate([share.clips for share in shares])
                self._metrics.batches.observe(len(batch))
                start = time.perf_counter()
                try:
                    rows = self._engine.embed(batch)
                finally:
                    self._observe(shares, time.perf_counter() - start)
                self.progress.step()
                self._hand_out(shares, rows)
            except Exception as error:  # noqa: BLE001 - passed to the waiting requests; this thread must go on
                self._fail(shares, error)

    def _observe(self, shares: list[_Share], seconds: float) -> None:
        """Record the time of one call. Each request in the batch is charged the full time."""
        self._metrics.observe_stage("infer", seconds)
        for share in shares:
            if share.job.cost is not None:
                share.job.cost.add("infer", seconds)

    def _next_batch(self) -> list[_Share]:
        """Wait for clips and take a batch. Return an empty list if the batcher is closed and no clips are left."""
        with self._changed:
            while True:
                self._drop_cancelled()
                size = self._next_size()
                if size and self._start(size):
                    return self._take(size)
                if not size and self._closed:
                    return []
                if not size:
                    self._changed.wait()

    def _next_size(self) -> int:
        """Return the largest batch size that the waiting clips fill if they are divided among all streams."""
        share = -(-self._waiting // len(self._threads))
        return next((size for size in self._sizes if size <= share), 0)

    def _drop_cancelled(self) -> None:
        for job in [job for job in self._jobs if job.future.cancelled()]:
            self._jobs.remove(job)
            self._count(job.taken - len(job.clips))

    def _start(self, size: int) -> bool:
        """Mark the jobs of the next `size` clips as running; False if one of them has just been cancelled."""
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
            if not job.taken:
                self._metrics.observe_stage("queue", time.perf_counter() - job.since, job.cost)
            share = _Share(job, job.taken, job.clips[job.taken : job.taken + size])
            job.taken += len(share.clips)
            size -= len(share.clips)
            shares.append(share)
            if job.taken == len(job.clips):
                self._jobs.popleft()
            self._count(-len(share.clips))
        return shares

    def _fail(self, shares: list[_Share], error: Exception) -> None:
        with self._changed:
            for share in shares:
                job = share.job
                if job in self._jobs:
                    self._jobs.remove(job)
                    self._count(job.taken - len(job.clips))
                if not job.future.done():  # another call of the same job may have failed too
                    job.future.set_exception(error)

    def _hand_out(self, shares: list[_Share], rows: Embeddings) -> None:
        at = 0
        with self._changed:
            for share in shares:
                job = share.job
                job.rows[share.start] = rows[at : at + len(share.clips)]
                at += len(share.clips)
                # Another call of the same job may have failed.
                if sum(map(len, job.rows.values())) == len(job.clips) and not job.future.done():
                    job.future.set_result(np.concatenate([job.rows[start] for start in sorted(job.rows)]))

    def _count(self, clips: int) -> None:
        self._waiting += clips
        self._metrics.queued_clips.set(self._waiting)
