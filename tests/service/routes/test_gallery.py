import hashlib
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from service.http.responses import INLINE_RECORDS
from service.http.schemas import CameraAnswer
from tests.service.gallery.samples import record, vector
from tests.service.live import Live, run_service, wait_for
from tests.service.pictures import encode, form, tracklet
from tests.service.problem import check_problem
from tests.service.threads import note_threads

KEY, OTHER_KEY = "0123456789abcdef", "fedcba9876543210"
EMBEDDING = [1.0] * 32


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


def test_an_unknown_record_is_not_found(shared: Live) -> None:
    check_problem(shared.client.get("/gallery/unknown"), 404, "not-found", field="id")


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_a_malformed_id_is_named(shared: Live, method: str) -> None:
    check_problem(shared.client.request(method, "/gallery/a%20b", json={}), 400, "malformed", field="id")


def test_put_enrols_and_replaces(shared: Live) -> None:
    first = shared.client.put("/gallery/put", files=form(tracklet(1, 3)), data={"camera_id": "a"})
    assert first.status_code == 201
    assert first.headers["location"] == "../gallery/put"
    again = shared.client.put("/gallery/put", files=form(tracklet(1, 3)), data={"camera_id": "a"})
    assert again.status_code == 200
    assert again.json() == first.json()
    shared.client.put("/gallery/put", files=form(tracklet(2, 5)), data={"camera_id": "b", "id": "put"})
    record = shared.client.get("/gallery/put").json()
    assert (record["camera_id"], record["frames"]) == ("b", 5)


def test_put_enrols_an_embedding(shared: Live) -> None:
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
        ({"embedding": [1.0] * 31}, 409, "other-embedding-space", "embedding"),
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


def test_a_second_delete_gets_the_same_answer(shared: Live) -> None:
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


def test_a_cursor_that_the_service_did_not_give_out_is_refused(shared: Live) -> None:
    check_problem(shared.client.get("/gallery?cursor=!!"), 400, "malformed")


def test_erase_removes_what_the_filter_matches_unless_it_is_a_dry_run(live: Live) -> None:
    for name, camera in (("a", "1"), ("b", "1"), ("c", "2")):
        enrol(live, name, camera_id=camera)
    body = {"filter": {"camera_ids": ["1"]}, "dry_run": True}
    dry = live.client.post("/gallery/erase", json=body).json()
    assert dry == {"matched": 2, "erased": 0, "receipt_id": None, "without_time": 0, "verdicts": 0, "cases": []}
    assert live.client.get("/gallery/a").status_code == 200
    done = live.client.post("/gallery/erase", json=body | {"dry_run": False}).json()
    assert done == dry | {"erased": 2, "receipt_id": done["receipt_id"]}
    assert done["receipt_id"]
    assert [item["id"] for item in live.client.get("/gallery").json()["items"]] == ["c"]


def test_an_erasure_of_another_number_than_expected_erases_nothing(live: Live) -> None:
    for name in ("a", "b"):
        enrol(live, name, camera_id="1")
    body = {"filter": {"camera_ids": ["1"]}, "expected": 1}
    assert live.client.post("/gallery/erase", json=body | {"dry_run": True}).json()["matched"] == 2
    check_problem(live.client.post("/gallery/erase", json=body), 409, "other-count", field="expected")
    assert live.client.post("/gallery/erase", json=body | {"expected": 2}).json()["erased"] == 2


def test_a_record_that_is_enrolled_while_an_erasure_waits_counts(live: Live) -> None:
    def put(name: str) -> httpx.Response:
        return live.client.put(f"/gallery/{name}", json={"embedding": EMBEDDING, "camera_id": "1"})

    put("a")
    writer: Any = live.service.gallery._gallery._writer  # type: ignore[attr-defined]
    body = {"filter": {"camera_ids": ["1"]}, "expected": 1}
    with ThreadPoolExecutor(2) as threads:
        with writer.paused():
            enrolled = threads.submit(put, "b")
            wait_for(lambda: len(writer._waiting) == 1)
            erased = threads.submit(live.client.post, "/gallery/erase", json=body)
            wait_for(lambda: len(writer._waiting) == 2)
        assert enrolled.result().status_code == 201
        check_problem(erased.result(), 409, "other-count", field="expected")
    assert [item["id"] for item in live.client.get("/gallery").json()["items"]] == ["a", "b"]
    assert [each["kind"] for each in live.client.get("/audit").json()["entries"]] == []


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ('{"filter": {}}', "filter"),
        ("{}", "filter"),
        ('{"filter": {"camera_ids": []}}', "filter.camera_ids"),
        ('{"filter": {"metadata": {}}}', "filter"),
        ('{"filter": {"camera_ids": ["a"]}, "dry_run": "False"}', "dry_run"),
        ('{"filter": {"camera_ids": ["a"]}, "dryrun": true}', "dryrun"),
        ('{"filter": {"camera_ids": ["a"]}, "expected": -1}', "expected"),
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


