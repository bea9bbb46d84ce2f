"""The benchmark of several replicas: what its clients count, and the table of it."""

from pathlib import Path

import httpx

from benchmarks.process import Server
from benchmarks.replicas import PHASES, Load, table
from tests.service.conftest import bundle, shared  # noqa: F401 (fixtures)
from tests.service.live import Live


def test_answers_count_in_the_phase_of_their_request(shared: Live, tmp_path: Path) -> None:  # noqa: F811
    replica, stopped = (Server([], ready="/readyz", log=tmp_path / "log") for _ in range(2))
    replica.url = shared.url
    dimension = shared.client.get("/info").json()["model"]["dimension"]
    load = Load([replica], dimension, "run-1")
    assert load.answering(replica)
    body = {"embedding": [1.0] + [0.0] * (dimension - 1)}
    with httpx.Client(timeout=60) as client:
        assert load.ask(client, replica, "PUT", "/gallery/run-1-0", body) == 201
        assert load.ask(client, replica, "GET", "/gallery/unknown", None) == 404
        load.phase = "replica killed"
        assert load.ask(client, stopped, "GET", "/gallery/unknown", None) == 0
    assert load.answers == {(PHASES[0], "done"): 1, (PHASES[0], "404"): 1, ("replica killed", "no answer"): 1}
    rows = list(table(load))
    assert rows[2].startswith("| normal | 1 | 0 | 0 | 0 | 1 x 404 | ")
    assert rows[5] == "| replica killed | 0 | 0 | 0 | 1 | 0 |  |  |"
