"""Send hostile requests to the service and check that it stays within its limits: `python -m benchmarks.fuzz`.

Damaged pictures and videos of every format, broken forms, JSON, queries and heads, at the level of the socket. The same
`--seed` draws the same requests; `--only NUMBER` sends one of them again. Each request must be answered within
`MAX_SECONDS` and without an error of the server, except 503, 504 and 507. At the end the service must embed and find
correctly, its gauges must be zero, no file may remain in its temporary folder, and its log must be JSON without errors.
"""

import argparse
import http.client
import json
import math
import os
import select
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import cv2
import httpx

from benchmarks.fuzz.drawing import Attack, Drawing, Material
from benchmarks.fuzz.footage import draw_person, picture_seeds, video_seeds
from benchmarks.process import MB, FootprintRecorder, Server
from benchmarks.process import running as running_server
from benchmarks.report import Report
from model.bundle import BUNDLED
from not3d.client import Client

MAX_SECONDS: Final = 2.0
MAX_RESIDENT: Final = 1500 * MB
SILENT_SECONDS: Final = 0.3
"""A request whose framing is broken may stay unanswered. The connection is closed after this time."""
DOCUMENTED: Final = {503, 504, 507}
GAUGES: Final = ("not3d_open_requests", "not3d_pending_requests", "not3d_pending_bytes", "not3d_queued_clips")


@dataclass(frozen=True)
class Answer:
    """`status` is 0 if there was none; `fault` says what is wrong with the answer, or is empty."""

    status: int
    seconds: float
    fault: str = ""


@dataclass
class Result:
    """What the attacks led to. `slow` and `faults` have numbers of attacks."""

    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)
    slow: dict[int, float] = field(default_factory=dict)
    faults: dict[int, str] = field(default_factory=dict)
    longest: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, attack: Attack, answer: Answer) -> None:
        with self.lock:
            self.statuses[attack.kind, answer.status] += 1
            self.longest = max(self.longest, answer.seconds)
            if answer.seconds > MAX_SECONDS:
                self.slow[attack.number] = answer.seconds
            if answer.fault:
                self.faults[attack.number] = answer.fault


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=math.inf, help="send no more requests after this time")
    parser.add_argument("--only", type=int, nargs="+", metavar="NUMBER", help="send these requests again, one by one")
    parser.add_argument("--bundle", type=Path, default=BUNDLED)
    options = parser.parse_args()
    report = Report()
    with tempfile.TemporaryDirectory(prefix="not3d-fuzz-") as folder:
        failures = run(report, Path(folder), options)
    report.conclude()
    if failures:
        sys.exit("\n".join(failures))


