"""HTTP load clients in a separate process: `python -m benchmarks.serving.client`.

They share the CPUs with the service, so they are cheap: bodies are prepared, only the standard library is imported, and
their CPU time is measured. Each answer is checked. Prints one JSON object.
"""

import argparse
import http.client
import json
import math
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

BOUNDARY = "not3d-benchmark-9b2f6c1e"
PLAN = "plan.json"
TIMEOUT = 600.0
WARM_UP = 5
"""Number of first answers that are left out (with more clients: one each)."""


def form(frames: Sequence[bytes], fields: dict[str, str] | None = None, video: bytes | None = None) -> bytes:
    """Return a multipart body: text fields, then frames in order, or a video."""
    parts = [(f'name="{name}"', value.encode()) for name, value in (fields or {}).items()]
    parts += [
        (f'name="frames"; filename="{index}.jpg"\r\nContent-Type: image/jpeg', frame)
        for index, frame in enumerate(frames)
    ]
    if video is not None:
        parts.append(('name="video"; filename="video.avi"\r\nContent-Type: video/x-msvideo', video))
    head = f"--{BOUNDARY}\r\nContent-Disposition: form-data; "
    body = b"".join(f"{head}{name}\r\n\r\n".encode() + value + b"\r\n" for name, value in parts)
    return body + f"--{BOUNDARY}--\r\n".encode()


class LoadWindow:
    """The measurement window, in which all clients send requests without a pause.

    The window opens when each client has one answer and closes after `seconds` and at least as many answers as
    clients. Clients continue until the requests in progress at that moment are answered. A request that crosses an
    edge of the window counts by its share inside, so neither grouped nor late answers change the rate.
    """

    def __init__(self, clients: int, seconds: float) -> None:
        self._clients, self._seconds = clients, seconds
        self._lock = threading.Lock()
        self._next = 0
        self._in_progress: dict[int, float] = {}
        self._awaited: set[int] | None = None
        self._answers: list[tuple[float, float, int]] = []
        self._begin = self._end = (0.0, 0.0)
        self.busy = 0
        self.errors: list[str] = []
        self.over = threading.Event()

    def start_request(self) -> int | None:
        """Return the number of the next request, or None after the end."""
        with self._lock:
            if self.over.is_set():
                return None
            self._in_progress[self._next] = time.perf_counter()
            self._next += 1
            return self._next - 1

    def finish_request(self, number: int, frames: int) -> None:
        with self._lock:
            now = time.perf_counter()
            self._answers.append((self._in_progress.pop(number), now, frames))
            warm_up = max(self._clients, WARM_UP)
            if len(self._answers) == warm_up:
                self._begin = now, time.process_time()
            elif self._awaited is not None:
                self._awaited.discard(number)
            elif len(self._answers) >= warm_up + self._clients and now - self._begin[0] >= self._seconds:
                self._end = now, time.process_time()
                self._awaited = set(self._in_progress)
            if self._awaited is not None and not self._awaited:
                self.over.set()

    def result(self) -> dict[str, Any]:
        """Return the window's length, its frames, the seconds of each request answered in it, and CPU seconds."""
        (begin, cpu_begin), (end, cpu_end) = self._begin, self._end
        frames = 0.0
        for start, stop, count in self._answers:
            frames += count * max(0.0, min(stop, end) - max(start, begin)) / (stop - start)
        return {
            "seconds": end - begin,
            "frames": frames,
            "times": [stop - start for start, stop, _ in self._answers if begin < stop <= end],
            "cpu_seconds": cpu_end - cpu_begin,
        }

    def wait_after_503(self, number: int, seconds: str | None) -> None:
        """Wait after a 503 for the seconds in its Retry-After."""
        with self._lock:
            self.busy += 1
            self._in_progress.pop(number)
            if self._awaited is not None:
                self._awaited.discard(number)
        if seconds is None:
            self.fail("503 without Retry-After")
        time.sleep(float(seconds or 1))

    def fail(self, reason: str) -> None:
        with self._lock:
            self.errors.append(reason)
            self.over.set()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path", default="/embed")
    parser.add_argument("--plan", type=Path, required=True, help="folder of bodies, see benchmarks.serving.load")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--dimension", type=int, required=True)
    options = parser.parse_args()
    plan = json.loads((options.plan / PLAN).read_text())
    bodies = [((options.plan / entry["file"]).read_bytes(), int(entry["frames"])) for entry in plan]
    window, embeddings = LoadWindow(options.clients, options.seconds), dict[int, list[float]]()
    threads = [
        threading.Thread(target=_ask, args=(options, bodies, window, embeddings), daemon=True)
        for _ in range(options.clients)
    ]
    for thread in threads:
        thread.start()
    window.over.wait()
    # Requests in progress are answered, so they do not disturb the next measurement.
    for thread in threads:
        thread.join(TIMEOUT)
    result = {} if window.errors else window.result()
    print(
        json.dumps(result | {"busy": window.busy, "errors": window.errors[:5], "embedding": embeddings.get(0)}),
        flush=True,
    )
    os._exit(1 if window.errors else 0)


def _ask(
    options: argparse.Namespace,
    bodies: Sequence[tuple[bytes, int]],
    window: LoadWindow,
    embeddings: dict[int, list[float]],
) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", options.port, timeout=TIMEOUT)
    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    while (number := window.start_request()) is not None:
        body, frames = bodies[number % len(bodies)]
        try:
            connection.request("POST", options.path, body, headers)
            answer = connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException) as error:
            window.fail(f"{type(error).__name__}: {error}")
            return
        if answer.status == 503:
            window.wait_after_503(number, answer.headers.get("Retry-After"))
            continue
        embedding = _check(answer.status, content, frames, options.dimension, window)
        if number < len(bodies) and embedding is not None:
            embeddings[number] = embedding
        window.finish_request(number, frames)
    connection.close()


def _check(status: int, content: bytes, frames: int, dimension: int, window: LoadWindow) -> list[float] | None:
    """Check an answer and return its unit-length embedding, if it has one."""
    if status not in {200, 201}:
        window.fail(f"{status}: {content[:300]!r}")
        return None
    answer = json.loads(content)
    embedding: list[float] | None = answer.get("embedding")
    if answer["frames"] != frames:
        window.fail(f"{answer['frames']} frames used of {frames}")
    if embedding is None:
        if answer.get("dim") != dimension:
            window.fail(f"dimension {answer.get('dim')}, not {dimension}")
    elif len(embedding) != dimension or not abs(math.hypot(*embedding) - 1) < 1e-3:
        window.fail(f"{len(embedding)} components of length {math.hypot(*embedding)}")
    return embedding


if __name__ == "__main__":
    main()
