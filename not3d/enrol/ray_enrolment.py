"""Enrolling on the machines of a Ray cluster.

The tracklets' paths become a dataset of Ray Data, whose tasks read the footage and send it to the service. A task that
dies with its worker runs again and skips what it had enrolled, because ids do not change.
"""

import logging
import os
import pickle
import secrets
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from model.errors import extra
from not3d.client import Client, ClientError
from not3d.enrol.enrolment import EnrolOptions, Outcome, enroll_all
from not3d.enrol.tracklets import Item

BLOCK = 32
"""Tracklets of one task, unless there would be too many tasks."""
MAX_TASKS = 10_000
LOCAL_STORE_BYTES = 128 * 2**20
"""Rows are small; by default Ray takes a third of the memory for its object store."""


class RayClusterError(ClientError):
    """The cluster is unreachable or failed; the message says why."""


def prepare(address: str) -> None:
    """Import Ray, with an environment for a driver of the cluster at `address`.

    Raises:
        MissingExtra: Ray is not installed.
    """
    # By default Ray reports its use to its makers.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # Without this Ray warns of a change in how it hides GPUs, which are not used here.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if address == "local":
        # Without clusters of several machines, Ray listens on the loopback address only.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        # A token for this run only: by default Ray writes one into the home folder and leaves it there.
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    with extra("ray"):
        import ray.data  # noqa: F401


def enroll_on_ray(
    address: str,
    items: Sequence[Item],
    urls: Sequence[str],
    api_key: str | None,
    timeout: float,
    *,
    ca_file: Path | None = None,
    options: EnrolOptions,
    workers: int,
    report: Callable[[Outcome], None],
) -> None:
    """Enrol all tracklets; `report` gets each outcome when its task ends. Call `prepare` first.

    Args:
        address: `local` for a cluster on this machine that lives as long as the call; `auto` or `host:port` for the
            cluster that this machine belongs to.
        items: what to enrol. The frames must have the same paths on all machines.
        urls: of the services, which share a gallery; tasks start with different ones.
        api_key: of the services.
        timeout: seconds to wait for one answer.
        ca_file: as for `Client`; it must have the same path on all machines.
        options: how the tracklets are enrolled.
        workers: tracklets that one task sends at a time.
        report: called with the outcome of each tracklet.

    Raises:
        RayClusterError: the cluster is unreachable or fails, or the address is one of Ray's client protocol.
        ClientError: no tracklet can be enrolled for now, as in `not3d.enrol.enrolment.enroll_all`.
    """
    import ray.data
    from ray.exceptions import RayError

    if address.startswith("ray://"):
        # Ray Data would fail with a traceback.
        raise RayClusterError(
            f"Ray Data does not work from outside a cluster (got {address}). On a machine of the cluster, or in a job, "
            "use the address auto: ray job submit -- not3d enroll FOLDER --ray auto"
        )
    if not items:
        return
    with _cluster(address):
        try:
            rows = [{"tracklet": pickle.dumps(item)} for item in items]
            blocks = min(-(-len(rows) // BLOCK), MAX_TASKS)
            outcomes = ray.data.from_items(rows, override_num_blocks=blocks).map_batches(
                _enroll_block,  # type: ignore[arg-type] # Ray's type allows no further arguments
                batch_size=None,
                fn_kwargs={
                    "urls": tuple(urls),
                    "api_key": api_key,
                    "timeout": timeout,
                    "ca_file": ca_file and ca_file.absolute(),
                    "options": options,
                    "workers": workers,
                },
            )
            for row in outcomes.iter_rows():
                outcome = pickle.loads(row["outcome"])  # noqa: S301 - a task made it
                if not isinstance(outcome, Outcome):
                    raise ClientError(outcome)
                report(outcome)
        except RayError as error:
            raise RayClusterError(f"the Ray cluster at {address} failed: {error}") from error


@contextmanager
def _cluster(address: str) -> Iterator[None]:
    """Make this process a driver of the cluster."""
    import ray.data

    options: dict[str, Any] = {"address": address, "logging_level": "error", "log_to_driver": False}
    if address == "local":
        options |= {
            "include_dashboard": False,
            "object_store_memory": LOCAL_STORE_BYTES,
            "_node_ip_address": "127.0.0.1",
        }
    with ExitStack() as stack:
        try:
            _check_port(address)
            if address == "local":
                stack.enter_context(_own_home())
            ray.init(**options)
        except (OSError, RuntimeError, ValueError) as error:
            raise RayClusterError(f"no Ray cluster answers at {address}: {error}") from error
        stack.callback(ray.shutdown)
        for handler in logging.getLogger("ray.data").handlers:
            if isinstance(handler, logging.StreamHandler):  # the console; a file keeps everything
                handler.setLevel(logging.ERROR)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        yield


@contextmanager
def _own_home() -> Iterator[None]:
    """Give Ray's processes a home folder with an empty cluster configuration.

    Without this file Ray asks the metadata services of three clouds where it runs, also if it reports nothing.
    """
    before = os.environ.get("HOME")
    with TemporaryDirectory(prefix="not3d-ray-", ignore_cleanup_errors=True) as home:
        Path(home, "ray_bootstrap_config.yaml").write_text("{}\n")
        os.environ["HOME"] = home
        try:
            yield
        finally:
            if before is None:
                del os.environ["HOME"]
            else:
                os.environ["HOME"] = before


def _check_port(address: str) -> None:
    """Raise `OSError` at once if nothing listens at the address: Ray itself tries for minutes."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=10).close()


def _enroll_block(
    batch: dict[str, Any],
    urls: Sequence[str],
    api_key: str | None,
    timeout: float,
    ca_file: Path | None,
    options: EnrolOptions,
    workers: int,
) -> dict[str, list[bytes]]:
    """Enrol the tracklets of one block on a worker.

    Returns:
        The column `outcome`: pickles of each `Outcome`, then of the text of the error if the run cannot continue.
    """
    items = [pickle.loads(tracklet) for tracklet in batch["tracklet"]]  # noqa: S301 - the driver made them
    clients = [_client(url, api_key, timeout, ca_file) for url in urls]
    first = hash(items[0].id) % len(clients)
    outcomes: list[Outcome | str] = []
    try:
        enroll_all(
            [*clients[first:], *clients[:first]], items, options=options, workers=workers, report=outcomes.append
        )
    except ClientError as error:
        # Returned as a value, because Ray would turn an exception into tracebacks of all machines.
        outcomes.append(str(error))
    return {"outcome": [pickle.dumps(outcome) for outcome in outcomes]}


@lru_cache(maxsize=8)
def _client(url: str, api_key: str | None, timeout: float, ca_file: Path | None) -> Client:
    """Return one client for all tasks of a worker process, so that connections are reused."""
    return Client(url, api_key, timeout, attempts=1, ca_file=ca_file)
