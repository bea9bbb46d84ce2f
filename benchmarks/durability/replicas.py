"""Replicas of the service on one Milvus server, killed at random: what was acknowledged, and which alerts there are.

Clients enrol vectors, most of them near a watched one, and repeat a call at any replica until it is acknowledged, as a
well-behaved client does. A listener follows the alerts, as a stream does. Meanwhile one replica after the other gets
SIGKILL, also while it starts, and is started again.
"""

import itertools
import random
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import numpy as np

from benchmarks.durability.rounds import expect
from benchmarks.process import Server
from service.gallery.address import parse_gallery
from service.gallery.milvus.alerts import SETTLE_SECONDS
from service.gallery.milvus.connection import Connection
from service.gallery.milvus.gallery import collection_suffix
from service.gallery.watch.records import FIRST_CURSOR

DIMENSION = 32
NEAR = 0.75
"""Share of the records that pass the threshold of the watchlist."""
LONGEST = 4.0
"""Maximum seconds until the next kill, drawn uniformly; most of them begin when all replicas are ready again."""
WAITING = 0.8
"""Share of the kills before which all replicas are ready; the others may leave none that answers."""
REPEAT_SECONDS = 1200.0
"""Time in which a call must be acknowledged. A replica that was killed keeps the ids of its calls locked for a minute,
and a call may be interrupted by several kills."""

Alerts = dict[str, str]
"""Record ids by alert id."""


@dataclass
class Report:
    """What the clients were told.

    Attributes:
        acknowledged: whether each acknowledged record passes the threshold, by its id.
        repeated: number of calls that had no answer or 503 and were repeated.
        followed: the alerts in the order in which the listener got them.
        kills: number of kills, by whether the replica was ready.
        faults: what ended a client too early.
    """

    acknowledged: dict[str, bool] = field(default_factory=dict)
    repeated: int = 0
    followed: list[tuple[str, str]] = field(default_factory=list)
    kills: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    ended: threading.Event = field(default_factory=threading.Event)
    """Set when the clients shall end."""
    settled: threading.Event = field(default_factory=threading.Event)
    """Set when the listener shall end."""


def kill_replicas(address: str, *, replicas: int, clients: int, kills: int, seed: int) -> str:
    """Run the clients until there were so many kills, check all alerts, and return a summary.

    Args:
        address: of the Milvus server, as in `NOT3D_GALLERY`.
        replicas: number of services.
        clients: number of clients that enrol.
        kills: number of SIGKILLs.
        seed: of the moments and the replicas that are killed.

    Raises:
        Lost: an acknowledged record or its alert is missing, or an alert is there twice.
    """
    space, report, begin = f"durability-{uuid4().hex[:8]}", Report(), time.monotonic()
    with ExitStack() as stack:
        stack.callback(_drop, address, space)
        services = [_start(Path(stack.enter_context(tempfile.TemporaryDirectory())), address, space)
                    for _ in range(replicas)]  # fmt: skip
        for service in services:
            stack.callback(service.stop)
        for service in services:
            service.wait()
        urls = [service.url for service in services]
        watched = {"embeddings": [_unit(None).tolist()], "min_score": 0.8, "cooldown": 0}
        httpx.put(f"{urls[0]}/watchlists/watched", json=watched, timeout=60).raise_for_status()
        threads = [threading.Thread(target=_enrol, args=(number, urls, report)) for number in range(clients)]
        listener = threading.Thread(target=_follow, args=(urls, report))
        for thread in (*threads, listener):
            thread.start()
        try:
            _kill(services, kills, random.Random(seed), report)
            for service in services:
                service.wait()
        finally:
            report.ended.set()
            for thread in threads:
                thread.join()
            time.sleep(SETTLE_SECONDS + 3)
            report.settled.set()
            listener.join()
        expect(not report.faults, "; ".join(report.faults[:3]))
        found = [_check(url, report) for url in urls]
        expect(all(one == found[0] for one in found), "the replicas return different alerts")
    missed = len(found[0].keys() - {id_ for id_, _ in report.followed})
    twice = [id_ for id_, count in Counter(id_ for id_, _ in report.followed).items() if count > 1]
    expect(not twice, f"the listener got alerts twice: {twice[:3]}")
    changed = {record for id_, record in report.followed if id_ not in found[0]}
    expect(not changed, f"alerts that the listener got have another id now: {sorted(changed)[:3]}")
    return (
        f"{replicas} replicas, {clients} clients, {kills} kills ({report.kills['starting']} of them of a replica that "
        f"started) in {time.monotonic() - begin:.0f} s. Acknowledged: {len(report.acknowledged):,} records, "
        f"{len(found[0]):,} of them above the threshold; calls that had to be repeated: {report.repeated:,}. "
        f"Records lost: 0. Alerts lost: 0, twice: 0, with a second id: 0. The listener, who asked a "
        f"random replica every second, missed {missed}."
    )


def _start(folder: Path, address: str, space: str) -> Server:
    arguments = ["not3d", "serve", "--vectors-only", "--space", space, "--dimension", str(DIMENSION)]
    arguments += ["--data-dir", str(folder), "--log-level", "warning"]
    service = Server(arguments, ready="/readyz", log=folder / "log", variables={"NOT3D_GALLERY": address})
    service.start()
    return service


