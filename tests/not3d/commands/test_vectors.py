"""`not3d vectors`, `info` and `search` against a service of vectors only, and the refusals of commands with footage."""

import base64
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from not3d.client import Client
from tests.not3d.conftest import Run
from tests.service.live import run_service

SPACE, DIMENSION = "deepstream-reid", 4


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with run_service(None, tmp_path_factory.mktemp("data"), space=SPACE, dimension=DIMENSION) as live:
        yield live.url


def lines(path: Path, *rows: Any) -> str:
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return str(path)


def test_lines_are_enrolled_with_all_their_fields(url: str, run: Run, tmp_path: Path) -> None:
    times = {"start_time": "2026-05-04T09:00:00Z", "end_time": "2026-05-04T09:00:05Z"}
    file = lines(
        tmp_path / "tracks.jsonl",
        {"id": "a", "embedding": [1, 0, 0, 0], "camera_id": "gate", "metadata": {"zone": "north"}, **times},
        "",
        {"id": "b", "embedding": base64.b64encode(struct.pack("<4f", 1, 1, 0, 0)).decode(), "embedding_space": SPACE},
    )
    for _ in range(2):  # it can be repeated
        status, out, err = run("vectors", file, "--space", SPACE, "--url", url)
        assert (status, out) == (0, "2 enrolled\n"), err
    with Client(url) as client:
        record = client.get("a", include_embedding=True)
        assert (record.camera_id, record.metadata, record.embedding) == ("gate", {"zone": "north"}, (1, 0, 0, 0))
        assert record.end_time
        assert client.search(id="a", top_k=1).hits[0].score == pytest.approx(2**-0.5)


def test_refused_lines_are_named_and_the_others_enrolled(url: str, run: Run, tmp_path: Path) -> None:
    file = lines(
        tmp_path / "tracks.jsonl",
        {"id": "good", "embedding": [1, 0, 0, 0]},
        {"id": "short", "embedding": [1, 0, 0]},
        {"id": "zero", "embedding": [0, 0, 0, 0]},
        '{"id": "nan", "embedding": [NaN, 0, 0, 0]}',
        {"id": "other", "embedding": [1, 0, 0, 0], "embedding_space": "another"},
        {"id": "typo", "embedding": [1, 0, 0, 0], "camera": "gate"},
        {"id": "text", "embedding": "?"},
        {"embedding": [1, 0, 0, 0]},
        "[1, 2",
    )
    status, out, err = run("vectors", file, "--url", url)
    assert (status, out) == (1, "1 enrolled, 8 refused\n")
    for number, reason in [
        (2, "must have 4 components, as all of the space deepstream-reid (got 3)"),
        (3, "all components are zero"),
        (4, "is not a finite number"),
        (5, "another is not this service's space"),
        (6, "unknown field camera"),
        (7, "not base64"),
        (8, "has no id"),
        (9, "is not JSON"),
    ]:
        [line] = [line for line in err.splitlines() if f"tracks.jsonl:{number}" in line]
        assert reason in line


def test_a_table_is_enrolled(url: str, run: Run, tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = np.eye(4, dtype=np.float32)[:2].tolist()
    times = pyarrow.array([0, None], pyarrow.timestamp("us", "UTC"))
    columns = {"id": ["t-0", "t-1"], "embedding": rows, "metadata": ['{"lane": 3}', None], "start_time": times}
    parquet.write_table(pyarrow.table(columns), tmp_path / "tracks.parquet")
    status, out, err = run("vectors", str(tmp_path / "tracks.parquet"), "--url", url)
    assert (status, out) == (0, "2 enrolled\n"), err
    with Client(url) as client:
        assert (client.get("t-0").metadata, client.get("t-1").metadata) == ({"lane": 3}, {})
        assert client.get("t-0").start_time


def test_a_service_of_another_space_is_refused_before_anything_is_sent(url: str, run: Run, tmp_path: Path) -> None:
    file = lines(tmp_path / "tracks.jsonl", {"id": "x", "embedding": [1, 0, 0, 0]})
    status, _, err = run("vectors", file, "--space", "clipreid", "--url", url)
    assert (status, f"has vectors of the space {SPACE}, not clipreid" in err) == (1, True)


def test_info_says_that_there_is_no_model(url: str, run: Run) -> None:
    status, out, _ = run("info", "--url", url)
    assert (status, "none: it stores vectors of another system, 4 dimensions" in out) == (0, True)


def test_footage_is_refused_with_the_reason(url: str, run: Run, people: Path) -> None:
    status, _, err = run("enroll", str(people), "--url", url)
    assert (status, "no model" in err) == (1, True)
    status, _, err = run("search", str(next(people.glob("*/*/*"))), "--url", url)
    assert (status, "no model" in err) == (1, True)


def test_a_calibration_is_fitted_on_judged_records_and_used(run: Run, tmp_path: Path) -> None:
    generator = np.random.default_rng(5)
    settings = {"space": "site-reid", "dimension": 16}
    with run_service(None, tmp_path / "data", **settings) as live, Client(live.url) as client:
        for person in range(24):
            centre = generator.standard_normal(16)
            for camera in ("a", "b"):
                values = (centre + 0.7 * generator.standard_normal(16)).tolist()
                client.put(id=f"{camera}{person}", embedding=values, camera_id=camera)
        pairs = [f"a{one},b{other},{int(one == other)}" for one in range(24) for other in range(24)]
        (tmp_path / "judged.csv").write_text("\n".join(["id_a,id_b,same", *pairs]))
        out = tmp_path / "site.json"
        status, _, err = run("calibrate", "--pairs", str(tmp_path / "judged.csv"), "--url", live.url, "--out", str(out))
        assert status == 0, err
    assert json.loads(out.read_text())["embedding_space"] == "site-reid"
    with run_service(None, tmp_path / "data", calibration=out, **settings) as live, Client(live.url) as client:
        assert client.search(id="a0", top_k=1).hits[0].probability
