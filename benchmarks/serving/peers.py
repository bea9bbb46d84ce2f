"""Other servers under the same load: the same bodies, checks and clients."""

import importlib.util
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.peers import weights_of
from benchmarks.process import running, running_service
from benchmarks.report import Report
from benchmarks.serving.load import send_load
from benchmarks.serving.service import COMPUTE, MeasurementSettings, Plans, ServiceResult
from model.bundle import Bundle
from model.cgroups import available_cpus

MIN_COSINE = 0.98
"""Least cosine between an answer of the service, possibly in int8, and of a peer in fp32."""


class Peer(NamedTuple):
    """A server in its fastest configuration on two cores, and the speed-up over it that the service must reach."""

    name: str
    module: str
    package: str
    options: tuple[str, ...]
    target: float


PEERS = (
    Peer("PyTorch eager fp32 behind FastAPI", "benchmarks.peers.eager", "torch", (), 10),
    Peer(
        "ONNX Runtime fp32 behind LitServe, 1 worker with all threads",
        "benchmarks.peers.lit",
        "litserve",
        ("--threads", str(available_cpus())),
        3,
    ),
)


def measure_peers(
    report: Report,
    service: ServiceResult,
    bundle: Bundle,
    folder: Path,
    plans: Plans,
    settings: MeasurementSettings,
) -> None:
    """Print a table of the peers. The service in its fastest form is measured just before and after each peer."""
    report.head("peer, the same route and requests", "frames/s", "p99 ms", "1 client, one clip, ms", "the service's")
    send = partial(send_load, seconds=settings.seconds, dimension=bundle.spec.dimension)
    with running_service(service.bundle.path, folder) as server:
        send_to_service = partial(send, server.port, plans.mixed, clients=settings.clients, path=COMPUTE)
        for peer in PEERS:
            if importlib.util.find_spec(peer.package) is None:
                report.row(peer.name, f"not measured: {peer.package} is not installed", "", "", "")
                continue
            before = send_to_service().rate
            command = [peer.module, "--bundle", str(bundle.path), *peer.options]
            with running(command, ready="/health", log=folder / f"{peer.package}.log") as other:
                single = send(other.port, plans.clip, clients=1, path="/embed")
                mixed = send(other.port, plans.mixed, clients=settings.clients, path="/embed")
            rate = (before + send_to_service().rate) / 2
            times = rate / mixed.rate
            report.row(
                peer.name,
                f"{mixed.rate:.1f}",
                f"{mixed.p99_ms:.0f}",
                f"{single.median_ms:.1f}",
                f"{rate:.0f}: {times:.1f} times",
            )
            if peer.package != "torch" or weights_of(bundle.path).exists():  # otherwise its weights are fresh
                _check_embedding(peer, mixed.embedding, service.load.embedding)
            measured = f"{times:.1f} times ({rate:.0f} against {mixed.rate:.1f} frames/s)"
            target = f"{service.precision}: at least {peer.target:.0f} times {peer.name}"
            report.target(target, measured, met=times >= peer.target)
        report.end_table()


def _check_embedding(peer: Peer, one: list[float] | None, other: list[float] | None) -> None:
    cosine = float(np.dot(one or [], other or []))
    if cosine < MIN_COSINE:
        raise SystemExit(f"{peer.name} answers the first tracklet differently: cosine {cosine:.4f} to the service's")
