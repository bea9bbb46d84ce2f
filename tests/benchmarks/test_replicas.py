"""The benchmark of several replicas: what its clients count, and the table of it."""

import httpx

from benchmarks.replicas import PHASES, Load, Replica, table
from tests.service.conftest import bundle, shared  # noqa: F401 (fixtures)
from tests.service.live import Live


def load_of(live: Live, port: int) -> tuple[Load, Replica]:
    replica = Replica(port, live.lifecycle.settings.data_dir, "embedded")
    return Load([replica], 64, "run-1"), replica


def test_answers_are_counted_where_their_requests_began(shared: Live) -> None:  # noqa: F811
    port = httpx.URL(shared.url).port
    assert port is not None
    load, replica = load_of(shared, port)
    dimension = shared.client.get("/info").json()["model"]["dimension"]
    load.dimension = dimension
    assert load.answering(replica)
    body = {"embedding": [1.0] + [0.0] * (dimension - 1)}
    with httpx.Client() as client:
        assert load.ask(client, replica, "PUT", "/gallery/run-1-0", body) == 201
        assert load.ask(client, replica, "GET", "/gallery/nobody", None) == 404
        load.phase = "replica killed"
        assert load.ask(client, Replica(1, replica.folder, ""), "GET", "/gallery/nobody", None) == 0
    assert load.answers == {(PHASES[0], "done"): 1, (PHASES[0], "404"): 1, ("replica killed", "no answer"): 1}
    rows = list(table(load))
    assert rows[2].startswith("| all well | 1 | 0 | 0 | 0 | 1 x 404 | ")
    assert rows[5] == "| replica killed | 0 | 0 | 0 | 1 | 0 |  |  |"
