"""How long `/livez` waits while sixteen requests of one kind run together, each as large as it may be or larger.

    python -m benchmarks.event_loop [--bundle DIRECTORY] [--together 16] [--megabytes 60]

Prints one line for each kind: its statuses, its slowest request, and how long `/livez` waited, which another process
measures. Two of these times are given: the wait by the clock, and the CPU time that the service used during that wait,
if that is less. On an idle machine they are almost equal, because the answer waits for nothing except other work of the
service. On a busy machine the first also has the time for which the service did not run, and the second has not. The
gallery has a thousand records whose metadata are as large as they may be.
"""

import argparse
import base64
import gzip
import http.client
import json
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from threading import Event, Thread

import cv2
import numpy as np

from benchmarks.process import ObjectProcess, running_service
from model.bundle import BUNDLED, Bundle

TIMEOUT = 120.0
RECORDS = 1000
FORM_TYPE = "multipart/form-data; boundary=x"
JSON_TYPE = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Kind:
    """Requests of one kind. The body is made when it is needed, because some are large."""

    name: str
    method: str
    path: str
    body: Callable[[], bytes] = bytes
    content_type: str = "application/json"
    encoding: str = "identity"


@dataclass(frozen=True)
class Result:
    """What the requests of one kind got, and how long `/livez` waited meanwhile, in seconds.

    `waits` are times of the clock, `own` the same without the time for which the service did not run.
    """

    statuses: Counter[int]
    slowest: float
    waits: list[float]
    own: list[float]


