"""The gallery for code in the event loop."""

import asyncio
import functools
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any, Concatenate, ParamSpec, TypeVar

from service.gallery.protocol import Gallery
from service.gallery.records import GalleryBroken
from service.telemetry.metrics import Metrics

P = ParamSpec("P")
T = TypeVar("T")


def _in_thread(
    method: Callable[Concatenate[Gallery, P], T], *, timed: bool = True
) -> Callable[Concatenate["AsyncGallery", P], Coroutine[Any, Any, T]]:
    """Return the awaitable form of a method of `Gallery`, with the same parameters, result and errors.

    Args:
        method: the method.
        timed: count the time in the stage "index" of the current request.
    """

    @functools.wraps(method)
    async def call(self: "AsyncGallery", /, *args: P.args, **kwargs: P.kwargs) -> T:
        work = functools.partial(getattr(self._gallery, method.__name__), *args, **kwargs)
        try:
            with self._metrics.stage("index") if timed else nullcontext():
                result: T = await asyncio.get_running_loop().run_in_executor(self._threads, work)
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
        self.embedding_space = gallery.embedding_space
        self.engine = gallery.engine
        self.score_mode = gallery.score_mode

    add = _in_thread(Gallery.add)
    put = _in_thread(Gallery.put)
    get = _in_thread(Gallery.get)
    thumbnail = _in_thread(Gallery.thumbnail)
    delete = _in_thread(Gallery.delete)
    list = _in_thread(Gallery.list)
    search = _in_thread(Gallery.search)
    erase = _in_thread(Gallery.erase)
    audit = _in_thread(Gallery.audit)
    # Metrics and the sweep call these; their time is not that of a request.
    count = _in_thread(Gallery.count, timed=False)
    expire = _in_thread(Gallery.expire, timed=False)

    def check(self) -> None:
        """Check without waiting that the gallery works; raises `GalleryBroken` if only a restart helps."""
        try:
            self._gallery.check()
        except GalleryBroken as error:
            self._on_broken(error)
            raise

    async def close(self) -> None:
        """Wait for the calls that have begun, then close the gallery."""
        await asyncio.to_thread(self._threads.shutdown)
        await asyncio.to_thread(self._gallery.close)
