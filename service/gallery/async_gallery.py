"""The gallery for code in the event loop."""

import asyncio
import functools
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any, Concatenate, ParamSpec, TypeVar

from service.gallery.protocol import Gallery
from service.gallery.records import GalleryBroken
from service.progress import Progress
from service.telemetry.metrics import Metrics
from service.threads import start_threads

P = ParamSpec("P")
T = TypeVar("T")


def _in_thread(
    method: Callable[Concatenate[Gallery, P], T], *, of_request: bool = True, lengthy: bool = False
) -> Callable[Concatenate["AsyncGallery", P], Coroutine[Any, Any, T]]:
    """Return the awaitable form of a method of `Gallery`, with the same parameters, result and errors.

    Args:
        method: the method.
        of_request: count the time in the stage "index" of the current request, and watch whether calls end.
        lengthy: the call may take minutes, which is no stall.
    """

    @functools.wraps(method)
    async def call(self: "AsyncGallery", /, *args: P.args, **kwargs: P.kwargs) -> T:
        work = functools.partial(getattr(self._gallery, method.__name__), *args, **kwargs)
        try:
            with self._metrics.stage("index") if of_request else nullcontext():
                job = self._threads.submit(work)
                if of_request:
                    self._watch(job, waits=not lengthy)
                result: T = await asyncio.wrap_future(job)
                return result
        except GalleryBroken as error:
            self._on_broken(error)
            raise

    return call


class AsyncGallery:
    """A `Gallery` whose calls are awaited; each runs in a thread of a pool.

    Args:
        gallery: the gallery.
        threads: the size of the pool.
        metrics: get the time of each call, stage "index".
        on_broken: called in the event loop when a call raises `GalleryBroken`.
    """

    def __init__(
        self, gallery: Gallery, threads: int, metrics: Metrics, on_broken: Callable[[GalleryBroken], None]
    ) -> None:
        self._gallery, self._metrics, self._on_broken = gallery, metrics, on_broken
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="gallery")
        start_threads(self._threads, threads)
        self._progress = Progress()
        self.embedding_space = gallery.embedding_space
        self.engine = gallery.engine
        self.score_mode = gallery.score_mode

    add = _in_thread(Gallery.add)
    put = _in_thread(Gallery.put)
    update = _in_thread(Gallery.update)
    get = _in_thread(Gallery.get)
    get_all = _in_thread(Gallery.get_all)
    find_ids = _in_thread(Gallery.find_ids)
    thumbnail = _in_thread(Gallery.thumbnail)
    delete = _in_thread(Gallery.delete)
    list = _in_thread(Gallery.list)
    search = _in_thread(Gallery.search)
    search_best = _in_thread(Gallery.search_best)
    erase = _in_thread(Gallery.erase, lengthy=True)
    audit = _in_thread(Gallery.audit)
    cameras = _in_thread(Gallery.cameras)
    start_alerts = _in_thread(Gallery.start_alerts, of_request=False)
    put_watchlist = _in_thread(Gallery.put_watchlist)
    delete_watchlist = _in_thread(Gallery.delete_watchlist)
    alerts = _in_thread(Gallery.alerts)
    find_alert = _in_thread(Gallery.find_alert)
    judge_alert = _in_thread(Gallery.judge_alert)
    # Metrics and the sweep call these; their time is not that of a request, and that they end says little.
    count = _in_thread(Gallery.count, of_request=False)
    expire = _in_thread(Gallery.expire, of_request=False)
    matcher = _in_thread(Gallery.matcher, of_request=False)
    next_alerts = _in_thread(Gallery.alerts, of_request=False)  # of streams, which ask again and again
    prune_alerts = _in_thread(Gallery.prune_alerts, of_request=False)
    claim_deliveries = _in_thread(Gallery.claim_deliveries, of_request=False)
    settle_delivery = _in_thread(Gallery.settle_delivery, of_request=False)
    count_deliveries = _in_thread(Gallery.count_deliveries, of_request=False)

    def find_stall(self, seconds: float) -> str | None:
        """Say for how long no call has ended, if calls have waited for at least `seconds`; otherwise `None`.

        A call that ends with an error has ended: a server that does not answer is no stall.
        """
        if (stalled := self._progress.stalled_seconds) >= seconds:
            return f"the gallery has finished no call for {stalled:.0f} seconds, and calls wait"
        return None

    def check(self) -> None:
        """Check without waiting that the gallery works; raises `GalleryBroken` if only a restart helps."""
        try:
            self._gallery.check()
        except GalleryBroken as error:
            self._on_broken(error)
            raise

    async def check_storage(self) -> None:
        """Check that the gallery can be changed, as `Gallery.check_storage`, beside the threads of other calls."""
        await asyncio.to_thread(self._gallery.check_storage)

    async def close(self, seconds: float | None = None) -> bool:
        """Wait for the calls that have begun, then close the gallery.

        Returns:
            Whether it is closed: not if a call has not ended after `seconds`.
        """
        ending = asyncio.create_task(asyncio.to_thread(self._threads.shutdown))
        _, unfinished = await asyncio.wait([ending], timeout=seconds)
        if unfinished:
            return False
        await asyncio.to_thread(self._gallery.close)
        return True

    def _watch(self, job: "Future[Any]", *, waits: bool) -> None:
        if waits:
            self._progress.begin()

        def end(job: "Future[Any]") -> None:
            if waits:
                self._progress.end()
            if not job.cancelled():
                self._progress.step()

        job.add_done_callback(end)
