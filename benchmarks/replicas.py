r"""Three replicas of the service on one Milvus under load; the server is killed, then a replica.

    python -m benchmarks.replicas --milvus milvus://127.0.0.1:19530 \
        --kill "COMMAND that kills the server hard" --start "COMMAND that starts it again and waits until it answers"

Writers enrol with PUT through one replica and immediately read the record through another; searchers search. A client
that gets 503 waits for Retry-After and repeats. At the end each acknowledged record is read through each replica. The
records stay in the bundled model's collection.
"""

import argparse
import base64
import random
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import httpx
import numpy as np

from benchmarks.process import Server

REPLICAS, WRITERS, SEARCHERS = 3, 12, 4
PHASES = ("normal", "server killed", "server back", "replica killed", "replica back")


@dataclass
class Load:
    """The clients and what they were answered, by phase."""

    replicas: list[Server]
    dimension: int
    prefix: str
    phase: str = PHASES[0]
    answers: Counter[tuple[str, str]] = field(default_factory=Counter)
    acknowledged: dict[str, bytes] = field(default_factory=dict)
    not_found: list[str] = field(default_factory=list)
    waits: dict[str, list[float]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    ended: threading.Event = field(default_factory=threading.Event)

    def write(self, number: int) -> None:
        """Enrol records one by one and read each through another replica immediately."""
        rng, choice = np.random.default_rng(number), random.Random(number)
        with httpx.Client(timeout=60) as client:
            for serial in range(10**9):
                if self.ended.is_set():
                    return
                name = f"{self.prefix}-{number}-{serial}"
                vector = rng.standard_normal(self.dimension)
                vector = (vector / np.linalg.norm(vector)).astype(np.float32)
                body = {"embedding": vector.tolist(), "camera_id": f"c{number}"}
                one, other = choice.sample(self.replicas, 2)
                if self.ask(client, one, "PUT", f"/gallery/{name}", body) not in {200, 201}:
                    continue
                with self.lock:
                    self.acknowledged[name] = vector.tobytes()
                if self.ask(client, other, "GET", f"/gallery/{name}", None) == 404:
                    with self.lock:
                        self.not_found.append(name)

    def search(self, number: int) -> None:
        rng, choice = np.random.default_rng(1000 + number), random.Random(1000 + number)
        with httpx.Client(timeout=60) as client:
            while not self.ended.is_set():
                body = {"embedding": rng.standard_normal(self.dimension).tolist(), "top_k": 10}
                self.ask(client, choice.choice(self.replicas), "POST", "/search", body)

    def ask(
        self, client: httpx.Client, replica: Server, method: str, path: str, body: Mapping[str, object] | None
    ) -> int:
        """Send one request and return its status, 0 without an answer. Wait for Retry-After after a 503."""
        phase, began, pause = self.phase, time.monotonic(), 0.0
        try:
            answer = client.request(method, f"{replica.url}{path}", json=body)
        except httpx.HTTPError:
            status, kind, pause = 0, "no answer", 0.2
        else:
            status = answer.status_code
            kind = "done" if status < 300 else f"{status}"
            if status == 503:
                seconds = answer.headers.get("retry-after")
                kind, pause = ("503", float(seconds)) if seconds else ("503 without Retry-After", 1.0)
        with self.lock:
            self.answers[phase, kind] += 1
            if kind == "done":
                self.waits.setdefault(f"{phase} {method}", []).append(time.monotonic() - began)
        self.ended.wait(pause)
        return status

    def run(self, stack: ExitStack) -> None:
        """Run the clients in threads until the stack is closed."""
        pool = stack.enter_context(ThreadPoolExecutor(WRITERS + SEARCHERS))
        clients = [pool.submit(self.write, number) for number in range(WRITERS)]
        clients += [pool.submit(self.search, number) for number in range(SEARCHERS)]
        stack.callback(lambda: [client.result() for client in clients])
        stack.callback(self.ended.set)

    def answering(self, replica: Server) -> bool:
        body = {"embedding": [1.0] + [0.0] * (self.dimension - 1), "top_k": 1}
        with suppress(httpx.HTTPError):
            return httpx.post(f"{replica.url}/search", json=body, timeout=10).status_code == 200
        return False


def enrolled(replica: Server, prefix: str) -> dict[str, bytes]:
    """Return all ids of this run that a replica lists, with the vector of every twentieth."""
    found: dict[str, bytes] = {}
    cursor = base64.urlsafe_b64encode(f"after:{prefix}".encode()).decode()
    with httpx.Client(base_url=replica.url, timeout=60) as client:
        while True:
            page = client.get("/gallery", params={"limit": "1000", "cursor": cursor}).raise_for_status().json()
            found |= {item["id"]: b"" for item in page["items"] if item["id"].startswith(prefix)}
            cursor = page["next_cursor"]
            if cursor is None:
                break
        for name in sorted(found)[::20]:
            answer = client.get(f"/gallery/{name}", params={"include_embedding": "true"}).raise_for_status().json()
            found[name] = np.asarray(answer["embedding"], np.float32).tobytes()
    return found


def table(load: Load) -> Iterator[str]:
    columns = ("done", "503 with Retry-After", "503 without", "no answer", "other")
    yield f"| phase | {' | '.join(columns)} | PUT: median, p99 | search: median, p99 |"
    yield "|---|---|---|---|---|---|---|---|"
    for phase in PHASES:
        kinds = {kind: count for (one, kind), count in load.answers.items() if one == phase}
        known = [kinds.pop(kind, 0) for kind in ("done", "503", "503 without Retry-After", "no answer")]
        other = ", ".join(f"{count} x {kind}" for kind, count in kinds.items()) or "0"
        times = []
        for method in ("PUT", "POST"):
            waits = load.waits.get(f"{phase} {method}", [])
            times.append(f"{np.median(waits):.2f}, {np.quantile(waits, 0.99):.2f} s" if waits else "")
        yield f"| {phase} | {' | '.join(map(str, known))} | {other} | {' | '.join(times)} |"


def measure(arguments: argparse.Namespace, stack: ExitStack) -> None:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    variables = {"NOT3D_GALLERY": arguments.milvus, "NOT3D_ENGINE": "onnxruntime", "NOT3D_THREADS": "1"}
    command = ["not3d", "serve", "--data-dir", str(folder)]
    replicas = [
        Server(command, ready="/readyz", log=folder / f"{number}.log", variables=variables)
        for number in range(REPLICAS)
    ]
    for replica in replicas:
        replica.start()
        stack.callback(replica.stop)
    print("ready after", ", ".join(f"{replica.wait():.1f} s" for replica in replicas), flush=True)
    facts = replicas[0].get("/info")
    print("gallery:", facts["gallery"]["engine"], flush=True)
    load = Load(list(replicas), facts["model"]["dimension"], f"run-{uuid4().hex[:8]}")
    clients = stack.enter_context(ExitStack())
    load.run(clients)
    time.sleep(arguments.seconds)

    load.phase = "server killed"
    subprocess.run(shlex.split(arguments.kill), check=True, stdout=sys.stderr)
    killed = time.monotonic()
    time.sleep(arguments.seconds / 4)
    subprocess.run(shlex.split(arguments.start), check=True, stdout=sys.stderr)
    back = time.monotonic()
    while not all(map(load.answering, replicas)):
        time.sleep(0.2)
    print(
        f"server away for {back - killed:.1f} s; all replicas search {time.monotonic() - back:.1f} s after it answers"
    )
    load.phase = "server back"
    time.sleep(arguments.seconds)

    load.phase = "replica killed"
    replicas[0].stop(signal.SIGKILL)
    load.replicas.remove(replicas[0])  # as a load balancer does when the replica is not ready
    time.sleep(arguments.seconds)
    replicas[0].start()
    print(f"the killed replica is ready {replicas[0].wait():.1f} s after its start", flush=True)
    load.phase = "replica back"
    load.replicas.append(replicas[0])
    time.sleep(arguments.seconds / 2)
    clients.close()

    print("\n".join(table(load)))
    print(
        f"acknowledged: {len(load.acknowledged)}; not found immediately through another replica: {len(load.not_found)}"
    )
    for number, replica in enumerate(replicas, 1):
        found = enrolled(replica, load.prefix)
        lost = load.acknowledged.keys() - found.keys()
        wrong = [name for name, vector in found.items() if vector and vector != load.acknowledged.get(name, vector)]
        more = found.keys() - load.acknowledged.keys()
        print(
            f"replica {number}: {len(found)} found, lost {len(lost)}, of another vector {len(wrong)}, "
            f"written but never acknowledged {len(more)}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--milvus", required=True, help="address of the server, as in NOT3D_GALLERY")
    parser.add_argument("--kill", required=True, help="command that kills the server with SIGKILL")
    parser.add_argument("--start", required=True, help="command that starts the server and returns when it answers")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each phase")
    with ExitStack() as stack:
        measure(parser.parse_args(), stack)


if __name__ == "__main__":
    main()
