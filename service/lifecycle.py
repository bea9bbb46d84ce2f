"""The lifecycle of the service: load while the port already answers, erase expired records, and stop in order."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeVar

import cv2

from model.bundle import Bundle
from model.engines import Engine, open_engine
from model.engines.protocol import CudaOptions
from model.engines.self_test import SelfTest, run_self_test
from model.errors import Not3dError
from service.calibration import ActiveCalibration, load_calibration
from service.embedding.embedder import Embedder
from service.gallery.async_gallery import AsyncGallery
from service.gallery.opening import open_gallery
from service.gallery.records import GalleryBroken, GalleryError, GalleryUnavailable
from service.settings import Settings
from service.telemetry.metrics import Metrics

STAGES: Final = ("bundle", "engine", "self_test", "gallery")
"""The stages of loading, in order."""
GALLERY_RETRY_SECONDS: Final = 2.0
"""Time between two attempts to reach the server of a gallery."""
EMBEDDED_GALLERY_THREADS: Final = 8
SERVER_GALLERY_THREADS: Final = 64
"""More than for an embedded gallery, because these threads mostly wait for the server."""
CLOSE_SECONDS: Final = 5.0
"""After the time for accepted requests, decoders and engine get this time to end their current step."""

T = TypeVar("T")

log = logging.getLogger("not3d.service")


class ServiceState(Enum):
    """The state of the service."""

    STARTING = "starting"
    WAITING_FOR_GALLERY = "waiting_for_gallery"
    """The gallery's server does not answer; the service tries again until it does."""
    READY = "ready"
    FAILED = "failed"
    """The service cannot start; the process ends."""
    BROKEN = "broken"
    """The gallery needs a restart of the process; the process ends."""
    STOPPING = "stopping"
    STOPPED = "stopped"
    """All work has ended. If a decoder or the engine never ends, the state stays `STOPPING`."""


_NEXT: Final[Mapping[ServiceState, frozenset[ServiceState]]] = {
    ServiceState.STARTING: frozenset(
        {ServiceState.WAITING_FOR_GALLERY, ServiceState.READY, ServiceState.FAILED, ServiceState.STOPPING}
    ),
    ServiceState.WAITING_FOR_GALLERY: frozenset(
        {ServiceState.WAITING_FOR_GALLERY, ServiceState.STARTING, ServiceState.FAILED, ServiceState.STOPPING}
    ),
    ServiceState.READY: frozenset({ServiceState.BROKEN, ServiceState.STOPPING}),
    ServiceState.FAILED: frozenset({ServiceState.STOPPING}),
    ServiceState.BROKEN: frozenset({ServiceState.STOPPING}),
    ServiceState.STOPPING: frozenset({ServiceState.STOPPED}),
    ServiceState.STOPPED: frozenset(),
}


@dataclass(frozen=True)
class Service:
    """Everything that a request handler needs. It exists after the self-test has passed and the gallery is open.

    Without a `calibration`, answers have scores and no probabilities.
    """

    settings: Settings
    bundle: Bundle
    calibration: ActiveCalibration | None
    engine: Engine
    self_test: SelfTest
    embedder: Embedder
    gallery: AsyncGallery
    metrics: Metrics


class _StopRequested(Exception):
    """`stop` was called while the service was loading."""


