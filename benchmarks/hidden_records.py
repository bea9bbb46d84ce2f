"""Whether the time of an answer tells a key that is limited to a camera that a record of another camera exists.

    python -m benchmarks.hidden_records [--records 2000] [--requests 4000]

A key of the camera `gate` asks for ids of the camera `door`, which exist, and for ids that do not exist, in random turn
over one connection. Printed are the medians of both, their difference, and how much the difference of two random halves
of the answers for missing ids varies: the noise.
"""

import argparse
import http.client
import json
import random
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.process import running_service
from benchmarks.report import Report, describe_machine
from model.bundle import BUNDLED, Bundle
from service.keys import Key, Secret, changed_file, digest_of

ALL, GATE = "not3d_benchmark_all", "not3d_benchmark_gate"
METADATA = {"note": "x" * 12_000}
"""A large record: if it were read, that would show best."""
Call = Callable[[str], tuple[str, str, bytes]]


def add_keys(path: Path) -> None:
    """Write a key for everything, and one for a camera."""
    now = datetime.now(UTC)
    with changed_file(path) as contents:
        for name, secret, scopes, cameras in (
            ("all", ALL, ("admin",), None),
            ("gate", GATE, ("search", "enroll", "erase", "vectors"), ("gate",)),
        ):
            found = (Secret(sha256=digest_of(secret), created_at=now),)
            facts = {"name": name, "scopes": scopes, "cameras": cameras, "secrets": found}
            contents[0] = contents[0].replace(Key.model_validate(facts))


def calls(embedding: list[float]) -> dict[str, Call]:
    def search(**fields: object) -> bytes:
        return json.dumps(fields).encode()

    return {
        "GET /gallery/{id}": lambda id_: ("GET", f"/gallery/{id_}", b""),
        "GET /gallery/{id}/thumbnail": lambda id_: ("GET", f"/gallery/{id_}/thumbnail", b""),
        "DELETE /gallery/{id}": lambda id_: ("DELETE", f"/gallery/{id_}", b""),
        "PATCH /gallery/{id}": lambda id_: ("PATCH", f"/gallery/{id_}", search(metadata={})),
        "POST /search, id": lambda id_: ("POST", "/search", search(id=id_)),
        "POST /search, reject_ids": lambda id_: ("POST", "/search", search(embedding=embedding, reject_ids=[id_])),
    }


class Client:
    """Sends requests of one key over one connection."""

    def __init__(self, port: int, key: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._headers = {"X-API-Key": key, "Content-Type": "application/json"}

    def send(self, method: str, path: str, body: bytes, expected: int) -> float:
        """Return the seconds until the answer is complete."""
        start = time.perf_counter()
        self._connection.request(method, path, body or None, self._headers)
        answer = self._connection.getresponse()
        text = answer.read()
        seconds = time.perf_counter() - start
        if answer.status != expected:
            raise SystemExit(f"{method} {path}: {answer.status} {text[:300]!r}")
        return seconds


def measure(client: Client, call: Call, hidden: list[str], missing: list[str]) -> tuple[list[float], list[float]]:
    """Return the seconds of the answers for hidden and for missing ids, asked for in random turn."""
    times: tuple[list[float], list[float]] = ([], [])
    chance = random.Random(1)
    expected = 204 if call("x")[0] == "DELETE" else 404
    for pair in zip(hidden, missing, strict=True):
        for kind in chance.sample((0, 1), 2):
            times[kind].append(client.send(*call(pair[kind]), expected))
    return times


def noise(times: list[float]) -> float:
    """Return the 95 % range of the difference of the medians of two random halves, either way."""
    chance = np.random.default_rng(1)
    values = np.array(times)
    differences = []
    for _ in range(400):
        chance.shuffle(values)
        half = len(values) // 2
        differences.append(abs(float(np.median(values[:half]) - np.median(values[half:]))))
    return float(np.percentile(differences, 95))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=BUNDLED)
    parser.add_argument("--records", type=int, default=2000)
    parser.add_argument("--requests", type=int, default=4000)
    options = parser.parse_args()
    dimension = Bundle.load(options.bundle).spec.dimension
    report = Report()
    report.say(describe_machine())
    embedding = [1.0] * dimension
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        add_keys(data / "keys.json")
        with running_service(options.bundle, data) as server:
            everything, limited = Client(server.port, ALL), Client(server.port, GATE)
            chance = np.random.default_rng(1)
            for number in range(options.records):
                vector = chance.standard_normal(dimension).round(4).tolist()
                record = {"embedding": vector, "camera_id": "door", "metadata": METADATA}
                everything.send("PUT", f"/gallery/{number:06x}", json.dumps(record).encode(), 201)
            hidden = [f"{number % options.records:06x}" for number in range(options.requests)]
            missing = [f"{number % options.records + 0x800000:06x}" for number in range(options.requests)]
            report.head("call", "hidden, ms", "missing, ms", "difference, us", "noise, us")
            missed = []
            for name, call in calls(embedding).items():
                measure(limited, call, hidden[:200], missing[:200])
                there, gone = measure(limited, call, hidden, missing)
                difference, limit = median(there) - median(gone), noise(gone)
                missed += [name] if abs(difference) > limit else []
                report.row(
                    name,
                    f"{1000 * median(there):.3f}",
                    f"{1000 * median(gone):.3f}",
                    f"{1e6 * difference:+.1f}",
                    f"{1e6 * limit:.1f}",
                )
            report.end_table()
    report.target("differences below the noise", ", ".join(missed) or "all", met=not missed)
    report.conclude()


if __name__ == "__main__":
    main()
