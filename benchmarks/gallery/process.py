"""Objects in processes of their own, and the memory that they use."""

import multiprocessing
import os
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.serving.process import cpu_seconds

_STOP_SECONDS = 60.0


@dataclass(frozen=True)
class Memory:
    """Resident bytes of a process and its children: now, and the sum of their peaks."""

    now: int
    most: int


class Process:
    """An object in a fresh Python process whose methods are called by name; it ends with the context."""

    def __init__(self, make: Callable[..., Any], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, there = context.Pipe()
        self.started = time.perf_counter()
        self._process = context.Process(target=_serve, args=(there, make, arguments), daemon=False)
        self._process.start()
        there.close()

    def __enter__(self) -> "Process":
        self._receive()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._pipe.send(None)
        self._process.join(_STOP_SECONDS)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._pipe.close()

    def ask(self, method: str, *arguments: Any) -> Any:
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
    def memory(self) -> Memory:
        now = most = 0
        for pid in _family(self._pid):
            with suppress(OSError):
                lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
                sizes = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith("Vm")}
                now += 1024 * int(sizes.get("VmRSS", 0))
                most += 1024 * int(sizes.get("VmHWM", 0))
        return Memory(now, most)

    @property
    def cpu_seconds(self) -> float:
        return cpu_seconds(self._pid)

    @property
    def _pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def _receive(self) -> Any:
        try:
            said, failed = self._pipe.recv()
        except (EOFError, ConnectionResetError):
            self._process.join(_STOP_SECONDS)
            raise SystemExit(f"a benchmark process ended with code {self._process.exitcode}") from None
        if failed:
            raise SystemExit(f"a benchmark process failed:\n{failed}")
        return said


def disk_bytes(folder: Path) -> int:
    return sum(512 * path.stat().st_blocks for path in folder.rglob("*") if path.is_file())


def forget_files(folder: Path) -> None:
    """Drop the folder's files from the page cache, as after a restart of the machine."""
    for path in folder.rglob("*"):
        if path.is_file():
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
                os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(handle)


def _serve(pipe: Connection, make: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    try:
        contender = make(*arguments)
        pipe.send((None, ""))
        while (asked := pipe.recv()) is not None:
            method, given = asked
            pipe.send((getattr(contender, method)(*given), ""))
    except EOFError:
        return
    except Exception:  # noqa: BLE001 - any error is sent to the caller
        pipe.send((None, traceback.format_exc()))


def _family(pid: int) -> list[int]:
    found = [pid]
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in path.read_text(encoding="ascii").split():
                found += _family(int(child))
    return found
