"""Getting ready: bundle, gallery, engine and its self-test are opened while the socket already answers `/readyz`."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import cv2

from model.bundle import Bundle, BundleError
from model.engines import Engine, EngineError, open_engine
from model.engines.cuda_options import CudaOptions
from model.engines.self_test import SelfTest, SelfTestError, run_self_test
from service.embedding.embedder import Embedder
from service.gallery.opening import open_gallery
from service.gallery.protocol import Gallery
from service.gallery.records import GalleryError, GalleryUnavailable
from service.settings import Settings
from service.telemetry.metrics import Metrics

STAGES = ("bundle", "gallery", "engine", "self_test")
GALLERY_RETRY_SECONDS = 2.0
"""Between two attempts to reach a gallery's server."""

T = TypeVar("T")

log = logging.getLogger("not3d.service")


@dataclass(frozen=True)
class Loaded:
    """Everything that answering needs."""

    bundle: Bundle
    gallery: Gallery
    engine: Engine
    self_test: SelfTest
    embedder: Embedder


class Startup:
    """Runs the stages once, in a thread; `error` says in a sentence why the service cannot start.

    A gallery on a server that does not answer is no such reason: it is tried again and again, and `waiting` says why.
    """

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings, self._metrics = settings, metrics
        self._gallery: Gallery | None = None
        self.pending = list(STAGES)
        self.error: str | None = None
        self.waiting: str | None = None
        self._stopping = threading.Event()
        self.loaded: Loaded | None = None

    def run(self) -> None:
        """Go through the stages; what is expected to go wrong ends up in `error`."""
        try:
            self.loaded = self._load()
        except GalleryUnavailable as error:  # told to stop while it waited
            log.info("ended before the gallery answered: %s", error)
            if self._gallery:
                self._gallery.close()
            return
        except (BundleError, EngineError, SelfTestError, GalleryError, OSError) as error:
            self.fail(str(error))
            return
        self._metrics.ready.set(1)

    def fail(self, reason: str) -> None:
        """Give up, and let go of the gallery before anybody can see the reason."""
        if self._gallery:
            self._gallery.close()
        log.error("cannot start: %s", reason)
        self.error = reason

    def stop(self) -> None:
        """Wait for no gallery any more."""
        self._stopping.set()

    def close_embedder(self) -> None:
        """Finish what decoders and engine have begun."""
        if self.loaded:
            self._metrics.ready.set(0)
            self.loaded.embedder.close()

    def close_gallery(self) -> None:
        """Save the index and let go of the directory; no call of the gallery may be under way."""
        if self.loaded:
            self.loaded.gallery.close()

    def _load(self) -> Loaded:
        settings = self._settings
        cv2.setNumThreads(1)  # frames are decoded side by side; each one in parallel again would only get in the way
        bundle = Bundle.load(settings.bundle)
        self._done("bundle")
        self._gallery = gallery = self._waited_for(lambda: open_gallery(settings, bundle))
        self._done("gallery")
        start = time.perf_counter()
        engine = open_engine(
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
        self._done("engine")
        self_test = run_self_test(engine, bundle)
        self._done("self_test")
        info = engine.info
        self._metrics.describe_engine(info, bundle.embedding_space)
        records = self._waited_for(gallery.count)
        self._metrics.gallery_records.set(records)
        facts = {"engine": info.name, "device": info.device, "precision": info.precision, "threads": info.threads}
        facts["provider"] = info.provider
        seconds = round(time.perf_counter() - start, 2)
        log.info("ready", extra={"facts": facts | {"engine_seconds": seconds, "records": records}})
        return Loaded(bundle, gallery, engine, self_test, Embedder(engine, bundle.spec, settings, self._metrics))

    def _waited_for(self, call: Callable[[], T]) -> T:
        """What a call of the gallery gives, once its server answers."""
        while True:
            try:
                result = call()
            except GalleryUnavailable as error:
                if self.waiting is None:
                    log.warning("waiting for the gallery: %s", error)
                self.waiting = str(error)
                if self._stopping.wait(GALLERY_RETRY_SECONDS):
                    raise
            else:
                self.waiting = None
                return result

    def _done(self, stage: str) -> None:
        self.pending.remove(stage)
