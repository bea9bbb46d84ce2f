"""Servers and objects in separate processes, and the CPU time, memory and disk space that they use."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import httpx

from not3d.ports import free_port

MB = 1e6
_READY_SECONDS, _STOP_SECONDS = 180.0, 60.0
_POLL_SECONDS = 0.005


class Server:
    """A program that serves HTTP, `python -m` with `arguments` and a free `--port`; it can be started several times.

    Variables `NOT3D_...` of this shell are not passed on.
    """

    def __init__(
        self, arguments: Sequence[str], *, ready: str, log: Path, variables: Mapping[str, str] | None = None
    ) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.start_seconds = 0.0
        """Time from process start to ready."""
        self._command = [sys.executable, "-m", *arguments, "--port", str(self.port)]
        self._ready, self._log = f"{self.url}{ready}", log
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("NOT3D_")}
        self._environment = {**inherited, **(variables or {})}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start the process, without waiting until it is ready."""
        self._started = time.perf_counter()
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,  # a group of its own, so its children can be stopped with it
            )

    def wait(self) -> float:
        """Wait until the server is ready and return the seconds since its start.

        Raises:
            SystemExit: The server ended or did not become ready; the message has the last lines of its log.
        """
        assert self._process is not None
        while not self._is_ready():
            if self._process.poll() is not None or time.perf_counter() - self._started > _READY_SECONDS:
                last = self._log.read_text(errors="replace")[-2000:]
                raise SystemExit(f"{' '.join(self._command[1:])} did not become ready:\n{last}")
            time.sleep(_POLL_SECONDS)
        self.start_seconds = time.perf_counter() - self._started
        return self.start_seconds

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Send a signal, wait for the end, and kill what is left of the process group."""
        if self._process is None:
            return
        self._process.send_signal(number)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_STOP_SECONDS)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def get(self, path: str) -> Any:
        return httpx.get(f"{self.url}{path}", timeout=30).json()

    def _is_ready(self) -> bool:
        try:
            return httpx.get(self._ready, timeout=10).is_success
        except httpx.TransportError:
            return False


@contextmanager
def running(
    arguments: Sequence[str], *, ready: str, log: Path, variables: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """Run a server until the block ends."""
    server = Server(arguments, ready=ready, log=log, variables=variables)
    server.start()
    try:
        server.wait()
        yield server
    finally:
        server.stop()


@contextmanager
def running_service(bundle: Path, data_dir: Path, *options: str) -> Iterator[Server]:
    """Run the service with a gallery in `data_dir` until the block ends; `options` go to `not3d serve`."""
    data_dir.mkdir(parents=True, exist_ok=True)
    arguments = ["not3d", "serve", "--bundle", str(bundle), "--data-dir", str(data_dir), "--log-level", "warning"]
    with running([*arguments, *options], ready="/readyz", log=data_dir / "service.log") as server:
        yield server


class ObjectProcess:
    """An object in a separate Python process, whose methods are called by name; it ends with the context."""

    def __init__(self, make: Callable[..., Any], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, there = context.Pipe()
        self._process = context.Process(target=_serve_object, args=(there, make, arguments), daemon=False)
        self._process.start()
        there.close()

    def __enter__(self) -> "ObjectProcess":
        self._receive()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._pipe.send(None)
        self._process.join(_STOP_SECONDS)
        self.kill()
        self._pipe.close()

    def call(self, method: str, *arguments: Any) -> Any:
        """Call a method and return its result.

        Raises:
            SystemExit: The method raised or the process ended.
        """
        with suppress(BrokenPipeError):  # the process has ended; reported below
            self._pipe.send((method, arguments))
        return self._receive()

    def kill(self) -> None:
        self._process.kill()
        self._process.join()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def _receive(self) -> Any:
        try:
            result, error = self._pipe.recv()
        except (EOFError, ConnectionResetError):
            self._process.join(_STOP_SECONDS)
            raise SystemExit(f"a benchmark process ended with code {self._process.exitcode}") from None
        if error:
            raise SystemExit(f"a benchmark process failed:\n{error}")
        return result


def _serve_object(pipe: Connection, make: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    try:
        served = make(*arguments)
        pipe.send((None, ""))
        while (request := pipe.recv()) is not None:
            method, given = request
            pipe.send((getattr(served, method)(*given), ""))
    except EOFError:
        return
    except Exception:  # noqa: BLE001 - any: sent to the other process, which raises it
        pipe.send((None, traceback.format_exc()))


@dataclass(frozen=True)
class Footprint:
    """Resources of a process and its children at one time; `peak` is the sum of their largest resident sets."""

    time: float
    resident: int = 0
    peak: int = 0
    threads: int = 0
    files: int = 0


def footprint(pid: int) -> Footprint:
    resident = peak = threads = files = 0
    for member in [pid, *descendants(pid)]:
        with suppress(OSError):  # it has ended
            folder = Path(f"/proc/{member}")
            status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines() if ":" in line)
            resident += 1024 * int(status.get("VmRSS", "0").split()[0])
            peak += 1024 * int(status.get("VmHWM", "0").split()[0])
            threads += int(status["Threads"])
            files += len(list((folder / "fd").iterdir()))
    return Footprint(time.monotonic(), resident, peak, threads, files)


class FootprintRecorder:
    """Records the footprint of a process every `seconds` while the context is open."""

    def __init__(self, pid: int, seconds: float = 1.0) -> None:
        self._pid, self._seconds = pid, seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.samples: list[Footprint] = [footprint(pid)]

    def __enter__(self) -> "FootprintRecorder":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def largest_resident(self) -> int:
        return max(sample.resident for sample in self.samples)

    def _run(self) -> None:
        while not self._stop.wait(self._seconds):
            self.samples.append(footprint(self._pid))


def cpu_seconds(stat: Path) -> float:
    """Return the CPU seconds of a process or thread from its `stat` file in /proc."""
    fields = stat.read_text(encoding="utf-8").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def descendants(pid: int) -> list[int]:
    """Return the children of a process and all of their children, the youngest generation first."""
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, path.read_text(encoding="ascii").split()):
                found += [*descendants(child), child]
    return found


def disk_bytes(folder: Path) -> int:
    return sum(512 * path.stat().st_blocks for path in folder.rglob("*") if path.is_file())


def drop_from_page_cache(folder: Path) -> None:
    """Drop the folder's files from the page cache, as after a restart of the machine."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
