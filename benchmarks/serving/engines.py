"""Engines on prepared arrays, without HTTP and decoding."""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from statistics import median
from typing import Any, Literal, NamedTuple, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from benchmarks.report import Report
from model.bundle import Bundle
from model.cgroups import available_cpus
from model.engines import Engine, EngineError
from model.engines.onnx_runtime import OnnxRuntimeEngine
from model.engines.openvino_engine import OpenVinoEngine

Clips = NDArray[np.uint8]
Embed = Callable[[Clips], object]
Key = TypeVar("Key")

SHOWN_BATCH = 8


class EngineCall(NamedTuple):
    """An engine's call and the number of parallel calls."""

    embed: Embed
    streams: int = 1


def measure_engines(
    report: Report, bundle: Bundle, quantised: Bundle | None, clips: Clips, rounds: int, seconds: float
) -> None:
    """Print a table of each engine and precision, measured alternately so that a busy moment affects all."""
    calls = _engine_calls(report, bundle, quantised)
    batch = clips[:SHOWN_BATCH]
    rates = _alternate(
        rounds, {name: partial(clips_per_second, *call, clips=batch, seconds=seconds) for name, call in calls.items()}
    )
    times = _alternate(
        rounds, {name: partial(clip_seconds, call.embed, clips[:1], seconds / 2) for name, call in calls.items()}
    )
    report.head("engine on prepared arrays", f"frames/s, {len(batch)} clips a call", "parallel calls", "one clip, ms")
    for name, call in calls.items():
        rate = bundle.spec.clip_length * rates[name]
        report.row(name, f"{rate:.0f}", str(call.streams), f"{1000 * times[name]:.1f}")
    report.end_table()


def _engine_calls(report: Report, bundle: Bundle, quantised: Bundle | None) -> Mapping[str, EngineCall]:
    threads = available_cpus()
    found: dict[str, EngineCall] = {}
    try:
        from benchmarks.full_size import eager_network

        found["PyTorch eager fp32"] = EngineCall(eager_network(bundle))
    except ImportError:
        report.say("(PyTorch is not installed: its row is missing.)")
    if not bundle.is_ir:
        found["ONNX Runtime f32"] = EngineCall(OnnxRuntimeEngine(bundle, device="cpu", threads=threads).embed)
    wanted: list[tuple[Bundle, Literal["auto", "f32", "bf16"]]] = [(bundle, "f32"), (bundle, "bf16")]
    wanted += [(quantised, "auto")] if quantised else []
    for which, precision in wanted:
        try:
            engine = OpenVinoEngine(which, threads=threads, precision=precision)
            found[f"OpenVINO {engine.precision}"] = EngineCall(engine.embed, engine.streams)
        except EngineError as error:
            report.say(f"({error})")
    return found


def _alternate(rounds: int, measurements: Mapping[Key, Callable[[], float]]) -> dict[Key, float]:
    """Return the median of each measurement; each round takes all of them in turn."""
    values = [{key: measure() for key, measure in measurements.items()} for _ in range(rounds)]
    return {key: median(turn[key] for turn in values) for key in measurements}


def open_same_engine(bundle: Bundle, facts: Mapping[str, Any]) -> Engine:
    """Open the engine that the service reports, in this process: same package, precision and threads."""
    threads = int(facts["threads"])
    if facts["name"] == "onnxruntime":
        return OnnxRuntimeEngine(bundle, device=facts["device"], threads=threads)
    hint = cast(Literal["f32", "bf16"], facts["precision"]) if facts["precision"] in {"f32", "bf16"} else "auto"
    return OpenVinoEngine(bundle, threads=threads, precision=hint)


def best_batch(engine: Engine, clips: Clips, sizes: Sequence[int], rounds: int, seconds: float) -> int:
    """Return the batch size of the service with the most clips per second."""
    measure = partial(clips_per_second, engine.embed, engine.streams, seconds=seconds)
    rates = _alternate(rounds, {size: partial(measure, clips=clips[:size]) for size in sizes})
    return max(rates, key=rates.__getitem__)


def clips_per_second(embed: Embed, streams: int, clips: Clips, seconds: float) -> float:
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


def clip_seconds(embed: Embed, clip: Clips, seconds: float) -> float:
    """Return the median seconds of a call over `seconds`."""
    embed(clip)
    times: list[float] = []
    began = time.perf_counter()
    while time.perf_counter() - began < seconds or len(times) < 3:
        started = time.perf_counter()
        embed(clip)
        times.append(time.perf_counter() - started)
    return median(times)
