"""Clients with mixed requests, in a separate process: `python -m benchmarks.serving.mixed`.

Tracklets with and without enrolment, as forms and as JSON, full frames and a video with boxes, all kinds of search,
replaced and deleted records, bad input, and clients that disconnect. The gallery stays at a few hundred records, so
memory that grows is not the gallery's. Each status is checked. A 503 is no answer to any of these requests: it is
counted, and the same request is sent again. Prints one JSON object: what was `done`, and the 503s by title as `busy`.
"""

import argparse
import base64
import json
import random
import socket
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import httpx

from benchmarks.serving.client import BOUNDARY, form
from not3d.client import Box, Client, ProblemError
from not3d.client.retry import MAX_ATTEMPTS, RetryPolicy

CLIENTS = 8
MAX_RECORDS = 25
"""Of each client."""
FORM = f"multipart/form-data; boundary={BOUNDARY}"
JSON = "application/json"


class MixedClient:
    """One client: chooses its requests from a seeded source and knows the records that it enrolled."""

    def __init__(self, port: int, material: Path, seed: int) -> None:
        self._port, self._random = port, random.Random(seed)
        url = f"http://127.0.0.1:{port}"
        # Each action is repeated here and not inside the client, because there a 503 would not be counted.
        self._client, self._http = Client(url, attempts=1), httpx.Client(base_url=url, timeout=120)
        self._retry = RetryPolicy(attempts=MAX_ATTEMPTS)
        people: dict[str, list[bytes]] = {}
        for path in sorted(material.glob("*-*.jpg")):
            people.setdefault(path.name.split("-")[0], []).append(path.read_bytes())
        self._people = list(people.values())
        self._scene, self._video = (material / "scene.jpg").read_bytes(), material / "video.avi"
        self._ids = (f"soak-{seed}-{number}" for number in count())
        self._enrolled: list[str] = []
        self.done: Counter[str] = Counter()
        self.busy: Counter[str] = Counter()
        self._weights: dict[Callable[[], None], int] = {
            self._compute_and_search: 7, self._enroll: 4, self._enroll_json: 2, self._search_frames: 2,
            self._search_id: 3, self._full_frames: 2, self._send_video: 1, self._replace: 1,
            self._send_bad_input: 2, self._disconnect: 2, self._read: 1,
        }  # fmt: skip

    def run(self, until: float) -> None:
        actions, weights = zip(*self._weights.items(), strict=True)
        while time.monotonic() < until:
            (action,) = self._random.choices(actions, weights)
            self.act(action)
            while len(self._enrolled) > MAX_RECORDS:
                self.act(self._delete)

    def act(self, action: Callable[[], None]) -> None:
        """Do an action and count it. While the service answers 503, count that and send the same again.

        Raises:
            ProblemError: the service refused, or answered 503 to each of `MAX_ATTEMPTS` attempts.
            RuntimeError: the status is not the expected one, or a 503 has no Retry-After.
        """
        state = self._random.getstate()

        def attempt() -> None:
            self._random.setstate(state)
            try:
                action()
            except ProblemError as problem:
                if problem.status == httpx.codes.SERVICE_UNAVAILABLE:
                    self.busy[problem.title] += 1
                    if problem.retry_after is None:
                        raise RuntimeError(f"503 without Retry-After: {problem}") from problem
                raise

        self._retry.call(attempt)
        self.done[action.__name__.strip("_")] += 1

    def _delete(self) -> None:
        self._client.delete(self._enrolled[0])
        self._enrolled.pop(0)

    def _compute_and_search(self) -> None:
        found = self._client.embed(self._frames(), enroll=False, include_embedding=True)
        self._client.search(embedding=found.embedding, embedding_space=found.embedding_space, top_k=20)

    def _enroll(self) -> None:
        name = next(self._ids)
        self._client.embed(self._frames(), id=name, camera_id=self._random.choice("abcd"), metadata={"gate": 4})
        self._enrolled.append(name)

    def _enroll_json(self) -> None:
        name = next(self._ids)
        frames = [base64.b64encode(frame).decode() for frame in self._frames()]
        body = {"id": name, "camera_id": "e", "start_time": "2026-05-04T09:30:00Z", "frames": frames}
        self._post(json.dumps(body).encode(), JSON, {201})
        self._enrolled.append(name)

    def _search_frames(self) -> None:
        self._client.search(self._frames(), top_k=5, camera_ids=["a", "b"])

    def _search_id(self) -> None:
        if self._enrolled:
            self._client.search(id=self._random.choice(self._enrolled), exclude_same_camera=True, rerank=True)

    def _full_frames(self) -> None:
        boxes: list[Box] = [(index, 40 + 190 * person, 150, 128, 256) for index in range(4) for person in (0, 2)]
        self._client.embed([self._scene] * 4, boxes=boxes, enroll=False)

    def _send_video(self) -> None:
        boxes: list[Box] = [(index, 230 + 2 * index, 150, 128, 256) for index in range(0, 24, 2)]
        self._client.embed(video=self._video, boxes=boxes, enroll=False)

    def _replace(self) -> None:
        if self._enrolled:
            self._client.put(self._frames(), id=self._random.choice(self._enrolled), camera_id="f")

    def _send_bad_input(self) -> None:
        frames = self._frames()
        body, content_type, expected = self._random.choice([
            (form([b"not an image"] * 4), FORM, {415}),
            (form([frame[: len(frame) // 3] for frame in frames]), FORM, {415, 422}),
            (form(frames, {"colour": "red"}), FORM, {400}),
            (form(frames)[:-500], FORM, {400}),
            (b'{"frames": [1, 2', JSON, {400}),
            (form([], {}, b"no video"), FORM, {415}),
        ])  # fmt: skip
        self._post(body, content_type, expected)

    def _disconnect(self) -> None:
        """Send half of a body, or all of it, and disconnect before the answer."""
        body = form(self._frames())
        head = f"POST /embed?enroll=false HTTP/1.1\r\nHost: x\r\nContent-Type: {FORM}\r\nContent-Length: {len(body)}"
        with socket.create_connection(("127.0.0.1", self._port), timeout=30) as connection:
            connection.sendall(f"{head}\r\n\r\n".encode() + body[: self._random.choice([len(body) // 2, len(body)])])
            time.sleep(self._random.choice([0.0, 0.05, 0.3]))

    def _read(self) -> None:
        self._client.list(limit=50)
        self._client.info()

    def _frames(self) -> list[bytes]:
        frames = self._random.choice(self._people)
        return [frames[index % len(frames)] for index in range(self._random.randint(1, 60))]

    def _post(self, body: bytes, content_type: str, expected: set[int]) -> None:
        response = self._http.post("/embed", content=body, headers={"Content-Type": content_type})
        if response.status_code == httpx.codes.SERVICE_UNAVAILABLE:
            document: dict[str, Any] = response.json()
            after = response.headers.get("Retry-After")
            retry_after = None if after is None else float(after)
            raise ProblemError(response.status_code, document["title"], document["detail"], retry_after=retry_after)
        if response.status_code not in expected:
            raise RuntimeError(f"POST /embed: {response.status_code} {response.text[:300]}, expected {expected}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--material", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    options = parser.parse_args()
    clients = [MixedClient(options.port, options.material, seed) for seed in range(CLIENTS)]
    until = time.monotonic() + options.seconds
    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(lambda client: client.run(until), clients))
    done = sum((client.done for client in clients), Counter[str]())
    busy = sum((client.busy for client in clients), Counter[str]())
    print(json.dumps({"done": done, "busy": busy}), flush=True)


if __name__ == "__main__":
    main()
