"""Clients that give up: does a normal request take its normal time afterwards, and is nothing left behind?

    python -m benchmarks.aborts [--bundle DIRECTORY] [--count 10000]

Sends requests of every kind and closes each connection in its head, in its body, at once after it, while the request is
computed, or while the answer is sent: in bursts of 40 that leave in the same moment, and spread out. Prints the median
time of a normal request before and after, and the gauges, which must be 0.
"""

import argparse
import asyncio
import base64
import http.client
import json
import random
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.process import running_service
from model.bundle import BUNDLED, Bundle

BURST = 40
NORMAL = 20
SETTLE_SECONDS = 60.0
GAUGES = (
    "not3d_open_requests",
    "not3d_pending_requests",
    "not3d_pending_bytes",
    "not3d_pending_gallery_calls",
    "not3d_answer_bytes",
    "not3d_queued_clips",
)
MOMENTS = ("head", "body", "at once", "later", "answer")
"""When a client leaves: in the head, in the body, right after it, up to 0.3 s later, after the answer's first byte."""


@dataclass(frozen=True)
class Outcome:
    """Median seconds of a normal request before and after, the gauges afterwards, and the aborted requests."""

    before: float
    after: float
    gauges: Mapping[str, float]
    aborted: int


def requests(dimension: int, folder: Path) -> dict[str, bytes]:
    """Return one request of each kind, head and body, as it is sent."""
    chance = np.random.default_rng(1)
    pictures = [np.full((128, 64, 3), chance.integers(0, 256, 3), np.uint8) for _ in range(60)]
    frames = [cv2.imencode(".jpg", picture)[1].tobytes() for picture in pictures]
    video = _video(pictures, folder)
    embedding = chance.normal(size=dimension).tolist()
    text = {"frames": [base64.b64encode(frame).decode() for frame in frames[:20]]}
    return {
        "embed, frames": _form("/embed", [("frames", frame) for frame in frames]),
        "embed, few frames": _form("/embed?enroll=false", [("frames", frame) for frame in frames[:4]]),
        "embed, video": _form("/embed?enroll=false", [("video", video)]),
        "embed, video, chosen clips": _form("/embed?enroll=false", [("video", video), ("max_clips", b"2")]),
        "embed, JSON": _json("POST", "/embed?enroll=false", text),
        "search, frames": _form("/search", [("frames", frame) for frame in frames[:20]]),
        "search, id": _json("POST", "/search", {"id": "kept", "top_k": 100}),
        "search, embedding": _json("POST", "/search", {"embedding": embedding, "top_k": 100, "rerank": True}),
        "put": _json("PUT", "/gallery/kept", {"embedding": embedding, "metadata": {"k": [[]] * 3990}}),
        "list": b"GET /gallery?limit=1000 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        "get": b"GET /gallery/kept?include_embedding=true HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    }


def run(port: int, sent: Mapping[str, bytes], count: int, seed: int = 1) -> Outcome:
    """Abort so many requests of all kinds, half of them in bursts.

    Raises:
        SystemExit: a normal request failed.
    """
    normal = sent["embed, few frames"]
    _ask(port, sent["put"])
    before = median(_ask(port, normal) for _ in range(NORMAL))
    aborted = asyncio.run(_abort_all(port, list(sent.values()), count, random.Random(seed)))
    end = time.monotonic() + SETTLE_SECONDS
    while any(read_gauges(port).values()) and time.monotonic() < end:
        time.sleep(0.05)
    gauges = read_gauges(port)
    return Outcome(before, median(_ask(port, normal) for _ in range(NORMAL)), gauges, aborted)


def read_gauges(port: int) -> dict[str, float]:
    """Return what the service says that it holds."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    connection.close()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(values[name]) for name in GAUGES}


async def _abort_all(port: int, sent: list[bytes], count: int, chance: random.Random) -> int:
    aborted = 0
    while aborted < count:
        size = min(BURST, count - aborted)
        leave = asyncio.Event()
        burst = chance.random() < 0.5
        tasks = [
            asyncio.create_task(_abort(port, chance.choice(sent), chance.choice(MOMENTS), chance, leave, burst))
            for _ in range(size)
        ]
        if burst:
            await asyncio.sleep(chance.uniform(0.0, 0.3))
        leave.set()
        await asyncio.gather(*tasks)
        aborted += size
    return aborted


async def _abort(
    port: int, request: bytes, moment: str, chance: random.Random, leave: asyncio.Event, burst: bool
) -> None:
    head = request.index(b"\r\n\r\n") + 4
    until = {"head": chance.randrange(1, head), "body": chance.randrange(head, len(request) + 1)}
    if not burst:
        await asyncio.sleep(chance.uniform(0, 0.5))
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return
    try:
        writer.write(request[: until.get(moment, len(request))])
        await writer.drain()
        if burst:
            await leave.wait()
        elif moment == "later":
            await asyncio.sleep(chance.uniform(0, 0.3))
        if moment == "answer":
            await asyncio.wait_for(reader.read(1), 60)
    except (OSError, TimeoutError):
        pass
    finally:
        writer.transport.abort()


def _ask(port: int, request: bytes) -> float:
    """Send a request, read its answer, and return the seconds that it took."""
    head, _, body = request.partition(b"\r\n\r\n")
    line, *fields = head.decode().split("\r\n")
    method, path, _ = line.split(" ")
    start = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, path, body, dict(field.split(": ", 1) for field in fields))
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    if answer.status not in {200, 201}:
        raise SystemExit(f"{line} was answered with {answer.status}: {text[:200]!r}")
    return time.perf_counter() - start


def _form(path: str, parts: list[tuple[str, bytes]]) -> bytes:
    body = b"".join(_part(name, data) for name, data in parts) + b"--x--\r\n"
    return _head("POST", path, "multipart/form-data; boundary=x", len(body)) + body


def _part(name: str, data: bytes) -> bytes:
    return f'--x\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode() + data + b"\r\n"


def _json(method: str, path: str, body: object) -> bytes:
    data = json.dumps(body).encode()
    return _head(method, path, "application/json", len(data)) + data


def _head(method: str, path: str, kind: str, length: int) -> bytes:
    fields = f"Host: 127.0.0.1\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n"
    return f"{method} {path} HTTP/1.1\r\n{fields}".encode()


def _video(pictures: list[NDArray[np.uint8]], folder: Path) -> bytes:
    path = folder / "clip.mp4"
    height, width = pictures[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 25, (width, height))
    for picture in pictures:
        writer.write(picture)
    writer.release()
    return path.read_bytes()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=BUNDLED)
    parser.add_argument("--count", type=int, default=10_000)
    options = parser.parse_args()
    dimension = Bundle.load(options.bundle).spec.dimension
    with tempfile.TemporaryDirectory() as folder:
        sent = requests(dimension, Path(folder))
        with running_service(options.bundle, Path(folder) / "data") as server:
            start = time.perf_counter()
            outcome = run(server.port, sent, options.count)
            seconds = time.perf_counter() - start
    print(f"{outcome.aborted} aborted requests in {seconds:.0f} s")
    print(f"median of a normal request: {1000 * outcome.before:.1f} ms before, {1000 * outcome.after:.1f} ms after")
    for name, value in outcome.gauges.items():
        print(f"{name} {value:g}")
    if any(outcome.gauges.values()):
        raise SystemExit("something is left behind")


if __name__ == "__main__":
    main()
