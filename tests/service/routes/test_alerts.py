"""Watchlists and alerts over HTTP: thresholds, cool-down, erasure and verdicts."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from model.bundle import Bundle
from service.gallery.watch.records import MAX_VECTORS
from service.http.alert_schemas import AlertAnswer, WatchlistAnswer
from service.http.responses import INLINE_RECORDS
from service.routes import watchlists
from tests.calibrations import make_calibration
from tests.service.live import Live, run_service, wait_for
from tests.service.problem import check_problem
from tests.service.threads import note_threads
from tests.service.watching import alerts_of, enrol, near, watch


@pytest.fixture(scope="module")
def calibrated(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = tmp_path_factory.mktemp("calibrated")
    path = folder / "site.json"
    path.write_text(make_calibration(embedding_space=Bundle.load(bundle).embedding_space).to_json())
    with run_service(bundle, folder / "data", calibration=path) as live:
        yield live


def test_an_alert_names_record_example_and_score_and_no_vector(shared: Live) -> None:
    enrol(shared, "a-example", near(0, 1.0), "door")
    made = watch(shared, "a", ids=["a-example"])
    assert made["active"]
    assert made["threshold"] == 0.5
    assert made["reason"] is None
    assert made["examples"] == [{"id": "a-example", "camera_id": "door", "source": "request"}]
    enrol(shared, "a-new", near(0, 0.8), "gate", start_time="2026-05-01T12:00:00Z", end_time="2026-05-01T12:00:05Z")
    enrol(shared, "a-other", near(0, 0.4), "gate")
    (alert,) = alerts_of(shared, "a")
    assert alert["score"] == pytest.approx(0.8, abs=1e-6)
    facts = {"watchlist": "a", "record_id": "a-new", "camera_id": "gate", "example_id": "a-example"}
    facts |= {"start_time": "2026-05-01T12:00:00Z", "end_time": "2026-05-01T12:00:05Z", "probability": None}
    assert alert | facts == alert
    assert "embedding" not in json.dumps(alert)
    assert shared.client.get(f"/alerts/{alert['id']}").json() == alert
    assert AlertAnswer.model_validate_json(json.dumps(alert)).record_id == "a-new"


def test_a_list_of_watchlists_is_written_outside_the_event_loop(shared: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    """A filter can name thousands of cameras, and there can be a thousand watchlists."""
    for number in range(INLINE_RECORDS + 1):
        watch(shared, f"many-{number}", embeddings=[near(0, 1.0)], filter={"camera_ids": ["elsewhere"]})
    one = shared.client.get("/watchlists/many-0").json()
    written = note_threads(monkeypatch, WatchlistAnswer, "__init__")
    listed = shared.client.get("/watchlists").json()["items"]
    assert len(listed) == len(written) > INLINE_RECORDS
    assert not any(written)
    assert one in listed
    for number in range(INLINE_RECORDS + 1):
        assert shared.client.delete(f"/watchlists/many-{number}").status_code == 204


def test_a_tracklet_raises_one_alert_also_if_it_is_replaced(shared: Live) -> None:
    watch(shared, "b", embeddings=[near(1, 1.0)])
    enrol(shared, "b-1", near(1, 0.3))
    assert alerts_of(shared, "b") == []
    enrol(shared, "b-1", near(1, 0.9))
    (first,) = alerts_of(shared, "b")
    enrol(shared, "b-1", near(1, 0.95), "door")
    (again,) = alerts_of(shared, "b")
    assert again == first | {"camera_id": "door"}


def test_a_cool_down_is_of_one_watchlist_and_camera(shared: Live) -> None:
    watch(shared, "c", embeddings=[near(2, 1.0)], cooldown=60)
    for id_, camera, at in (("c-1", "gate", "12:00:00"), ("c-2", "gate", "12:00:59"), ("c-3", "door", "12:00:30"),
                            ("c-4", "gate", "12:01:00"), ("c-5", "gate", "11:59:30")):  # fmt: skip
        enrol(shared, id_, near(2, 0.9), camera, start_time=f"2026-05-01T{at}Z")
    assert [alert["record_id"] for alert in alerts_of(shared, "c")] == ["c-4", "c-3", "c-1"]


def test_a_filter_limits_what_is_compared(shared: Live) -> None:
    watch(shared, "d", embeddings=[near(3, 1.0)], filter={"camera_ids": ["gate"], "metadata": {"zone": "in"}})
    enrol(shared, "d-1", near(3, 0.9), "door", metadata={"zone": "in"})
    enrol(shared, "d-2", near(3, 0.9), "gate", metadata={"zone": "out"})
    enrol(shared, "d-3", near(3, 0.9), "gate", metadata={"zone": "in"})
    assert [alert["record_id"] for alert in alerts_of(shared, "d")] == ["d-3"]


def test_the_best_example_counts(shared: Live) -> None:
    enrol(shared, "e-far", near(4, 0.8), "door")
    enrol(shared, "e-near", near(4, 1.0), "yard")
    watch(shared, "e", ids=["e-far", "e-near"])
    enrol(shared, "e-new", near(4, 0.95, other=30))
    (alert,) = alerts_of(shared, "e")
    assert alert["example_id"] == "e-near"


def test_an_erased_example_leaves_its_watchlist_and_alerts(shared: Live) -> None:
    enrol(shared, "f-example", near(5, 1.0), "f-camera")
    watch(shared, "f", ids=["f-example"])
    enrol(shared, "f-1", near(5, 0.9))
    assert shared.client.delete("/gallery/f-example").status_code == 204
    (alert,) = alerts_of(shared, "f")
    assert alert["example_id"] is None
    found = shared.client.get("/watchlists/f").json()
    assert not found["active"]
    assert found["examples"] == []
    assert "erased" in found["reason"]
    enrol(shared, "f-2", near(5, 0.9))
    assert len(alerts_of(shared, "f")) == 1
    entries = shared.client.get("/audit", params={"kind": "watchlist", "limit": 1000}).json()["entries"]
    assert "f-example" not in json.dumps(entries)


def test_an_example_that_is_erased_while_its_watchlist_is_put_is_not_kept(
    shared: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, cosine in (("fe-kept", 0.9), ("fe-erased", 1.0)):
        enrol(shared, name, near(16, cosine))
    check = watchlists._check_threshold

    def erase_first(*arguments: Any) -> None:
        shared.service.gallery._gallery.delete("fe-erased")
        check(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(watchlists, "_check_threshold", erase_first)
        made = watch(shared, "fe", ids=["fe-kept", "fe-erased"])
    assert [each["id"] for each in made["examples"]] == ["fe-kept"]
    vectors = shared.service.gallery._gallery.matcher().watchlists
    assert [[each.record for each in one.vectors] for one in vectors if one.name == "fe"] == [["fe-kept"]]


@pytest.mark.parametrize("makes", [True, False])
def test_a_name_that_exists_is_not_replaced_by_a_watchlist_that_must_be_new(shared: Live, makes: bool) -> None:
    name = f"once-{makes}"
    if not makes:
        watch(shared, name, embeddings=[near(18, 1.0)], min_score=0.9)
    body = {"embeddings": [near(19, 1.0)], "min_score": 0.5}
    answer = shared.client.put(f"/watchlists/{name}", json=body, headers={"If-None-Match": "*"})
    if makes:
        assert answer.status_code == 201, answer.text
        assert answer.headers["etag"] == shared.client.get(f"/watchlists/{name}").headers["etag"]
        answer = shared.client.put(f"/watchlists/{name}", json=body, headers={"If-None-Match": "*"})
    detail = check_problem(answer, 412, "precondition-failed")
    assert f"the watchlist {name} exists" in str(detail)
    assert shared.client.get(f"/watchlists/{name}").json()["min_score"] == (0.5 if makes else 0.9)


def test_a_watchlist_is_changed_only_if_it_is_the_one_that_was_read(shared: Live) -> None:
    watch(shared, "match", embeddings=[near(18, 1.0)])
    read = shared.client.get("/watchlists/match")
    tag = read.headers["etag"]
    assert tag == f'"{read.json()["updated_at"]}"'
    (listed,) = [each for each in shared.client.get("/watchlists").json()["items"] if each["name"] == "match"]
    assert tag == f'"{listed["updated_at"]}"'

    def change(least: float, if_match: str) -> httpx.Response:
        return shared.client.put("/watchlists/match", json={"min_score": least}, headers={"If-Match": if_match})

    changed = change(0.6, f'"other", {tag}')
    assert changed.status_code == 200, changed.text
    check_problem(change(0.7, tag), 412, "precondition-failed")
    assert change(0.8, "*").status_code == 200
    assert change(0.9, changed.headers["etag"]).status_code == 412
    assert shared.client.get("/watchlists/match").json()["min_score"] == 0.8
    shared.client.delete("/watchlists/match")
    assert change(0.9, "*").status_code == 412
    detail = check_problem(
        shared.client.put("/watchlists/match", json={"min_score": 0.5}, headers={"If-None-Match": tag}),
        400,
        "malformed",
    )
    assert "must be *" in str(detail)


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Do something once, after a `PUT` has read the watchlist and before it stores it."""

    def arrange(work: Any) -> None:
        check, left = watchlists._check_threshold, [work]

        def first(*arguments: Any) -> None:
            if left:
                left.pop()()
            check(*arguments)

        monkeypatch.setattr(watchlists, "_check_threshold", first)

    return arrange


