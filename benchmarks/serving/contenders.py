"""Other servers under the same load: the same bodies, checks and clients."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.peers import weights_of
from benchmarks.serving.footage import Plan
from benchmarks.serving.process import Load, load, running, running_service
from benchmarks.serving.report import Report
from benchmarks.serving.service import COMPUTE, Effort, Measured, Plans
from model.bundle import Bundle
from model.cgroups import available_cpus

LEAST_COSINE = 0.98
"""Least cosine between an answer of the service, possibly in int8, and of a peer in fp32."""


class Peer(NamedTuple):
    """A peer: its package, the required speed-up of the service, and its configurations."""

    name: str
    module: str
    needs: str
    times: float
    ways: dict[str, tuple[str, ...]]


def peers() -> list[Peer]:
    """Return the peers, each with its best configuration on two cores first."""
    workers = ("--workers", str(available_cpus()), "--threads", "1")
    one = ("--threads", str(available_cpus()))
    return [
        Peer(
            "PyTorch eager fp32 behind FastAPI",
            "benchmarks.peers.eager",
            "torch",
            10,
            {"plain": (), "one request computes at a time": ("--lock",)},
        ),
        Peer(
            "ONNX Runtime fp32 behind LitServe",
            "benchmarks.peers.lit",
            "litserve",
            3,
            {
                "1 worker with all threads": one,
                "a worker for each CPU": workers,
                "1 worker, batches of up to 8 requests": (*one, "--batch", "8"),
                "a worker for each CPU, batches of up to 4": (*workers, "--batch", "4"),
            },
        ),
    ]


@dataclass(frozen=True)
class Contest:
    """A peer's load, and the service's load just before and after it."""

    peer: Load
    lone: Load
    service: tuple[Load, Load]

    @property
    def ours(self) -> float:
        return (self.service[0].rate + self.service[1].rate) / 2

    @property
    def times(self) -> float:
        """The service's frames per second divided by the peer's."""
        return self.ours / self.peer.rate


def measure_peers(
    report: Report, service: Measured, bundle: Bundle, folder: Path, plans: Plans, effort: Effort, *, every: bool
) -> None:
    """Print a table of the peers, each in its best configuration, or in all with `every`.

    The service in its fastest form is measured just before and after each peer.
    """
    with running_service(service.bundle.path, folder) as server:

        def own() -> Load:
            return _load(server.port, service.bundle, plans.mixed, effort.clients, effort, COMPUTE)

        report.head(
            "peer, the same route and requests", "way", "frames/s", "p99 ms", "1 client, one clip, ms", "the service's"
        )
        for peer in peers():
            if importlib.util.find_spec(peer.needs) is None:
                report.row(peer.name, f"left out: {peer.needs} is not installed", "", "", "", "")
                continue
            contests = []
            for number, (way, options) in enumerate(list(peer.ways.items())[: None if every else 1]):
                arguments = [peer.module, "--bundle", str(bundle.path), *options]
                before = own()
                with running(arguments, ready="/health", log=folder / f"{peer.needs}-{number}.log") as other:
                    lone = _load(other.port, bundle, plans.clip, 1, effort, "/embed")
                    mixed = _load(other.port, bundle, plans.mixed, effort.clients, effort, "/embed")
                contests.append(contest := Contest(mixed, lone, (before, own())))
                report.row(
                    peer.name,
                    way,
                    f"{mixed.rate:.1f}",
                    f"{mixed.p99_ms:.0f}",
                    f"{lone.median_ms:.1f}",
                    f"{contest.ours:.0f}: {contest.times:.1f} times",
                )
                _check_answer(peer, mixed, service, bundle)
            best = max(contests, key=lambda contest: contest.peer.rate)
            measured = f"{best.times:.1f} times ({best.ours:.0f} against {best.peer.rate:.1f} frames/s)"
            asked = f"{service.precision}: at least {peer.times:.0f} times {peer.name}"
            report.target(asked, measured, met=best.times >= peer.times)
        report.end_table()


def _load(port: int, bundle: Bundle, plan: Plan, clients: int, effort: Effort, path: str) -> Load:
    dimension = bundle.spec.dimension
    return load(port, plan, clients=clients, seconds=effort.seconds, path=path, dimension=dimension)


def _check_answer(peer: Peer, mixed: Load, service: Measured, bundle: Bundle) -> None:
    """Check that a peer computes the same embedding from the same crops and weights."""
    if peer.needs == "torch" and not weights_of(bundle.path).exists():
        return  # fresh weights
    cosine = float(np.dot(np.asarray(mixed.sample, dtype=np.float32), service.sample))
    if cosine < LEAST_COSINE:
        raise SystemExit(f"{peer.name} answers the first tracklet differently: cosine {cosine:.4f} to the service's")
