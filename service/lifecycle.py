"""The lifecycle of the service: load while the port already answers, erase expired records, and stop in order."""

import asyncio
import gc
import logging
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from model.errors import Not3dError, extra
from model.space import EmbeddingSpace
from service.alerts.delivery import Dispatcher
from service.alerts.feed import AlertFeed
from service.alerts.sender import Sender
from service.alerts.webhooks import AllowedHosts, Webhook, load_webhooks
from service.allocator import trim_memory
from service.audit.log import AuditLog
from service.audit.removals import Removals
from service.calibration import ActiveCalibration, cosine_calibration, load_calibration
from service.cases.store import CaseStore
from service.continuations import Continuations
from service.gallery.async_gallery import AsyncGallery
from service.gallery.opening import open_gallery
from service.gallery.records import GalleryBroken, GalleryError, GalleryUnavailable
from service.gallery.watch.records import Alert, AlertRules
from service.linking import TravelTimes
from service.settings import Settings, variable_name
from service.telemetry.metrics import Metrics
from service.threads import start_threads

if TYPE_CHECKING:
    from model.bundle import Bundle
    from service.loaded_model import LoadedModel

STAGES: Final = ("bundle", "engine", "self_test", "gallery")
"""The stages of loading, in order; without a model, only the last."""
GALLERY_RETRY_SECONDS: Final = 2.0
"""Time between two attempts to reach the server of a gallery."""
STORAGE_CHECK_SECONDS: Final = 1.0
STORAGE_TIMEOUT: Final = 10.0
"""After this time a disk that does not answer counts as one that cannot be written."""
EMBEDDED_GALLERY_THREADS: Final = 8
SERVER_GALLERY_THREADS: Final = 64
"""More than for an embedded gallery, because these threads mostly wait for the server."""
CLOSE_SECONDS: Final = 5.0
"""After the time for accepted requests, loading, decoders, engine and gallery get this time to end their current
step."""

WORKERS: Final = 8
"""Threads of `asyncio.to_thread`: writing videos, cases, the audit log, the sweep."""

SWITCH_SECONDS: Final = 0.0005
"""After this time a thread that runs Python lets another one run. With Python's 5 ms, the event loop would wait that
long for each of a dozen threads, several times for each request."""

T = TypeVar("T")

log = logging.getLogger("not3d.service")


class ServiceState(Enum):
    """The state of the service."""

    STARTING = "starting"
    WAITING_FOR_GALLERY = "waiting_for_gallery"
    """The gallery's server does not answer; the service tries again until it does."""
    READY = "ready"
    STALLED = "stalled"
    """Requests wait and none of their work is done; the service still accepts requests, and `/readyz` answers 503."""
    FAILED = "failed"
    """The service cannot start; the process ends."""
    BROKEN = "broken"
    """The gallery needs a restart of the process; the process ends."""
    STOPPING = "stopping"
    STOPPED = "stopped"
    """All work has ended. If a decoder, the engine, a call of the gallery or a stage of loading does not end in time,
    the state stays `STOPPING`."""


_NEXT: Final[Mapping[ServiceState, frozenset[ServiceState]]] = {
    ServiceState.STARTING: frozenset(
        {ServiceState.WAITING_FOR_GALLERY, ServiceState.READY, ServiceState.FAILED, ServiceState.STOPPING}
    ),
    ServiceState.WAITING_FOR_GALLERY: frozenset(
        {ServiceState.WAITING_FOR_GALLERY, ServiceState.STARTING, ServiceState.FAILED, ServiceState.STOPPING}
    ),
    ServiceState.READY: frozenset({ServiceState.STALLED, ServiceState.BROKEN, ServiceState.STOPPING}),
    ServiceState.STALLED: frozenset({ServiceState.READY, ServiceState.BROKEN, ServiceState.STOPPING}),
    ServiceState.FAILED: frozenset({ServiceState.STOPPING}),
    ServiceState.BROKEN: frozenset({ServiceState.STOPPING}),
    ServiceState.STOPPING: frozenset({ServiceState.STOPPED}),
    ServiceState.STOPPED: frozenset(),
}


@dataclass(frozen=True)
class Service:
    """Everything that a request handler needs. It exists after the self-test has passed and the gallery is open.

    Without a `model`, the service stores and searches vectors of other systems and embeds nothing. Without a
    `calibration`, answers have scores and no probabilities.
    """

    settings: Settings
    space: EmbeddingSpace
    model: "LoadedModel | None"
    calibration: ActiveCalibration | None
    travel_times: TravelTimes
    gallery: AsyncGallery
    audit: AuditLog
    removals: Removals
    cases: CaseStore
    metrics: Metrics
    feed: AlertFeed
    alert_rules: AlertRules
    continuations: Continuations[Any] = field(default_factory=Continuations)


