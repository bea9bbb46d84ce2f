"""A key that is limited to a camera, over HTTP: what exists elsewhere looks as if it did not."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.service.http.test_scopes import add_key
from tests.service.live import Live, run_service
from tests.service.pictures import form, tracklet
from tests.service.problem import check_problem

ALL, GATE = {"x-api-key": "secret-of-all"}, {"x-api-key": "secret-of-gate"}
VECTOR = [1.0] + [0.0] * 31
HIDDEN, MISSING = "door-1", "door-2"


@pytest.fixture(scope="module")
def live(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """Two records of the gate, and one of the door with a picture."""
    data = tmp_path_factory.mktemp("data")
    add_key(data / "keys.json", "all", ALL["x-api-key"], scopes=("admin",))
    scopes = ("search", "enroll", "erase", "vectors")
    add_key(data / "keys.json", "gate", GATE["x-api-key"], scopes=scopes, cameras=("gate",))
    with run_service(bundle, data, thumbnails=1) as live:
        for name in ("gate:1", "gate:2"):
            record = {"embedding": VECTOR, "camera_id": "gate"}
            assert live.client.put(f"/gallery/{name}", json=record, headers=GATE).status_code == 201
        door = {"camera_id": "door", "id": HIDDEN}
        assert live.client.post("/embed", data=door, files=form(tracklet(1)), headers=ALL).status_code == 201
        yield live


def seen(answer: httpx.Response, name: str) -> Any:
    """Return what an answer tells, apart from the name that was asked for and the id of the request."""
    own = answer.headers.get("x-request-id", "none")
    text = answer.text.replace(own, "ID").replace(name, "NAME")
    return answer.status_code, text, sorted(set(answer.headers) - {"date"})


@pytest.mark.parametrize(
    ("method", "path", "sent"),
    [
        ("GET", "/gallery/{}", {}),
        ("GET", "/gallery/{}?include_embedding=true", {}),
        ("GET", "/gallery/{}/thumbnail", {}),
        ("GET", "/gallery/{}/track?min_score=0", {}),
        ("HEAD", "/gallery/{}", {}),
        ("DELETE", "/gallery/{}", {}),
        ("PUT", "/gallery/{}", {"json": {"embedding": VECTOR, "camera_id": "gate"}}),
        ("PUT", "/gallery/{}", {"json": {"embedding": VECTOR, "camera_id": "door"}}),
        ("PUT", "/gallery/{}", {"json": {"embedding": VECTOR}}),
    ],
)
def test_a_record_of_another_camera_answers_like_a_missing_one(
    live: Live, method: str, path: str, sent: dict[str, Any]
) -> None:
    hidden, missing = (
        seen(live.client.request(method, path.format(name), headers=GATE, **sent), name) for name in (HIDDEN, MISSING)
    )
    assert hidden == missing
    assert live.client.get(f"/gallery/{HIDDEN}", headers=ALL).json()["camera_id"] == "door"


def test_enrolling_and_searching_by_the_id_of_another_camera_tell_nothing(live: Live) -> None:
    def embed(name: str) -> httpx.Response:
        fields = {"id": name, "camera_id": "gate"}
        return live.client.post("/embed", data=fields, files=form(tracklet(1, 1)), headers=GATE)

    def search(name: str) -> httpx.Response:
        return live.client.post("/search", json={"id": name}, headers=GATE)

    for call in (embed, search):
        assert seen(call(HIDDEN), HIDDEN) == seen(call(MISSING), MISSING)
    check_problem(search(HIDDEN), 404, "not-found", field="id")
    check_problem(embed(HIDDEN), 403, "camera-refused", field="id")


def test_counts_and_results_are_of_the_keys_cameras(live: Live) -> None:
    found = live.client.post("/search", json={"embedding": VECTOR, "top_k": 9}, headers=GATE).json()
    assert ([hit["id"] for hit in found["results"]], found["searched"]) == (["gate:1", "gate:2"], 2)
    asked = {"embedding": VECTOR, "filter": {"camera_ids": ["door"]}}
    found = live.client.post("/search", json=asked, headers=GATE).json()
    assert (found["results"], found["searched"]) == ([], 0)
    assert live.client.get("/info", headers=GATE).json()["gallery"]["records"] == 2
    assert live.client.get("/info", headers=ALL).json()["gallery"]["records"] == 3
    listed = live.client.get("/gallery", headers=GATE).json()
    assert [item["id"] for item in listed["items"]] == ["gate:1", "gate:2"]
    assert live.client.get("/gallery?camera_id=door", headers=GATE).json() == {"items": [], "next_cursor": None}
    for chosen, count in (({"camera_ids": ["door"]}, 0), ({"exclude_camera_ids": ["x"]}, 2)):
        dry = {"filter": chosen, "dry_run": True}
        assert live.client.post("/gallery/erase", json=dry, headers=GATE).json()["matched"] == count


def test_a_record_of_another_camera_or_of_none_cannot_be_enrolled(live: Live) -> None:
    for body in ({"embedding": VECTOR, "camera_id": "door"}, {"embedding": VECTOR}):
        answer = live.client.put("/gallery/gate:3", json=body, headers=GATE)
        check_problem(answer, 403, "camera-refused", field="camera_id")
