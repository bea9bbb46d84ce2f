"""A few kinds of requests; `python -m benchmarks.event_loop` measures all, and larger ones."""

import time
from collections.abc import Iterator

import pytest

from benchmarks.event_loop import Probe, fill, kinds, measure
from benchmarks.process import ObjectProcess, Server, running_service
from model.bundle import Bundle
from tests.bundles import make_bundle

TOGETHER = 16
LONGEST = 0.1
"""Seconds of a CPU that does `work` in `WORK_SECONDS`. A slower one may take longer."""
WORK_SECONDS = 0.0085
ROUNDS = 3
"""A machine that is busy may let other threads of the service run while its event loop could; not three times."""
DIMENSION = 32
CHOSEN = (
    "PUT, 30000 unknown fields",
    "PUT, escaped quotation marks",
    "PUT, metadata of 90000 arrays",
    "search, only arrays",
    "search, 1000 hits",
    "search, 1000 hits re-ranked",
    "JSON, four large frames",
    "JSON, 2000 small frames",
    "JSON, 2000 small frames in gzip",
    "JSON, 400 frames, every other one bad",
    "JSON, 100000 empty frames",
    "form, 2000 tiny frames",
    "form, 100000 tiny frames",
    "JSON, 15000 boxes",
    "form, long fields",
    "list of 1000 records",
    "a long query",
    "metrics",
    "OpenAPI document",
)
KINDS = {kind.name: kind for kind in kinds(DIMENSION, megabytes=3)}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("service")
    bundle = make_bundle(folder / "bundle")
    assert Bundle.load(bundle).spec.dimension == DIMENSION
    with running_service(bundle, folder / "data", "--engine", "onnxruntime", "--threads", "1") as server:
        fill(server.port, DIMENSION, records=200)
        yield server


@pytest.fixture(scope="module")
def probe(server: Server) -> Iterator[ObjectProcess]:
    with ObjectProcess(Probe, server.port, server.pid) as probe:
        yield probe


def work() -> float:
    """Do a fixed amount of work; return its CPU time."""
    start = time.thread_time()
    sum(number * number for number in range(200_000))
    return time.thread_time() - start


@pytest.mark.parametrize("name", CHOSEN)
def test_no_request_keeps_others_waiting(name: str, server: Server, probe: ObjectProcess) -> None:
    longest = []
    limit = LONGEST * max(1.0, min(work() for _ in range(5)) / WORK_SECONDS)
    for _ in range(ROUNDS):
        result = measure(server.port, probe, KINDS[name], TOGETHER)
        assert 500 not in result.statuses
        longest.append(max(result.own))
        if longest[-1] <= limit:
            return
    waited = [round(seconds, 3) for seconds in longest]
    pytest.fail(f"/livez waited {waited} s, more than {limit:.3f} s; statuses {result.statuses}")
