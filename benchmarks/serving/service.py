"""The service under load, compared with its engine."""

import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.serving.engines import best_batch, clip_seconds, clips_per_second, engine_like
from benchmarks.serving.footage import Crops, Plan, write_plan
from benchmarks.serving.process import MB, Load, Server, Watch, cpu_seconds, load, running_service
from benchmarks.serving.report import Report
from model.bundle import Bundle
from model.engines import Engine
from model.engines.protocol import batch_sizes
from service.settings import Settings

COMPUTE = "/embed?enroll=false&include_embedding=true"
"""As the peers answer: with the embedding, without enrolment."""
VARIANTS = {"without the vector in the answer": "/embed?enroll=false", "enrolled, committed durably": "/embed"}

SHARE, TIMES_ONE_CLIP, MEMORY = 0.9, 1.3, 1200 * MB
"""Targets: share of the engine's rate, times the engine's time for one clip, bytes of resident memory."""


@dataclass(frozen=True)
class Effort:
    """Size of the measurement: rounds, seconds of each load, seconds of the engine before and after, clients."""

    rounds: int
    seconds: float
    engine_seconds: float
    clients: int = 16
    lengths: tuple[int, int] = (8, 60)
    """Least and most frames of a tracklet."""
    largest_batch: int = Settings().largest_batch("cpu")


@dataclass(frozen=True)
class Plans:
    """Requests of the clients: tracklets of mixed lengths, of one clip, and of thirty frames."""

    mixed: Plan
    clip: Plan
    thirty: Plan

    @classmethod
    def write(cls, crops: Crops, folder: Path, clip_length: int, lengths: tuple[int, int]) -> "Plans":
        return cls(
            write_plan(crops, folder / "mixed", lengths, requests=96, clip_length=clip_length),
            write_plan(crops, folder / "clip", (clip_length, clip_length), requests=16, clip_length=clip_length),
            write_plan(crops, folder / "thirty", (30, 30), requests=16, clip_length=clip_length),
        )


@dataclass(frozen=True)
class Measured:
    bundle: Bundle
    rate: float
    precision: str
    sample: NDArray[np.float32]


def measure_service(
    report: Report,
    bundle: Bundle,
    folder: Path,
    plans: Plans,
    clips: NDArray[np.uint8],
    effort: Effort,
    options: tuple[str, ...] = (),
) -> Measured:
    """Start the service, measure it alternately with its engine in this process, and print tables."""
    with running_service(bundle.path, folder, *options) as server:
        facts = server.get("/info")["engine"]
        name = f"{facts['name']} {facts['precision']}"
        engine = engine_like(bundle, facts)
        if engine.precision != facts["precision"]:
            raise SystemExit(f"the service computes in {facts['precision']}, its engine here in {engine.precision}")
        report.say(f"**The service with {name}**, {facts['threads']} threads{_given(options)}.")
        sizes = batch_sizes(effort.largest_batch)
        batch = best_batch(engine, clips, sizes, effort.rounds, effort.engine_seconds)
        turns = _Turns(server, bundle, effort)
        with Watch(server.pid, 0.5) as watch:
            alone, counted = clips[:batch], Counted(engine)
            mixed = turns.alternate(plans.mixed, effort.clients, lambda: _rate(counted, alone, effort, bundle))
            lone = turns.alternate(plans.clip, 1, lambda: clip_seconds(engine.embed, clips[:1], effort.engine_seconds))
            thirty = turns.once(plans.thirty, 1, COMPUTE)
            variants = {what: turns.once(plans.mixed, effort.clients, path) for what, path in VARIANTS.items()}
        _print(report, effort, mixed, lone, thirty, variants)
        share = _share_of_engine(report, batch, plans.mixed, mixed, counted.clips * bundle.spec.clip_length)
        ratio = _times_one_clip(report, lone)
        report.say(f"Resident set under this load: at most {watch.most / MB:.0f} MB.")
    if not options:  # targets apply to the default configuration only
        report.target(f"{name}: at least 90% of the engine alone", f"{share:.1%}", met=share >= SHARE)
        asked = f"{name}: one client, one clip, median at most 1.3 times the engine's own time"
        report.target(asked, f"{ratio:.2f} times", met=ratio <= TIMES_ONE_CLIP)
        report.target(f"{name}: p99 of {effort.clients} clients stated", f"{mixed.p99_ms:.0f} ms", met=True)
        report.target(f"{name}: resident set at most 1200 MB", f"{watch.most / MB:.0f} MB", met=watch.most <= MEMORY)
    sample = np.asarray(mixed.loads[0].sample, dtype=np.float32)
    return Measured(bundle, statistics.median(item.rate for item in mixed.loads), str(facts["precision"]), sample)


