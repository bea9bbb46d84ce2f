"""What the audit log costs: searches per second of a service with it, and of one that writes no entry for a search.

    python -m benchmarks.audit [--records 10000] [--clients 16] [--rounds 7] [--seconds 2]

Two services with equal galleries run beside each other and get the same load in turn, so both have the same share of
a busy machine. Printed are the medians of the ratios of neighbouring rounds: of the rates, and of the CPU time that the
service used for a search. The latter does not depend on what else the machine does.

Searches ask for an enrolled id (the cheapest kind, so the log has the largest share) or for a crop of one clip.
"""

import argparse
import asyncio
import base64
import json
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import httpx
import numpy as np

from benchmarks.process import Server, cpu_seconds, running
from benchmarks.report import Report, describe_machine
from model.bundle import BUNDLED, Bundle

WITHOUT, WITH = "--without", "--with"
"""Arguments after which the rest is a command of not3d, run without and with entries for searches."""
INDEXED_AT_ONCE = 64
"""Entries that the service with the log indexes at once, so that each round has its share of this work. A service
indexes more of them at once, which costs less for each."""
TOP_K = 10
SHARE = 0.05
"""The target: the largest share of the throughput that the log may cost."""


@dataclass(frozen=True)
class Load:
    """What one service did under one load."""

    rate: float
    cpu_ms: float
    times: list[float]


async def _client(port: int, requests: list[bytes], until: float, times: list[float]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    number = 0
    while time.perf_counter() < until:
        start = time.perf_counter()
        writer.write(requests[number % len(requests)])
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise SystemExit(f"a search was answered with {head.splitlines()[0].decode()}")
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        await reader.readexactly(length)
        times.append(time.perf_counter() - start)
        number += 1
    writer.close()


def load(server: Server, requests: list[list[bytes]], seconds: float) -> Load:
    """Send requests from one client for each list of them, for some seconds."""
    times: list[float] = []

    async def run() -> None:
        until = time.perf_counter() + seconds
        await asyncio.gather(*(_client(server.port, own, until, times) for own in requests))

    stat = Path(f"/proc/{server.pid}/stat")
    before, start = cpu_seconds(stat), time.perf_counter()
    asyncio.run(run())
    return Load(len(times) / (time.perf_counter() - start), 1000 * (cpu_seconds(stat) - before) / len(times), times)


def request(body: dict[str, object]) -> bytes:
    data = json.dumps(body | {"top_k": TOP_K, "purpose": "benchmark"}).encode()
    head = f"POST /search HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(data)}"
    return f"{head}\r\n\r\n".encode() + data


def fill(url: str, dimension: int, records: int) -> None:
    """Enrol random vectors under the ids `r0`, `r1`, ..."""
    chance = np.random.default_rng(1)
    with httpx.Client(base_url=url, timeout=60) as client:
        for number in range(records):
            body = {"embedding": chance.standard_normal(dimension).round(4).tolist(), "camera_id": f"c{number % 8}"}
            client.put(f"/gallery/r{number}", json=body).raise_for_status()


def run_without_entries(arguments: list[str]) -> None:
    """Run a command of not3d in which searches write nothing to the audit log."""
    from service.routes import search

    async def record(*_: object) -> None:
        pass

    search._record = record  # type: ignore[assignment]
    _run_command(arguments)


def run_with_entries(arguments: list[str]) -> None:
    """Run a command of not3d that indexes the entries of the audit log `INDEXED_AT_ONCE`."""
    from service.audit import log, mentions

    for module, name in ((log, "INDEX_AFTER"), (log, "ENTRIES_AT_ONCE"), (mentions, "ENTRIES_AT_ONCE")):
        setattr(module, name, INDEXED_AT_ONCE)
    _run_command(arguments)


def _run_command(arguments: list[str]) -> None:
    from not3d.cli import main as command

    sys.argv = ["not3d", *arguments]
    command()


def compare(
    report: Report, servers: tuple[Server, Server], requests: list[list[bytes]], rounds: int, seconds: float
) -> float:
    """Load both services in turn, and print and return the share of the throughput that the log costs."""
    for server in servers:
        load(server, requests, seconds / 2)
    pairs = [(load(servers[0], requests, seconds), load(servers[1], requests, seconds)) for _ in range(rounds)]
    report.head("", "searches/s", "median ms", "p99 ms", "CPU ms of a search")
    for name, loads in zip(("with the log", "without"), zip(*pairs, strict=True), strict=True):
        times = [1000 * each for one in loads for each in one.times]
        report.row(
            name,
            f"{median(one.rate for one in loads):.0f}",
            f"{np.median(times):.1f}",
            f"{np.percentile(times, 99):.1f}",
            f"{median(one.cpu_ms for one in loads):.2f}",
        )
    report.end_table()
    lost = 1 - median(on.rate / off.rate for on, off in pairs)
    more = median(on.cpu_ms / off.cpu_ms for on, off in pairs) - 1
    report.say(f"The log costs {lost:.1%} of the throughput and {more:.1%} more CPU time.")
    return lost


def main() -> None:
    if sys.argv[1:2] in ([WITHOUT], [WITH]):
        (run_without_entries if sys.argv[1] == WITHOUT else run_with_entries)(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=BUNDLED)
    parser.add_argument("--records", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--queries", choices=("ids", "clips", "both"), default="both")
    parser.add_argument("--folder", type=Path, help="for the galleries and logs; default: a temporary folder")
    options = parser.parse_args()
    report = Report()
    report.say(describe_machine())
    dimension = Bundle.load(options.bundle).spec.dimension
    with ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        servers = []
        for name, program in (("with", ["benchmarks.audit", WITH]), ("without", ["benchmarks.audit", WITHOUT])):
            data = folder / name
            data.mkdir(parents=True, exist_ok=True)
            command = [*program, "serve", "--bundle", str(options.bundle), "--data-dir", str(data)]
            server = running([*command, "--log-level", "warning"], ready="/readyz", log=data / "service.log")
            servers.append(stack.enter_context(server))
            fill(servers[-1].url, dimension, options.records)
        ids = [
            [request({"id": f"r{(client * 997 + 31 * number) % options.records}"}) for number in range(64)]
            for client in range(options.clients)
        ]
        frame = base64.b64encode(_picture()).decode()
        crops = [[request({"frames": [frame] * 4})] for _ in range(options.clients)]
        loads = {"ids": ("an enrolled id", ids), "clips": ("a clip of four crops", crops)}
        for name, requests in [loads[options.queries]] if options.queries in loads else loads.values():
            report.say(f"**Searches for {name}**, {options.records} records, {options.clients} clients.")
            lost = compare(report, (servers[0], servers[1]), requests, options.rounds, options.seconds)
            report.target(f"searches for {name}: less than 5 % of the throughput", f"{lost:.1%}", met=lost < SHARE)
    report.conclude()


def _picture() -> bytes:
    import cv2

    pixels = np.random.default_rng(1).integers(0, 256, (16, 8, 3), np.uint8)
    done, data = cv2.imencode(".jpg", cv2.resize(pixels, (128, 256)))
    assert done
    return data.tobytes()


if __name__ == "__main__":
    main()