def _kill(services: list[Server], kills: int, dice: random.Random, report: Report) -> None:
    for _ in range(kills):
        if dice.random() < WAITING:
            for service in services:
                service.wait()
        time.sleep(dice.uniform(0, LONGEST))
        service = dice.choice(services)
        report.kills["ready" if _is_ready(service) else "starting"] += 1
        service.stop(signal.SIGKILL)
        service.start()


def _is_ready(service: Server) -> bool:
    try:
        return httpx.get(f"{service.url}/readyz", timeout=5).is_success
    except httpx.HTTPError:
        return False


def _enrol(number: int, urls: list[str], report: Report) -> None:
    dice, rng = random.Random(number), np.random.default_rng(number)
    for serial in itertools.count():
        if report.ended.is_set():
            return
        name, is_near = f"r{number:02}-{serial:05}", dice.random() < NEAR
        body = {"embedding": _unit(rng, is_near=is_near).tolist(), "camera_id": f"c{number}"}
        if not _repeat("PUT", f"/gallery/{name}", body, urls, dice, report):
            return
        with report.lock:
            report.acknowledged[name] = is_near


def _repeat(method: str, path: str, body: Any, urls: list[str], dice: random.Random, report: Report) -> bool:
    """Send a call to one replica after the other until one acknowledges it."""
    end = time.monotonic() + REPEAT_SECONDS
    while time.monotonic() < end:
        try:
            answer = httpx.request(method, dice.choice(urls) + path, json=body, timeout=60)
        except httpx.HTTPError:
            pass
        else:
            if answer.is_success:
                return True
            if answer.status_code != 503:
                report.faults.append(f"{method} {path}: {answer.status_code} {answer.text[:200]}")
                return False
        with report.lock:
            report.repeated += 1
        time.sleep(dice.uniform(0.05, 0.3))
    report.faults.append(f"{method} {path} was not acknowledged within {REPEAT_SECONDS:g} s")
    return False


def _follow(urls: list[str], report: Report) -> None:
    dice, cursor = random.Random("listener"), FIRST_CURSOR
    while not report.settled.wait(1.0):
        try:
            for page in _pages(dice.choice(urls), cursor):
                report.followed += [(item["id"], item["record_id"]) for item in page["items"]]
                cursor = page["cursor"] or cursor
        except httpx.HTTPError:
            continue


def _pages(url: str, after: str) -> Iterator[Any]:
    while True:
        answer = httpx.get(f"{url}/alerts", params={"after": after, "limit": "1000"}, timeout=60).raise_for_status()
        page = answer.json()
        yield page
        if not page["more"]:
            return
        after = page["cursor"]


def _check(url: str, report: Report) -> Alerts:
    """Check the alerts and the records that one replica returns, and return the alerts."""
    items = [item for page in _pages(url, FIRST_CURSOR) for item in page["items"]]
    records = Counter(item["record_id"] for item in items)
    expected = {name for name, is_near in report.acknowledged.items() if is_near}
    lost, more = expected - records.keys(), records.keys() - expected
    expect(not lost, f"{len(lost)} acknowledged enrolments have no alert: {sorted(lost)[:3]}")
    expect(not more, f"{len(more)} alerts are of records that were not acknowledged or not near: {sorted(more)[:3]}")
    twice = [name for name, count in records.items() if count > 1]
    expect(not twice, f"records have two alerts: {sorted(twice)[:3]}")
    listed, cursor = set(), None
    while True:
        given = {"limit": "1000"} | ({} if cursor is None else {"cursor": cursor})
        page = httpx.get(f"{url}/gallery", params=given, timeout=60).raise_for_status().json()
        listed |= {item["id"] for item in page["items"]}
        cursor = page["next_cursor"]
        if cursor is None:
            break
    gone = report.acknowledged.keys() - listed
    expect(not gone, f"{len(gone)} acknowledged records are lost: {sorted(gone)[:3]}")
    return {item["id"]: item["record_id"] for item in items}


def _unit(rng: np.random.Generator | None, *, is_near: bool = True) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the watched vector, or one with a cosine of 0.9 to it if it is near and of 0.3 otherwise."""
    vector = np.zeros(DIMENSION)
    if rng is None:
        vector[0] = 1.0
        return vector
    sideways = rng.standard_normal(DIMENSION - 1)
    cosine = 0.9 if is_near else 0.3
    vector[0], vector[1:] = cosine, np.sqrt(1 - cosine**2) * sideways / np.linalg.norm(sideways)
    return vector


def _drop(address: str, space: str) -> None:
    """Remove the collections of this run."""
    server = parse_gallery(address)
    if server is None:
        return
    connection, records = Connection(server), f"not3d_{collection_suffix(space)}"
    for suffix in ("", "_audit", "_claims", "_watchlists", "_alerts", "_deliveries", "_judged"):
        if connection.call("has_collection", records + suffix):
            connection.call("drop_collection", records + suffix)
    connection.close()
