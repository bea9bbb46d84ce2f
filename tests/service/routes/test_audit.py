import hashlib
from pathlib import Path

import pytest

from tests.service.live import Live, run_service
from tests.service.problem import check_problem

KEY, OTHER = "0123456789abcdef", "fedcba9876543210"
EMBEDDING = [1.0] * 32


def fingerprint(key: str) -> str:
    return f"key:{hashlib.sha256(key.encode()).hexdigest()[:12]}"


def test_who_removed_what(bundle: Path, tmp_path: Path) -> None:
    """With two keys; what is replaced, asked for or not there leaves no entry."""
    with run_service(bundle, tmp_path, api_keys=f"{KEY},{OTHER}") as live:
        live.client.headers["authorization"] = f"Bearer {KEY}"
        for name in ("a", "b", "c", "b"):
            live.client.put(f"/gallery/{name}", json={"embedding": EMBEDDING, "camera_id": "gate"})
        for name in ("a", "nobody"):
            live.client.delete(f"/gallery/{name}")
        chosen: dict[str, object] = {"camera_ids": ["gate"], "before": None, "metadata": {}, "exclude_camera_ids": []}
        live.client.post("/gallery/erase", json={"filter": chosen, "dry_run": True})
        header = {"authorization": "", "x-api-key": OTHER}
        erasure = live.client.post("/gallery/erase", json={"filter": chosen}, headers=header).json()
        newest, oldest = live.client.get("/audit").json()["entries"]
    assert oldest["time"] <= newest["time"]
    assert oldest == {
        "receipt_id": oldest["receipt_id"],
        "time": oldest["time"],
        "action": "delete",
        "by": fingerprint(KEY),
        "filter": {"id": "a"},
        "erased": 1,
    }
    assert newest == {
        "receipt_id": erasure["receipt_id"],
        "time": newest["time"],
        "action": "erase",
        "by": fingerprint(OTHER),
        "filter": {"camera_ids": ["gate"]},
        "erased": 2,
    }


def test_page_by_page(live: Live) -> None:
    for name in "abcde":
        live.client.put(f"/gallery/{name}", json={"embedding": EMBEDDING})
        live.client.delete(f"/gallery/{name}")
    seen: list[str] = []
    before: dict[str, str] = {}
    while page := live.client.get("/audit", params={"limit": "2"} | before).json()["entries"]:
        seen += [entry["filter"]["id"] for entry in page]
        assert {entry["by"] for entry in page} == {"anonymous"}
        before = {"before": page[-1]["receipt_id"]}
    assert seen == list("edcba")


def test_a_record_may_be_called_audit(live: Live) -> None:
    live.client.put("/gallery/audit", json={"embedding": EMBEDDING})
    assert live.client.get("/gallery/audit").json()["id"] == "audit"
    assert live.client.get("/audit").json() == {"entries": []}


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("before=", "before"),
        ("before=nobody", "before"),
        ("by=me", "by"),
    ],
)
def test_bad_questions_are_refused(shared: Live, query: str, field: str) -> None:
    check_problem(shared.client.get(f"/audit?{query}"), 400, "malformed", field=field)


def test_nobody_changes_an_entry(shared: Live) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        check_problem(shared.client.request(method, "/audit"), 405, "method-not-allowed")