class Lifecycle:
    """Owns the service from its start to its end. Use it only in the thread of the event loop.

    Attributes:
        state: only this class changes it.
        reason: why the service is waiting, cannot start or is broken; otherwise `None`. While the service is waiting or
            cannot start, the text completes the sentence "the service ...". If the service cannot start or is broken,
            the reason is kept until the process ends.
        pending: the stages of loading that are not done.
        on_end: called when the process must end, because only a restart helps.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.state = ServiceState.STARTING
        self.reason: str | None = None
        self.pending = list(STAGES)
        self.on_end: Callable[[], None] = lambda: None
        self._service: Service | None = None
        self._stop = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def service(self) -> Service | None:
        """The loaded service; `None` unless the state is `READY`."""
        return self._service if self.state is ServiceState.READY else None

    def start(self) -> None:
        """Start to load in the background; return at once."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Stop loading or sweeping, then decoders and engine, then the gallery. Call it when no request is running.

        The gallery is closed even if decoders or the engine do not end in `CLOSE_SECONDS`.
        """
        ended = self.state in {ServiceState.FAILED, ServiceState.BROKEN}
        self._change(ServiceState.STOPPING, self.reason if ended else None)
        self._stop.set()
        if self._task:
            await asyncio.wait([self._task])
        if service := self._service:
            closing = asyncio.create_task(asyncio.to_thread(service.embedder.close))
            _, unfinished = await asyncio.wait([closing], timeout=CLOSE_SECONDS)
            await service.gallery.close()
            if unfinished:
                return
        self._change(ServiceState.STOPPED, self.reason)

    async def _run(self) -> None:
        try:
            self._service = await self._load()
        except _StopRequested:
            log.info("stopped before the service was ready")
        except (Not3dError, OSError) as error:
            self._fail(str(error))
        except Exception as error:
            log.exception("unexpected error during startup")
            self._fail(f"{type(error).__name__}: {error}")
        else:
            self._change(ServiceState.READY)
            await self._sweep(self._service.gallery)

    async def _load(self) -> Service:
        settings, metrics = self.settings, self.metrics
        cv2.setNumThreads(1)  # frames are decoded in parallel; threads inside each decoder would compete with that
        bundle, calibration = await self._run_stage("bundle", lambda: _load_bundle(settings))
        start = time.perf_counter()
        engine = await self._run_stage("engine", lambda: _open_engine(bundle, settings))
        self_test = await self._run_stage("self_test", lambda: run_self_test(engine, bundle))
        seconds = round(time.perf_counter() - start, 2)
        async with AsyncExitStack() as opened:
            # The gallery comes last: a new gallery stores the embedding space, and the self-test must pass before that.
            gallery = await self._until_gallery_answers(lambda: self._open_gallery(bundle))
            opened.push_async_callback(gallery.close)
            self.pending.remove("gallery")
            records = await self._until_gallery_answers(gallery.count)
            self._check_stop()
            info = engine.info
            metrics.describe_engine(info, bundle.embedding_space)
            metrics.gallery_records.set(records)
            facts = {"engine": info.name, "device": info.device, "precision": info.precision, "threads": info.threads}
            facts |= {"provider": info.provider, "engine_seconds": seconds, "records": records}
            facts |= {"calibration": calibration and calibration.calibration.id}
            log.info("ready", extra={"facts": facts})
            embedder = Embedder(engine, bundle.spec, settings, metrics)
            opened.pop_all()
        return Service(settings, bundle, calibration, engine, self_test, embedder, gallery, metrics)

    async def _open_gallery(self, bundle: Bundle) -> AsyncGallery:
        gallery = await asyncio.to_thread(open_gallery, self.settings, bundle)
        threads = SERVER_GALLERY_THREADS if self.settings.milvus else EMBEDDED_GALLERY_THREADS
        return AsyncGallery(gallery, threads, self.metrics, self._on_broken)

    async def _run_stage(self, stage: str, work: Callable[[], T]) -> T:
        self._check_stop()
        result = await asyncio.to_thread(work)
        self.pending.remove(stage)
        return result

    async def _until_gallery_answers(self, call: Callable[[], Awaitable[T]]) -> T:
        """Repeat a call until the gallery's server answers."""
        while True:
            self._check_stop()
            try:
                result = await call()
            except GalleryUnavailable as error:
                self._check_stop()
                if self.state is ServiceState.STARTING:
                    log.warning("waiting for the gallery", extra={"facts": {"reason": str(error)}})
                self._change(ServiceState.WAITING_FOR_GALLERY, f"is waiting for its gallery: {error}")
                await self._stop_within(GALLERY_RETRY_SECONDS)
            else:
                if self.state is ServiceState.WAITING_FOR_GALLERY:
                    self._change(ServiceState.STARTING)
                return result

    async def _sweep(self, gallery: AsyncGallery) -> None:
        """Erase expired records every `sweep_seconds`, until the service stops."""
        while True:
            try:
                removed = await gallery.expire()
            except GalleryBroken:
                return
            except Exception as error:  # the sweep must go on: expired records have to be erased
                unexpected = not isinstance(error, GalleryError)
                facts = {"reason": str(error)}
                log.error("expired records not erased", extra={"facts": facts}, exc_info=unexpected)
            else:
                self.metrics.expired_records.inc(removed)
                if removed:
                    log.info("expired records erased", extra={"facts": {"records": removed}})
            if await self._stop_within(self.settings.sweep_seconds):
                return

    async def _stop_within(self, seconds: float) -> bool:
        """Wait for `seconds`, or until `stop` is called; return whether it was."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), seconds)
        return self._stop.is_set()

    def _check_stop(self) -> None:
        if self._stop.is_set():
            raise _StopRequested

    def _fail(self, reason: str) -> None:
        log.error("startup failed", extra={"facts": {"reason": reason}})
        if not self._stop.is_set():
            self._change(ServiceState.FAILED, f"cannot start: {reason}")

    def _on_broken(self, error: GalleryBroken) -> None:
        if self.state is ServiceState.READY:  # several calls may report it
            log.error("gallery broken; the process ends", extra={"facts": {"reason": str(error)}})
            self._change(ServiceState.BROKEN, str(error))

    def _change(self, state: ServiceState, reason: str | None = None) -> None:
        if state not in _NEXT[self.state]:
            raise RuntimeError(f"the service cannot change from {self.state.value} to {state.value}")
        self.state, self.reason = state, reason
        self.metrics.ready.set(state is ServiceState.READY)
        if state in {ServiceState.FAILED, ServiceState.BROKEN}:
            self.on_end()


def _load_bundle(settings: Settings) -> tuple[Bundle, ActiveCalibration | None]:
    bundle = Bundle.load(settings.bundle)
    return bundle, load_calibration(settings, bundle)


def _open_engine(bundle: Bundle, settings: Settings) -> Engine:
    return open_engine(
        bundle,
        settings.device,
        cache_dir=settings.engine_cache,
        engine=settings.engine,
        threads=settings.threads,
        cuda=CudaOptions(
            precision=settings.gpu_precision,
            memory_mb=settings.gpu_memory_mb,
            largest_batch=settings.largest_batch("cuda"),
            tensorrt=settings.gpu_tensorrt,
            graphs=settings.gpu_graphs,
        ),
    )