def run(report: Report, folder: Path, options: argparse.Namespace) -> list[str]:
    """Attack a service of its own and print tables; return what is wrong."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    numbers = options.only or range(options.requests)
    (folder / "videos").mkdir()
    videos = video_seeds(folder / "videos")
    with running(options.bundle, folder) as server:
        facts = server.get("/info")
        material = Material(
            pictures=[*picture_seeds().values()],
            videos=[*videos.values()],
            dimension=facts["model"]["dimension"],
            space=facts["embedding_space"],
            host=server.url.removeprefix("http://"),
        )
        drawing = Drawing(options.seed, material)
        report.say(f"Seed {options.seed}, {len(numbers)} requests. Videos: {', '.join(videos)}.")
        for attack in map(drawing.draw, options.only or ()):
            report.say(f"{attack.number}, {attack.kind}, {len(attack.data)} bytes: {attack.data[:300]!r}")
            report.say(str(send(server.port, attack)))
        before = check_service(server.url)
        with FootprintRecorder(server.pid, 0.2) as recorder:
            result = attack_service(server.port, drawing, numbers, options.clients, options.seconds)
            # What was slow beside the others is sent again alone: a machine that was busy is not a slow service.
            alone = {number: send(server.port, drawing.draw(number)).seconds for number in result.slow}
        after = check_service(server.url)
        gauges = wait_for_idle(server.url)
        resident = recorder.largest_resident
    table(report, result)
    slow = {number: seconds for number, seconds in alone.items() if seconds > MAX_SECONDS}
    log = check_log(folder / "service.log")
    left = [f"upload left behind: {path.name}" for path in (folder / "uploads").iterdir()]
    failures: list[str] = []

    def judge(wanted: str, measured: str, wrong: Sequence[str]) -> None:
        report.target(wanted, measured, met=not wrong)
        failures.extend(wrong[:20])

    faults = [f"request {number}: {fault}" for number, fault in sorted(result.faults.items())]
    sent = sum(result.statuses.values())
    judge(f"{sent} requests: each answer correct, no error of the server", f"{len(faults)} faults", faults)
    measured = f"longest {result.longest:.2f} s, {len(result.slow)} over it, {len(slow)} of them also alone"
    judge(f"none over {MAX_SECONDS:g} s", measured, [f"request {key}: {value:.1f} s" for key, value in slow.items()])
    large = [f"resident set {resident / MB:.0f} MB"] if resident > MAX_RESIDENT else []
    judge(f"resident set at most {MAX_RESIDENT / MB:.0f} MB", f"{resident / MB:.0f} MB", large)
    judge("a tracklet is embedded and found before and after", f"{before:.2f} s, {after:.2f} s", [])
    judge("gauges are zero afterwards", str(gauges or "zero"), [f"{name}: {value}" for name, value in gauges.items()])
    judge("no upload remains", f"{len(left)}", left)
    judge("the log is JSON without errors", f"{len(log)} other lines", [f"log: {line[:500]}" for line in log])
    if again := [*sorted(result.faults)[:5], *[*slow][:5]]:
        failures.append(f"repeat: python -m benchmarks.fuzz --seed {options.seed} --only {' '.join(map(str, again))}")
    return failures


@contextmanager
def running(bundle: Path, folder: Path) -> Iterator[Server]:
    """Run a service that keeps thumbnails and has a temporary folder of its own."""
    (folder / "uploads").mkdir()
    arguments = [
        "not3d",
        "serve",
        "--engine",
        "onnxruntime",
        "--bundle",
        str(bundle),
        "--data-dir",
        str(folder / "data"),
    ]
    variables = {"NOT3D_TEMP_DIR": str(folder / "uploads"), "NOT3D_THUMBNAILS": "true"}
    with running_server(arguments, ready="/readyz", log=folder / "service.log", variables=variables) as server:
        yield server


def attack_service(
    port: int, drawing: Drawing, numbers: Sequence[int], clients: int, seconds: float = math.inf
) -> Result:
    """Send all attacks from several threads, as far as the time lasts; stop early if the service has ended."""
    result = Result()
    end = time.monotonic() + seconds

    def one(number: int) -> None:
        if time.monotonic() > end:
            return
        attack = drawing.draw(number)
        result.add(attack, send(port, attack))

    with ThreadPoolExecutor(clients) as pool:
        for done, _ in enumerate(pool.map(one, numbers)):
            if sys.stderr.isatty() and not done % 50:
                sys.stderr.write(f"\r{done} of {len(numbers)}, {len(result.faults)} faults")
    return result


def send(port: int, attack: Attack) -> Answer:
    """Send an attack on a connection of its own and judge the answer."""
    size = -(-len(attack.data) // attack.pieces)
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            for at in range(0, len(attack.data), size):
                connection.sendall(attack.data[at : at + size])
                if attack.pieces > 1:
                    time.sleep(0.002)
        except OSError:
            pass  # refused early: the answer may be there already
        begin = time.perf_counter()
        wait = None if attack.complete else SILENT_SECONDS
        readable, _, _ = select.select([connection], [], [], wait or 30)
        if not readable:
            return Answer(0, 0, "no answer within 30 s" if attack.complete else "")
        try:
            return _read(connection, attack, begin)
        except (OSError, http.client.HTTPException) as error:
            seconds = time.perf_counter() - begin
            closed = isinstance(error, ConnectionError)  # also RemoteDisconnected
            fault = "" if closed and not attack.complete else f"no complete answer: {error!r}"
            return Answer(0, seconds, fault)


def _read(connection: socket.socket, attack: Attack, begin: float) -> Answer:
    response = http.client.HTTPResponse(connection, method=attack.method)
    try:
        response.begin()
        body = response.read()
    finally:
        response.close()
    seconds, status = time.perf_counter() - begin, response.status
    kind = response.headers.get("content-type", "")
    fault = ""
    if status >= 500 and (status not in DOCUMENTED or (status != 507 and "retry-after" not in response.headers)):
        fault = f"{status} {body[:300]!r}"
    elif status >= 400 and attack.method != "HEAD" and not kind.startswith("application/problem+json"):
        fault = f"{status} without a problem document: {kind} {body[:100]!r}"
    elif status >= 400 and len(body) > 500_000:
        fault = f"{status} with {len(body)} bytes"
    return Answer(status, seconds, fault)


def check_service(url: str) -> float:
    """Enrol two people and search for the first; return the seconds of its embedding.

    Raises:
        SystemExit: a wrong answer.
    """
    with Client(url) as client:
        frames = {
            name: [cv2.imencode(".png", draw_person(shirt)[..., ::-1])[1].tobytes()] * 4
            for name, shirt in (("honest-red", (220, 30, 30)), ("honest-green", (20, 160, 40)))
        }
        for name, pictures in frames.items():
            client.put(pictures, id=name)
        begin = time.perf_counter()
        client.embed(frames["honest-red"], enroll=False)
        seconds = time.perf_counter() - begin
        first = client.search(frames["honest-red"], top_k=1).hits[0]
        if first.id != "honest-red" or first.score < 0.999 or not client.is_ready():
            sys.exit(f"the service does not find what was enrolled: {first}")
    return seconds


def wait_for_idle(url: str) -> dict[str, float]:
    """Return the gauges that are not zero after some seconds."""
    for _ in range(50):
        lines = httpx.get(f"{url}/metrics", timeout=10).text.splitlines()
        values = {name: float(value) for name, _, value in (line.partition(" ") for line in lines) if name in GAUGES}
        # The request for the metrics may count itself.
        if not (wrong := {name: value for name, value in values.items() if value > 0}):
            return {}
        time.sleep(0.1)
    return wrong


def check_log(path: Path) -> list[str]:
    """Return the lines of a log that are not JSON or that report an error."""
    wrong = []
    for line in path.read_text(errors="replace").splitlines():
        try:
            if json.loads(line)["level"] in {"error", "critical"}:
                wrong.append(line)
        except (ValueError, KeyError, TypeError):
            wrong.append(line)
    return wrong


def table(report: Report, result: Result) -> None:
    kinds = sorted({kind for kind, _ in result.statuses})
    report.head("status", *kinds)
    for status in sorted({status for _, status in result.statuses}):
        name = str(status) if status else "none"
        report.row(name, *(str(result.statuses[kind, status]) for kind in kinds))
    report.end_table()


if __name__ == "__main__":
    main()