def test_of_two_operators_who_make_a_watchlist_at_once_one_is_refused(shared: Live, meanwhile: Any) -> None:
    gallery = shared.service.gallery._gallery
    watch(shared, "twin", embeddings=[near(18, 1.0)], min_score=0.9)
    (other,) = [each for each in gallery.matcher().watchlists if each.name == "twin"]
    shared.client.delete("/watchlists/twin")
    meanwhile(lambda: gallery.put_watchlist(other))
    body = {"embeddings": [near(19, 1.0)], "min_score": 0.5}
    answer = shared.client.put("/watchlists/twin", json=body, headers={"If-None-Match": "*"})
    check_problem(answer, 412, "precondition-failed")
    assert shared.client.get("/watchlists/twin").json()["min_score"] == 0.9
    entries = shared.client.get("/audit", params={"kind": "watchlist", "limit": 2}).json()["entries"]
    assert {each["details"]["change"] for each in entries} >= {"not made"}


def test_a_change_of_settings_does_not_bring_back_examples_that_were_replaced_and_erased(
    shared: Live, meanwhile: Any
) -> None:
    gallery = shared.service.gallery._gallery
    for name in ("back-old", "back-new"):
        enrol(shared, name, near(18, 1.0))
    watch(shared, "back", ids=["back-new"])
    (other,) = [each for each in gallery.matcher().watchlists if each.name == "back"]
    shared.client.delete("/watchlists/back")
    watch(shared, "back", ids=["back-old"])

    def replace_and_erase() -> None:
        gallery.put_watchlist(other)
        gallery.delete("back-old")

    meanwhile(replace_and_erase)
    made = watch(shared, "back", min_score=0.75)
    assert made["min_score"] == 0.75
    assert [each["id"] for each in made["examples"]] == ["back-new"]


