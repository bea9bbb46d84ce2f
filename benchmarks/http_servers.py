"""What each HTTP server does with hostile requests, and how fast it runs the service's application.

    python -m benchmarks.http_servers [--bundle BUNDLE]

All servers run at the same time and are loaded in turn. On a busy machine, compare the CPU time.
"""

import argparse
import asyncio
import importlib.util
import json
import socket
import statistics
import tempfile
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Final

from benchmarks.peers.http import SERVERS
from benchmarks.process import Server, cpu_seconds, descendants
from model.bundle import BUNDLED

CONNECTIONS: Final = 16
HOST: Final = b"Host: 127.0.0.1\r\n"
GET: Final = b"GET /livez HTTP/1.1\r\n" + HOST + b"\r\n"
SEARCH: Final = json.dumps({"id": "not-enrolled", "filter": {"camera_ids": ["a", "b"]}}).encode()
POST: Final = b"POST /search HTTP/1.1\r\n" + HOST + b"Content-Type: application/json\r\n"
MAX_HEAD: Final = 64 * 2**20
EARLY_BODY: Final = bytes(30 * 2**20)


async def load(port: int, request: bytes, seconds: float) -> list[float]:
    """Send a request again and again on `CONNECTIONS` connections; return the time of each answer in seconds."""
    times: list[float] = []
    end = time.perf_counter() + seconds

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while (begin := time.perf_counter()) < end:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
            await reader.readexactly(int(fields[b"content-length"]))
            times.append(time.perf_counter() - begin)
        writer.close()

    await asyncio.gather(*(client() for _ in range(CONNECTIONS)))
    return times


def status_of(port: int, data: bytes) -> str:
    """Return the status of the answer to raw bytes, or what happens instead."""
    with closing(socket.create_connection(("127.0.0.1", port), timeout=4)) as client:
        try:
            client.sendall(data)
            received = client.recv(65536)
        except TimeoutError:
            return "no answer"
        except OSError:
            return "reset"
    return received[9:12].decode() if received else "closed"


def endless_head(port: int) -> str:
    """Return how many MiB of header lines a server takes before it closes the connection."""
    lines = b"".join(b"x%d: y\r\n" % number for number in range(5000))
    sent = 0
    with closing(socket.create_connection(("127.0.0.1", port), timeout=4)) as client:
        try:
            client.sendall(GET[:-2])
            while sent < MAX_HEAD:
                sent += client.send(lines)
        except OSError:
            return f"{sent / 2**20:.1f}"
    return f"over {MAX_HEAD // 2**20}"


def slow_head(port: int) -> str:
    """Return after how many seconds an incomplete head ends the connection, up to 20."""
    with closing(socket.create_connection(("127.0.0.1", port), timeout=20)) as client:
        client.sendall(GET[:-2])
        begin = time.monotonic()
        try:
            client.recv(1)
        except TimeoutError:
            return "over 20"
        except OSError:
            pass
        return f"{time.monotonic() - begin:.0f}"


def early_answer(port: int) -> str:
    """Return what a client sees that sends 30 MiB before it reads an answer which does not need them."""
    head = b"POST /livez HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % len(EARLY_BODY)
    return status_of(port, head + EARLY_BODY)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=BUNDLED)
    parser.add_argument("--seconds", type=float, default=2.0, help="seconds of each load")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    names = [name for name in SERVERS if name not in {"hypercorn", "granian"} or importlib.util.find_spec(name)]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        servers = {name: start(name, folder, options.bundle, stack) for name in names}
        rates: dict[str, list[str]] = {name: [] for name in names}
        for request in (GET, POST + b"Content-Length: %d\r\n\r\n" % len(SEARCH) + SEARCH):
            rounds: dict[str, list[list[float]]] = {name: [] for name in names}
            cpu: dict[str, list[float]] = {name: [] for name in names}
            for _ in range(options.rounds):
                for name, server in servers.items():
                    before = used(server)
                    times = asyncio.run(load(server.port, request, options.seconds))
                    rounds[name].append(times)
                    cpu[name].append((used(server) - before) / len(times))
            for name, all_times in rounds.items():
                rate = statistics.median(len(each) / options.seconds for each in all_times)
                worst = statistics.median(sorted(each)[int(0.99 * len(each))] for each in all_times)
                spent = statistics.median(cpu[name])
                rates[name].append(f"{rate:.0f}, {1000 * worst:.0f}, {1000 * spent:.2f}")
        heads = ["server", "GET /livez: requests/s, p99 ms, CPU ms each", "POST /search", "endless head, MiB"]
        heads += ["incomplete head, s", "length and chunks", "folded header", "line ends with LF"]
        heads.append("early answer")
        print(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|")
        for name, server in servers.items():
            chunked = POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
            cells = [name, *rates[name], endless_head(server.port), slow_head(server.port)]
            cells += [status_of(server.port, chunked), status_of(server.port, GET[:-2] + b"A: b\r\n c\r\n\r\n")]
            cells += [status_of(server.port, GET.replace(b"\r", b"")), early_answer(server.port)]
            print(f"| {' | '.join(cells)} |", flush=True)


def used(server: Server) -> float:
    """Return the CPU seconds of a server with its workers."""
    return sum(cpu_seconds(Path(f"/proc/{pid}/stat")) for pid in [server.pid, *descendants(server.pid)])


def start(name: str, folder: Path, bundle: Path, stack: ExitStack) -> Server:
    variables = {"NOT3D_BUNDLE": str(bundle), "NOT3D_DATA_DIR": str(folder / name), "NOT3D_LOG_LEVEL": "error"}
    variables |= {"NOT3D_ENGINE": "onnxruntime", "NOT3D_DEVICE": "cpu", "NOT3D_THREADS": "1"}
    server = Server(["benchmarks.peers.http", name], ready="/readyz", log=folder / f"{name}.log", variables=variables)
    server.start()
    stack.callback(server.stop)
    server.wait()
    return server


if __name__ == "__main__":
    main()
