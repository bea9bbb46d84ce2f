"""The model that a service runs: its bundle, its engine, the self-test, and the embedder.

Only a service with a model imports this module, because it needs an engine and the packages that decode pictures.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from model.bundle import Bundle
from model.engines import Engine, open_engine
from model.engines.protocol import CudaOptions
from model.engines.self_test import SelfTest
from service.embedding.embedder import Embedder
from service.settings import Settings


@dataclass(frozen=True)
class LoadedModel:
    """A model that passed its self-test, and what embeds tracklets with it."""

    bundle: Bundle
    engine: Engine
    self_test: SelfTest
    embedder: Embedder


def load_bundle(settings: Settings) -> Bundle:
    """Load the bundle of the settings."""
    cv2.setNumThreads(1)  # frames are decoded in parallel; threads inside each decoder would compete with that
    return Bundle.load(settings.bundle)


def warm_up(engine: Engine, bundle: Bundle, settings: Settings) -> None:
    """Let an engine on the CPU get the memory for the largest batch now.

    Otherwise the memory of the service would grow by 50 MB until it has met the largest batch twice: ONNX Runtime plans
    the memory of a shape in the first call, and gets one block for it in the second.

    Raises:
        EngineError: the engine failed.
    """
    if engine.device == "cpu":
        for _ in range(2):
            engine.embed(np.zeros((settings.largest_batch("cpu"), *bundle.spec.clip_shape), np.uint8))


def open_chosen_engine(bundle: Bundle, settings: Settings) -> Engine:
    """Open the engine that the settings ask for."""
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