def test_a_change_of_settings_does_not_bring_back_a_watchlist_that_was_deleted(shared: Live, meanwhile: Any) -> None:
    watch(shared, "gone", embeddings=[near(18, 1.0)])
    meanwhile(lambda: shared.service.gallery._gallery.delete_watchlist("gone"))
    answer = shared.client.put("/watchlists/gone", json={"min_score": 0.75})
    assert answer.status_code == 400, answer.text
    assert shared.client.get("/watchlists/gone").status_code == 404


def test_an_alert_is_raised_at_exactly_the_threshold(shared: Live) -> None:
    seen = near(17, 0.6137)
    watch(shared, "ex", embeddings=[near(17, 1.0)])
    enrol(shared, "ex-1", seen)
    (alert,) = alerts_of(shared, "ex")
    score = alert["score"]
    for name, least in (("ex-at", score), ("ex-above", float(np.nextafter(score, 2)))):
        watch(shared, name, embeddings=[near(17, 1.0)], min_score=least)
    enrol(shared, "ex-2", seen)
    assert [one["score"] for one in alerts_of(shared, "ex-at")] == [score]
    assert alerts_of(shared, "ex-above") == []


def test_erasing_a_person_removes_their_alerts(shared: Live) -> None:
    watch(shared, "g", embeddings=[near(6, 1.0)])
    for id_ in ("g-1", "g-2", "g-3"):
        enrol(shared, id_, near(6, 0.9), "g-camera" if id_ != "g-1" else "g-other")
    cursor = shared.client.get("/alerts").json()["cursor"]
    assert shared.client.delete("/gallery/g-1").status_code == 204
    answer = shared.client.post("/gallery/erase", json={"filter": {"camera_ids": ["g-camera"]}, "dry_run": False})
    assert answer.json()["erased"] == 2
    assert alerts_of(shared, "g") == []
    enrol(shared, "g-1", near(6, 0.9))
    assert [alert["record_id"] for alert in alerts_of(shared, "g", after=cursor)] == ["g-1"]


