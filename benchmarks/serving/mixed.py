"""Clients with mixed requests, in a separate process: `python -m benchmarks.serving.mixed`.

Tracklets with and without enrolment, as forms and as JSON, full frames and a video with boxes, all kinds of search,
replaced and deleted records, bad input, and clients that disconnect. The gallery stays at a few hundred records, so
memory that grows is not the gallery's. Each status is checked; prints one JSON object.
"""

import argparse
import base64
import http.client
import json
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.serving.client import BOUNDARY, form

CLIENTS = 8
MOST_RECORDS = 25
"""Of each client."""
FORM = f"multipart/form-data; boundary={BOUNDARY}"
JSON = "application/json"


class MixedClient:
    """One client: chooses its requests from a seeded source and knows the records that it enrolled."""

    def __init__(self, port: int, material: Path, seed: int) -> None:
        self._port, self._random = port, random.Random(seed)
        self._name = f"soak-{seed}"
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        people: dict[str, list[bytes]] = {}
        for path in sorted(material.glob("*-*.jpg")):
            people.setdefault(path.name.split("-")[0], []).append(path.read_bytes())
        self._people = list(people.values())
        self._scene, self._video = (material / "scene.jpg").read_bytes(), (material / "video.avi").read_bytes()
        self._enrolled: list[str] = []
        self._made = 0
        self._vector: tuple[list[float], str] | None = None
        self.done: Counter[str] = Counter()
        self._ways: list[tuple[Callable[[], None], int]] = [
            (self._compute, 4), (self._enroll, 4), (self._enroll_json, 2), (self._search_footage, 2),
            (self._search_id, 3), (self._search_vector, 3), (self._full_frames, 2), (self._send_video, 1),
            (self._replace, 1), (self._send_rubbish, 2), (self._go_away, 2), (self._look, 1),
        ]  # fmt: skip

    def run(self, until: float) -> None:
        ways, weights = zip(*self._ways, strict=True)
        while time.monotonic() < until:
            (way,) = self._random.choices(ways, weights)
            way()
            while len(self._enrolled) > MOST_RECORDS:
                self._call("DELETE", f"/gallery/{self._enrolled.pop(0)}", None, None, {204}, "deleted")
        self._connection.close()

    def _compute(self) -> None:
        answer = self._call(
            "POST", "/embed?enroll=false&include_embedding=true", form(self._frames()), FORM, {200}, "computed"
        )
        if answer:
            self._vector = answer["embedding"], answer["embedding_space"]

    def _enroll(self) -> None:
        name = self._new()
        fields = {"id": name, "camera_id": self._random.choice("abcd"), "metadata": '{"gate": 4}'}
        if self._call("POST", "/embed", form(self._frames(), fields), FORM, {201}, "enrolled"):
            self._enrolled.append(name)

    def _enroll_json(self) -> None:
        name = self._new()
        frames = [base64.b64encode(frame).decode() for frame in self._frames()]
        body = {"id": name, "camera_id": "e", "start_time": "2026-05-04T09:30:00Z", "frames": frames}
        if self._call("POST", "/embed", json.dumps(body).encode(), JSON, {201}, "enrolled as JSON"):
            self._enrolled.append(name)

    def _search_footage(self) -> None:
        fields = {"top_k": "5", "filter": '{"camera_ids": ["a", "b"]}'}
        self._call("POST", "/search", form(self._frames(), fields), FORM, {200}, "searched by footage")

    def _search_id(self) -> None:
        if self._enrolled:
            body = {"id": self._random.choice(self._enrolled), "exclude_same_camera": True, "rerank": True}
            self._call("POST", "/search", json.dumps(body).encode(), JSON, {200}, "searched by id")

    def _search_vector(self) -> None:
        if self._vector:
            body = {"embedding": self._vector[0], "embedding_space": self._vector[1], "top_k": 20}
            self._call("POST", "/search", json.dumps(body).encode(), JSON, {200}, "searched by embedding")

    def _full_frames(self) -> None:
        boxes = [[index, 40 + 190 * person, 150, 128, 256] for index in range(4) for person in (0, 2)]
        body = form([self._scene] * 4, {"boxes": json.dumps(boxes)})
        self._call("POST", "/embed?enroll=false", body, FORM, {200}, "full frames with boxes")

    def _send_video(self) -> None:
        fields = {"boxes": json.dumps([[index, 230 + 2 * index, 150, 128, 256] for index in range(0, 24, 2)])}
        body = form([], fields, self._video)
        self._call("POST", "/embed?enroll=false", body, FORM, {200}, "video with boxes")

    def _replace(self) -> None:
        if self._enrolled:
            path = f"/gallery/{self._random.choice(self._enrolled)}"
            self._call("PUT", path, form(self._frames(), {"camera_id": "f"}), FORM, {200}, "replaced")

    def _send_rubbish(self) -> None:
        frames = self._frames()
        body, kind, right = self._random.choice([
            (form([b"not an image"] * 4), FORM, {415}),
            (form([frame[: len(frame) // 3] for frame in frames]), FORM, {415, 422}),
            (form(frames, {"colour": "red"}), FORM, {400}),
            (form(frames)[:-500], FORM, {400}),
            (b'{"frames": [1, 2', JSON, {400}),
            (form([], {}, b"no video"), FORM, {415}),
        ])  # fmt: skip
        self._call("POST", "/embed", body, kind, right, "refused as expected")

    def _go_away(self) -> None:
        """Send half of a body, or all of it, and disconnect before the answer."""
        body = form(self._frames())
        lines = (
            "POST /embed?enroll=false HTTP/1.1",
            "Host: x",
            f"Content-Type: {FORM}",
            f"Content-Length: {len(body)}",
        )
        head = "\r\n".join((*lines, "", ""))
        with socket.create_connection(("127.0.0.1", self._port), timeout=30) as link:
            link.sendall(head.encode() + body[: self._random.choice([len(body) // 2, len(body)])])
            time.sleep(self._random.choice([0.0, 0.05, 0.3]))
        self.done["went away"] += 1

    def _look(self) -> None:
        for path in ("/gallery?limit=50", "/info"):
            self._call("GET", path, None, None, {200}, "looked")

    def _frames(self) -> list[bytes]:
        frames = self._random.choice(self._people)
        count = self._random.randint(1, 60)
        return [frames[index % len(frames)] for index in range(count)]

    def _new(self) -> str:
        self._made += 1
        return f"{self._name}-{self._made}"

    def _call(
        self, method: str, path: str, body: bytes | None, kind: str | None, right: set[int], what: str
    ) -> dict[str, Any] | None:
        while True:
            self._connection.request(method, path, body, {"Content-Type": kind} if kind else {})
            answer = self._connection.getresponse()
            content = answer.read()
            if answer.status != 503:
                break
            self.done["answered 503"] += 1
            time.sleep(float(answer.headers["Retry-After"]))
        if answer.status not in right:
            raise RuntimeError(f"{what}: {answer.status} {content[:300]!r}")
        self.done[what] += 1
        return json.loads(content) if content else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--material", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    options = parser.parse_args()
    clients = [MixedClient(options.port, options.material, seed) for seed in range(CLIENTS)]
    until, faults = time.monotonic() + options.seconds, list[str]()

    def run(client: MixedClient) -> None:
        try:
            client.run(until)
        except (OSError, RuntimeError, http.client.HTTPException) as error:
            faults.append(f"{type(error).__name__}: {error}")

    threads = [threading.Thread(target=run, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    done = sum((client.done for client in clients), Counter[str]())
    print(json.dumps({"done": done, "faults": faults}), flush=True)
    raise SystemExit(1 if faults else 0)


if __name__ == "__main__":
    main()
