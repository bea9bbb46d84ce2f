"""What was freed goes back to the system."""

import subprocess
import sys

import pytest

from service.gallery.embedded.index import malloc

GROW = """
import numpy as np
from pathlib import Path
from service.gallery.embedded.index.malloc import give_back_freed, map_large_blocks

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
give_back_freed()
print(full - half, resident() - half)
"""


@pytest.mark.skipif(malloc._trim is None or sys.platform != "linux", reason="needs glibc")
def test_freed_blocks_are_no_longer_resident() -> None:
    done = subprocess.run([sys.executable, "-c", GROW], capture_output=True, text=True, check=True)
    large, rest = map(int, done.stdout.split())
    assert large > 45 * 2**20  # of 50 MiB between blocks in use
    assert rest < 20 * 2**20  # of 100 MB, of which 2 MB are in use


def test_another_c_library_has_neither(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(malloc, "_trim", None)
    monkeypatch.setattr(malloc, "_option", None)
    malloc.give_back_freed()
    malloc.map_large_blocks.__wrapped__()