class Probe:
    """Asks for `/livez` again and again; runs in a process of its own.

    Args:
        port: of the service.
        pid: of the service.
    """

    def __init__(self, port: int, pid: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
        self._cpu_clock = (~pid << 3) | 2  # as clock_getcpuclockid(3) makes it
        self._waits: list[tuple[float, float]] = []
        self._stop = Event()
        self._thread: Thread | None = None

    def start(self) -> None:
        self._waits, self._stop = [], Event()
        self._thread = Thread(target=self._run)
        self._thread.start()

    def stop(self) -> list[tuple[float, float]]:
        """Return the wait of each request, by the clock and in CPU time of the service."""
        self._stop.set()
        assert self._thread
        self._thread.join()
        self._connection.close()  # opened again by the next request
        return self._waits

    def _run(self) -> None:
        while not self._stop.is_set():
            start, cpu = time.perf_counter(), time.clock_gettime(self._cpu_clock)
            self._connection.request("GET", "/livez")
            self._connection.getresponse().read()
            self._waits.append((time.perf_counter() - start, time.clock_gettime(self._cpu_clock) - cpu))
            time.sleep(0.005)


def kinds(dimension: int, megabytes: int) -> Iterator[Kind]:
    """Yield all kinds; the bodies that have no limit of their own have so many megabytes."""
    size = megabytes * 10**6
    embedding = [0.1] * dimension

    def put(**fields: object) -> Callable[[], bytes]:
        return lambda: json.dumps({"embedding": embedding} | fields).encode()

    def search(**fields: object) -> Callable[[], bytes]:
        return lambda: json.dumps({"embedding": embedding} | fields).encode()

    def text(before: str, repeated: str, count: int, after: str) -> Callable[[], bytes]:
        def make() -> bytes:
            return (before + repeated * count + after).encode()

        return make

    def frames(count: int) -> bytes:
        chance = random.Random(1)
        each = min(size // count * 3 // 4, 15 * 10**6)
        return json.dumps(
            {"frames": [base64.b64encode(chance.randbytes(each)).decode() for _ in range(count)]}
        ).encode()

    def half() -> bytes:
        good, bad = (base64.b64encode(data).decode() for data in (picture(), b"no picture"))
        return json.dumps({"frames": [good, bad] * 200}).encode()

    def form_of_frames(count: int) -> Callable[[], bytes]:
        return ("--x" + ("\r\n" + part.format("frames", "a")) * count + "--\r\n").encode

    cameras = {"camera_ids": [f"{i:0>128}" for i in range(1000)], "exclude_camera_ids": [f"z{i}" for i in range(1000)]}
    yield Kind("control", "GET", "/gallery/m0")
    yield Kind("PUT, metadata of 4000 arrays", "PUT", "/gallery/a", put(metadata=full_metadata()))
    yield Kind("PUT, metadata of one long text", "PUT", "/gallery/a", put(metadata={"k": "é" * 2700}))
    yield Kind("PUT, metadata far too long", "PUT", "/gallery/a", text('{"metadata":{"k":"', "é", size // 2, '"}}'))
    yield Kind("PUT, metadata of escapes", "PUT", "/gallery/a", text('{"metadata":{"k":"', "\\u00e9", size // 6, '"}}'))
    yield Kind("PUT, metadata of 490000 values", "PUT", "/gallery/a", put(metadata={"k": [0] * 490_000}))
    yield Kind("PUT, metadata of 90000 arrays", "PUT", "/gallery/a", put(metadata={"k": [[]] * 40_000}))
    yield Kind("PUT, 30000 keys", "PUT", "/gallery/a", put(metadata={f"k{i}": i for i in range(30_000)}))
    yield Kind("PUT, 30000 unknown fields", "PUT", "/gallery/a", put(**{f"k{i}": i for i in range(30_000)}))
    yield Kind("PUT, a long name", "PUT", "/gallery/a", text('{"', "x", size, '":1}'))
    yield Kind("PUT, escaped quotation marks", "PUT", "/gallery/a", text('{"id":"', '\\"', size // 2, '"}'))
    yield Kind(
        "PUT, embedding of 65536", "PUT", "/gallery/a", lambda: json.dumps({"embedding": [0.1] * 65_536}).encode()
    )
    yield Kind("search, a long id", "POST", "/search", text('{"id":"', "a", size, '"}'))
    yield Kind("search, long metadata in the filter", "POST", "/search", search(filter={"metadata": {"k": "x" * size}}))
    yield Kind("search, 2000 cameras in the filter", "POST", "/search", search(filter=cameras))
    yield Kind(
        "search, 100000 nested arrays", "POST", "/search", text('{"embedding":', "[", 100_000, "]" * 100_000 + "}")
    )
    yield Kind("search, only arrays", "POST", "/search", text("", "[", size, ""))
    yield Kind("search, integer of a million digits", "POST", "/search", text('{"id":"a","top_k":', "9", 10**6, "}"))
    yield Kind("search, fraction of a million digits", "POST", "/search", text('{"min_score":0.', "9", 10**6, "}"))
    yield Kind("search, blanks", "POST", "/search", text("", " ", size, "{}"))
    yield Kind("JSON, four large frames", "POST", "/embed?enroll=false", lambda: frames(4))
    yield Kind("JSON, 2000 small frames", "POST", "/embed?enroll=false", lambda: frames(2000))
    yield Kind(
        "JSON, 2000 small frames in gzip",
        "POST",
        "/embed?enroll=false",
        lambda: gzip.compress(frames(2000), 1),
        encoding="gzip",
    )
    yield Kind("JSON, 400 frames, every other one bad", "POST", "/embed?enroll=false", half)
    yield Kind("JSON, 100000 empty frames", "POST", "/embed", lambda: json.dumps({"frames": [""] * 100_000}).encode())
    boxes = {"frames": [""], "boxes": [[0, 0, 0, 9, 9]] * 15_000}
    yield Kind("JSON, 15000 boxes", "POST", "/embed", lambda: json.dumps(boxes).encode())
    part = 'Content-Disposition: form-data; name="{}"\r\n\r\n{}\r\n--x'
    values = {"metadata": json.dumps({"k": [[]] * 60_000})[:250_000] + "}", "boxes": json.dumps([[0] * 5] * 15_000)}
    form = "--x" + "".join("\r\n" + part.format(name, value) for name, value in values.items()) + "--\r\n"
    yield Kind("form, long fields", "POST", "/embed", form.encode, FORM_TYPE)
    for count in (2000, 100_000):
        yield Kind(f"form, {count} tiny frames", "POST", "/embed?enroll=false", form_of_frames(count), FORM_TYPE)
    yield Kind("gzip of blanks", "POST", "/embed", lambda: gzip.compress(b" " * size, 9), encoding="gzip")
    yield Kind(
        "erase, 1000 cameras",
        "POST",
        "/gallery/erase",
        lambda: json.dumps({"filter": cameras, "dry_run": True}).encode(),
    )
    yield Kind("search, 1000 hits", "POST", "/search", search(top_k=1000))
    yield Kind("search, 1000 hits re-ranked", "POST", "/search", search(top_k=1000, rerank=True))
    yield Kind("list of 1000 records", "GET", "/gallery?limit=1000")
    yield Kind("audit log", "GET", "/audit?limit=1000")
    yield Kind("a long query", "GET", "/gallery?" + "&".join(f"x{i}={i}" for i in range(4000)))
    yield Kind("metrics", "GET", "/metrics")
    yield Kind("OpenAPI document", "GET", "/openapi.json")


def picture() -> bytes:
    """Return a small picture that can be decoded."""
    encoded: bytes = cv2.imencode(".png", np.full((16, 8, 3), 90, np.uint8))[1].tobytes()
    return encoded


def full_metadata() -> dict[str, object]:
    """Return metadata of 16 000 bytes with as many values as possible."""
    return {"k": [[]] * 3990}


def fill(port: int, dimension: int, records: int = RECORDS) -> None:
    """Enrol records with the largest metadata."""
    chance = random.Random(1)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
    for number in range(records):
        body = {"embedding": [chance.gauss(0, 1) for _ in range(dimension)], "metadata": full_metadata()}
        connection.request("PUT", f"/gallery/m{number}", json.dumps(body), JSON_TYPE)
        answer = connection.getresponse()
        answer.read()
        if answer.status != 201:
            raise SystemExit(f"PUT /gallery/m{number} was answered with {answer.status}")
    connection.close()


def measure(port: int, probe: ObjectProcess, kind: Kind, together: int) -> Result:
    """Send requests of one kind together, twice each, while the probe runs."""
    body = kind.body()
    headers = {"Content-Type": kind.content_type, "Content-Encoding": kind.encoding}

    def ask(_: int) -> tuple[int, float]:
        start = time.perf_counter()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
        try:
            connection.request(kind.method, kind.path, body or None, headers)
            answer = connection.getresponse()
            while answer.read(2**20):
                pass
            return answer.status, time.perf_counter() - start
        except OSError:  # refused before it had sent everything
            return 0, time.perf_counter() - start
        finally:
            connection.close()

    probe.call("start")
    with ThreadPoolExecutor(together) as pool:
        answers = list(pool.map(ask, range(2 * together)))
    waits = probe.call("stop")
    return Result(
        Counter(status for status, _ in answers),
        max(seconds for _, seconds in answers),
        [seconds for seconds, _ in waits],
        [min(each) for each in waits],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=BUNDLED)
    parser.add_argument("--together", type=int, default=16)
    parser.add_argument("--megabytes", type=int, default=60)
    parser.add_argument("--only", nargs="+", default=[""], help="kinds whose name has one of these texts")
    options = parser.parse_args()
    dimension = Bundle.load(options.bundle).spec.dimension
    print("kind | statuses | slowest s | longest wait of /livez ms | the same without pauses ms | median ms")
    with tempfile.TemporaryDirectory() as folder, running_service(options.bundle, Path(folder)) as server:
        port = int(server.url.rpartition(":")[2])
        fill(port, dimension)
        with ObjectProcess(Probe, port, server.pid) as probe:
            for kind in kinds(dimension, options.megabytes):
                if any(text in kind.name for text in options.only):
                    result = measure(port, probe, kind, options.together)
                    longest, own = 1000 * max(result.waits), 1000 * max(result.own)
                    statuses = " ".join(f"{status}x{count}" for status, count in sorted(result.statuses.items()))
                    middle = 1000 * median(result.waits)
                    times = f"{result.slowest:.2f} | {longest:.0f} | {own:.0f} | {middle:.1f}"
                    print(f"{kind.name} | {statuses} | {times}", flush=True)


if __name__ == "__main__":
    main()
