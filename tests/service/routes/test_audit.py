import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from service.audit.export import verify_source
from tests.service.live import Live, run_service
from tests.service.pictures import form, tracklet
from tests.service.problem import check_problem

VECTOR = [1.0] + [0.0] * 31


@pytest.fixture(scope="module")
def live(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A service with a retention period and two records."""
    with run_service(bundle, tmp_path_factory.mktemp("data")) as live:
        for name in ("a", "b"):
            enrol(live.client, name)
        yield live


def enrol(client: httpx.Client, name: str) -> None:
    answer = client.put(f"/gallery/{name}", json={"embedding": VECTOR, "camera_id": f"cam-{name}"})
    assert answer.is_success


def newest(live: Live, **params: Any) -> dict[str, Any]:
    entry: dict[str, Any] = live.client.get("/audit", params={"limit": 1, **params}).json()["entries"][0]
    return entry


@pytest.mark.parametrize("given", ["Jürgen".encode(), "Jürgen".encode("latin-1"), b"J%C3%BCrgen"])
def test_a_search_is_recorded_with_what_it_asked_and_showed(live: Live, given: bytes) -> None:
    body = {"id": "a", "top_k": 5, "purpose": "case 7", "filter": {"camera_ids": ["cam-b"]}}
    found = live.client.post("/search", json=body, headers={"x-operator": given}).json()["results"]
    entry = newest(live)
    assert (entry["kind"], entry["by"], entry["operator"]) == ("search", "anonymous", "Jürgen")
    assert entry["records"] == [
        {"role": "query", "id": "a"},
        {"role": "result", "rank": 1, "id": "b", "score": found[0]["score"]},
    ]
    assert entry["details"] == {
        "top_k": 5,
        "purpose": "case 7",
        "filter": {"camera_ids": ["cam-b"]},
        "query": {},
        "searched": 1,
        "returned": 1,
    }


def test_a_change_is_recorded_with_the_names_of_its_fields(live: Live) -> None:
    assert live.client.patch("/gallery/b", json={"metadata": {"zone": "north"}, "expires_at": None}).is_success
    entry = newest(live)
    assert (entry["kind"], entry["records"]) == ("change", [{"id": "b"}])
    assert entry["details"] == {"fields": ["expires_at", "metadata"]}
    assert live.client.patch("/gallery/none", json={"metadata": {}}).status_code == 404
    assert newest(live) == entry


def test_frames_and_vectors_are_recorded_as_digests(live: Live) -> None:
    (frame,) = tracklet(1, 1)
    live.client.post("/search", files=form([frame]))
    assert newest(live)["details"]["query"] == {"frames": 1, "sha256": hashlib.sha256(frame).hexdigest()}
    first, second = tracklet(1, 2)
    live.client.post("/search", files=form([first, second]))
    both = hashlib.sha256(hashlib.sha256(first).digest() + hashlib.sha256(second).digest()).hexdigest()
    assert newest(live)["details"]["query"] == {"frames": 2, "sha256": both}
    live.client.post("/search", json={"embedding": VECTOR})
    digest = hashlib.sha256(np.array(VECTOR, "<f4").tobytes()).hexdigest()
    assert newest(live)["details"]["query"] == {"sha256": digest}


def test_reads_of_vectors_and_replacements_are_recorded(live: Live) -> None:
    live.client.get("/gallery/a?include_embedding=true")
    assert (newest(live)["kind"], newest(live)["records"]) == ("read_vectors", [{"id": "a"}])
    enrol(live.client, "a")
    assert (newest(live)["kind"], newest(live)["records"]) == ("replace", [{"id": "a"}])


def test_erasing_a_person_removes_them_from_earlier_entries(live: Live) -> None:
    for name in ("gone", "gone-too"):
        enrol(live.client, name)
    receipts = []
    for _ in range(2):
        live.client.post("/search", json={"id": "a"})
        receipts.append(newest(live)["receipt_id"])
    live.client.delete("/gallery/gone")
    live.client.post("/gallery/erase", json={"filter": {"camera_ids": ["cam-gone-too"]}})
    searches = live.client.get("/audit", params={"kind": "search", "limit": 2}).json()["entries"]
    assert {entry["receipt_id"] for entry in searches} == set(receipts)
    for entry in searches:
        assert {one["id"] for one in entry["records"]} == {"a", "b"}
        assert entry["erased_records"] == 2
    kinds = [entry["kind"] for entry in live.client.get("/audit?limit=2").json()["entries"]]
    assert kinds == ["erase", "delete"]
    assert verify_source(live.lifecycle.settings.data_dir).fault is None


def test_malformed_names_of_operators_and_purposes_are_refused(live: Live) -> None:
    headers = {"x-operator": "x" * 201}
    problem = live.client.post("/search", json={"id": "a"}, headers=headers)
    check_problem(problem, 400, "malformed", field="x-operator")
    for purpose in ("", "  ", "a\nb", "x" * 501):
        answer = live.client.post("/search", json={"id": "a", "purpose": purpose})
        check_problem(answer, 400, "malformed", field="purpose")


def test_a_purpose_can_be_required_and_removals_of_an_earlier_run_are_in_the_log(bundle: Path, tmp_path: Path) -> None:
    with run_service(bundle, tmp_path) as live:
        enrol(live.client, "a")
        live.client.delete("/gallery/a")
    (tmp_path / "audit.sqlite").unlink()  # as if the process was killed before it was written
    with run_service(bundle, tmp_path, require_purpose=True) as live:
        assert [entry["kind"] for entry in live.client.get("/audit").json()["entries"]] == ["delete"]
        check_problem(live.client.post("/search", json={"embedding": VECTOR}), 400, "malformed", field="purpose")
        assert live.client.post("/search", json={"embedding": VECTOR, "purpose": "case 7"}).status_code == 200
