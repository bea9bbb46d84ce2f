"""Servers and clients in separate processes, and the CPU time and memory that they use."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.serving.footage import Plan

READY_SECONDS, STOP_SECONDS = 180.0, 40.0
POLL_SECONDS = 0.005
MB = 1e6


@dataclass(frozen=True)
class Server:
    """A server that is ready; `start_seconds` is the time from process start to ready."""

    pid: int
    port: int
    start_seconds: float

    def get(self, path: str) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request("GET", path)
        answer = json.loads(connection.getresponse().read())
        connection.close()
        return answer


@contextmanager
def running(arguments: Sequence[str], *, ready: str, log: Path) -> Iterator[Server]:
    """Run `python -m` with these arguments and a free `--port` until `ready` answers 200; stop all its children.

    Raises:
        SystemExit: The server ended or did not become ready; the message has the last lines of its log.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NOT3D_")}
    with log.open("wb") as output:
        started = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments, "--port", str(port)],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # a group of its own, so that its workers can be stopped with it
        )
    try:
        while not _answers(port, ready):
            if process.poll() is not None or time.perf_counter() - started > READY_SECONDS:
                raise SystemExit(f"{arguments[0]} did not become ready:\n{log.read_text(errors='replace')[-2000:]}")
            time.sleep(POLL_SECONDS)
        yield Server(process.pid, port, time.perf_counter() - started)
    finally:
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def running_service(bundle: Path, data_dir: Path, *options: str) -> Iterator[Server]:
    """Run the service with a gallery in `data_dir` until it is ready; `options` go to `not3d serve`."""
    data_dir.mkdir(parents=True, exist_ok=True)
    arguments = ["not3d", "serve", "--bundle", str(bundle), "--data-dir", str(data_dir), "--log-level", "warning"]
    with running([*arguments, *options], ready="/readyz", log=data_dir / "service.log") as server:
        yield server


def _answers(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


@dataclass(frozen=True)
class Load:
    """Measurements of the clients: frames per second, seconds of each request, the clients' CPU seconds."""

    rate: float
    times: list[float]
    client_share: float
    busy: int
    sample: list[float] | None
    all_frames: int
    """Frames including those outside the measurement window."""

    @property
    def median_ms(self) -> float:
        return 1000 * float(np.median(self.times))

    @property
    def p99_ms(self) -> float:
        return 1000 * float(np.percentile(self.times, 99))


def load(port: int, plan: Plan, *, clients: int, seconds: float, path: str, dimension: int) -> Load:
    """Run clients with this plan in a separate process.

    Raises:
        SystemExit: An answer was wrong.
    """
    command = [sys.executable, "-m", "benchmarks.serving.client", "--port", str(port), "--path", path]
    command += ["--plan", str(plan.folder), "--clients", str(clients), "--seconds", str(seconds)]
    done = subprocess.run([*command, "--dimension", str(dimension)], stdout=subprocess.PIPE, check=False)
    if not done.stdout:
        raise SystemExit("the client process ended without output")
    said = json.loads(done.stdout)
    if done.returncode or said["faults"]:
        raise SystemExit(f"{path}: {said['faults']}")
    cpus = len(os.sched_getaffinity(0))
    share = said["cpu_seconds"] / said["seconds"] / cpus
    return Load(
        said["frames"] / said["seconds"], said["times"], share, said["busy"], said["sample"], said["all_frames"]
    )


def cpu_seconds(pid: int) -> float:
    """Return the CPU seconds that a process has used in all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Footprint:
    at: float
    resident: int
    anonymous: int
    threads: int
    files: int


def look_at(pid: int) -> Footprint:
    status = dict(
        line.split(":", 1)
        for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
        if ":" in line
    )

    def kilobytes(name: str) -> int:
        return 1024 * int(status[name].split()[0])

    files = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    return Footprint(time.monotonic(), kilobytes("VmRSS"), kilobytes("RssAnon"), int(status["Threads"]), files)


class Watch:
    """Records the footprint of a process every `seconds` while the context is open."""

    def __init__(self, pid: int, seconds: float = 1.0) -> None:
        self._pid, self._seconds = pid, seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.seen: list[Footprint] = [look_at(pid)]

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def most(self) -> int:
        return max(footprint.resident for footprint in self.seen)

    def _run(self) -> None:
        while not self._stop.wait(self._seconds):
            self.seen.append(look_at(self._pid))
