"""Opening the engine that was asked for, or the fastest one that works."""

import hashlib
import importlib
import json
import logging
import os
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from model.bundle import Bundle
from model.cgroups import available_cpus
from model.engines.protocol import CudaOptions, Engine, EngineError, EngineName
from model.engines.self_test import SelfTestError, run_self_test

CHOICE_FILE = "engine-choice.json"

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
    """Open an engine on a bundle.

    Args:
        bundle: the bundle.
        device: "auto" takes CUDA if it works, otherwise the CPU.
        cache_dir: keeps the choice of the engine, and TensorRT's engine.
        engine: "auto" takes, on the CPU, the fastest installed engine that passes the self-test, measured on the golden
            clips.
        threads: CPU threads, by default all that this process may use.
        cuda: how the network runs on a GPU.

    Raises:
        EngineError: the engine is not installed or cannot open the bundle, or CUDA was asked for and does not work.
        BundleError: the bundle's files were changed after it was loaded.
    """
    threads = available_cpus() if threads is None else threads
    if threads < 1:
        raise EngineError(f"threads must be at least 1 (got {threads})")
    if device != "cpu":
        opened = _open_cuda(bundle, engine, threads, cache_dir, cuda or CudaOptions(), required=device == "cuda")
        if opened is not None:
            return opened
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
    cached = load_choice(cache_dir, key)
    if cached is not None:
        return _open_one(bundle, cached, threads)
    fastest = _open_fastest(bundle, candidates, threads)
    save_choice(cache_dir, key, fastest.name)
    return fastest


def installed_engines() -> dict[EngineName, str]:
    """Return the engines whose package can be imported, with their versions."""
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
            "the extra `cpu` installs both engines: pip install 'not3d[cpu]'"
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
    """Open an engine that passes the self-test, in f32 if its default precision does not pass.

    Raises:
        EngineError: it cannot be opened.
        SelfTestError: it does not pass in f32 either.
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
    """Open the only candidate."""
    try:
        return _open_tested(bundle, name, threads)
    except SelfTestError:
        return _open_cpu(bundle, name, threads)  # the caller runs the self-test and reports it


def _open_cuda(
    bundle: Bundle,
    name: EngineName | Literal["auto"],
    threads: int,
    cache_dir: Path | None,
    options: CudaOptions,
    *,
    required: bool,
) -> Engine | None:
    """Open ONNX Runtime on CUDA. If that fails, raise if `required`, otherwise log why and return None."""
    if name == "openvino":
        if required:
            raise EngineError("OpenVINO has no CUDA; choose the engine onnxruntime or auto, or the device cpu")
        return None
    if not required and (
        "onnxruntime" not in installed_engines() or not _import("onnxruntime").cuda_provider_installed()
    ):
        return None
    _import("onnxruntime")  # raises an error that says what to install
    from model.engines.cuda import open_cuda

    try:
        return open_cuda(bundle, threads=threads, cache_dir=cache_dir, options=options)
    except EngineError as error:
        if required:
            raise
        _LOG.warning("device auto uses the CPU: %s", error)
        return None


def _open_fastest(bundle: Bundle, names: Mapping[EngineName, str], threads: int) -> Engine:
    """Open all engines, drop those that fail the self-test, and time the rest.

    They take turns, so that another busy process slows all of them.
    """
    clips = bundle.golden().clips
    opened: list[Engine] = []
    faults = []
    for name in names:
        try:
            candidate = _open_tested(bundle, name, threads)
        except (EngineError, SelfTestError) as error:
            _LOG.warning("engine left out of the choice: %s: %s", name, error)
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
    """Return the time per clip with all streams of the engine busy."""
    with ThreadPoolExecutor(engine.streams) as pool:
        started = time.perf_counter()
        calls = [pool.submit(engine.embed, clips) for _ in range(engine.streams)]
        for call in calls:
            call.result()
        return (time.perf_counter() - started) / (engine.streams * len(clips))


def choice_key(bundle: Bundle, threads: int, versions: Mapping[EngineName, str]) -> str:
    """Return 16 hex digits that name everything that the fastest engine depends on."""
    facts = [bundle.embedding_space, cpu_model(), threads, sorted(versions.items())]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return the processor's name and instruction sets; the name in a virtual machine does not tell about AMX."""
    try:
        first = cpuinfo.read_text().partition("\n\n")[0]
    except OSError:
        return "unknown"
    return "\n".join(line for line in first.splitlines() if line.startswith(("model", "flags", "Features", "CPU part")))


def load_choice(cache_dir: Path | None, key: str) -> EngineName | None:
    """Return the engine that `cache_dir` holds for `key`, or None."""
    if cache_dir is None:
        return None
    try:
        cached = json.loads((cache_dir / CHOICE_FILE).read_text())
    except (OSError, ValueError):
        return None  # missing or damaged: measure again
    if not isinstance(cached, dict) or cached.get("key") != key:
        return None
    return next((name for name in get_args(EngineName) if name == cached.get("engine")), None)


def save_choice(cache_dir: Path | None, key: str, name: EngineName) -> None:
    """Write the choice for the next start, atomically; without `cache_dir`, do nothing."""
    if cache_dir is None:
        return
    target = cache_dir / CHOICE_FILE
    partial = target.with_suffix(f".{os.getpid()}")
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps({"key": key, "engine": name}))
        partial.replace(target)
    except OSError as error:
        _LOG.warning("the choice of engine cannot be saved in %s: %s", cache_dir, error)