class Counted:
    """An engine that counts its clips; safe for several threads."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self.streams = engine, engine.streams
        self._lock = threading.Lock()
        self.clips = 0

    def embed(self, clips: NDArray[np.uint8]) -> NDArray[np.float32]:
        rows = self._engine.embed(clips)
        with self._lock:
            self.clips += len(clips)
        return rows


@dataclass(frozen=True)
class _Alternated:
    """The loads, and the engine's measurement before and after each."""

    before: list[float]
    loads: list[Load]
    after: list[float]
    engine_cpu: float
    service_cpu: float
    """CPU seconds of all rounds."""

    @property
    def engine(self) -> list[float]:
        """The mean of the engine's measurements before and after each load."""
        return [(a + b) / 2 for a, b in zip(self.before, self.after, strict=True)]

    @property
    def p99_ms(self) -> float:
        return 1000 * float(np.percentile([value for item in self.loads for value in item.times], 99))


class _Turns:
    def __init__(self, server: Server, bundle: Bundle, effort: Effort) -> None:
        self._server, self._bundle, self._effort = server, bundle, effort

    def once(self, plan: Plan, clients: int, path: str) -> Load:
        dimension = self._bundle.spec.dimension
        seconds = self._effort.seconds
        return load(self._server.port, plan, clients=clients, seconds=seconds, path=path, dimension=dimension)

    def alternate(self, plan: Plan, clients: int, engine: Callable[[], float]) -> _Alternated:
        before, loads, after = [], [], []
        engine_cpu = service_cpu = 0.0
        for _ in range(self._effort.rounds):
            engine_cpu -= time.process_time()
            before.append(engine())
            engine_cpu += time.process_time()
            service_cpu -= cpu_seconds(self._server.pid)
            loads.append(self.once(plan, clients, COMPUTE))
            service_cpu += cpu_seconds(self._server.pid)
            engine_cpu -= time.process_time()
            after.append(engine())
            engine_cpu += time.process_time()
        return _Alternated(before, loads, after, engine_cpu, service_cpu)


def _given(options: tuple[str, ...]) -> str:
    return f" (with `{' '.join(options)}`)" if options else " (chosen automatically)"


def _rate(engine: Counted, clips: NDArray[np.uint8], effort: Effort, bundle: Bundle) -> float:
    return bundle.spec.clip_length * clips_per_second(engine.embed, clips, effort.engine_seconds, engine.streams)


def _print(
    report: Report, effort: Effort, mixed: _Alternated, lone: _Alternated, thirty: Load, variants: dict[str, Load]
) -> None:
    report.head("load on the service", "frames/s", "median ms", "p99 ms", "503s", "clients' share of CPU")
    lines = [(f"{effort.clients} clients, tracklets of {effort.lengths[0]} to {effort.lengths[1]} frames", mixed.loads)]
    lines += [(f"the same, {what}", [item]) for what, item in variants.items()]
    lines += [("1 client, one clip", lone.loads), ("1 client, 30 frames", [thirty])]
    for what, loads in lines:
        times = [1000 * value for item in loads for value in item.times]
        report.row(
            what,
            f"{statistics.median(item.rate for item in loads):.0f}",
            f"{statistics.median(times):.1f}",
            f"{np.percentile(times, 99):.1f}",
            str(sum(item.busy for item in loads)),
            f"{statistics.median(item.client_share for item in loads):.1%}",
        )
    report.end_table()


def _share_of_engine(report: Report, batch: int, plan: Plan, mixed: _Alternated, engine_frames: int) -> float:
    rates = [item.rate for item in mixed.loads]
    computed = [rate * plan.computed / engine for rate, engine in zip(rates, mixed.engine, strict=True)]
    sent = [rate / engine for rate, engine in zip(rates, mixed.engine, strict=True)]
    share = statistics.median(computed)
    report.say(
        f"The engine alone, {batch} clips a call (the best size): {_listed(mixed.before)} frames/s before, "
        f"{_listed(mixed.after)} after each load of {_listed(rates)}. The engine computes {plan.computed:.3f} frames "
        f"per frame of these tracklets (short last clips are padded): on prepared arrays that is "
        f"{statistics.median(mixed.engine) / plan.computed:.0f} frames/s. The service reaches {share:.1%} of that "
        f"({', '.join(f'{value:.1%}' for value in computed)}); of the engine's rate on whole clips "
        f"{statistics.median(sent):.1%}."
    )
    alone = engine_frames / mixed.engine_cpu
    served = plan.computed * sum(item.all_frames for item in mixed.loads) / mixed.service_cpu
    report.say(
        f"By CPU time, which other load on the machine changes less: {alone:.1f} computed frames per CPU second of the "
        f"engine alone, {served:.1f} of the whole service: {served / alone:.1%}; the rest is reading, parsing, "
        "decoding and answering."
    )
    return share


def _times_one_clip(report: Report, lone: _Alternated) -> float:
    ratios = [1e-3 * item.median_ms / engine for item, engine in zip(lone.loads, lone.engine, strict=True)]
    ratio = statistics.median(ratios)
    report.say(
        f"The engine's own time for one clip: {_listed([1000 * value for value in lone.before])} ms before, "
        f"{_listed([1000 * value for value in lone.after])} after. A lone client's median is {ratio:.2f} times that "
        f"({', '.join(f'{value:.2f}' for value in ratios)})."
    )
    return ratio


def _listed(values: list[float]) -> str:
    digits = 0 if statistics.median(values) >= 100 else 1
    return ", ".join(f"{value:.{digits}f}" for value in values)