def test_a_record_says_when_it_expires(shared: Live) -> None:
    enrol(shared, "expiring", expires_at="2099-05-01T12:00:00+02:00")
    assert shared.client.get("/gallery/expiring").json()["expires_at"] == "2099-05-01T10:00:00Z"
    body = {"embedding": [1.0] * 32, "expires_at": "2098-01-01T00:00:00Z"}
    shared.client.put("/gallery/expiring", json=body)
    assert shared.client.get("/gallery/expiring").json()["expires_at"] == "2098-01-01T00:00:00Z"
    shared.client.put("/gallery/expiring", files=form(tracklet(1, 2)))
    assert shared.client.get("/gallery/expiring").json()["expires_at"] is None
    items = shared.client.get("/gallery").json()["items"]
    assert all("expires_at" in item for item in items)


@pytest.mark.parametrize("value", ["2020-01-01T00:00:00Z", "2099-01-01", "tomorrow", 1e12])
def test_a_bad_expiry_is_named(shared: Live, value: Any) -> None:
    answer = shared.client.put("/gallery/unchanged", json={"embedding": [1.0] * 32, "expires_at": value})
    check_problem(answer, 400, "malformed", field="expires_at")
    answer = shared.client.post("/embed", files=form(tracklet(1, 1)), data={"expires_at": str(value)})
    check_problem(answer, 400, "malformed", field="expires_at")


def test_records_without_an_expiry_expire_after_the_retention(bundle: Path, tmp_path: Path) -> None:
    with run_service(bundle, tmp_path, retention_days=1.5) as live:
        enrol(live, "default")
        enrol(live, "own", expires_at="2099-01-01T00:00:00Z")
        live.client.put("/gallery/put", json={"embedding": [1.0] * 32})
        for name in ("default", "put"):
            record = live.client.get(f"/gallery/{name}").json()
            created, expires = (datetime.fromisoformat(record[field]) for field in ("created_at", "expires_at"))
            assert expires - created == timedelta(days=1.5)
        assert live.client.get("/gallery/own").json()["expires_at"] == "2099-01-01T00:00:00Z"
        assert live.client.get("/info").json()["gallery"]["retention_days"] == 1.5


def test_no_thumbnail_is_kept_by_default(shared: Live) -> None:
    enrol(shared, "plain")
    check_problem(shared.client.get("/gallery/plain/thumbnail"), 404, "not-found", field="id")
    check_problem(shared.client.get("/gallery/unknown/thumbnail"), 404, "not-found", field="id")
    check_problem(shared.client.get("/gallery/plain/thumbnail?size=9"), 400, "malformed", field="size")
    assert "thumbnail_url" not in shared.client.get("/gallery/plain").json()
    found = shared.client.post("/search", json={"id": "plain"}).json()["results"]
    assert all("thumbnail_url" not in hit for hit in found)


def picture_of(live: Live, url: str) -> NDArray[np.uint8]:
    answer = live.client.get(url)
    assert answer.headers["content-type"] == "image/jpeg"
    assert answer.headers["cache-control"] == "no-store"
    picture = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_COLOR_RGB)
    assert picture is not None
    return picture.astype(np.uint8)


def test_a_thumbnail_is_kept_if_set_and_removed_with_its_record(bundle: Path, tmp_path: Path) -> None:
    colours = [(250, 10, 10), (10, 250, 10), (10, 10, 250)]  # the middle one is green
    frames = [encode(np.full((128, 64, 3), colour, np.uint8), ".png") for colour in colours]
    with run_service(bundle, tmp_path, thumbnails=True) as live:
        live.client.post("/embed", files=form(frames), data={"id": "a:1", "camera_id": "c"})
        live.client.post("/embed?enroll=false", files=form(frames))
        live.client.put("/gallery/b", files=form(frames[:1]), data={"camera_id": "c"})
        live.client.put("/gallery/none", json={"embedding": [1.0] * 32})
        url = live.client.get("/gallery/a:1").json()["thumbnail_url"]
        assert url == "/gallery/a:1/thumbnail"
        picture = picture_of(live, url)
        assert picture.shape[:2] == (64, 32)  # as the model of these tests sees it, which is never enlarged
        np.testing.assert_allclose(picture.mean(axis=(0, 1)), colours[1], atol=6)
        np.testing.assert_allclose(picture_of(live, "/gallery/b/thumbnail").mean(axis=(0, 1)), colours[0], atol=6)
        hits = live.client.post("/search", json={"id": "b"}).json()["results"]
        assert {hit["id"]: hit.get("thumbnail_url") for hit in hits} == {"a:1": url, "none": None}
        assert live.client.get("/info").json()["gallery"]["thumbnails"] == 1
        live.client.put("/gallery/b", json={"embedding": [1.0] * 32, "camera_id": "c"})
        check_problem(live.client.get("/gallery/b/thumbnail"), 404, "not-found", field="id")
        live.client.post("/gallery/erase", json={"filter": {"camera_ids": ["c"]}})
        check_problem(live.client.get(url), 404, "not-found", field="id")


