"""Engines on prepared arrays, without HTTP and decoding."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from benchmarks.serving.report import Report
from model.bundle import Bundle
from model.cgroups import available_cpus
from model.engines import Engine, EngineError
from model.engines.onnx_runtime import OnnxRuntimeEngine
from model.engines.openvino_engine import OpenVinoEngine

Embed = Callable[[NDArray[np.uint8]], object]

SHOWN_BATCH = 8


class Candidate(NamedTuple):
    """An engine's call and the number of parallel calls."""

    embed: Embed
    streams: int = 1


def measure_engines(
    report: Report, bundle: Bundle, quantised: Bundle | None, clips: NDArray[np.uint8], rounds: int, seconds: float
) -> None:
    """Print a table of each engine and precision, measured alternately so that a busy moment affects all."""
    candidates = _candidates(report, bundle, quantised)
    several: dict[str, list[float]] = {name: [] for name in candidates}
    lone: dict[str, list[float]] = {name: [] for name in candidates}
    batch = clips[:SHOWN_BATCH]
    for _ in range(rounds):
        for name, (embed, streams) in candidates.items():
            several[name].append(clips_per_second(embed, batch, seconds, streams))
            lone[name].append(clip_seconds(embed, clips[:1], seconds / 2))
    calls = f"{len(batch)} clips a call"
    report.head("engine on prepared arrays", f"frames/s, {calls}", "parallel calls", "one clip alone, ms")
    for name, candidate in candidates.items():
        rate = bundle.spec.clip_length * statistics.median(several[name])
        report.row(name, f"{rate:.0f}", str(candidate.streams), f"{1000 * statistics.median(lone[name]):.1f}")
    report.end_table()


def _candidates(report: Report, bundle: Bundle, quantised: Bundle | None) -> Mapping[str, Candidate]:
    threads = available_cpus()
    found: dict[str, Candidate] = {}
    try:
        from benchmarks.full_size import eager_network

        found["PyTorch eager fp32"] = Candidate(eager_network(bundle))
    except ImportError:
        report.say("(PyTorch is not installed: its row is missing.)")
    if not bundle.is_ir:
        found["ONNX Runtime f32"] = Candidate(OnnxRuntimeEngine(bundle, device="cpu", threads=threads).embed)
    precisions: tuple[Literal["f32", "bf16"], ...] = ("f32", "bf16")
    for precision in precisions:
        try:
            engine = OpenVinoEngine(bundle, threads=threads, precision=precision)
            found[f"OpenVINO {precision}"] = Candidate(engine.embed, engine.streams)
        except EngineError as error:
            report.say(f"({error})")
    if quantised is not None:
        engine = OpenVinoEngine(quantised, threads=threads)
        found[f"OpenVINO {engine.precision}"] = Candidate(engine.embed, engine.streams)
    return found


def engine_like(bundle: Bundle, facts: Mapping[str, Any]) -> Engine:
    """Open the engine that the service reports, in this process: same package, precision and threads."""
    threads = int(facts["threads"])
    if facts["name"] == "onnxruntime":
        return OnnxRuntimeEngine(bundle, device=facts["device"], threads=threads)
    hint = cast(Literal["f32", "bf16"], facts["precision"]) if facts["precision"] in {"f32", "bf16"} else "auto"
    return OpenVinoEngine(bundle, threads=threads, precision=hint)


def best_batch(engine: Engine, clips: NDArray[np.uint8], sizes: Sequence[int], rounds: int, seconds: float) -> int:
    """Return the batch size of the service with the most clips per second."""
    rates: dict[int, list[float]] = {size: [] for size in sizes}
    for _ in range(rounds):
        for size in sizes:
            rates[size].append(clips_per_second(engine.embed, clips[:size], seconds, engine.streams))
    return max(sizes, key=lambda size: statistics.median(rates[size]))


def clips_per_second(embed: Embed, clips: NDArray[np.uint8], seconds: float, streams: int) -> float:
    """Return clips per second over `seconds`, with continuous calls on each of `streams` threads."""
    embed(clips)
    started = time.perf_counter()

    def work(_: int) -> int:
        calls = 0
        while time.perf_counter() - started < seconds or calls < 2:
            embed(clips)
            calls += 1
        return calls

    with ThreadPoolExecutor(streams) as pool:
        calls = sum(pool.map(work, range(streams)))
    return calls * len(clips) / (time.perf_counter() - started)


def clip_seconds(embed: Embed, clip: NDArray[np.uint8], seconds: float) -> float:
    embed(clip)
    times: list[float] = []
    started = time.perf_counter()
    while time.perf_counter() - started < seconds or len(times) < 3:
        times.append(_time(embed, clip))
    return statistics.median(times)


def _time(embed: Embed, clips: NDArray[np.uint8]) -> float:
    started = time.perf_counter()
    embed(clips)
    return time.perf_counter() - started
