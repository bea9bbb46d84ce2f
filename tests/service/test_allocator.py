"""What glibc is told about memory; each test in a process of its own."""

import subprocess
import sys

import pytest

from service import allocator

GROW = """
import numpy as np
from pathlib import Path
from service.allocator import trim_memory, map_large_blocks

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

map_large_blocks()
blocks = [np.ones(512 * 1024, np.uint8) for _ in range(200)]
full = resident()
del blocks[::2]
half = resident()
small = [bytearray(100_000) for _ in range(1000)]
kept = small[::50]
del small
trim_memory()
print(full - half, resident() - half)
"""


@pytest.mark.skipif(allocator._malloc_trim is None or sys.platform != "linux", reason="needs glibc")
def test_freed_memory_is_returned_to_the_system() -> None:
    done = subprocess.run([sys.executable, "-c", GROW], capture_output=True, text=True, check=True)
    large, rest = map(int, done.stdout.split())
    assert large > 45 * 2**20  # of 50 MiB between blocks in use
    assert rest < 20 * 2**20  # of 100 MB, of which 2 MB are in use


def test_memory_functions_do_nothing_without_glibc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator, "_malloc_trim", None)
    monkeypatch.setattr(allocator, "_mallopt", None)
    allocator.trim_memory()
    allocator.map_large_blocks.__wrapped__()
    allocator.limit_heaps.__wrapped__()


HEAPS = """
import sys
from pathlib import Path
from threading import Barrier, Thread
from service.allocator import limit_heaps

def touch():
    kept = [bytes(2000) for _ in range(100)]
    meet.wait()

if sys.argv[1] == "limited":
    limit_heaps()
meet = Barrier(6)
threads = [Thread(target=touch) for _ in range(6)]
for thread in threads: thread.start()
for thread in threads: thread.join()
# A heap of a thread begins at a multiple of 64 MiB.
starts = [int(line.split("-")[0], 16) for line in Path("/proc/self/maps").read_text().splitlines()]
print(sum(start % 2**26 == 0 for start in starts))
"""


@pytest.mark.skipif(allocator._mallopt is None or sys.platform != "linux", reason="needs glibc")
def test_threads_share_two_heaps() -> None:
    heaps = {}
    for name in ("limited", "usual"):
        done = subprocess.run([sys.executable, "-c", HEAPS, name], capture_output=True, text=True, check=True)
        heaps[name] = int(done.stdout)
    assert heaps["limited"] <= 1  # the other one is the main heap
    assert heaps["usual"] >= 4
