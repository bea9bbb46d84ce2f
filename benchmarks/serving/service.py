"""The service under load, compared with its engine."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.process import MB, FootprintRecorder, running_service
from benchmarks.report import Report
from benchmarks.serving.engines import Clips, best_batch, clip_seconds, clips_per_second, open_same_engine
from benchmarks.serving.load import Crops, LoadResult, Plan, send_load, write_plan
from model.bundle import Bundle
from model.engines.protocol import batch_sizes
from service.settings import Settings

COMPUTE = "/embed?enroll=false&include_embedding=true"
"""As the peers answer: with the embedding, without enrolment."""

SHARE, TIMES_ONE_CLIP, MEMORY = 0.9, 1.3, 1200 * MB
"""Targets: share of the engine's rate, times the engine's time for one clip, bytes of resident memory."""


@dataclass(frozen=True)
class MeasurementSettings:
    """Rounds, seconds of each load, seconds of the engine before and after it, and number of clients."""

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
class ServiceResult:
    bundle: Bundle
    precision: str
    load: LoadResult


def measure_service(
    report: Report,
    bundle: Bundle,
    folder: Path,
    plans: Plans,
    clips: Clips,
    settings: MeasurementSettings,
    options: tuple[str, ...] = (),
) -> ServiceResult:
    """Start the service, measure it alternately with its engine in this process, and print tables."""
    seconds, clients = settings.engine_seconds, settings.clients
    with running_service(bundle.path, folder, *options) as server:
        facts = server.get("/info")["engine"]
        name = f"{facts['name']} {facts['precision']}"
        engine = open_same_engine(bundle, facts)
        if engine.precision != facts["precision"]:
            raise SystemExit(f"the service computes in {facts['precision']}, its engine here in {engine.precision}")
        chosen = f"with `{' '.join(options)}`" if options else "chosen automatically"
        report.say(f"**The service with {name}**, {facts['threads']} threads ({chosen}).")
        sizes = batch_sizes(settings.largest_batch)
        batch = best_batch(engine, clips, sizes, settings.rounds, seconds)

        def engine_rate() -> float:
            return bundle.spec.clip_length * clips_per_second(engine.embed, engine.streams, clips[:batch], seconds)

        def engine_ms() -> float:
            return 1000 * clip_seconds(engine.embed, clips[:1], seconds)

        send = partial(send_load, server.port, seconds=settings.seconds, dimension=bundle.spec.dimension)
        with FootprintRecorder(server.pid, 0.5) as recorder:
            send_mixed = partial(send, plans.mixed, clients=clients, path=COMPUTE)
            mixed, mixed_engine = _alternate_with_engine(settings.rounds, send_mixed, engine_rate)
            send_clip = partial(send, plans.clip, clients=1, path=COMPUTE)
            single, single_engine = _alternate_with_engine(settings.rounds, send_clip, engine_ms)
            thirty = send(plans.thirty, clients=1, path=COMPUTE)
            enrolled = send(plans.mixed, clients=clients, path="/embed")
    _print_loads(
        report,
        {
            f"{clients} clients, tracklets of {settings.lengths[0]} to {settings.lengths[1]} frames": mixed,
            "the same, enrolled and committed durably": [enrolled],
            "1 client, one clip": single,
            "1 client, 30 frames": [thirty],
        },
    )
    shares = [load.rate / rate for load, rate in zip(mixed, mixed_engine, strict=True)]
    share, padding = median(shares) * plans.mixed.computed_per_sent, plans.mixed.computed_per_sent
    report.say(
        f"The engine alone, {batch} clips a call (the best size): {_listed(mixed_engine)} frames/s around each load of "
        f"{_listed([load.rate for load in mixed])}. The engine computes {padding:.3f} frames per sent frame (short "
        f"last clips are padded). The service reaches {share:.1%} of the engine in computed frames, "
        f"{median(shares):.1%} in sent frames."
    )
    ratio = median(load.median_ms / own for load, own in zip(single, single_engine, strict=True))
    report.say(
        f"The engine's own time for one clip: {_listed(single_engine)} ms around each load. A single client's median "
        f"is {ratio:.2f} times that."
    )
    resident = recorder.largest_resident
    report.say(f"Resident set under this load: at most {resident / MB:.0f} MB.")
    if not options:  # targets apply to the default configuration only
        report.target(f"{name}: at least 90% of the engine alone", f"{share:.1%}", met=share >= SHARE)
        target = f"{name}: one client, one clip, median at most 1.3 times the engine's own time"
        report.target(target, f"{ratio:.2f} times", met=ratio <= TIMES_ONE_CLIP)
        report.target(f"{name}: resident set at most 1200 MB", f"{resident / MB:.0f} MB", met=resident <= MEMORY)
    return ServiceResult(bundle, str(facts["precision"]), mixed[0])


def _alternate_with_engine(
    rounds: int, send: Callable[[], LoadResult], engine: Callable[[], float]
) -> tuple[list[LoadResult], list[float]]:
    """Return each load, and for each the mean of the engine's measurements before and after it."""
    loads, engines = [], []
    for _ in range(rounds):
        before = engine()
        loads.append(send())
        engines.append((before + engine()) / 2)
    return loads, engines


def _print_loads(report: Report, loads: dict[str, list[LoadResult]]) -> None:
    report.head("load on the service", "frames/s", "median ms", "p99 ms", "503s", "clients' share of CPU")
    for name, results in loads.items():
        times = [1000 * seconds for result in results for seconds in result.times]
        report.row(
            name,
            f"{median(result.rate for result in results):.0f}",
            f"{np.median(times):.1f}",
            f"{np.percentile(times, 99):.1f}",
            str(sum(result.busy for result in results)),
            f"{median(result.client_share for result in results):.1%}",
        )
    report.end_table()


def _listed(values: list[float]) -> str:
    digits = 0 if median(values) >= 100 else 1
    return ", ".join(f"{value:.{digits}f}" for value in values)
