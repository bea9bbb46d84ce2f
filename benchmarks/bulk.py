"""Bulk enrolment with interruptions, and on a Ray cluster that loses a worker: `python -m benchmarks.bulk`.

Runs the service and `not3d enroll` as a user does. The exit status is 1 if a tracklet is lost or enrolled twice.

    python -m benchmarks.bulk interrupted --tracklets 10000    # Ctrl-C, kill -9, a restart of the service; then again
    python -m benchmarks.bulk ray --tracklets 600              # two worker nodes, one is killed midway
    python -m benchmarks.bulk skipped --tracklets 100000       # all enrolled before, listed and skipped
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from model.bundle import BUNDLED, Bundle
from not3d.client import Client
from not3d.demo import running_service
from not3d.enrol.ray_enrolment import prepare

FRAMES, HEIGHT, WIDTH = 2, 64, 32
NODE_CPUS = 1


def write_tracklets(folder: Path, count: int, seed: int = 5) -> set[str]:
    """Draw `count` tracklets of two small JPEGs, one folder each, and return their ids."""
    rng = np.random.default_rng(seed)
    names = [f"t{number:06}" for number in range(count)]
    for name in names:
        place = folder / name
        place.mkdir(parents=True)
        clothes = cv2.resize(rng.uniform(30, 220, (4, 2, 3)).astype(np.float32), (WIDTH, HEIGHT))
        for frame in range(FRAMES):
            noisy = clothes + rng.normal(0, 4, clothes.shape)
            _, encoded = cv2.imencode(".jpg", noisy.clip(0, 255).astype(np.uint8))
            (place / f"{frame}.jpg").write_bytes(encoded.tobytes())
    return set(names)


class Run:
    """`not3d enroll` in a process group of its own; its output goes to a file."""

    def __init__(self, log: Path, *arguments: object) -> None:
        self._log = log
        self._started = time.monotonic()
        command = [sys.executable, "-m", "not3d", "enroll", *map(str, arguments)]
        with log.open("wb") as output:
            self._process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)

    def signal_once(self, happened: Callable[[], bool], number: signal.Signals) -> None:
        self.wait_until(happened)
        self._process.send_signal(number)

    def wait_until(self, happened: Callable[[], bool]) -> None:
        """Wait until `happened` is true.

        Raises:
            SystemExit: The process ended before.
        """
        while not happened():
            if self._process.poll() is not None:
                raise SystemExit(f"enroll ended too early: {self.said()}")
            time.sleep(0.1)

    def end(self) -> tuple[int, float]:
        return self._process.wait(), time.monotonic() - self._started

    def said(self) -> str:
        lines = [line.strip() for line in self._log.read_text(errors="replace").splitlines()]
        return next((line for line in reversed(lines) if line), "nothing")


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
    footage, log = home / "footage", home / "enroll.log"
    expected = write_tracklets(footage, count)
    with running_service(bundle, home) as client:
        for share, number in ((1 / 3, signal.SIGINT), (2 / 3, signal.SIGKILL)):
            before = enrolled(client)
            run = Run(log, footage, "--url", client.url)
            run.signal_once(lambda share=share: enrolled(client) >= share * count, number)  # type: ignore[misc]
            status, seconds = run.end()
            if not status:
                raise SystemExit(f"{number.name} came too late")
            after = enrolled(client)
            pace = (after - before) / seconds
            print(
                f"{number.name} after {seconds:.1f} s: status {status}; {before} -> {after} records, {pace:.0f}/s; "
                f"output: {run.said()}"
            )
        before = enrolled(client)
        run = Run(log, footage, "--url", client.url)
        run.wait_until(lambda: enrolled(client) >= 5 / 6 * count)
        port = int(client.url.rpartition(":")[2])
    stopped = time.monotonic()
    with running_service(bundle, home, port=port) as client:
        away = time.monotonic() - stopped
        status, seconds = run.end()
        pace = (count - before) / (seconds - away)
        print(f"service restarted, {away:.1f} s away: status {status} after {seconds:.1f} s, {pace:.0f}/s without them")
        print(f"output: {run.said()}")
        if status:
            raise SystemExit(1)
        check(client, expected)
        skip(client, footage, log, count)


def skip(client: Client, footage: Path, log: Path, count: int) -> None:
    run = Run(log, footage, "--url", client.url)
    status, seconds = run.end()
    print(f"again: status {status} after {seconds:.1f} s, {count / seconds:.0f} skipped/s; output: {run.said()}")
    if status:
        raise SystemExit(1)


def skip_filled(bundle: Path, count: int, home: Path) -> None:
    """Fill a gallery directly, then enrol tracklets with the same ids."""
    from service.gallery.embedded.gallery import EmbeddedGallery
    from service.gallery.records import Record

    footage = home / "footage"
    names = [f"t{number:06}" for number in range(count)]
    for name in names:
        place = footage / name
        place.mkdir(parents=True)
        for frame in range(FRAMES):
            (place / f"{frame}.jpg").touch()  # never opened
    model = Bundle.load(bundle)
    rng = np.random.default_rng(1)
    started = time.monotonic()
    dimension = model.spec.dimension
    gallery = EmbeddedGallery.open(
        home / "gallery", embedding_space=model.embedding_space, dimension=dimension, model_name=model.spec.name
    )
    for start in range(0, count, 1000):
        chunk = names[start : start + 1000]
        vectors = rng.standard_normal((len(chunk), dimension), dtype=np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        now = datetime.now(UTC)
        gallery.enrol(
            [
                Record(name, vector, None, None, None, {"source": f"footage/{name}", "tracklet": name}, 2, 1, now)
                for name, vector in zip(chunk, vectors, strict=True)
            ],
            "replace",
        )
    gallery.close()
    print(f"filled with {count} records in {time.monotonic() - started:.1f} s")
    with running_service(bundle, home) as client:
        skip(client, footage, home / "enroll.log", count)


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
    doomed = [*_descendants(raylet), raylet]
    for process in doomed:
        os.kill(process, signal.SIGKILL)
    return len(doomed)


def _descendants(parent: int) -> list[int]:
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [process for child in map(int, children) for process in (*_descendants(child), child)]


def enroll_with_a_loss(bundle: Path, count: int, home: Path) -> None:
    """Enrol on two worker nodes, kill one at a third."""
    footage, log = home / "footage", home / "enroll.log"
    expected = write_tracklets(footage, count)
    with running_service(bundle, home) as client, ray_cluster() as (address, nodes):
        run = Run(log, footage, "--ray", address, "--url", client.url)
        run.wait_until(lambda: enrolled(client) >= count / 3)
        at = enrolled(client)
        killed = kill_node(nodes[0])
        print(f"a worker node of two killed, {killed} processes, when {at} of {count} were enrolled")
        status, seconds = run.end()
        print(f"status {status} after {seconds:.1f} s; output: {run.said()}")
        if status:
            raise SystemExit(1)
        check(client, expected)


SHOWN = {"interrupted": (interrupt, 10_000), "ray": (enroll_with_a_loss, 600), "skipped": (skip_filled, 100_000)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=SHOWN)
    parser.add_argument("--tracklets", type=int, metavar="N")
    parser.add_argument("--bundle", type=Path, default=BUNDLED)
    options = parser.parse_args()
    # A shell makes background processes ignore SIGINT, and child processes inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    show, count = SHOWN[options.what]
    with tempfile.TemporaryDirectory(prefix="not3d-bulk-") as home:
        show(options.bundle, options.tracklets or count, Path(home))


if __name__ == "__main__":
    main()