def test_pages_of_alerts_join_without_gap(shared: Live) -> None:
    watch(shared, "h", embeddings=[near(7, 1.0)])
    for number in range(5):
        enrol(shared, f"h-{number}", near(7, 0.9))
    newest = shared.client.get("/alerts", params={"watchlist": "h", "limit": 2}).json()
    assert [item["record_id"] for item in newest["items"]] == ["h-4", "h-3"]
    assert newest["more"]
    assert newest["cursor"] == newest["items"][0]["id"]
    older = alerts_of(shared, "h", before=newest["items"][-1]["id"])
    assert [item["record_id"] for item in older] == ["h-2", "h-1", "h-0"]
    after = shared.client.get("/alerts", params={"watchlist": "h", "after": older[-1]["id"], "limit": 3}).json()
    assert [item["record_id"] for item in after["items"]] == ["h-1", "h-2", "h-3"]
    assert after["more"]
    assert after["cursor"] == after["items"][-1]["id"]
    assert shared.client.get("/alerts", params={"after": newest["cursor"]}).json()["cursor"] >= newest["cursor"]


def test_verdicts_become_examples_and_rejects(shared: Live) -> None:
    watch(shared, "i", embeddings=[near(8, 1.0)], min_score=0.6)
    enrol(shared, "i-1", near(8, 0.7, other=9))
    enrol(shared, "i-2", near(8, 0.65, other=10))
    first, second = reversed(alerts_of(shared, "i"))
    for alert, verdict in ((first, "same"), (second, "different")):
        answer = shared.client.put(f"/alerts/{alert['id']}/verdict", json={"verdict": verdict})
        assert answer.json()["verdict"] == verdict, answer.text
    found = shared.client.get("/watchlists/i").json()
    assert [each["id"] for each in found["examples"]] == [None, "i-1"]
    assert found["rejects"] == [{"id": "i-2", "camera_id": "gate", "source": "verdict"}]
    enrol(shared, "i-3", near(9, 0.95))  # like the confirmed one, and unlike the first example
    enrol(shared, "i-4", near(8, 0.65, other=10))  # like the rejected one
    assert [alert["record_id"] for alert in alerts_of(shared, "i", after=second["id"])] == ["i-3"]
    # Thresholds can be changed without losing what verdicts brought.
    assert len(watch(shared, "i", min_score=0.5)["rejects"]) == 1
    answer = shared.client.delete(f"/alerts/{second['id']}/verdict")
    assert answer.json()["verdict"] is None
    assert answer.json()["verdicts"] == []
    assert shared.client.get("/watchlists/i").json()["rejects"] == []
    kinds = {entry["kind"] for entry in shared.client.get("/audit", params={"limit": 20}).json()["entries"]}
    assert {"verdict", "watchlist"} <= kinds


def test_two_operators_must_agree_if_the_setting_says_so(bundle: Path, tmp_path: Path) -> None:
    with run_service(bundle, tmp_path, confirmations=2, trust_operator=True) as live:
        watch(live, "two", embeddings=[near(0, 1.0)])
        enrol(live, "two-1", near(0, 0.9))
        (alert,) = alerts_of(live, "two")
        for operator, counts in (("ann", None), ("ann", None), ("ben", "same")):
            answer = live.client.put(
                f"/alerts/{alert['id']}/verdict", json={"verdict": "same"}, headers={"X-Operator": operator}
            )
            assert answer.json()["verdict"] == counts
        assert len(live.client.get("/watchlists/two").json()["examples"]) == 2


