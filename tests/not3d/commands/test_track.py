"""`not3d track` and the client's method, against a real service."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from not3d.client import Client
from tests.calibrations import make_calibration
from tests.not3d.conftest import Run
from tests.service.live import run_service

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    folder: Path = tmp_path_factory.mktemp("track")
    (folder / "site.json").write_text(make_calibration(embedding_space="paths").to_json())
    settings = {"space": "paths", "dimension": 2, "calibration": folder / "site.json"}
    with run_service(None, folder / "data", **settings) as live, Client(live.url) as client:
        for number, camera in enumerate(("gate", "hall", "door")):
            start = NOON + timedelta(minutes=number)
            times = {"start_time": start, "end_time": start + timedelta(seconds=10)}
            client.put(id=f"r{number}", embedding=[1, 0.1 * number], camera_id=camera, **times)
        yield client


def test_the_client_returns_the_steps(filled: Client) -> None:
    found = filled.track("r1", min_score=0.9, after=NOON - timedelta(hours=1), max_steps=5)
    assert [step.id for step in found.steps] == ["r0", "r1", "r2"]
    assert [step.linked_to for step in found.steps] == ["r1", None, "r1"]
    assert [step.gap_seconds for step in found.steps] == [None, 50, 50]
    assert found.complete
    assert found.calibration
    assert found.steps[0].probability


def test_the_command_prints_a_table_and_the_answer(filled: Client, run: Run) -> None:
    status, out, err = run("track", "r0", "--min-score", "0.9", "--url", filled.url)
    assert status == 0, err
    rows = [line.split()[4:6] for line in out.splitlines() if "12:0" in line]
    assert rows == [["gate", "r0"], ["hall", "r1"], ["door", "r2"]]
    status, out, _ = run("track", "r0", "--min-score", "0.9", "--max-steps", "1", "--json", "--url", filled.url)
    assert (status, len(json.loads(out)["steps"])) == (0, 2)
    status, _, err = run("track", "r0", "--min-score", "0.9", "--max-steps", "1", "--url", filled.url)
    assert (status, "more links than --max-steps" in err) == (0, True)
    assert run("track", "absent", "--url", filled.url)[0] == 1
