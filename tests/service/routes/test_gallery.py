from typing import Any

import numpy as np
import pytest

from tests.service.live import Live
from tests.service.pictures import form, tracklet
from tests.service.problem import check_problem


def enrol(live: Live, name: str, person: int = 1, **fields: str) -> None:
    answer = live.client.post("/embed", files=form(tracklet(person, 2)), data={"id": name} | fields)
    assert answer.status_code == 201, answer.text


def test_a_record_is_read_with_and_without_its_embedding(shared: Live) -> None:
    enrol(shared, "read")
    plain = shared.client.get("/gallery/read").json()
    assert "embedding" not in plain
    assert plain["id"] == "read"
    assert plain["created_at"].endswith("Z")
    full = shared.client.get("/gallery/read?include_embedding=true").json()
    assert len(full.pop("embedding")) == 32
    assert full == plain


def test_an_unknown_record(shared: Live) -> None:
    check_problem(shared.client.get("/gallery/unknown"), 404, "not-found", field="id")


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_a_malformed_id_is_named(shared: Live, method: str) -> None:
    check_problem(shared.client.request(method, "/gallery/a%20b", json={}), 400, "malformed", field="id")


def test_put_enrols_and_replaces(shared: Live) -> None:
    first = shared.client.put("/gallery/put", files=form(tracklet(1, 3)), data={"camera_id": "a"})
    assert first.status_code == 201
    assert first.headers["location"] == "/gallery/put"
    again = shared.client.put("/gallery/put", files=form(tracklet(1, 3)), data={"camera_id": "a"})
    assert again.status_code == 200
    assert again.json() == first.json()
    shared.client.put("/gallery/put", files=form(tracklet(2, 5)), data={"camera_id": "b", "id": "put"})
    record = shared.client.get("/gallery/put").json()
    assert (record["camera_id"], record["frames"]) == ("b", 5)


def test_put_with_an_embedding(shared: Live) -> None:
    enrol(shared, "source")
    source = shared.client.get("/gallery/source?include_embedding=true").json()
    body = {"embedding": [3 * value for value in source["embedding"]], "embedding_space": source["embedding_space"]}
    answer = shared.client.put("/gallery/copy?include_embedding=true", json=body | {"metadata": {"copy": True}})
    assert answer.status_code == 201
    np.testing.assert_allclose(answer.json()["embedding"], source["embedding"], atol=1e-6)
    assert (answer.json()["frames"], answer.json()["clips"]) == (0, 0)
    found = shared.client.post("/search", json={"id": "source", "top_k": 1, "filter": {"metadata": {"copy": True}}})
    assert found.json()["results"][0]["id"] == "copy"


@pytest.mark.parametrize(
    ("body", "status", "kind", "field"),
    [
        ({}, 400, "malformed", "frames"),
        ({"embedding": [1.0] * 31}, 400, "malformed", "embedding"),
        ({"embedding": [0.0] * 32}, 400, "malformed", "embedding"),
        ({"embedding": [1.0] * 32, "frames": ["AAAA"]}, 400, "malformed", "embedding"),
        ({"embedding": [1.0] * 32, "embedding_space": "no"}, 409, "other-embedding-space", "embedding_space"),
        ({"embedding": [1.0] * 32, "id": "other"}, 400, "malformed", "id"),
        ({"frames": ["AAAA"], "embedding_space": "no"}, 400, "malformed", "embedding_space"),
        ({"embedding": [1.0] * 32, "rank": 1}, 400, "malformed", "rank"),
    ],
)
def test_a_bad_put_changes_nothing(shared: Live, body: dict[str, Any], status: int, kind: str, field: str) -> None:
    check_problem(shared.client.put("/gallery/unchanged", json=body), status, kind, field=field)
    assert shared.client.get("/gallery/unchanged").status_code == 404


def test_delete_is_the_same_the_second_time(shared: Live) -> None:
    enrol(shared, "gone")
    for _ in range(2):
        answer = shared.client.delete("/gallery/gone")
        assert answer.status_code == 204
        assert answer.content == b""
    assert shared.client.get("/gallery/gone").status_code == 404


def test_pages_hold_every_record_once(live: Live) -> None:
    for number in range(5):
        enrol(live, f"r{number}", camera_id="even" if number % 2 == 0 else "odd")
    seen, cursor = [], None
    while True:
        parameters = {"limit": "2"} | ({"cursor": cursor} if cursor else {})
        page = live.client.get("/gallery", params=parameters).json()
        seen += [item["id"] for item in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == ["r0", "r1", "r2", "r3", "r4"]
    odd = live.client.get("/gallery", params={"camera_id": "odd"}).json()
    assert [item["id"] for item in odd["items"]] == ["r1", "r3"]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=x", "limit"),
        ("after=now", "after"),
        ("camera=1", "camera"),
        ("camera_id=", "camera_id"),
    ],
)
def test_bad_listings_are_refused(shared: Live, query: str, field: str) -> None:
    check_problem(shared.client.get(f"/gallery?{query}"), 400, "malformed", field=field)


def test_a_cursor_that_nobody_gave_out(shared: Live) -> None:
    check_problem(shared.client.get("/gallery?cursor=!!"), 400, "malformed")


def test_erasing_by_filter_and_the_dry_run(live: Live) -> None:
    for name, camera in (("a", "1"), ("b", "1"), ("c", "2")):
        enrol(live, name, camera_id=camera)
    body = {"filter": {"camera_ids": ["1"]}, "dry_run": True}
    assert live.client.post("/gallery/erase", json=body).json() == {"matched": 2, "erased": 0}
    assert live.client.get("/gallery/a").status_code == 200
    assert live.client.post("/gallery/erase", json=body | {"dry_run": False}).json() == {"matched": 2, "erased": 2}
    assert [item["id"] for item in live.client.get("/gallery").json()["items"]] == ["c"]


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ('{"filter": {}}', "filter"),
        ("{}", "filter"),
        ('{"filter": {"camera_ids": []}}', "filter.camera_ids"),
        ('{"filter": {"metadata": {}}}', "filter"),
        ('{"filter": {"camera_ids": ["a"]}, "dry_run": "False"}', "dry_run"),
        ('{"filter": {"camera_ids": ["a"]}, "dryrun": true}', "dryrun"),
        ('{"filter": {"camera_ids": ["a"]}', "body"),
        ("[]", "body"),
    ],
)
def test_a_bad_erasure_erases_nothing(shared: Live, text: str, field: str) -> None:
    enrol_once = shared.client.put("/gallery/stays", json={"embedding": [1.0] * 32, "camera_id": "a"})
    assert enrol_once.status_code in {200, 201}
    answer = shared.client.post("/gallery/erase", content=text, headers={"content-type": "application/json"})
    check_problem(answer, 400, "malformed", field=field)
    assert shared.client.get("/gallery/stays").status_code == 200
