"""Cases over HTTP: verdicts with authors, searches, two-person confirmation, erasure and export."""

import base64
import hashlib
import io
import json
import sqlite3
import zipfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from service.cases.archive import verify_archive
from tests.service.gallery.samples import vector
from tests.service.http.test_scopes import add_key
from tests.service.live import Live, run_service
from tests.service.pictures import form, tracklet
from tests.service.problem import check_problem

DIMENSION = 32
HOSTILE = "<script>alert(1)</script>\"'&"


def fill(live: Live) -> Live:
    for number in range(8):
        body = {
            "embedding": values(f"r{number}"),
            "camera_id": f"cam{number % 3}",
            "start_time": f"2026-05-01T12:0{number}:00Z",
            "metadata": {"note": HOSTILE},
        }
        assert live.client.put(f"/gallery/r{number}", json=body).status_code == 201
    return live


@pytest.fixture(scope="module")
def filled(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with run_service(bundle, tmp_path_factory.mktemp("data"), thumbnails=2) as live:
        yield fill(live)


def values(name: str) -> list[float]:
    return [float(value) for value in vector(name, DIMENSION)]


def create(live: Live, **fields: Any) -> str:
    answer = live.client.post("/cases", json={"name": "theft", "purpose": "case 12/26"} | fields)
    assert answer.status_code == 201, answer.text
    case: str = answer.json()["id"]
    assert answer.headers["location"] == f"/cases/{case}"
    return case


def judge(live: Live, case: str, record: str, verdict: str, operator: str | None = None, note: str = "") -> Any:
    headers = {"X-Operator": operator} if operator else {}
    body = {"verdict": verdict, "note": note}
    answer = live.client.put(f"/cases/{case}/verdicts/{record}", json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.json()


def search(live: Live, **body: Any) -> dict[str, Any]:
    answer = live.client.post("/search", json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def ids(found: dict[str, Any]) -> list[str]:
    return [hit["id"] for hit in found["results"]]


def test_a_case_is_created_listed_changed_closed_and_opened_again(filled: Live) -> None:
    case = create(filled, name="first", query={"id": "r0"})
    found = filled.client.get(f"/cases/{case}").json()
    assert found | {"created_at": ""} == {
        "id": case,
        "name": "first",
        "purpose": "case 12/26",
        "status": "open",
        "created_at": "",
        "created_by": "anonymous",
        "closed_at": None,
        "closed_by": None,
        "cameras": None,
        "query": {"id": "r0", "camera_id": None, "pictures": 0},
        "counts": {"same": 0, "different": 0, "unsure": 0},
        "confirmations": 1,
        "decided": {"same": [], "different": [], "unsure": []},
        "verdicts": [],
    }
    second = create(filled, name="second")
    listed = filled.client.get("/cases").json()["items"]
    assert [each["id"] for each in listed][:2] == [second, case]
    assert [each["id"] for each in filled.client.get(f"/cases?before={second}&limit=1").json()["items"]] == [case]
    closed = filled.client.patch(f"/cases/{case}", json={"status": "closed", "name": "renamed"}).json()
    assert (closed["status"], closed["name"], closed["closed_by"]) == ("closed", "renamed", "anonymous")
    assert [each["id"] for each in filled.client.get("/cases?status=closed").json()["items"]] == [case]
    for change in (
        filled.client.put(f"/cases/{case}/verdicts/r1", json={"verdict": "same"}),
        filled.client.delete(f"/cases/{case}/verdicts/r1"),
        filled.client.patch(f"/cases/{case}", json={"name": "again"}),
    ):
        check_problem(change, 409, "case-closed", field="case")
    opened = filled.client.patch(f"/cases/{case}", json={"status": "open", "purpose": "another"}).json()
    assert (opened["status"], opened["purpose"], opened["closed_at"]) == ("open", "another", None)


def test_verdicts_have_authors_and_the_latest_counts(filled: Live) -> None:
    case = create(filled)
    judge(filled, case, "r1", "same", "ann", note="by the jacket")
    judge(filled, case, "r2", "different")
    found = judge(filled, case, "r1", "different", "bob")
    given = [(each["id"], each["verdict"], each["author"], each["note"]) for each in found["verdicts"]]
    assert given == [
        ("r1", "same", "ann", "by the jacket"),
        ("r2", "different", "anonymous", ""),
        ("r1", "different", "bob", ""),
    ]
    assert found["decided"] == {"same": [], "different": ["r1", "r2"], "unsure": []}
    assert judge(filled, case, "r1", "unsure", "ann")["counts"] == {"same": 0, "different": 1, "unsure": 1}
    taken = filled.client.delete(f"/cases/{case}/verdicts/r1", headers={"X-Operator": "ann"}).json()
    assert taken["decided"]["different"] == ["r1", "r2"]
    left = filled.client.delete(f"/cases/{case}/verdicts/r1?author=bob").json()
    assert [each["id"] for each in left["verdicts"]] == ["r2"]


def test_a_search_uses_the_query_and_the_verdicts(filled: Live) -> None:
    case = create(filled)
    check_problem(filled.client.post("/search", json={"case": case}), 400, "malformed", field="case")
    first = search(filled, case=case, id="r0", top_k=100)
    assert ids(first) == ids(search(filled, id="r0", top_k=100))
    judge(filled, case, "r1", "same")
    judge(filled, case, "r2", "different")
    judge(filled, case, "r3", "unsure")
    found = search(filled, case=case, top_k=100)
    plain = search(filled, id="r0", ids=["r1"], reject_ids=["r2"], top_k=100)
    assert found["results"] == plain["results"]
    assert "r3" in ids(found)
    # What the request says counts more than the case.
    assert ids(search(filled, case=case, ids=["r2"], top_k=100)) == ids(search(filled, ids=["r2", "r1"], top_k=100))
    assert filled.client.get(f"/cases/{case}").json()["query"]["id"] == "r0"


def test_the_footage_of_the_first_search_is_kept_as_the_query(filled: Live) -> None:
    case = create(filled)
    answer = filled.client.post("/search", files=form(tracklet(3, 6)), data={"case": case, "camera_id": "cam1"})
    assert answer.status_code == 200, answer.text
    kept = filled.client.get(f"/cases/{case}").json()["query"]
    assert kept == {"id": None, "camera_id": "cam1", "pictures": 2}
    assert search(filled, case=case)["results"] == answer.json()["results"]
    picture = filled.client.get(f"/cases/{case}/picture?frame=1")
    assert picture.content.startswith(b"\xff\xd8\xff")
    check_problem(filled.client.get(f"/cases/{case}/picture?frame=2"), 404, "not-found", field="frame")


def test_two_operators_whom_a_proxy_names_must_agree(bundle: Path, tmp_path: Path) -> None:
    with run_service(bundle, tmp_path, confirmations=2, trust_operator=True) as live:
        fill(live)
        case = create(live, query={"embedding": values("query")})
        judge(live, case, "r1", "same", "ann")
        assert judge(live, case, "r1", "same", "ann")["counts"]["same"] == 0
        assert "r1" in ids(search(live, case=case, top_k=100))
        assert judge(live, case, "r1", "same", "bob")["decided"]["same"] == ["r1"]
        assert "r1" not in ids(search(live, case=case, top_k=100))
        judge(live, case, "r1", "different", "cat")
        assert judge(live, case, "r1", "different", "dan")["decided"] == {"same": [], "different": [], "unsure": []}


def test_one_key_is_one_person_whatever_names_it_sends(bundle: Path, tmp_path: Path) -> None:
    for name in ("day", "night"):
        add_key(tmp_path / "keys.json", name, f"secret-of-{name}", scopes=("search", "enroll"))
    with run_service(bundle, tmp_path, confirmations=2) as live:
        live.client.headers["X-API-Key"] = "secret-of-day"
        fill(live)
        case = create(live)
        for operator in ("ann", "bob", "cat"):
            found = judge(live, case, "r1", "same", operator)
        assert (len(found["verdicts"]), found["decided"]["same"]) == (3, [])
        live.client.headers["X-API-Key"] = "secret-of-night"
        assert judge(live, case, "r1", "same", "ann")["decided"]["same"] == ["r1"]  # of the same name, another person
        live.client.headers["X-API-Key"] = "secret-of-day"
        found = judge(live, case, "r1", "unsure", "dan")  # the key's latest verdict counts
        assert found["decided"] == {"same": [], "different": [], "unsure": []}
        removed = live.client.delete(f"/cases/{case}/verdicts/r1", headers={"X-Operator": "ann"}).json()
        assert [each["author"] for each in removed["verdicts"]] == ["bob", "cat", "ann", "dan"]  # night's stays


def test_cases_of_the_first_version_are_read(bundle: Path, tmp_path: Path) -> None:
    with run_service(bundle, tmp_path) as live:
        fill(live)
        case = create(live)
        judge(live, case, "r1", "same", "ann")
    with closing(sqlite3.connect(tmp_path / "cases.sqlite")) as file:  # as the first version wrote it
        file.executescript(
            "ALTER TABLE cases DROP COLUMN cameras; ALTER TABLE verdicts RENAME TO new; DROP INDEX verdicts_of_record;"
            "CREATE TABLE verdicts (case_id TEXT NOT NULL REFERENCES cases (id) ON DELETE CASCADE, "
            "record TEXT NOT NULL, author TEXT NOT NULL, key TEXT NOT NULL, verdict TEXT NOT NULL, "
            "note TEXT NOT NULL, time INTEGER NOT NULL, PRIMARY KEY (case_id, record, author)) STRICT, WITHOUT ROWID;"
            "INSERT INTO verdicts SELECT * FROM new; DROP TABLE new;"
            "CREATE INDEX verdicts_of_record ON verdicts (record); PRAGMA user_version = 1;"
        )
    with run_service(bundle, tmp_path) as live:
        found = live.client.get(f"/cases/{case}").json()
        assert (found["cameras"], found["decided"]["same"]) == (None, ["r1"])
        assert live.client.delete(f"/cases/{case}").status_code == 204


def test_erasing_a_person_removes_what_cases_say(bundle: Path, tmp_path: Path) -> None:
    with run_service(bundle, tmp_path) as live:
        fill(live)
        case = create(live, query={"id": "r1"})
        for record in ("r1", "r4", "r2"):
            judge(live, case, record, "same", note="a secret about them")
        answer = live.client.post("/gallery/erase", json={"filter": {"camera_ids": ["cam1"]}}).json()
        assert (answer["erased"], answer["verdicts"]) == (3, 2)
        found = live.client.get(f"/cases/{case}").json()
        assert [each["id"] for each in found["verdicts"]] == ["r2"]
        assert found["query"] is None
        assert live.client.delete("/gallery/r2").status_code == 204
        assert live.client.get(f"/cases/{case}").json()["verdicts"] == []
    for file in tmp_path.glob("cases.sqlite*"):
        assert b"a secret about them" not in file.read_bytes()


def test_an_erasure_lists_the_cases_that_show_the_person_and_its_entry_names_them(bundle: Path, tmp_path: Path) -> None:
    chosen = {"camera_ids": ["cam1"], "after": "2026-05-01T12:00:30Z"}
    with run_service(bundle, tmp_path, thumbnails=2) as live:
        fill(live)  # cam1 has r1, r4 and r7
        footage = create(live, name="footage")
        for _ in range(2):
            assert live.client.post("/search", data={"case": footage}, files=form(tracklet(3))).status_code == 200
        judge(live, footage, "r1", "same", "ann")
        judge(live, footage, "r1", "same", "bob")
        record = create(live, name="record", query={"id": "r4"})
        others = create(live, name="others", query={"embedding": values("x")})
        judge(live, others, "r7", "different")
        judge(live, others, "r0", "same")
        unnamed = create(live, query={"id": "r2"})
        live.client.patch(f"/cases/{record}", json={"status": "closed"}).raise_for_status()
        facts = [
            {"id": others, "name": "others", "status": "open", "query": None, "verdicts": 1},
            {"id": record, "name": "record", "status": "closed", "query": "record", "verdicts": 0},
            {"id": footage, "name": "footage", "status": "open", "query": "footage", "verdicts": 2},
        ]
        dry = live.client.post("/gallery/erase", json={"filter": chosen, "dry_run": True}).json()
        assert (dry["matched"], dry["cases"]) == (3, facts)
        narrow = {"camera_ids": ["cam1"], "before": "2026-05-01T12:00:30Z"}
        assert live.client.post("/gallery/erase", json={"filter": narrow, "dry_run": True}).json()["cases"] == []
        erased = live.client.post("/gallery/erase", json={"filter": chosen}).json()
        assert (erased["erased"], erased["cases"], erased["verdicts"]) == (3, facts, 3)
        (entry,) = live.client.get("/audit", params={"kind": "erase"}).json()["entries"]
        assert (entry["receipt_id"], entry["details"]["cases"]) == (erased["receipt_id"], [footage])
        # The footage stays until a person has looked at it.
        assert live.client.get(f"/cases/{footage}").json()["query"]["pictures"] > 0
        assert live.client.get(f"/cases/{record}").json()["query"] is None
        assert live.client.post("/gallery/erase", json={"filter": chosen}).json()["cases"] == []
        assert live.client.delete("/gallery/r0").status_code == 204
        (entry,) = live.client.get("/audit", params={"kind": "delete"}).json()["entries"]
        assert entry["details"]["cases"] == [others]
        assert live.client.get(f"/cases/{unnamed}").json()["query"]["id"] == "r2"


def test_a_key_that_is_limited_to_cameras_learns_of_no_other_cases(bundle: Path, tmp_path: Path) -> None:
    add_key(tmp_path / "keys.json", "limited", "limited-secret", scopes=("search", "enroll", "erase"), cameras=["cam1"])
    add_key(tmp_path / "keys.json", "boss", "boss-secret", scopes=("admin",))
    with run_service(bundle, tmp_path) as live:
        everything, own = {"X-API-Key": "boss-secret"}, {"X-API-Key": "limited-secret"}
        live.client.headers.update(everything)
        fill(live)
        theirs = create(live, query={"embedding": values("x")})
        judge(live, theirs, "r1", "same")
        live.client.headers.update(own)
        mine = create(live, query={"id": "r1"})
        for dry_run in (True, False):
            body = {"filter": {"camera_ids": ["cam1"]}, "dry_run": dry_run}
            answer = live.client.post("/gallery/erase", json=body).json()
            assert (answer["matched"], [case["id"] for case in answer["cases"]]) == (3, [mine])
        live.client.headers.update(everything)
        (entry,) = live.client.get("/audit", params={"kind": "erase"}).json()["entries"]
        assert entry["details"]["cases"] == [theirs]


def test_an_export_is_complete_deterministic_and_verified(filled: Live, tmp_path: Path) -> None:
    assert filled.client.post("/embed", files=form(tracklet(5, 6)), data={"id": "pictured"}).status_code == 201
    case = create(filled, name=HOSTILE, query={"id": "r0"})
    judge(filled, case, "pictured", "same", "ann", note=HOSTILE)
    judge(filled, case, "r1", "different", "bob")
    answer = filled.client.get(f"/cases/{case}/export")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/zip")
    assert answer.content == filled.client.get(f"/cases/{case}/export").content
    digest = base64.b64encode(hashlib.sha256(answer.content).digest()).decode()
    assert answer.headers["repr-digest"] == f"sha-256=:{digest}:"
    path = tmp_path / "case.zip"
    path.write_bytes(answer.content)
    assert verify_archive(path)[0] == case
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        names = set(archive.namelist())
        content = json.loads(archive.read("case.json"))
        page = archive.read("index.html").decode()
    assert names == {
        "case.json",
        "index.html",
        "manifest.json",
        "pictures/00001-0.jpg",
        "pictures/00001-1.jpg",
    }
    assert (content["name"], content["purpose"]) == (HOSTILE, "case 12/26")
    assert content["model"]["embedding_space"] == filled.client.get("/info").json()["embedding_space"]
    assert [(each["id"], each["verdict"]) for each in content["records"]] == [("pictured", "same"), ("r1", "different")]
    assert content["records"][0]["verdicts"][0]["note"] == HOSTILE
    assert "embedding" not in json.dumps(content["records"])
    assert "<script" not in page
    assert "http:" not in page
    assert "https:" not in page
    assert "pictures/00001-0.jpg" in page


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "field"),
    [
        ("POST", "/cases", {"name": "x"}, 400, "purpose"),
        ("POST", "/cases", {"name": " ", "purpose": "x"}, 400, "name"),
        ("POST", "/cases", {"name": "x", "purpose": "y", "query": {}}, 400, "query"),
        ("POST", "/cases", {"name": "x", "purpose": "y", "query": {"id": "absent"}}, 404, "query.id"),
        ("GET", "/cases/00000000-0000-7000-8000-000000000000", None, 404, "case"),
        ("GET", "/cases/x", None, 400, "case"),
        ("GET", "/cases?status=new", None, 400, "status"),
        ("PUT", "/cases/{case}/verdicts/absent", {"verdict": "same"}, 404, "id"),
        ("PUT", "/cases/{case}/verdicts/r1", {"verdict": "maybe"}, 400, "verdict"),
        ("PUT", "/cases/{case}/verdicts/r1", {"verdict": "same", "note": "x\x00"}, 400, "note"),
        ("PATCH", "/cases/{case}", {"status": "gone"}, 400, "status"),
        ("POST", "/search", {"case": "00000000-0000-7000-8000-000000000000"}, 404, "case"),
        ("POST", "/search", {"case": "x"}, 400, "case"),
    ],
)
def test_wrong_requests_are_refused(filled: Live, method: str, path: str, body: Any, status: int, field: str) -> None:
    case = create(filled)
    answer = filled.client.request(method, path.format(case=case), json=body)
    check_problem(answer, status, "malformed" if status == 400 else "not-found", field=field)


def test_a_case_is_removed(filled: Live) -> None:
    case = create(filled)
    judge(filled, case, "r1", "same")
    for _ in range(2):
        assert filled.client.delete(f"/cases/{case}").status_code == 204
    check_problem(filled.client.get(f"/cases/{case}"), 404, "not-found", field="case")


def test_verdicts_and_exports_are_in_the_audit_log(filled: Live) -> None:
    case = create(filled)
    judge(filled, case, "r1", "same", "ann")
    filled.client.get(f"/cases/{case}/export")
    entries = filled.client.get("/audit?limit=3").json()["entries"]
    assert [each["kind"] for each in entries] == ["export", "verdict", "case"]
    assert entries[1]["details"]["case"] == case
    assert entries[1]["operator"] == "ann"
