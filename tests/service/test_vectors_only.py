"""A service of vectors that another system computes: the real application without a bundle and an engine."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from service.gallery.milvus.gallery import collection_suffix
from service.lifecycle import ServiceState
from service.openapi import DOCUMENT
from service.settings import Settings
from tests.calibrations import make_calibration
from tests.service.live import Live, run_service, wait_for
from tests.service.pictures import form, tracklet
from tests.service.problem import check_problem

ROOT = Path(__file__).parents[2]
SPACE, DIMENSION = "clipreid-market.v1", 8
NOON = "2026-05-04T12:00:00Z"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = tmp_path_factory.mktemp("calibration")
    (folder / "site.json").write_text(make_calibration(embedding_space=SPACE).to_json())
    data = tmp_path_factory.mktemp("data")
    with run_service(None, data, space=SPACE, dimension=DIMENSION, calibration=folder / "site.json") as live:
        for number in range(4):
            put(live, f"person-{number}", vector(number), camera_id=f"cam-{number % 2}", start_time=NOON)
        yield live


def vector(number: int) -> list[float]:
    values = np.zeros(DIMENSION)
    values[[0, 1 + number]] = 1, 0.5
    return values.tolist()


def put(live: Live, id_: str, values: list[Any], **fields: Any) -> Any:
    return live.client.put(f"/gallery/{id_}", json={"embedding": values, "embedding_space": SPACE, **fields})


def search(live: Live, **body: Any) -> Any:
    return live.client.post("/search", json=body)


def test_info_says_that_there_is_no_model(shared: Live) -> None:
    info = shared.client.get("/info").json()
    assert (info["model"], info["engine"]) == (None, None)
    assert (info["embedding_space"], info["dimension"]) == (SPACE, DIMENSION)
    assert info["calibration"]["source"] == "site"
    assert shared.lifecycle.pending == []


@pytest.mark.parametrize(
    "query",
    [
        {"id": "person-0"},
        {"embedding": vector(0), "embedding_space": SPACE},
        {"ids": ["person-0"], "reject_ids": ["person-3"]},
        {"embeddings": [vector(0), vector(0)], "combine": "max"},
        {"id": "person-0", "rerank": True},
        {"id": "person-0", "filter": {"camera_ids": ["cam-1"], "after": NOON}},
    ],
)
def test_every_search_without_footage_works(shared: Live, query: dict[str, Any]) -> None:
    answer = search(shared, **query).raise_for_status().json()
    assert answer["results"]
    assert answer["embedding_space"] == SPACE
    single = query.keys() <= {"id", "embedding", "embedding_space", "filter"}
    assert ("calibration" in answer) == single


def test_a_form_without_footage_is_a_search(shared: Live) -> None:
    assert shared.client.post("/search", files={"id": (None, "person-1")}).raise_for_status().json()["results"]


@pytest.mark.parametrize("call", [("POST", "/embed"), ("POST", "/search"), ("PUT", "/gallery/with-pictures")])
@pytest.mark.parametrize("kind", ["form", "json"])
def test_footage_is_refused_with_the_way_out(shared: Live, call: tuple[str, str], kind: str) -> None:
    body: dict[str, Any] = {"files": form(tracklet(1, 5))} if kind == "form" else {"json": {"frames": ["/9j/"]}}
    document = check_problem(shared.client.request(*call, **body), 409, "no-model", field="frames")
    assert "has no model" in document["detail"]
    assert "PUT /gallery/{id}" in document["detail"]


def test_a_video_is_refused_before_it_is_read(shared: Live) -> None:
    answer = shared.client.post("/search", files={"video": ("film.mp4", b"\0" * 3_000_000)})
    check_problem(answer, 409, "no-model", field="video")


@pytest.mark.parametrize(
    ("values", "space", "status", "kind"),
    [
        (vector(0)[:-1], SPACE, 409, "other-embedding-space"),
        ([*vector(0), 0.0], SPACE, 409, "other-embedding-space"),
        (vector(0), "another", 409, "other-embedding-space"),
        ([0.0] * DIMENSION, SPACE, 400, "malformed"),
        ([float("nan")] * DIMENSION, SPACE, 400, "malformed"),
        ([float("inf"), *vector(0)[1:]], SPACE, 400, "malformed"),
    ],
)
def test_vectors_that_cannot_be_compared_are_refused(
    shared: Live, values: list[float], space: str, status: int, kind: str
) -> None:
    text = json.dumps({"embedding": values, "embedding_space": space})
    headers = {"content-type": "application/json"}
    for method, path in (("PUT", "/gallery/bad"), ("POST", "/search")):
        check_problem(shared.client.request(method, path, content=text, headers=headers), status, kind)
    assert shared.client.get("/gallery/bad").status_code == 404


def test_vectors_of_any_length_are_scaled_to_unit_length(shared: Live) -> None:
    put(shared, "large", [1e30 * value for value in vector(6)]).raise_for_status()
    stored = shared.client.get("/gallery/large?include_embedding=true").json()["embedding"]
    assert np.linalg.norm(stored) == pytest.approx(1, abs=1e-6)
    [best] = search(shared, embedding=[1e-30 * value for value in vector(6)], top_k=1).json()["results"]
    assert (best["id"], best["score"]) == ("large", pytest.approx(1, abs=1e-6))


def test_cases_audit_and_metrics_work_without_a_model(shared: Live) -> None:
    case = shared.client.post("/cases", json={"name": "bicycle", "purpose": "report 1", "query": {"id": "person-0"}})
    path = f"/cases/{case.raise_for_status().json()['id']}"
    shared.client.put(f"{path}/verdicts/person-1", json={"verdict": "same"}).raise_for_status()
    assert shared.client.get(f"{path}/export").raise_for_status().content[:2] == b"PK"
    assert search(shared, case=path.rpartition("/")[2]).raise_for_status().json()["results"]
    kinds = {entry["kind"] for entry in shared.client.get("/audit").json()["entries"]}
    assert {"search", "verdict"} <= kinds
    assert "not3d_ready 1.0" in shared.client.get("/metrics").text


def test_a_watchlist_of_vectors_raises_alerts(shared: Live) -> None:
    watched = {"embeddings": [vector(5)], "embedding_space": SPACE, "min_score": 0.95}
    shared.client.put("/watchlists/lost", json=watched).raise_for_status()
    wrong = shared.client.put("/watchlists/wrong", json=watched | {"embeddings": [[1, 2]]})
    check_problem(wrong, 409, "other-embedding-space", field="embeddings[0]")
    put(shared, "seen", vector(5), camera_id="gate").raise_for_status()
    [alert] = shared.client.get("/alerts").json()["items"]
    assert (alert["watchlist"], alert["record_id"], alert["score"]) == ("lost", "seen", pytest.approx(1, abs=1e-6))


def test_the_document_has_no_call_that_needs_a_model(shared: Live) -> None:
    document = shared.client.get("/openapi.json").json()
    committed = json.loads(DOCUMENT.read_text(encoding="utf-8"))
    assert committed["paths"].keys() - document["paths"].keys() == {"/embed"}
    bodies = [call.get("requestBody", {}) for path in document["paths"].values() for call in path.values()]
    assert "multipart/form-data" not in str(bodies)
    assert "frames" not in document["components"]["schemas"]["SearchBody"]["properties"]
    text = json.dumps(document)
    named = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert named <= document["components"]["schemas"].keys()


@pytest.mark.parametrize("other", [{"space": "another"}, {"dimension": DIMENSION + 1}])
def test_a_data_directory_of_another_space_is_refused_at_start(tmp_path: Path, other: dict[str, Any]) -> None:
    with run_service(None, tmp_path, space=SPACE, dimension=DIMENSION):
        pass
    named = {"space": SPACE, "dimension": DIMENSION} | other
    with run_service(None, tmp_path, wait_until_ready=False, **named) as live:
        wait_for(lambda: live.lifecycle.state is ServiceState.FAILED)
        assert f"holds embeddings of space {SPACE}" in (live.lifecycle.reason or "")


def test_a_calibration_of_another_space_is_refused_at_start(tmp_path: Path) -> None:
    (tmp_path / "site.json").write_text(make_calibration(embedding_space="another").to_json())
    settings = {"space": SPACE, "dimension": DIMENSION, "calibration": tmp_path / "site.json"}
    with run_service(None, tmp_path / "data", wait_until_ready=False, **settings) as live:
        wait_for(lambda: live.lifecycle.state is ServiceState.FAILED)
        assert "NOT3D_CALIBRATION" in (live.lifecycle.reason or "")


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"vectors_only": True}, r"set NOT3D_SPACE and NOT3D_DIMENSION"),
        ({"vectors_only": True, "space": SPACE}, r"set NOT3D_DIMENSION"),
        ({"space": SPACE}, r"NOT3D_SPACE only for vectors of another system"),
        ({"vectors_only": True, "space": "../other", "dimension": 8}, "space"),
        ({"vectors_only": True, "space": SPACE, "dimension": 0}, "dimension"),
    ],
)
def test_a_space_belongs_to_vectors_only(given: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        Settings(**given)


def test_no_two_spaces_share_a_collection_of_milvus() -> None:
    names = ["0123456789abcdef", "a", "A", "a-b", "a_b", "a.b", "0123456789abcdeF"]
    suffixes = [collection_suffix(name) for name in names]
    assert len(set(suffixes)) == len(names)
    assert suffixes[0] == names[0]
    assert all(suffix.isalnum() for suffix in suffixes)


def test_it_starts_without_the_packages_of_models_and_pictures(tmp_path: Path) -> None:
    program = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {{"av", "cv2", "onnxruntime", "openvino", "simplejpeg", "torch"}}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
sys.argv = ["not3d", "serve", "--vectors-only", "--space", "a", "--dimension", "4", "--port", "0"]
sys.argv += ["--data-dir", {str(tmp_path)!r}]
from not3d.cli import main
main()
"""
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        watchdog = threading.Timer(120, process.kill)
        watchdog.start()
        assert process.stderr
        try:
            said = []
            for line in process.stderr:
                said.append(line)
                if '"ready"' in line:
                    process.terminate()
        finally:
            watchdog.cancel()
            process.kill()
    assert any('"ready"' in line for line in said), "".join(said)
