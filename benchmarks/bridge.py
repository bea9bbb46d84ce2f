"""How many events the bridge from Frigate handles, and what it costs: `python -m benchmarks.bridge`.

Starts mosquitto, a program that behaves as Frigate does (of the tests), the service with its bundled model, and
`not3d bridge frigate`. Publishes a burst of events, each with eight messages and seven frames, and waits until all are
enrolled. The CPU time of the bridge's process alone says how many events one core handles in an hour; its memory is
read after each quarter of the burst. With `--minutes` the events come one after the other instead, at `--rate`, and the
memory is read every five seconds: its slope, after the first quarter of the time, says whether it grows.
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
from pathlib import Path

import httpx
import numpy as np

from benchmarks.process import MB, cpu_seconds, footprint, running_service
from benchmarks.report import describe_machine
from model.bundle import BUNDLED
from not3d.ports import free_port
from tests.not3d.bridges.fake_frigate import FakeFrigate
from tests.not3d.bridges.mosquitto import Mosquitto

WANTED = 10_000
"""Events an hour."""
KEPT_EVENTS = 1000
"""Events that the program that behaves as Frigate keeps."""


def main() -> None:
    """Run the burst and print what it cost."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bridge", description=__doc__)
    parser.add_argument("--events", type=int, default=400)
    parser.add_argument("--size", type=int, nargs=2, default=(1920, 1080), help="width and height of the recordings")
    parser.add_argument("--seconds", type=float, default=600.0, help="how long to wait at most")
    parser.add_argument("--minutes", type=float, help="send events for so long instead of a burst")
    parser.add_argument("--rate", type=float, default=WANTED, help="events an hour, with --minutes")
    parser.add_argument("--bundle", type=Path, default=BUNDLED, help="the service's model, which is not measured")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="not3d-bridge-") as name:
        folder = Path(name)
        broker = Mosquitto(folder / "broker")
        broker.start()
        try:
            with FakeFrigate(broker).serve() as fake, running_service(arguments.bundle, folder / "gallery") as service:
                fake.record_size = (arguments.size[0], arguments.size[1])
                fake.empty_ends = False
                with _bridge(fake, service.url, folder) as (pid, port):
                    fake.walk(person=0)
                    _wait(lambda: _enrolled(port) == 1, 60)
                    if arguments.minutes:
                        _measure_memory(fake, pid, port, 60 * arguments.minutes, arguments.rate)
                    else:
                        _measure(fake, pid, port, arguments.events, arguments.seconds)
        finally:
            broker.stop()


@contextmanager
def _bridge(fake: FakeFrigate, url: str, folder: Path) -> Iterator[tuple[int, int]]:
    """Run the bridge, and yield its process id and the port of its metrics."""
    port = free_port()
    command = [
        *(sys.executable, "-m", "not3d", "bridge", "frigate", "--mqtt", fake.broker.url, "--frigate", fake.url),
        *("--url", url, "--state", str(folder / "bridge.sqlite"), "--metrics", f"127.0.0.1:{port}"),
        *("--settle-seconds", "1", "--no-live-pictures", "--no-matches", "--no-alerts"),
    ]
    with (folder / "bridge.log").open("wb") as log:
        process = subprocess.Popen(command, stderr=log, env=os.environ | {"OMP_NUM_THREADS": "1"})
    try:
        _wait(lambda: _metric(port, "connected") == 1, 60)
        yield process.pid, port
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def _measure(fake: FakeFrigate, pid: int, port: int, events: int, seconds: float) -> None:
    stat = Path(f"/proc/{pid}/stat")
    cpu, began = cpu_seconds(stat), time.monotonic()
    for _ in range(events):
        fake.walk(person=0)
    resident = []
    for quarter in range(1, 5):
        _wait_for_events(port, 1 + events * quarter // 4, seconds)
        resident.append(f"{footprint(pid).resident / MB:.0f}")
    took, used = time.monotonic() - began, cpu_seconds(stat) - cpu
    print(describe_machine())
    print(f"{events} events in {took:.1f} s: {3600 * events / took:,.0f} an hour, beside everything else")
    _print_cpu(used / events)
    print(f"memory after each quarter of the events: {', '.join(resident)} MB")


def _measure_memory(fake: FakeFrigate, pid: int, port: int, seconds: float, rate: float) -> None:
    stat = Path(f"/proc/{pid}/stat")
    cpu, began, before = cpu_seconds(stat), time.monotonic(), _enrolled(port)
    sent, samples = 0, list[tuple[float, float]]()
    while (now := time.monotonic() - began) < seconds:
        if sent < now * rate / 3600:
            fake.walk(person=0)
            if len(fake.events) > KEPT_EVENTS:  # its own thread reads them
                fake.events = dict(list(fake.events.items())[KEPT_EVENTS // 2 :])
            sent += 1
        if now >= 5 * len(samples):
            samples.append((now, footprint(pid).resident / MB))
        time.sleep(0.02)
    used, done = cpu_seconds(stat) - cpu, _enrolled(port) - before
    print(describe_machine())
    hourly = f"{3600 * done / seconds:,.0f} an hour"
    print(f"{sent} events sent and {done:.0f} enrolled in {seconds / 60:.1f} minutes ({hourly})")
    _print_cpu(used / done)
    minutes, memory = np.array([sample for sample in samples if sample[0] >= seconds / 4]).T
    minutes /= 60
    (slope, level), covariance = np.polyfit(minutes - minutes.mean(), memory, 1, cov=True)
    print(f"memory: {level:.1f} MB, slope {slope:+.3f} MB a minute (standard error {covariance[0, 0] ** 0.5:.3f})")
    shown = samples[:: max(1, len(samples) // 12)]
    print("by time: " + ", ".join(f"{at / 60:.1f} min {value:.1f} MB" for at, value in shown))


def _print_cpu(each: float) -> None:
    print(f"CPU of the bridge: {1000 * each:.1f} ms an event: {3600 / each:,.0f} events an hour and core")
    print(f"at {WANTED:,} an hour: {100 * each * WANTED / 3600:.0f} % of one core")


def _wait(condition: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise SystemExit(f"not done after {seconds:g} s; --seconds waits longer")
        time.sleep(0.1)


def _wait_for_events(port: int, wanted: int, seconds: float) -> None:
    _wait(lambda: _enrolled(port) >= wanted, seconds)


def _enrolled(port: int) -> float:
    return _metric(port, "enrolled_total")


def _metric(port: int, name: str) -> float:
    """Return the sum of a metric of the bridge; 0 if it does not answer yet."""
    try:
        text = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=5).text
    except httpx.TransportError:
        return 0.0
    lines = [line for line in text.splitlines() if line.startswith(f"not3d_bridge_{name}{{")]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


if __name__ == "__main__":
    main()