def fingerprint(key: str) -> str:
    return f"key:{hashlib.sha256(key.encode()).hexdigest()[:12]}"


def test_the_audit_log_says_who_removed_what(bundle: Path, tmp_path: Path) -> None:
    """With two keys; a dry run and a deletion of a missing record leave no entry."""
    with run_service(bundle, tmp_path, api_keys=f"{KEY},{OTHER_KEY}") as live:
        live.client.headers["authorization"] = f"Bearer {KEY}"
        for name in ("a", "b", "c", "b"):
            live.client.put(f"/gallery/{name}", json={"embedding": EMBEDDING, "camera_id": "gate"})
        for name in ("a", "nobody"):
            live.client.delete(f"/gallery/{name}")
        chosen: dict[str, object] = {"camera_ids": ["gate"], "before": None, "metadata": {}, "exclude_camera_ids": []}
        live.client.post("/gallery/erase", json={"filter": chosen, "dry_run": True})
        header = {"authorization": "", "x-api-key": OTHER_KEY}
        erasure = live.client.post("/gallery/erase", json={"filter": chosen}, headers=header).json()
        newest, oldest, replaced = live.client.get("/audit").json()["entries"]
    assert oldest["time"] <= newest["time"]
    shared = {"operator": None, "records": [], "erased_records": 0}
    assert oldest == shared | {
        "receipt_id": oldest["receipt_id"],
        "time": oldest["time"],
        "kind": "delete",
        "action": "delete",
        "by": fingerprint(KEY),
        "details": {"filter": {"id": "a"}, "erased": 1},
        "filter": {"id": "a"},
        "erased": 1,
        "position": 2,
        "hash": oldest["hash"],
    }
    assert newest == shared | {
        "receipt_id": erasure["receipt_id"],
        "time": newest["time"],
        "kind": "erase",
        "action": "erase",
        "by": fingerprint(OTHER_KEY),
        "details": {"filter": {"camera_ids": ["gate"]}, "erased": 2},
        "filter": {"camera_ids": ["gate"]},
        "erased": 2,
        "position": 3,
        "hash": newest["hash"],
    }
    assert (replaced["kind"], replaced["records"], replaced["erased_records"]) == ("replace", [], 1)


def test_the_audit_log_is_read_page_by_page(live: Live) -> None:
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


def test_a_record_can_have_the_id_audit(live: Live) -> None:
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
def test_bad_parameters_of_the_audit_log_are_refused(shared: Live, query: str, field: str) -> None:
    check_problem(shared.client.get(f"/audit?{query}"), 400, "malformed", field=field)


def test_entries_of_the_audit_log_cannot_be_changed(shared: Live) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        check_problem(shared.client.request(method, "/audit"), 405, "method-not-allowed")


