"""`GET /gallery/{id}/track` on both kinds of galleries: steps, thresholds, cameras of a key, the audit log."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service import lifecycle
from service.gallery.opening import open_gallery
from service.lifecycle import ServiceState
from tests.calibrations import make_calibration
from tests.service.gallery.engines import ENGINES, milvus_database
from tests.service.http.test_scopes import add_key
from tests.service.live import Live, run_service, wait_for
from tests.service.problem import check_problem

SPACE, DIMENSION = "paths", 8
NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)
ALL, GATE = {"x-api-key": "secret-of-all"}, {"x-api-key": "secret-of-gate"}
WALK = {"gate:1": ("gate", 0, 0), "hall:1": ("hall", 100, 8), "door:1": ("door", 220, 16), "gate:2": ("gate", 400, 24)}
OTHERS = {
    "door:other": ("door", 100, 10),  # at the same time as hall:1, and as much alike
    "hall:soon": ("hall", 30, -6),  # 25 seconds after gate:1, and the way takes 60
    "yard:far": ("yard", 150, 90),
    "gate:yesterday": ("gate", -86_400, 5),
}


def body_of(camera: str, start: int, angle: float) -> dict[str, Any]:
    vector = np.zeros(DIMENSION)
    vector[:2] = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    begin = NOON + timedelta(seconds=start)
    times = {"start_time": begin.isoformat(), "end_time": (begin + timedelta(seconds=5)).isoformat()}
    return {"embedding": vector.tolist(), "embedding_space": SPACE, "camera_id": camera, **times}


@pytest.fixture(scope="module", params=ENGINES)
def live(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = tmp_path_factory.mktemp("track")
    calibration, travel_times, data = folder / "calibration.json", folder / "times.json", folder / "data"
    calibration.write_text(make_calibration(embedding_space=SPACE).to_json())
    travel_times.write_text(json.dumps({"travel_times": [{"from": "gate", "to": "hall", "seconds": 60}]}))
    data.mkdir()
    add_key(data / "keys.json", "all", ALL["x-api-key"], scopes=("admin",))
    add_key(data / "keys.json", "gate", GATE["x-api-key"], scopes=("search", "enroll"), cameras=("gate",))

    settings = {"space": SPACE, "dimension": DIMENSION, "calibration": calibration, "travel_times": travel_times}
    with ExitStack() as stack:
        if request.param != "embedded":
            database = stack.enter_context(milvus_database(request.param, SPACE, DIMENSION))
            patch = stack.enter_context(pytest.MonkeyPatch.context())
            patch.setattr(
                lifecycle,
                "open_gallery",
                lambda chosen, space: database.open() if chosen.data_dir == data else open_gallery(chosen, space),
            )
        with run_service(None, data, **settings) as live:
            for name, place in (WALK | OTHERS).items():
                live.client.put(f"/gallery/{name}", json=body_of(*place), headers=ALL).raise_for_status()
            untimed = {"embedding": [1.0] + [0.0] * 7, "camera_id": "gate"}
            live.client.put("/gallery/untimed", json=untimed, headers=ALL).raise_for_status()
            yield live


def track(live: Live, id_: str, headers: dict[str, str] = ALL, **params: Any) -> Any:
    return live.client.get(f"/gallery/{id_}/track", params=params, headers=headers)


def test_a_path_goes_through_the_cameras_in_time_order(live: Live) -> None:
    answer = track(live, "hall:1", min_score=0.95).raise_for_status().json()
    steps = answer["steps"]
    assert [step["id"] for step in steps] == list(WALK)
    assert [step["gap_seconds"] for step in steps] == [None, 95, 115, 175]
    assert [step["linked_to"] for step in steps] == ["hall:1", None, "hall:1", "door:1"]
    assert sorted(step["links"] for step in steps) == [0, 1, 2, 2]
    assert steps[1]["score"] is None
    assert "probability" not in steps[1]
    assert steps[0]["score"] == pytest.approx(np.cos(np.radians(8)), abs=1e-5)
    assert 0 < steps[0]["probability"] <= 1
    assert (answer["complete"], answer["searches"], answer["searched"]) == (True, 4, 6)
    assert answer["calibration"]["source"] == "site"
    assert (answer["embedding_space"], answer["score_mode"]) == (SPACE, "cosine")


def test_a_link_has_the_probability_of_the_same_search(live: Live) -> None:
    [step] = [each for each in track(live, "hall:1", min_score=0.95).json()["steps"] if each["id"] == "door:1"]
    window = {"after": "2026-05-04T00:01:40Z", "before": "2026-05-05T00:01:45Z"}
    found = live.client.post("/search", json={"id": "hall:1", "filter": window}, headers=ALL).json()["results"]
    [hit] = [each for each in found if each["id"] == "door:1"]
    assert (step["score"], step["probability"]) == (hit["score"], pytest.approx(hit["probability"]))


def test_window_thresholds_and_steps_bound_a_path(live: Live) -> None:
    def found(**params: Any) -> list[str]:
        return [step["id"] for step in track(live, "hall:1", **params).raise_for_status().json()["steps"]]

    assert found(min_score=0.995) == ["hall:1"]
    assert found(min_score=0.95, after="2026-05-04T12:01:00Z") == ["hall:1", "door:1", "gate:2"]
    assert found(min_score=0.95, before="2026-05-04T12:02:00Z") == ["gate:1", "hall:1"]
    assert found(min_probability=1) == ["hall:1"]
    answer = track(live, "hall:1", min_score=0.95, max_steps=1).json()
    assert (len(answer["steps"]), answer["complete"]) == (2, False)
    assert track(live, "hall:1").json()["min_probability"] == 0.5


def test_a_key_of_one_camera_sees_only_its_records(live: Live) -> None:
    # The records of the gate are too different from each other without those in between.
    answer = track(live, "gate:1", GATE, min_score=0.8).raise_for_status().json()
    assert [step["id"] for step in answer["steps"]] == ["gate:1", "gate:2"]
    assert answer["searched"] == 1
    hidden, missing = track(live, "hall:1", GATE), track(live, "hall:0", GATE)
    assert hidden.text.replace("hall:1", "")[:150] == missing.text.replace("hall:0", "")[:150]
    check_problem(hidden, 404, "not-found", field="id")


def test_a_path_is_audited_as_a_search(live: Live) -> None:
    answer = track(live, "hall:1", {**ALL, "X-Operator": "ann"}, min_score=0.95, purpose="report 7").json()
    entry = live.client.get("/audit?kind=search&limit=1", headers=ALL).json()["entries"][0]
    assert (entry["operator"], entry["details"]["call"], entry["details"]["purpose"]) == ("ann", "track", "report 7")
    named = {record["id"]: record["role"] for record in entry["records"]}
    assert named == {step["id"]: "query" if step["id"] == "hall:1" else "result" for step in answer["steps"]}


@pytest.mark.parametrize(
    ("id_", "params", "status", "kind", "field"),
    [
        ("absent", {}, 404, "not-found", "id"),
        ("untimed", {}, 409, "without-time", "id"),
        ("hall:1", {"max_steps": 0}, 400, "malformed", "max_steps"),
        ("hall:1", {"max_steps": 101}, 400, "malformed", "max_steps"),
        ("hall:1", {"min_score": "nan"}, 400, "malformed", "min_score"),
        ("hall:1", {"steps": 3}, 400, "malformed", "steps"),
        ("hall:1", {"after": "2026-05-04T12:00:00"}, 400, "malformed", "after"),
        ("hall:1", {"after": "2027-01-01T00:00:00Z"}, 400, "malformed", "after"),
        ("hall:1", {"after": "2026-05-05T00:00:00Z", "before": "2026-05-04T00:00:00Z"}, 400, "malformed", "before"),
    ],
)
def test_what_cannot_be_answered_is_named(
    live: Live, id_: str, params: dict[str, Any], status: int, kind: str, field: str
) -> None:
    check_problem(track(live, id_, **params), status, kind, field=field)


def test_without_a_calibration_a_score_is_needed(tmp_path: Path) -> None:
    with run_service(None, tmp_path, space=SPACE, dimension=DIMENSION, require_purpose=True) as live:
        live.client.put("/gallery/a", json=body_of("gate", 0, 0)).raise_for_status()
        check_problem(track(live, "a"), 400, "malformed", field="purpose")
        check_problem(track(live, "a", purpose="x"), 409, "not-calibrated", field="min_probability")
        answer = track(live, "a", purpose="x", min_score=0.5).json()
        assert [step["id"] for step in answer["steps"]] == ["a"]
        assert "calibration" not in answer


def test_the_window_of_a_record_at_an_end_of_time_ends_there(tmp_path: Path) -> None:
    with run_service(None, tmp_path, space=SPACE, dimension=DIMENSION) as live:
        for id_, time in (("first", "0001-01-01T00:00:00Z"), ("last", "9999-12-31T23:59:59.999999Z")):
            body = {"embedding": [1] * DIMENSION, "start_time": time, "end_time": time}
            live.client.put(f"/gallery/{id_}", json=body).raise_for_status()
        first = track(live, "first", min_score=0.5).json()
        last = track(live, "last", min_score=0.5).json()
    assert (first["after"], first["before"]) == ("0001-01-01T00:00:00Z", "0001-01-01T12:00:00Z")
    assert (last["after"], last["before"]) == ("9999-12-31T11:59:59.999999Z", "9999-12-31T23:59:59.999999Z")
    assert [step["id"] for step in (*first["steps"], *last["steps"])] == ["first", "last"]


def test_a_wrong_file_of_travel_times_ends_the_start(tmp_path: Path) -> None:
    (tmp_path / "times.json").write_text('{"travel_times": [{"from": "gate"}]}')
    settings = {"space": SPACE, "dimension": DIMENSION, "travel_times": tmp_path / "times.json"}
    with run_service(None, tmp_path / "data", wait_until_ready=False, **settings) as live:
        wait_for(lambda: live.lifecycle.state is ServiceState.FAILED)
        assert "times.json: travel_times.0.to: Field required" in (live.lifecycle.reason or "")
