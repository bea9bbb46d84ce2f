"""Opening the engine that was asked for, or the fastest one that works."""

import importlib
import logging
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from model.bundle import Bundle
from model.cgroups import available_cpus
from model.engines.choice_cache import choice_key, recall_choice, remember_choice
from model.engines.cuda_options import CudaOptions
from model.engines.protocol import Engine, EngineError, EngineName
from model.engines.self_test import SelfTestError, run_self_test

_LOG = logging.getLogger(__name__)
_MODULES: Mapping[EngineName, str] = {
    "onnxruntime": "model.engines.onnx_runtime",
    "openvino": "model.engines.openvino_engine",
}
_ROUNDS = 3


def open_engine(
    bundle: Bundle,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    *,
    cache_dir: Path | None = None,
    engine: Literal["auto", "onnxruntime", "openvino"] = "auto",
    threads: int | None = None,
    cuda: CudaOptions | None = None,
) -> Engine:
    """Open an engine on ``bundle``.

    ``device="auto"`` takes CUDA where it works, else the CPU. ``engine="auto"`` on the CPU takes the fastest installed
    engine that passes the self-test, measured on the golden clips; ``cache_dir`` remembers the answer, and the network
    as it was converted for a GPU. ``threads`` is the number of CPU threads, by default all that this process may use;
    ``cuda`` says how the network runs on a GPU.

    Raises:
        EngineError: the engine is not installed, cannot open the bundle, or CUDA was asked for and does not work.
    """
    threads = available_cpus() if threads is None else threads
    if threads < 1:
        raise EngineError(f"an engine needs at least one thread, not {threads}")
    if device != "cpu":
        on_cuda = _open_cuda(bundle, engine, threads, cache_dir, cuda or CudaOptions(), required=device == "cuda")
        if on_cuda is not None:
            return on_cuda
    if engine != "auto":
        return _open_cpu(bundle, engine, threads)
    if bundle.is_ir:
        return _open_one(bundle, "openvino", threads)
    candidates = installed_engines()
    if not candidates:
        raise EngineError("no engine is installed; install one with: pip install 'not3d[cpu]'")
    if len(candidates) == 1:
        return _open_cpu(bundle, next(iter(candidates)), threads)
    key = choice_key(bundle, threads, candidates)
    remembered = recall_choice(cache_dir, key)
    if remembered is not None:
        return _open_one(bundle, remembered, threads)
    fastest = _open_fastest(bundle, candidates, threads)
    remember_choice(cache_dir, key, fastest.name)
    return fastest


def installed_engines() -> dict[EngineName, str]:
    """The engines whose package can be imported, with their versions."""
    versions: dict[EngineName, str] = {}
    for name in get_args(EngineName):
        try:
            versions[name] = _import(name).VERSION
        except EngineError as error:
            _LOG.debug("%s", error)
    return versions


def _import(name: EngineName) -> Any:
    try:
        return importlib.import_module(_MODULES[name])
    except ImportError as error:
        raise EngineError(
            f"the engine '{name}' is not installed or does not load ({error}); "
            "the `cpu` extra brings both engines: pip install 'not3d[cpu]'"
        ) from error


def _open_cpu(bundle: Bundle, name: EngineName, threads: int) -> Engine:
    module = _import(name)
    opened: Engine
    if name == "onnxruntime":
        opened = module.OnnxRuntimeEngine(bundle, device="cpu", threads=threads)
    else:
        opened = module.OpenVinoEngine(bundle, threads=threads)
    return opened


def _open_tested(bundle: Bundle, name: EngineName, threads: int) -> Engine:
    """Open an engine that passes the self-test, in f32 where its own arithmetic is too coarse for the network.

    Raises:
        EngineError, SelfTestError: it cannot be opened, or does not pass in f32 either.
    """
    opened = _open_cpu(bundle, name, threads)
    try:
        run_self_test(opened, bundle)
    except SelfTestError as error:
        if opened.precision == "f32":
            raise
        _LOG.warning("%s computes in f32: %s", name, error)
        opened = _import("openvino").OpenVinoEngine(bundle, threads=threads, precision="f32")
        run_self_test(opened, bundle)
    return opened


def _open_one(bundle: Bundle, name: EngineName, threads: int) -> Engine:
    """Open the engine that is known to be the one to take."""
    try:
        return _open_tested(bundle, name, threads)
    except SelfTestError:
        return _open_cpu(bundle, name, threads)  # whoever opened it tests it, and says so


def _open_cuda(
    bundle: Bundle,
    name: EngineName | Literal["auto"],
    threads: int,
    cache_dir: Path | None,
    options: CudaOptions,
    *,
    required: bool,
) -> Engine | None:
    """Open ONNX Runtime on CUDA; where that fails, raise if ``required``, else say why in the log and return None."""
    if name == "openvino":
        if required:
            raise EngineError("OpenVINO has no CUDA; ask for the engine onnxruntime or auto, or for the device cpu")
        return None
    if not required and (
        "onnxruntime" not in installed_engines() or not _import("onnxruntime").cuda_provider_installed()
    ):
        return None
    _import("onnxruntime")  # says what to install where it is missing
    try:
        opened: Engine = importlib.import_module("model.engines.cuda").open_cuda(
            bundle, threads=threads, cache_dir=cache_dir, options=options
        )
    except EngineError as error:
        if required:
            raise
        _LOG.warning("device auto uses the CPU: %s", error)
        return None
    return opened


def _open_fastest(bundle: Bundle, names: Mapping[EngineName, str], threads: int) -> Engine:
    """Open all engines, drop those that fail the self-test, and time the rest in turns: a busy moment then hits all."""
    clips = bundle.golden().clips
    opened: list[Engine] = []
    faults = []
    for name in names:
        try:
            candidate = _open_tested(bundle, name, threads)
        except (EngineError, SelfTestError) as error:
            _LOG.warning("the engine %s is left out of the choice: %s", name, error)
            faults.append(f"{name}: {error}")
        else:
            opened.append(candidate)
    if not opened:
        raise EngineError("no engine can run the bundle: " + "; ".join(faults))
    seconds = np.full((_ROUNDS, len(opened)), np.inf)
    for turn in range(_ROUNDS):
        for column, candidate in enumerate(opened):
            seconds[turn, column] = _seconds_per_clip(candidate, clips)
    best = seconds.min(axis=0)
    rates = {candidate.name: round(float(1 / best[i]), 2) for i, candidate in enumerate(opened)}
    fastest = opened[int(best.argmin())]
    _LOG.info("fastest CPU engine: %s in %s (clips per second: %s)", fastest.name, fastest.precision, rates)
    return fastest


def _seconds_per_clip(engine: Engine, clips: NDArray[np.uint8]) -> float:
    """Of all the engine's streams together, as under load."""
    with ThreadPoolExecutor(engine.streams) as pool:
        started = time.perf_counter()
        calls = [pool.submit(engine.embed, clips) for _ in range(engine.streams)]
        for call in calls:
            call.result()
        return (time.perf_counter() - started) / (engine.streams * len(clips))
