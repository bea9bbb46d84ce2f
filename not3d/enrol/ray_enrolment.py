"""Enrolling on the machines of a Ray cluster.

Call `not3d.enrol.ray_environment.prepare` before this is imported.

The tracklets' places become a dataset of Ray Data, whose tasks read the footage and send it to the service. A task that
dies with its worker is run again: what it had enrolled by then is skipped, as ids do not change.
"""

import logging
import pickle
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import ray
import ray.data
from ray.exceptions import RayError

from not3d.client import Client, ClientError
from not3d.enrol.discovery import Item
from not3d.enrol.enrolment import Outcome, Result, Terms, enroll_all

BLOCK = 32
"""Tracklets of one task, as long as there are not too many tasks."""
MOST_TASKS = 10_000
LOCAL_STORE_BYTES = 128 * 2**20
"""Rows are small; Ray would take a third of the memory for its object store."""
_ENDED = "ended"
"""In place of a result: why a task, and so the whole run, cannot go on."""


class RayClusterError(ClientError):
    """There is no such cluster, or it failed; the message says what."""


def enroll_on_ray(
    address: str,
    items: Sequence[Item],
    urls: Sequence[str],
    api_key: str | None,
    timeout: float,
    *,
    terms: Terms,
    workers: int,
    report: Callable[[Outcome], None],
) -> None:
    """Enrol every tracklet; ``report`` gets each outcome as its task ends.

    Args:
        address: ``local`` for a cluster on this machine that lives as long as the call, ``auto`` or ``host:port`` for
            the one that this machine belongs to.
        items: what to enrol. Its frames must lie under the same paths on all machines.
        urls: of the services, which share a gallery; tasks begin with different ones.
        api_key: of the services.
        timeout: seconds to wait for one answer.
        terms: how they are enrolled.
        workers: tracklets that one task sends at a time.
        report: told what became of each.

    Raises:
        RayClusterError: the cluster is not there or fails, or the address is one of Ray's client protocol.
        ClientError: no tracklet can be enrolled for now, as in `not3d.enrol.enrolment.enroll_all`.
    """
    if address.startswith("ray://"):
        # Ray Data fails there with a traceback of its own.
        raise RayClusterError(
            f"Ray Data does not work from outside of a cluster, as through {address}. On a machine of the cluster, or "
            "as a job of it, the address is auto: ray job submit -- not3d enroll FOLDER --ray auto"
        )
    if not items:
        return
    with _cluster(address):
        try:
            rows = [{"tracklet": pickle.dumps(item)} for item in items]
            blocks = min(-(-len(rows) // BLOCK), MOST_TASKS)
            outcomes = ray.data.from_items(rows, override_num_blocks=blocks).map_batches(
                _enroll_block,  # type: ignore[arg-type] # Ray's type allows no further arguments
                batch_size=None,
                fn_kwargs={
                    "urls": tuple(urls),
                    "api_key": api_key,
                    "timeout": timeout,
                    "terms": terms,
                    "workers": workers,
                },
            )
            for row in outcomes.iter_rows():
                if row["result"] == _ENDED:
                    raise ClientError(row["reason"])
                report(_outcome(row))
        except RayError as error:
            raise RayClusterError(f"the Ray cluster at {address} failed: {error}") from error


@contextmanager
def _cluster(address: str) -> Iterator[None]:
    """This process as a driver of the cluster."""
    options: dict[str, Any] = {"address": address, "logging_level": "error", "log_to_driver": False}
    if address == "local":
        options |= {
            "include_dashboard": False,
            "object_store_memory": LOCAL_STORE_BYTES,
            "_node_ip_address": "127.0.0.1",
        }
    try:
        _knock(address)
        ray.init(**options)
    except (OSError, RuntimeError, ValueError) as error:
        raise RayClusterError(f"no Ray cluster answers at {address}: {error}") from error
    try:
        for handler in logging.getLogger("ray.data").handlers:
            if isinstance(handler, logging.StreamHandler):  # its console; a file keeps the rest
                handler.setLevel(logging.ERROR)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        yield
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Whether something listens there at all: Ray itself tries for minutes."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=10).close()


def _enroll_block(
    batch: dict[str, Any],
    urls: Sequence[str],
    api_key: str | None,
    timeout: float,
    terms: Terms,
    workers: int,
) -> dict[str, list[Any]]:
    """Enrol the tracklets of one block, on whichever machine this runs; a column for each field of `Outcome`."""
    items = [pickle.loads(tracklet) for tracklet in batch["tracklet"]]  # noqa: S301 - the driver made them
    clients = [_client(url, api_key, timeout) for url in urls]
    first = hash(items[0].id) % len(clients)
    outcomes: list[Outcome] = []
    ended = ""
    try:
        enroll_all([*clients[first:], *clients[:first]], items, terms=terms, workers=workers, report=outcomes.append)
    except ClientError as error:
        # As a row: an exception would come out as Ray's own, with a traceback of each machine.
        ended = str(error)
    columns: dict[str, list[Any]] = {
        "id": [outcome.id for outcome in outcomes],
        "source": [outcome.source for outcome in outcomes],
        "result": [str(outcome.result) for outcome in outcomes],
        "reason": [outcome.reason for outcome in outcomes],
        "status": [outcome.status or 0 for outcome in outcomes],
        "left_out": [outcome.left_out for outcome in outcomes],
    }
    if ended:
        for name, value in {"result": _ENDED, "reason": ended, "status": 0, "left_out": 0}.items():
            columns[name].append(value)
        for name in ("id", "source"):
            columns[name].append("")
    return columns


def _outcome(row: dict[str, Any]) -> Outcome:
    return Outcome(
        row["id"], row["source"], Result(row["result"]), row["reason"], row["status"] or None, row["left_out"]
    )


@lru_cache(maxsize=8)
def _client(url: str, api_key: str | None, timeout: float) -> Client:
    """One client for all tasks of a worker process: connections are kept. One attempt, see `RetryPolicy`."""
    return Client(url, api_key, timeout, attempts=1)
