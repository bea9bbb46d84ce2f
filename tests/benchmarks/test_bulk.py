"""Bulk enrolment as its benchmark shows it, in small."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bundles import make_bundle


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder with a short name: Ray puts sockets below it, whose paths the kernel limits."""
    folder = Path(tempfile.mkdtemp(prefix="n3"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the processes to kill in /proc")
def test_a_ray_cluster_that_loses_a_node_loses_no_tracklet(home: Path) -> None:
    pytest.importorskip("ray")
    bundle = make_bundle(home / "bundle")
    command = [sys.executable, "-m", "benchmarks.bulk", "ray", "--tracklets", "300", "--bundle", str(bundle)]
    output = home / "output.txt"
    with output.open("wb") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, env=os.environ | {"TMPDIR": str(home)}
        )
        try:
            process.wait(300)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)  # it stops its cluster
            process.wait(30)
    said = output.read_text()
    assert process.returncode == 0, said
    assert "a worker node of two killed" in said
    assert "checked: 300 records, each tracklet exactly once" in said
    until = time.monotonic() + 60
    while left := _started_below(home):
        assert time.monotonic() < until, left
        time.sleep(0.1)


def _started_below(home: Path) -> list[str]:
    """Processes that were started with this folder for temporary files."""
    mark = f"TMPDIR={home}".encode()
    left = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (process / "environ").read_bytes():
                left.append((process / "cmdline").read_text())
        except OSError:
            continue
    return left