def test_a_list_of_cameras_is_written_outside_the_event_loop(shared: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(INLINE_RECORDS + 1):
        body = {"embedding": EMBEDDING, "camera_id": f"many-{number}", "start_time": "2026-05-01T12:00:00.5Z"}
        assert shared.client.put(f"/gallery/many-{number}", json=body).status_code == 201
    written = note_threads(monkeypatch, CameraAnswer, "__init__")
    cameras = shared.client.get("/cameras").json()
    assert len(written) == len(cameras) > INLINE_RECORDS
    assert not any(written)
    time = "2026-05-01T12:00:00.500000Z"
    assert {"camera_id": "many-0", "records": 1, "first_time": time, "last_time": time} in cameras


def test_a_record_is_patched(shared: Live) -> None:
    body = {"embedding": [1.0] + [0.0] * 31, "camera_id": "old", "metadata": {"a": 1, "b": 2}}
    times = {"start_time": "2026-05-01T12:00:00Z", "expires_at": "2100-01-01T00:00:00Z"}
    assert shared.client.put("/gallery/patched", json=body | times).status_code == 201
    before = shared.client.get("/gallery/patched?include_embedding=true").json()

    def patch(**fields: Any) -> dict[str, Any]:
        answer = shared.client.patch("/gallery/patched", json=fields)
        assert answer.status_code == 200, answer.text
        assert answer.json() == shared.client.get("/gallery/patched").json()
        changed: dict[str, Any] = answer.json()
        return changed

    assert patch(camera_id="new")["camera_id"] == "new"
    assert patch(metadata={"c": 3})["metadata"] == {"c": 3}
    assert patch(end_time="2026-05-01T13:00:00+01:00")["end_time"] == "2026-05-01T12:00:00Z"
    last = patch(camera_id=None, start_time=None, end_time=None, expires_at=None, metadata=None)
    assert (last["camera_id"], last["start_time"], last["expires_at"], last["metadata"]) == (None, None, None, {})
    after = shared.client.get("/gallery/patched?include_embedding=true").json()
    assert after == before | last | {"embedding": before["embedding"]}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "body"),
        ({"embedding": [1.0]}, "embedding"),
        ({"id": "x"}, "id"),
        ({"frames": 3}, "frames"),
        ({"expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
        ({"end_time": "2026-05-01T11:00:00Z"}, "start_time"),
        ({"start_time": "2026-05-01T12:00:00Z", "end_time": "2026-05-01T11:00:00Z"}, "end_time"),
        ({"metadata": {"a": "x" * 20_000}}, "metadata"),
    ],
)
def test_a_wrong_patch_is_refused(shared: Live, body: dict[str, Any], field: str) -> None:
    record = {"embedding": [1.0] + [0.0] * 31, "start_time": "2026-05-01T12:00:00Z"}
    shared.client.put("/gallery/unpatched", json=record)
    before = shared.client.get("/gallery/unpatched").json()
    answer = shared.client.patch("/gallery/unpatched", json=body)
    check_problem(
        answer, 413 if field == "metadata" else 400, "too-large" if field == "metadata" else "malformed", field=field
    )
    assert shared.client.get("/gallery/unpatched").json() == before


def test_a_patch_of_an_absent_record_is_404(shared: Live) -> None:
    check_problem(shared.client.patch("/gallery/absent", json={"camera_id": "x"}), 404, "not-found", field="id")


def test_several_pictures_of_a_record(bundle: Path, tmp_path: Path) -> None:
    with run_service(bundle, tmp_path, thumbnails=3) as live:
        assert live.client.post("/embed", files=form(tracklet(1, 8)), data={"id": "many"}).status_code == 201
        assert live.client.post("/embed", files=form(tracklet(1, 2)), data={"id": "few"}).status_code == 201
        record = live.client.get("/gallery/many").json()
        assert (record["thumbnails"], record["thumbnail_url"]) == (3, "/gallery/many/thumbnail")
        assert live.client.get("/gallery/few").json()["thumbnails"] == 2
        pictures = [live.client.get(f"/gallery/many/thumbnail?frame={frame}").content for frame in range(3)]
        assert len(set(pictures)) == 3
        assert all(picture.startswith(b"\xff\xd8\xff") for picture in pictures)
        assert live.client.get("/gallery/many/thumbnail").content == pictures[1]
        check_problem(live.client.get("/gallery/many/thumbnail?frame=3"), 404, "not-found", field="frame")
        check_problem(live.client.get("/gallery/many/thumbnail?frame=-1"), 400, "malformed", field="frame")
        check_problem(live.client.get("/gallery/many/thumbnail?page=1"), 400, "malformed", field="page")
        assert live.client.post("/search", json={"id": "few"}).json()["results"][0]["thumbnails"] == 3
        assert live.client.get("/info").json()["gallery"]["thumbnails"] == 3


def test_a_record_that_was_enrolled_at_the_end_of_time_expires_there_by_default(bundle: Path, tmp_path: Path) -> None:
    """An imported record has the time of enrolment that its file names."""
    with run_service(bundle, tmp_path, retention_days=30) as live:
        late = record("late", embedding=vector("late", len(EMBEDDING)), created_at=datetime(9999, 12, 20, tzinfo=UTC))
        live.service.gallery._gallery.enrol([late], "error")
        answer = live.client.patch("/gallery/late", json={"expires_at": None})
    assert answer.status_code == 200, answer.text
    assert answer.json()["expires_at"] == "9999-12-31T23:59:59.999999Z"
