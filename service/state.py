"""What lives as long as the application: settings, metrics, and, once started, model and gallery."""

import asyncio
import functools
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

from fastapi import Request

from service.gallery.records import (
    DiskFull,
    DuplicateId,
    GalleryBroken,
    GalleryError,
    GalleryUnavailable,
    InvalidArgument,
)
from service.http.admission import Admission
from service.http.problems import Fault, Problem
from service.settings import Settings
from service.startup import Loaded, Startup
from service.telemetry.metrics import Metrics

P = ParamSpec("P")
T = TypeVar("T")

STARTING_RETRY_SECONDS = 2
GALLERY_RETRY_SECONDS = 2
GALLERY_THREADS = 8
SERVER_GALLERY_THREADS = 64
"""Where the gallery is on a server: they hardly compute, but wait for it."""
CLOSE_SECONDS = 5.0
"""What decoders and engine get to end the step they are in, when the time for accepted requests is over."""

log = logging.getLogger("not3d.service")


class State:
    """One per application, at `app.state.service`."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.metrics.pending_requests_limit.set(settings.max_pending_requests)
        self.metrics.pending_bytes_limit.set(settings.max_pending_bytes)
        self.admission = Admission(settings.max_pending_requests, settings.max_pending_bytes, self.metrics)
        self.startup = Startup(settings, self.metrics)
        threads = SERVER_GALLERY_THREADS if settings.milvus else GALLERY_THREADS
        self._gallery_threads = ThreadPoolExecutor(threads, thread_name_prefix="gallery")
        self._start: asyncio.Task[None] | None = None
        self._sweep: asyncio.Task[None] | None = None
        self.on_failure: Callable[[], None] = lambda: None
        """Called in the event loop when the service cannot start, or only a new start helps."""
        self.broken: str | None = None
        """Why only a new start helps."""
        self.stuck = False
        """After `end`: whether a decoder or the engine is still at work for a request that was given up."""

    def begin(self) -> None:
        """Start loading; returns at once."""
        self._start = asyncio.create_task(asyncio.to_thread(self.startup.run))
        self._start.add_done_callback(self._on_started)

    async def end(self) -> None:
        """Stop, once every request has been answered. The gallery is closed whatever else is `stuck`."""
        self.startup.stop()
        if self._start:
            await asyncio.wait([self._start])
        if self._sweep:
            self._sweep.cancel()
            await asyncio.wait([self._sweep])
        closing = asyncio.create_task(asyncio.to_thread(self.startup.close_embedder))
        _, unfinished = await asyncio.wait([closing], timeout=CLOSE_SECONDS)
        self.stuck = bool(unfinished)
        await asyncio.to_thread(self._gallery_threads.shutdown)
        await asyncio.to_thread(self.startup.close_gallery)

    def ready(self) -> Loaded:
        """Model and gallery.

        Raises:
            Problem: 503 with `Retry-After` while they are being loaded; `pending` says what is missing. 503 as well
                where the gallery is broken.
        """
        self.check_gallery()
        if self.startup.loaded:
            return self.startup.loaded
        detail = "the service is starting"
        if self.startup.error:
            detail = f"the service cannot start: {self.startup.error}"
        elif self.startup.waiting:
            detail = f"the service is waiting for its gallery: {self.startup.waiting}"
        header = {"Retry-After": str(STARTING_RETRY_SECONDS)}
        raise Problem("not-ready", detail, headers=header, pending=self.startup.pending)

    def check_gallery(self) -> None:
        """Whether the gallery, once it is open, can go on in this process; never waits.

        Raises:
            Problem: 503 where it cannot. The service ends then, for whatever looks after it to start it anew.
        """
        if self.broken is not None:
            raise Problem("gallery-unavailable", self.broken)
        if self.startup.loaded:
            with self._as_problems():
                self.startup.loaded.gallery.check()

    async def in_gallery(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run one call of the gallery, or other short work with its rows, in a thread.

        Raises:
            Problem: 409 for an id that is taken, 400 for an argument that no gallery accepts, 507 for a full disk, 503
                with `Retry-After` where the gallery does not answer now, and without where it failed.
        """
        with self._as_problems(), self.metrics.stage("index"):
            return await self._in_thread(functools.partial(call, *args, **kwargs))

    async def count_records(self, loaded: Loaded) -> int:
        """Records in the gallery. Not a stage of a request: `/metrics` asks at every scrape and would fill `index`.

        Raises:
            Problem: as `in_gallery`.
        """
        with self._as_problems():
            return await self._in_thread(loaded.gallery.count)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._gallery_threads, work)

    async def _sweep_for_ever(self, loaded: Loaded) -> None:
        """Erase what has expired, now and again and again; whatever goes wrong once, the next time may be better."""
        while True:
            try:
                removed = await self._in_thread(loaded.gallery.expire)
            except GalleryBroken as error:
                self._give_up(error)
            except Exception as error:  # retention is promised, and must not end unseen
                expected = isinstance(error, GalleryError)
                log.error("expired records could not be erased: %s", error, exc_info=None if expected else error)
            else:
                self.metrics.expired_records.inc(removed)
                if removed:
                    log.info("erased expired records", extra={"facts": {"records": removed}})
            await asyncio.sleep(self.settings.sweep_seconds)

    @contextmanager
    def _as_problems(self) -> Iterator[None]:
        try:
            yield
        except DuplicateId as error:
            raise Problem.of_field("id", str(error), "duplicate-id") from None
        except InvalidArgument as error:
            raise Problem("malformed", str(error), errors=[Fault(field=error.argument, reason=str(error))]) from None
        except DiskFull as error:
            raise Problem("disk-full", str(error)) from None
        except GalleryUnavailable as error:
            header = {"Retry-After": str(GALLERY_RETRY_SECONDS)}
            raise Problem("gallery-unavailable", str(error), headers=header) from None
        except GalleryError as error:  # a disk that cannot be written, say: nothing to come back for in two seconds
            if isinstance(error, GalleryBroken):
                self._give_up(error)
            else:
                log.error("the gallery failed: %s", error, exc_info=error.__cause__)
            raise Problem("gallery-unavailable", str(error)) from None

    def _give_up(self, error: GalleryBroken) -> None:
        if self.broken is None:
            self.broken = str(error)
            log.error("ending, since only a new start helps the gallery: %s", error)
            self.on_failure()

    def _on_started(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and (error := task.exception()):
            log.error("an error nobody expected", exc_info=error)
            self.startup.fail(f"{type(error).__name__}: {error}")
        if self.startup.error:
            self.on_failure()
        elif self.startup.loaded:
            self._sweep = asyncio.create_task(self._sweep_for_ever(self.startup.loaded))


def state_of(request: Request) -> State:
    """The state of the application that answers this request."""
    state = request.app.state.service
    assert isinstance(state, State)  # noqa: S101 - `app.state` is untyped
    return state