def test_a_case_becomes_a_watchlist(shared: Live) -> None:
    for id_, cosine, other in (("j-query", 1.0, 31), ("j-same", 0.8, 12), ("j-other", 0.7, 13)):
        enrol(shared, id_, near(11, cosine, other))
    case = shared.client.post("/cases", json={"name": "j", "purpose": "test", "query": {"id": "j-query"}}).json()["id"]
    for id_, verdict in (("j-same", "same"), ("j-other", "different")):
        assert shared.client.put(f"/cases/{case}/verdicts/{id_}", json={"verdict": verdict}).status_code == 200
    made = watch(shared, "j", case=case)
    assert {each["id"] for each in made["examples"]} == {"j-query", "j-same"}
    assert [each["id"] for each in made["rejects"]] == ["j-other"]
    enrol(shared, "j-new", near(11, 0.9, 12))
    assert [alert["record_id"] for alert in alerts_of(shared, "j")] == ["j-new"]


def test_of_a_case_only_the_records_are_read_that_the_watchlist_keeps(
    shared: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A case may have thousands of verdicts, and each record its vector and metadata."""
    case = shared.client.post("/cases", json={"name": "large", "purpose": "test"}).json()["id"]
    for number in range(MAX_VECTORS + 40):
        enrol(shared, f"large-{number}", near(20, 0.9))
        verdict = "same" if number % 70 == 0 else "different" if number % 10 else "unsure"
        shared.client.put(f"/cases/{case}/verdicts/large-{number}", json={"verdict": verdict}).raise_for_status()
    gallery, read = shared.service.gallery._gallery, list[str]()
    get_all = gallery.get_all
    monkeypatch.setattr(gallery, "get_all", lambda ids, **more: read.extend(ids) or get_all(ids, **more))
    made = watch(shared, "large", case=case)
    assert {each["id"] for each in made["examples"]} == {"large-0", "large-70"}
    assert len(made["rejects"]) == MAX_VECTORS
    assert set(read) == {each["id"] for each in [*made["examples"], *made["rejects"]]}


def test_a_case_with_too_many_confirmed_records_is_refused_before_they_are_read(
    shared: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = shared.client.post("/cases", json={"name": "many", "purpose": "test"}).json()["id"]
    for number in range(MAX_VECTORS):
        enrol(shared, f"many-{number}", near(20, 0.9))
        shared.client.put(f"/cases/{case}/verdicts/many-{number}", json={"verdict": "same"}).raise_for_status()
    gallery, read = shared.service.gallery._gallery, list[str]()
    get_all = gallery.get_all
    monkeypatch.setattr(gallery, "get_all", lambda ids, **more: read.extend(ids) or get_all(ids, **more))
    body = {"case": case, "embeddings": [near(20, 1.0)], "min_score": 0.5}
    answer = shared.client.put("/watchlists/many", json=body)
    assert f"at most {MAX_VECTORS} (got {MAX_VECTORS + 1})" in answer.json()["detail"]
    assert read == []


def test_a_probability_needs_a_calibration(shared: Live) -> None:
    body = {"embeddings": [near(14, 1.0)], "min_probability": 0.5}
    detail = check_problem(shared.client.put("/watchlists/p", json=body), 409, "not-calibrated")
    assert "not3d calibrate" in str(detail)


def test_a_probability_is_the_calibrations_with_the_odds_shared_by_the_examples(calibrated: Live) -> None:
    calibration = make_calibration()
    watch(calibrated, "p", embeddings=[near(0, 1.0)], min_score=None, min_probability=0.6, prior=0.2)
    watch(calibrated, "q", embeddings=[near(0, 1.0), near(1, 1.0)], prior=0.2)
    enrol(calibrated, "p-1", near(0, 0.7))
    ((first,), (second,)) = alerts_of(calibrated, "p"), alerts_of(calibrated, "q")
    assert first["probability"] == pytest.approx(calibration.probability([0.7], 0.2)[0], abs=1e-4)
    shared_odds = 0.2 / 0.8 / 2
    expected = calibration.probability([0.7], shared_odds / (1 + shared_odds))[0]
    assert second["probability"] == pytest.approx(expected, abs=1e-4)
    assert first["calibration"]["prior"] == 0.2
    assert first["calibration"]["source"] == "site"
    enrol(calibrated, "p-2", near(0, 0.6))
    assert len(alerts_of(calibrated, "p")) == 1
    assert len(alerts_of(calibrated, "q")) == 2


def test_a_probability_that_no_score_reaches_is_refused(calibrated: Live) -> None:
    body = {"embeddings": [near(0, 1.0)], "min_probability": 0.99, "prior": 0.001}
    detail = check_problem(calibrated.client.put("/watchlists/r", json=body), 409, "not-calibrated")
    assert "larger prior" in str(detail)


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({"embeddings": [near(0, 1.0)]}, 400, "min_score"),
        ({"min_score": 0.5}, 400, "ids"),
        ({"min_score": 0.5, "min_probability": 0.5, "embeddings": [near(0, 1.0)]}, 400, "min_score"),
        ({"min_score": 0.5, "embeddings": [[1.0, 2.0]]}, 409, "embeddings[0]"),
        ({"min_score": 0.5, "embeddings": [near(0, 1.0)], "embedding_space": "other"}, 409, "embedding_space"),
        ({"min_score": 0.5, "ids": ["missing"]}, 404, "ids[0]"),
        ({"min_score": 0.5, "embeddings": [near(0, 1.0)], "expires_at": "2020-01-01T00:00:00Z"}, 400, "expires_at"),
        ({"min_score": 1.5, "embeddings": [near(0, 1.0)]}, 400, "min_score"),
        ({"min_score": 0.5, "embeddings": [near(0, 1.0)], "extra": 1}, 400, "extra"),
    ],
)
def test_a_watchlist_that_cannot_work_is_refused(shared: Live, body: Any, status: int, field: str) -> None:
    answer = shared.client.put("/watchlists/refused", json=body)
    assert answer.status_code == status, answer.text
    assert field in [error["field"] for error in answer.json()["errors"]]
    assert shared.client.get("/watchlists/refused").status_code == 404


def test_a_watchlist_ends_at_its_time(bundle: Path, tmp_path: Path, clock: Callable[[float], None]) -> None:
    with run_service(bundle, tmp_path, sweep_seconds=0.2) as live:
        ends = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3600))
        watch(live, "short", embeddings=[near(0, 1.0)], expires_at=ends)
        clock(3600)
        wait_for(lambda: live.client.get("/watchlists/short").status_code == 404)
        enrol(live, "late", near(0, 0.9))
        assert alerts_of(live, "short") == []


def test_a_deleted_watchlist_raises_no_alert_and_keeps_its_old_ones(shared: Live) -> None:
    watch(shared, "k", embeddings=[near(15, 1.0)])
    enrol(shared, "k-1", near(15, 0.9))
    for _ in range(2):
        assert shared.client.delete("/watchlists/k").status_code == 204
    enrol(shared, "k-2", near(15, 0.9))
    (alert,) = alerts_of(shared, "k")
    assert shared.client.put(f"/alerts/{alert['id']}/verdict", json={"verdict": "same"}).status_code == 200


def test_watchlists_and_alerts_survive_a_restart(bundle: Path, tmp_path: Path) -> None:
    with run_service(bundle, tmp_path) as live:
        watch(live, "w", embeddings=[near(0, 1.0)], cooldown=60)
        enrol(live, "w-1", near(0, 0.9), start_time="2026-05-01T12:00:00Z")
        before = live.client.get("/watchlists").json(), alerts_of(live, "w")
    with run_service(bundle, tmp_path) as live:
        assert (live.client.get("/watchlists").json(), alerts_of(live, "w")) == before
        for number, seconds in ((2, 59), (3, 0)):  # the cool-down goes on too
            enrol(live, f"w-{number}", near(0, 0.9), start_time=f"2026-05-01T12:0{number - 2}:{seconds:02}Z")
        assert [alert["record_id"] for alert in alerts_of(live, "w")] == ["w-3", "w-1"]
