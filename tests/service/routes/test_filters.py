"""Filters of searches, listings and erasures, and the cameras, over HTTP."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.service.gallery.samples import vector
from tests.service.live import Live, run_service
from tests.service.problem import check_problem

DIMENSION = 32


@pytest.fixture(scope="module")
def filled(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with run_service(bundle, tmp_path_factory.mktemp("data")) as live:
        facts: list[tuple[str, dict[str, Any]]] = [
            ("morning", {"camera_id": "door", "start_time": "2026-05-01T05:00:00Z", "metadata": {"person": "0001"}}),
            ("noon", {"camera_id": "door", "start_time": "2026-05-01T12:00:00Z", "metadata": {"person": 2}}),
            ("night", {"camera_id": "gate", "start_time": "2026-05-01T23:30:00Z", "end_time": "2026-05-02T00:10:00Z"}),
            ("timeless", {"metadata": {"person": "2", "a b": True}}),
        ]
        for name, fields in facts:
            body = {"embedding": [float(value) for value in vector(name, DIMENSION)], **fields}
            assert live.client.put(f"/gallery/{name}", json=body).status_code == 201
        yield live


def found(live: Live, **wanted: Any) -> set[str]:
    query = [float(value) for value in vector("query", DIMENSION)]
    answer = live.client.post("/search", json={"embedding": query, "filter": wanted})
    assert answer.status_code == 200, answer.text
    return {hit["id"] for hit in answer.json()["results"]}


def listed(live: Live, **parameters: Any) -> set[str]:
    answer = live.client.get("/gallery", params=parameters)
    assert answer.status_code == 200, answer.text
    return {record["id"] for record in answer.json()["items"]}


def test_time_of_day_is_local_and_passes_midnight(filled: Live) -> None:
    assert found(filled, time_of_day={"from": "22:00", "to": "06:00"}) == {"morning", "night"}
    assert found(filled, time_of_day={"from": "06:00", "to": "18:00", "utc_offset": "+02:00"}) == {"morning", "noon"}
    assert found(filled, time_of_day={"from": "00:00", "to": "24:00"}) == {"morning", "noon", "night"}
    assert found(filled, time_of_day={"from": "00:05:00", "to": "00:06:00", "utc_offset": "Z"}) == {"night"}


def test_records_without_time_and_by_enrolment(filled: Live) -> None:
    assert found(filled, without_time=True) == listed(filled, without_time="true") == {"timeless"}
    assert found(filled, created_after="2100-01-01T00:00:00Z") == set()
    assert len(found(filled, created_before="2100-01-01T00:00:00Z")) == 4
    created = filled.client.get("/gallery/noon").json()["created_at"]
    assert listed(filled, created_after=created) == {"noon", "night", "timeless"}
    assert listed(filled, created_before=created) == {"morning", "noon"}


def test_listings_filter_by_metadata(filled: Live) -> None:
    assert listed(filled, **{"metadata.person": "0001"}) == {"morning"}
    assert listed(filled, **{"metadata.person": "2"}) == {"noon", "timeless"}
    assert listed(filled, **{"metadata.person": "2", "metadata.a b": "true"}) == {"timeless"}
    assert listed(filled, **{"metadata.person": "2", "camera_id": "door"}) == {"noon"}
    assert listed(filled, **{"metadata.absent": ""}) == set()


@pytest.mark.parametrize(
    ("wanted", "field"),
    [
        ({"time_of_day": {"from": "06:00", "to": "06:00"}}, "filter.time_of_day.to"),
        ({"time_of_day": {"from": "6", "to": "07:00"}}, "filter.time_of_day.from"),
        ({"time_of_day": {"from": "06:60", "to": "07:00"}}, "filter.time_of_day.from"),
        ({"time_of_day": {"from": "24:01", "to": "07:00"}}, "filter.time_of_day.from"),
        ({"time_of_day": {"from": "06:00"}}, "filter.time_of_day.to"),
        ({"time_of_day": {"from": "06:00", "to": "07:00", "utc_offset": "2"}}, "filter.time_of_day.utc_offset"),
        ({"time_of_day": {"from": "06:00", "to": "07:00", "zone": "x"}}, "filter.time_of_day.zone"),
        ({"without_time": True, "after": "2026-05-01T00:00:00Z"}, "filter.without_time"),
        ({"without_time": True, "time_of_day": {"from": "06:00", "to": "07:00"}}, "filter.without_time"),
        ({"created_after": "2026-05-02T00:00:00Z", "created_before": "2026-05-01T00:00:00Z"}, "filter.created_before"),
    ],
)
def test_wrong_filters_are_refused(filled: Live, wanted: dict[str, Any], field: str) -> None:
    for path, body in (("/search", {"id": "noon"}), ("/gallery/erase", {"dry_run": True})):
        answer = filled.client.post(path, json=body | {"filter": wanted})
        check_problem(answer, 400, "malformed", field=field)


@pytest.mark.parametrize("parameter", ["metadata", "person", "metadataperson", "filter"])
def test_unknown_parameters_of_a_listing_are_refused(filled: Live, parameter: str) -> None:
    check_problem(filled.client.get("/gallery", params={parameter: "x"}), 400, "malformed", field=parameter)


def test_a_metadata_condition_that_is_sent_twice_is_refused(filled: Live) -> None:
    answer = filled.client.get("/gallery?metadata.a=1&metadata.a=2")
    check_problem(answer, 400, "malformed", field="metadata.a")


def test_an_erasure_says_how_many_records_have_no_time(filled: Live) -> None:
    def erase(**wanted: Any) -> dict[str, Any]:
        answer: dict[str, Any] = filled.client.post("/gallery/erase", json={"filter": wanted, "dry_run": True}).json()
        return answer

    assert erase(before="2026-05-01T06:00:00Z") == {
        "matched": 1,
        "erased": 0,
        "receipt_id": None,
        "without_time": 1,
        "verdicts": 0,
        "cases": [],
    }
    assert erase(time_of_day={"from": "22:00", "to": "06:00"})["without_time"] == 1
    assert erase(before="2026-05-01T06:00:00Z", camera_ids=["door"])["without_time"] == 0
    assert erase(camera_ids=["door"]) == {
        "matched": 2,
        "erased": 0,
        "receipt_id": None,
        "without_time": 0,
        "verdicts": 0,
        "cases": [],
    }


def test_cameras_are_listed(filled: Live) -> None:
    assert filled.client.get("/cameras").json() == [
        {
            "camera_id": "door",
            "records": 2,
            "first_time": "2026-05-01T05:00:00Z",
            "last_time": "2026-05-01T12:00:00Z",
        },
        {
            "camera_id": "gate",
            "records": 1,
            "first_time": "2026-05-01T23:30:00Z",
            "last_time": "2026-05-02T00:10:00Z",
        },
        {"camera_id": None, "records": 1, "first_time": None, "last_time": None},
    ]
    check_problem(filled.client.get("/cameras?x=1"), 400, "malformed", field="x")