class _StopRequested(Exception):
    """`stop` was called while the service was loading."""


class Lifecycle:
    """Owns the service from its start to its end. Use it only in the thread of the event loop.

    Attributes:
        state: only this class changes it.
        reason: why the service is waiting, cannot start, is stalled or is broken; otherwise `None`. Unless the service
            is broken, the text completes the sentence "the service ...". If the service cannot start or is broken, the
            reason is kept until the process ends.
        pending: the stages of loading that are not done.
        storage_fault: why the gallery cannot be changed at the moment; otherwise `None`.
        on_end: called when the process must end, because only a restart helps.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.feed = AlertFeed(settings.max_alert_listeners, self.metrics)
        self.state = ServiceState.STARTING
        self.reason: str | None = None
        self.pending = list(STAGES[-1:] if settings.vectors_only else STAGES)
        self.storage_fault: str | None = None
        self.on_end: Callable[[], None] = lambda: None
        self._service: Service | None = None
        self._dispatcher: Dispatcher | None = None
        self._stop = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def service(self) -> Service | None:
        """The loaded service; `None` unless the state is `READY` or `STALLED`."""
        return self._service if self.state in {ServiceState.READY, ServiceState.STALLED} else None

    def start(self) -> None:
        """Start to load in the background; return at once."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Stop loading or sweeping, then decoders and engine, then the gallery. Call it when no request is running.

        The gallery is closed even if decoders or the engine do not end in `CLOSE_SECONDS`, unless its own calls do not
        end in this time. A stage of loading is not waited for longer than that either.
        """
        ended = self.state in {ServiceState.FAILED, ServiceState.BROKEN}
        self._change(ServiceState.STOPPING, self.reason if ended else None)
        self._stop.set()
        if self._task:
            # Only the sweep can wait for the gallery later. A stage of loading, such as training an index, can take
            # minutes; what it opens needs no closing if the process ends, as after `kill -9`.
            _, loading = await asyncio.wait([self._task], timeout=CLOSE_SECONDS)
            if loading and not self._service:
                return
        if service := self._service:
            unfinished: set[asyncio.Task[None]] = set()
            if service.model:
                closing = asyncio.create_task(asyncio.to_thread(service.model.embedder.close))
                _, unfinished = await asyncio.wait([closing], timeout=CLOSE_SECONDS)
            if self._dispatcher:
                await self._dispatcher.close()
            closed = await service.gallery.close(CLOSE_SECONDS)
            await service.audit.close()
            await service.cases.close()
            gc.unfreeze()
            if unfinished or not closed:
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
            if self._stop.is_set():  # `stop` closes what was loaded
                return
            self._change(ServiceState.READY)
            service = self._service
            if self._dispatcher:
                self._dispatcher.start()
            await asyncio.gather(self._sweep(service), self._watch(service), self._watch_storage(service.gallery))

    async def _load(self) -> Service:
        settings, metrics = self.settings, self.metrics
        sys.setswitchinterval(SWITCH_SECONDS)
        workers = ThreadPoolExecutor(WORKERS, thread_name_prefix="worker")
        start_threads(workers, WORKERS)
        asyncio.get_running_loop().set_default_executor(workers)
        facts: dict[str, object] = {}
        if settings.temp_dir is not None:
            await asyncio.to_thread(_check_temp_dir, settings.temp_dir)
        travel_times = TravelTimes()
        if settings.travel_times is not None:
            travel_times = await asyncio.to_thread(TravelTimes.load, settings.travel_times)
        hosts = AllowedHosts.parse(settings.webhook_hosts)
        webhooks = () if settings.webhooks is None else load_webhooks(settings.webhooks, hosts)
        async with AsyncExitStack() as opened:
            model, calibration = None, None
            if space := settings.named_space:
                calibration = await asyncio.to_thread(load_calibration, settings, space, None)
            else:
                model, calibration, seconds = await self._load_model()
                opened.push_async_callback(asyncio.to_thread, model.embedder.close)
                space, info = model.bundle.space, model.engine.info
                facts = {"engine": info.name, "device": info.device, "precision": info.precision}
                facts |= {"threads": info.threads, "provider": info.provider, "engine_seconds": seconds}
                metrics.describe_engine(info, space.name)
            # The gallery comes last: a new gallery stores the embedding space, and the self-test must pass before that.
            gallery = await self._until_gallery_answers(lambda: self._open_gallery(space))
            opened.push_async_callback(gallery.close)
            self.pending.remove("gallery")
            records = await self._until_gallery_answers(gallery.count)
            audit = await asyncio.to_thread(AuditLog.open, settings.data_dir)
            opened.push_async_callback(audit.close)
            cases = await asyncio.to_thread(CaseStore.open, settings.data_dir)
            opened.push_async_callback(cases.close)
            removals = Removals(gallery, audit)
            await self._until_gallery_answers(removals.copy)
            self._check_stop()
            metrics.gallery_records.set(records)
            facts |= {"embedding_space": space.name, "records": records}
            facts |= {"calibration": calibration and calibration.calibration.id}
            log.info("ready", extra={"facts": facts})
            rules = self._alert_rules(space, calibration, webhooks)
            await self._until_gallery_answers(lambda: self._start_alerts(gallery, rules))
            senders = [Sender(webhook, hosts, rules) for webhook in webhooks]
            self._dispatcher = Dispatcher(senders, gallery, self.feed, metrics, settings.webhook_tries)
            opened.push_async_callback(self._dispatcher.close)
            opened.pop_all()
        # What exists now stays. To look through it again and again would stop all threads for 60 ms each time.
        gc.collect()
        gc.freeze()
        return Service(
            settings,
            space,
            model,
            calibration,
            travel_times,
            gallery,
            audit,
            removals,
            cases,
            metrics,
            self.feed,
            rules,
        )

    async def _load_model(self) -> "tuple[LoadedModel, ActiveCalibration | None, float]":
        """Load the bundle, open the engine and run the self-test; return the seconds of the last two as well."""
        settings = self.settings
        # These imports need an engine and the packages that decode pictures, and take most of a second.
        with extra("cpu"):
            from model.engines.self_test import run_self_test
            from model.video import STARTER
            from service.embedding.embedder import Embedder
            from service.loaded_model import LoadedModel, load_bundle, open_chosen_engine, warm_up

        def load() -> tuple["Bundle", ActiveCalibration | None]:
            bundle = load_bundle(settings)
            return bundle, load_calibration(settings, bundle.space, bundle.calibration)

        bundle, calibration = await self._run_stage("bundle", load)
        start = time.perf_counter()
        engine = await self._run_stage("engine", lambda: open_chosen_engine(bundle, settings))
        await asyncio.to_thread(
            STARTER.start
        )  # the first video does not wait for it, and a missing PyAV is an error now
        self_test = await self._run_stage("self_test", lambda: run_self_test(engine, bundle))
        await asyncio.to_thread(warm_up, engine, bundle, settings)
        seconds = round(time.perf_counter() - start, 2)
        embedder = Embedder(engine, bundle.spec, settings, self.metrics)
        return LoadedModel(bundle, engine, self_test, embedder), calibration, seconds

    async def _open_gallery(self, space: EmbeddingSpace) -> AsyncGallery:
        gallery = await asyncio.to_thread(open_gallery, self.settings, space)
        threads = SERVER_GALLERY_THREADS if self.settings.milvus else EMBEDDED_GALLERY_THREADS
        return AsyncGallery(gallery, threads, self.metrics, self._on_broken)

    def _alert_rules(
        self, space: EmbeddingSpace, calibration: ActiveCalibration | None, webhooks: Sequence[Webhook]
    ) -> AlertRules:
        usable = cosine_calibration(calibration, space)
        return AlertRules(
            calibration=usable,
            calibration_facts=calibration.facts if calibration and usable else {},
            webhooks={each.name: None if each.watchlists is None else frozenset(each.watchlists) for each in webhooks},
            on_alerts=self._on_alerts,
            on_suppressed=lambda name: self.metrics.suppressed_alerts.labels(name).inc(),
            confirmations=self.settings.confirmations,
            trust_operator=self.settings.trust_operator,
        )

    async def _start_alerts(self, gallery: AsyncGallery, rules: AlertRules) -> None:
        self.feed.begin(asyncio.get_running_loop(), polls=self.settings.milvus is not None)
        await gallery.start_alerts(rules)
        for name, fault in (await gallery.matcher()).faults.items():
            log.warning("watchlist raises no alert", extra={"facts": {"watchlist": name, "reason": fault}})

    def _on_alerts(self, alerts: Sequence[Alert]) -> None:
        """Count new alerts and tell who waits for them; called from threads of the gallery."""
        for alert in alerts:
            self.metrics.alerts.labels(alert.watchlist).inc()
        self.feed.notify()

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

    async def _sweep(self, service: Service) -> None:
        """Every `sweep_seconds`, erase expired records and old entries of the audit log, and return free memory."""
        while True:
            try:
                removed = await service.gallery.expire()
                await service.removals.copy()
                await service.audit.prune(self.settings.audit_days)
                await service.cases.forget_missing(service.gallery)
                await service.gallery.prune_alerts(datetime.now(UTC) - timedelta(days=self.settings.alert_days))
            except GalleryBroken:
                return
            except Exception as error:  # the sweep must go on: expired records have to be erased
                unexpected = not isinstance(error, GalleryError)
                facts = {"reason": str(error)}
                log.error("expired records or audit entries not erased", extra={"facts": facts}, exc_info=unexpected)
            else:
                self.metrics.expired_records.inc(removed)
                if removed:
                    log.info("expired records erased", extra={"facts": {"records": removed}})
            await asyncio.to_thread(trim_memory)
            if await self._stop_within(self.settings.sweep_seconds):
                return

    async def _watch(self, service: Service) -> None:
        """Change to `STALLED` when work waits and none is done, and back when some is done, until the service stops."""
        limit = self.settings.stall_seconds
        while not await self._stop_within(min(1.0, limit / 4)):
            stall = service.model.embedder.find_stall(limit) if service.model else None
            stall = stall or service.gallery.find_stall(limit)
            if stall and self.state is ServiceState.READY:
                log.error("stalled", extra={"facts": {"reason": stall}})
                cure = "restart it if this lasts; NOT3D_STALL_SECONDS is the limit"
                self._change(ServiceState.STALLED, f"is stalled: {stall}; {cure}")
            elif not stall and self.state is ServiceState.STALLED:
                log.info("no longer stalled")
                self._change(ServiceState.READY)

    async def _watch_storage(self, gallery: AsyncGallery) -> None:
        """Keep `storage_fault` up to date, until the service stops."""
        check: asyncio.Task[None] | None = None
        while not await self._stop_within(STORAGE_CHECK_SECONDS):
            check = check or asyncio.create_task(gallery.check_storage())
            await asyncio.wait([check], timeout=STORAGE_TIMEOUT)
            if not check.done():
                self._set_storage_fault(f"the disk of {self.settings.data_dir} does not answer")
                continue
            error, check = check.exception(), None
            self._set_storage_fault(None if error is None else str(error) or type(error).__name__)

    def _set_storage_fault(self, reason: str | None) -> None:
        if reason == self.storage_fault:
            return
        if reason is None:
            log.info("gallery can be changed again")
        else:
            log.error("gallery cannot be changed", extra={"facts": {"reason": reason}})
        self.storage_fault = reason
        self._set_ready()

    def _set_ready(self) -> None:
        self.metrics.ready.set(self.state is ServiceState.READY and self.storage_fault is None)

    async def _stop_within(self, seconds: float) -> bool:
        """Wait for `seconds`, or until `stop` is called; return whether it was."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stop.wait()
        return self._stop.is_set()

    def _check_stop(self) -> None:
        if self._stop.is_set():
            raise _StopRequested

    def _fail(self, reason: str) -> None:
        log.error("startup failed", extra={"facts": {"reason": reason}})
        if not self._stop.is_set():
            self._change(ServiceState.FAILED, f"cannot start: {reason}")

    def _on_broken(self, error: GalleryBroken) -> None:
        if self.service:  # several calls may report it
            log.error("gallery broken; the process ends", extra={"facts": {"reason": str(error)}})
            self._change(ServiceState.BROKEN, str(error))

    def _change(self, state: ServiceState, reason: str | None = None) -> None:
        if state not in _NEXT[self.state]:
            raise RuntimeError(f"the service cannot change from {self.state.value} to {state.value}")
        self.state, self.reason = state, reason
        self._set_ready()
        if state in {ServiceState.FAILED, ServiceState.BROKEN}:
            self.on_end()


def _check_temp_dir(folder: Path) -> None:
    """Write a file as an upload does, so that a folder that cannot be used is an error now."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
    except OSError as error:
        raise Not3dError(
            f"{variable_name('temp_dir')}: {folder} cannot be used ({error.strerror}): name a folder that exists and "
            "can be written"
        ) from error
