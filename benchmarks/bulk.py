"""Bulk enrolment with interruptions, and on a Ray cluster that loses a worker: `python -m benchmarks.bulk`.

Runs the service and `not3d enroll` as a user does. The exit status is 1 if a tracklet is lost or enrolled twice.

    python -m benchmarks.bulk interrupted --tracklets 10000    # Ctrl-C, kill -9, a restart of the service; then again
    python -m benchmarks.bulk ray --tracklets 600              # two worker nodes, one is killed midway
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.process import descendants
from model.bundle import BUNDLED
from not3d.client import Client
from not3d.demo import running_service
from not3d.enrol.ray_enrolment import prepare

FRAMES, HEIGHT, WIDTH = 2, 64, 32
FOOTAGE = "footage"
NODE_CPUS = 1


def write_tracklets(folder: Path, count: int, seed: int = 5) -> set[str]:
    """Draw `count` tracklets of two small JPEGs, one folder each, and return their ids."""
    rng = np.random.default_rng(seed)
    names = [f"t{number:06}" for number in range(count)]
    for name in names:
        (folder / name).mkdir(parents=True)
        clothes = cv2.resize(rng.uniform(30, 220, (4, 2, 3)).astype(np.float32), (WIDTH, HEIGHT))
        for frame in range(FRAMES):
            noisy = clothes + rng.normal(0, 4, clothes.shape)
            _, encoded = cv2.imencode(".jpg", noisy.clip(0, 255).astype(np.uint8))
            (folder / name / f"{frame}.jpg").write_bytes(encoded.tobytes())
    return set(names)


class Enrolment:
    """`not3d enroll` of all tracklets in a separate process group; its output goes to a file."""

    def __init__(self, home: Path, client: Client, *options: str) -> None:
        self._log, self.client = home / "enroll.log", client
        self._started = time.monotonic()
        self._before = enrolled(client)
        command = [sys.executable, "-m", "not3d", "enroll", str(home / FOOTAGE), "--url", client.url, *options]
        with self._log.open("wb") as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)

    def wait_for(self, records: float) -> None:
        """Wait until the gallery has this many records.

        Raises:
            SystemExit: The process ended before.
        """
        while enrolled(self.client) < records:
            if self.process.poll() is not None:
                raise SystemExit(f"enroll ended too early: {self._last_line()}")
            time.sleep(0.1)

    def finish(self, event: str, *, interrupted: bool = False, away: float = 0.0) -> None:
        """Wait for the end and print status, time and records; `away` seconds without the service are no work.

        Raises:
            SystemExit: The process failed, or ended without an error although it was interrupted.
        """
        status, seconds = self.process.wait(), time.monotonic() - self._started
        after = enrolled(self.client)
        print(
            f"{event}: status {status} after {seconds:.1f} s; {self._before} -> {after} records, "
            f"{(after - self._before) / (seconds - away):.0f}/s; output: {self._last_line()}"
        )
        if bool(status) != interrupted:
            raise SystemExit(f"{event}: unexpected status {status}")

    def _last_line(self) -> str:
        lines = self._log.read_text(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "nothing")


def enrolled(client: Client) -> int:
    count: int = client.info().gallery["records"]
    return count


def check(client: Client, expected: set[str]) -> None:
    """Check that each tracklet is enrolled exactly once.

    Raises:
        SystemExit: A record is missing, duplicated or unexpected.
    """
    found = [record.id for record in client.records()]
    if sorted(found) != sorted(expected) or enrolled(client) != len(expected):
        raise SystemExit(f"{len(expected)} tracklets, {len(found)} records, {len(set(found) & expected)} of them right")
    print(f"checked: {len(found)} records, each tracklet exactly once")


def interrupt(bundle: Path, count: int, home: Path) -> None:
    """Enrol with Ctrl-C after 1/3, kill -9 after 2/3, and a restart of the service after 5/6 of the tracklets."""
    expected = write_tracklets(home / FOOTAGE, count)
    with running_service(bundle, home) as client:
        for share, number in ((1 / 3, signal.SIGINT), (2 / 3, signal.SIGKILL)):
            enrolment = Enrolment(home, client)
            enrolment.wait_for(share * count)
            enrolment.process.send_signal(number)
            enrolment.finish(number.name, interrupted=True)
        enrolment = Enrolment(home, client)
        enrolment.wait_for(5 / 6 * count)
        port = int(client.url.rpartition(":")[2])
    stopped = time.monotonic()
    with running_service(bundle, home, port=port) as client:
        away = time.monotonic() - stopped
        enrolment.client = client
        enrolment.finish(f"service restarted, {away:.1f} s away", away=away)
        check(client, expected)
        Enrolment(home, client).finish("again, all skipped")


@contextmanager
def ray_cluster() -> Iterator[tuple[str, list[Any]]]:
    """Start a head without tasks and two worker nodes on loopback; yield the address and the nodes."""
    prepare("local")
    from ray.cluster_utils import Cluster

    small: dict[str, Any] = {"object_store_memory": 80 * 2**20, "include_dashboard": False}
    # A dead node's port refuses connections, so few failed checks are enough.
    health = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 5}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "_system_config": health, **small})
    try:
        nodes = [cluster.add_node(num_cpus=NODE_CPUS, **small) for _ in range(2)]
        cluster.wait_for_nodes()
        yield cluster.address, nodes
    finally:
        cluster.shutdown()  # type: ignore[no-untyped-call]


def kill_node(node: Any) -> int:
    """Kill a node's raylet and all of its workers at once; return the number of processes."""
    raylet = node.all_processes["raylet"][0].process.pid
    processes = [*descendants(raylet), raylet]
    for process in processes:
        os.kill(process, signal.SIGKILL)
    return len(processes)


def lose_ray_node(bundle: Path, count: int, home: Path) -> None:
    """Enrol on two worker nodes, kill one at a third."""
    expected = write_tracklets(home / FOOTAGE, count)
    with running_service(bundle, home) as client, ray_cluster() as (address, nodes):
        enrolment = Enrolment(home, client, "--ray", address)
        enrolment.wait_for(count / 3)
        at, killed = enrolled(client), kill_node(nodes[0])
        print(f"a worker node of two killed, {killed} processes, when {at} of {count} were enrolled")
        enrolment.finish("enrolment")
        check(client, expected)


SCENARIOS = {"interrupted": (interrupt, 10_000), "ray": (lose_ray_node, 600)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("scenario", choices=SCENARIOS)
    parser.add_argument("--tracklets", type=int, metavar="N")
    parser.add_argument("--bundle", type=Path, default=BUNDLED)
    options = parser.parse_args()
    # A shell makes background processes ignore SIGINT, and child processes inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    run, count = SCENARIOS[options.scenario]
    with tempfile.TemporaryDirectory(prefix="not3d-bulk-") as home:
        run(options.bundle, options.tracklets or count, Path(home))


if __name__ == "__main__":
    main()
