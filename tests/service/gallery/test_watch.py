"""Watchlists, alerts and deliveries on every engine."""

import dataclasses
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.gallery import Filter, Gallery, TimeOfDay
from service.gallery.checks import encode, passes
from service.gallery.clock import to_datetime
from service.gallery.watch.matching import Matcher
from service.gallery.watch.records import (
    FIRST_CURSOR,
    Alert,
    AlertQuery,
    AlertRules,
    TooManyWatched,
    Watchlist,
    WatchlistChanged,
    WatchVector,
)
from tests.calibrations import make_calibration
from tests.service.gallery.engines import MILVUS, MilvusDatabase, milvus_database
from tests.service.gallery.samples import DIMENSION, NOON, at, open_gallery, record

ALL = AlertQuery(1000, after=FIRST_CURSOR)


@pytest.fixture(scope="module")
def watch_database(request: pytest.FixtureRequest) -> Iterator[MilvusDatabase]:
    with milvus_database(request.param) as database:
        yield database


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Alerts on Milvus are visible at once."""
    monkeypatch.setattr("service.gallery.milvus.alerts.SETTLE_SECONDS", -1.0, raising=False)


def unit(number: int, cosine: float = 1.0) -> Any:
    vector = np.zeros(DIMENSION, np.float32)
    vector[number] = cosine
    vector[DIMENSION - 1] = np.sqrt(1 - cosine**2)
    return vector


def watchlist(name: str, *vectors: WatchVector, **fields: Any) -> Watchlist:
    values: dict[str, Any] = {
        "name": name,
        "uid": f"uid-{name}",
        "min_score": 0.5,
        "min_probability": None,
        "prior": None,
        "filter": Filter(),
        "cooldown": 0.0,
        "expires_at": None,
        "created_at": NOON,
        "updated_at": NOON,
        "created_by": "tests",
        "vectors": vectors or (WatchVector(unit(0)),),
    }
    return Watchlist(**values | fields)


@pytest.fixture
def watched(any_gallery: Gallery) -> Gallery:
    any_gallery.start_alerts(AlertRules(webhooks={"all": None, "some": frozenset({"w"})}))
    for each in any_gallery.matcher().watchlists:  # a Milvus database is shared by the tests of a module
        any_gallery.delete_watchlist(each.name)
    any_gallery.prune_alerts(at(10**7))
    return any_gallery


def records_of(alerts: Sequence[Alert]) -> list[str]:
    return [alert.record for alert in alerts]


def test_an_alert_is_there_when_the_enrolment_returns(watched: Gallery) -> None:
    assert watched.put_watchlist(watchlist("w"))
    watched.enrol([record("a", embedding=unit(0, 0.9)), record("b", embedding=unit(1))], "error")
    (alert,) = watched.alerts(ALL)
    assert (alert.watchlist, alert.record, alert.camera_id) == ("w", "a", "c1")
    assert alert.score == pytest.approx(0.9)
    assert watched.find_alert(alert.id) == alert
    assert not watched.put_watchlist(watchlist("w", min_score=0.95))
    watched.add(record("c", embedding=unit(0, 0.9)))
    assert records_of(watched.alerts(ALL)) == ["a"]


def test_the_same_tracklet_raises_one_alert(watched: Gallery) -> None:
    watched.put_watchlist(watchlist("w"))
    watched.add(record("a", embedding=unit(0, 0.9)))
    (first,) = watched.alerts(ALL)
    watched.put(record("a", embedding=unit(0, 0.8), camera_id="c2"))
    (again,) = watched.alerts(ALL)
    assert again == dataclasses.replace(first, camera_id="c2")
    watched.update("a", lambda old: dataclasses.replace(old, camera_id="c3"))
    assert [alert.camera_id for alert in watched.alerts(ALL)] == ["c3"]
    watched.put_watchlist(watchlist("w", uid="other"))  # about someone else now
    watched.put(record("a", embedding=unit(0, 0.8)))
    assert records_of(watched.alerts(ALL)) == ["a", "a"]


def test_a_watchlist_replaces_only_the_one_that_it_names(watched: Gallery) -> None:
    assert watched.put_watchlist(watchlist("w"), replaces=None)
    with pytest.raises(WatchlistChanged):
        watched.put_watchlist(watchlist("w", min_score=0.9), replaces=None)
    with pytest.raises(WatchlistChanged):
        watched.put_watchlist(watchlist("w", min_score=0.9), replaces=at(-1))
    with pytest.raises(WatchlistChanged):
        watched.put_watchlist(watchlist("v"), replaces=NOON)
    assert [(each.name, each.min_score) for each in watched.matcher().watchlists] == [("w", 0.5)]
    assert not watched.put_watchlist(watchlist("w", min_score=0.9, updated_at=at(1)), replaces=NOON)
    assert [(each.min_score, each.updated_at) for each in watched.matcher().watchlists] == [(0.9, at(1))]


def test_removed_records_take_their_alerts_along(watched: Gallery) -> None:
    watched.put_watchlist(watchlist("w"))
    names = {"deleted": "c1", "erased": "c2", "expired": "c3", "kept": "c4"}
    for name, camera in names.items():
        ends = to_datetime(10**15) if name == "expired" else None
        watched.add(record(name, embedding=unit(0, 0.9), camera_id=camera, expires_at=ends))
    watched.delete("deleted")
    watched.erase(Filter(camera_ids=("c2",)), dry_run=False)
    watched.expire()
    assert records_of(watched.alerts(ALL)) == ["kept"]
    assert {delivery.alert.record for delivery in watched.claim_deliveries("all", 10, 60)} == {"kept"}


def test_an_erased_example_is_gone_and_an_expired_one_stays(watched: Gallery) -> None:
    vectors = [WatchVector(unit(number), "example", name, "c1") for number, name in enumerate(("a", "b"))]
    watched.put_watchlist(watchlist("w", *vectors))
    watched.add(record("new", embedding=unit(0, 0.9)))
    watched.delete("a")  # it has no record any more, as if it had expired
    (kept,) = watched.matcher().watchlists
    assert [each.record for each in kept.vectors] == ["b"]
    assert [alert.example for alert in watched.alerts(ALL)] == [None]
    watched.add(record("late", embedding=unit(0, 0.9)))
    watched.add(record("other", embedding=unit(1, 0.9)))
    assert records_of(watched.alerts(ALL)) == ["new", "other"]


def test_a_cool_down_looks_at_the_times_of_tracklets(watched: Gallery) -> None:
    watched.put_watchlist(watchlist("w", cooldown=60.0))
    for name, camera, minute in (
        ("a", "c1", 10.0),
        ("b", "c1", 9.5),
        ("c", "c2", 9.5),
        ("d", "c1", 8.5),
        ("e", None, 8),
    ):
        watched.add(record(name, embedding=unit(0, 0.9), camera_id=camera, start_time=at(minute)))
    assert records_of(watched.alerts(ALL)) == ["a", "c", "d", "e"]


def test_alerts_are_read_in_both_directions(watched: Gallery) -> None:
    watched.put_watchlist(watchlist("w"))
    watched.put_watchlist(watchlist("v", WatchVector(unit(1))))
    for number in range(5):
        watched.add(record(f"r{number}", embedding=unit(number % 2, 0.9), camera_id=f"c{number}"))
    ids = [alert.id for alert in watched.alerts(ALL)]
    assert ids == sorted(ids)
    assert records_of(watched.alerts(AlertQuery(2, after=ids[1]))) == ["r2", "r3"]
    assert records_of(watched.alerts(AlertQuery(3))) == ["r4", "r3", "r2"]
    assert records_of(watched.alerts(AlertQuery(10, before=ids[3]))) == ["r2", "r1", "r0"]
    assert records_of(watched.alerts(AlertQuery(10, watchlists=("v",)))) == ["r3", "r1"]
    assert records_of(watched.alerts(AlertQuery(10, after=FIRST_CURSOR, cameras=("c0", "c3")))) == ["r0", "r3"]


def test_alerts_are_found_by_the_time_of_their_verdicts(watched: Gallery) -> None:
    watched.put_watchlist(watchlist("w"))
    watched.put_watchlist(watchlist("v", WatchVector(unit(1))))
    for number in range(6):
        watched.add(record(f"r{number}", embedding=unit(number % 2, 0.9), camera_id=f"c{number}"))
    ids = [alert.id for alert in watched.alerts(ALL)]
    times = {}
    for number in (3, 0, 4, 1):
        judged = watched.judge_alert(ids[number], "ann", "key", "same")
        assert judged
        times[number] = judged.verdicts[-1].time

    def found(number: int | None, **conditions: Any) -> list[str]:
        since = to_datetime(0) if number is None else times[number]
        return records_of(watched.alerts(AlertQuery(**{"limit": 10, "judged_after": since} | conditions)))

    assert found(None) == ["r4", "r3", "r1", "r0"]
    assert found(3) == ["r4", "r1", "r0"]
    assert found(1) == []
    assert found(3, limit=2) == ["r4", "r1"]
    assert found(3, before=ids[4]) == ["r1", "r0"]
    assert found(None, after=ids[1], limit=1) == ["r3"]
    assert found(None, watchlists=("v",)) == ["r3", "r1"]
    assert found(3, cameras=("c0", "c3")) == ["r0"]
    watched.judge_alert(ids[3], "ben", "key", "different")  # an old one again
    assert found(1) == ["r3"]
    for author in ("ann", "ben"):
        watched.judge_alert(ids[3], author, "key", None)
    assert found(None) == ["r4", "r1", "r0"]
    watched.delete("r4")
    assert found(None) == ["r1", "r0"]


def test_verdicts_change_what_is_looked_for(watched: Gallery) -> None:
    watched.put_watchlist(watchlist("w"))
    watched.add(record("a", embedding=unit(0, 0.9)))
    (alert,) = watched.alerts(ALL)
    for author, verdict, role in (("ann", "same", "example"), ("ben", "different", "reject"), ("ann", "unsure", None)):
        judged = watched.judge_alert(alert.id, author, "key", verdict)  # type: ignore[arg-type]
        assert judged
        (found,) = watched.matcher().watchlists
        assert [each.role for each in found.vectors if each.record == "a"] == ([role] if role else [])
    assert [(each.author, each.verdict) for each in judged.verdicts] == [("ben", "different"), ("ann", "unsure")]
    assert watched.judge_alert(alert.id, "ann", "key", None)
    (found,) = watched.matcher().watchlists
    assert [each.role for each in found.vectors if each.record == "a"] == ["reject"]
    assert watched.judge_alert(FIRST_CURSOR, "ann", "key", "same") is None


def test_deliveries_are_claimed_once_and_settled(watched: Gallery) -> None:
    watched.put_watchlist(watchlist("w"))
    watched.put_watchlist(watchlist("v", WatchVector(unit(1))))
    watched.add(record("a", embedding=unit(0, 0.9)))
    watched.add(record("b", embedding=unit(1, 0.9)))
    assert [delivery.alert.record for delivery in watched.claim_deliveries("some", 10, 60)] == ["a"]
    first, second = sorted(watched.claim_deliveries("all", 10, 60), key=lambda delivery: delivery.alert.record)
    assert watched.claim_deliveries("all", 10, 60) == []
    watched.settle_delivery(first, delivered=True)
    watched.settle_delivery(second, delivered=False, again_at=NOON)
    (again,) = watched.claim_deliveries("all", 10, 60)
    assert (again.alert.record, again.tries) == ("b", 1)
    watched.settle_delivery(second, delivered=True)  # its claim is over
    counts = watched.count_deliveries()["all"]
    assert (counts.waiting, counts.dead) == (1, 0)
    watched.settle_delivery(again, delivered=False)
    counts = watched.count_deliveries()["all"]
    assert (counts.waiting, counts.dead) == (0, 1)


def test_watchlists_end_and_are_bounded(watched: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    watched.put_watchlist(watchlist("w", expires_at=NOON))  # years ago
    watched.add(record("a", embedding=unit(0, 0.9)))
    assert watched.alerts(ALL) == []
    watched.prune_alerts(NOON)
    assert watched.matcher().watchlists == ()
    watched.put_watchlist(watchlist("one"))
    for module in ("embedded", "milvus"):
        monkeypatch.setattr(f"service.gallery.{module}.alerts.MAX_ENTRIES", 1, raising=False)
    watched.put_watchlist(watchlist("one"))
    with pytest.raises(TooManyWatched):
        watched.put_watchlist(watchlist("two"))


def test_without_start_nothing_is_compared(tmp_path: Path) -> None:
    opened = open_gallery(tmp_path)
    opened.start_alerts(AlertRules())
    opened.put_watchlist(watchlist("w", WatchVector(unit(0), "example", "example")))
    opened.close()
    opened = open_gallery(tmp_path)
    opened.add(record("a", embedding=unit(0, 0.9)))
    assert opened.alerts(ALL) == []
    opened.delete("example")
    opened.start_alerts(AlertRules())
    assert [each.vectors for each in opened.matcher().watchlists] == [()]
    opened.close()


@pytest.mark.parametrize("watch_database", MILVUS, indirect=True)
def test_replicas_share_watchlists_and_raise_each_alert_once(watch_database: MilvusDatabase) -> None:
    replicas = [watch_database.open() for _ in range(2)]
    seen: list[Alert] = []
    lock = threading.Lock()

    def note(alerts: Sequence[Alert]) -> None:
        with lock:
            seen.extend(alerts)

    for replica in replicas:
        replica.start_alerts(AlertRules(webhooks={"all": None}, on_alerts=note))
    replicas[0].put_watchlist(watchlist("w"))
    with ThreadPoolExecutor(8) as pool:  # each record through both replicas at the same time
        list(
            pool.map(
                lambda number: replicas[number % 2].put(record(f"r{number // 2}", embedding=unit(0, 0.9))), range(16)
            )
        )
    assert sorted(records_of(seen)) == sorted({f"r{number}" for number in range(8)})
    for replica in replicas:
        assert sorted(records_of(replica.alerts(ALL))) == sorted(records_of(seen))
    with ThreadPoolExecutor(4) as pool:
        claimed = pool.map(lambda number: replicas[number % 2].claim_deliveries("all", 4, 60), range(6))
    delivered = [delivery.alert.record for some in claimed for delivery in some]
    assert len(delivered) == len(set(delivered))
    for replica in replicas:
        replica.close()


@pytest.mark.parametrize("watch_database", MILVUS, indirect=True)
def test_an_alert_whose_record_was_never_written_is_not_returned(
    watch_database: MilvusDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = watch_database.open()
    opened.start_alerts(AlertRules(webhooks={"orphans": None}))
    opened.put_watchlist(watchlist("orphan", WatchVector(unit(3))))

    def fail(*_: object) -> None:
        raise RuntimeError("killed")

    after = AlertQuery(10, after=FIRST_CURSOR, watchlists=("orphan",))
    with monkeypatch.context() as patched:
        patched.setattr(opened._connection, "upsert", _failing_for(opened, fail))  # type: ignore[attr-defined]
        with pytest.raises(RuntimeError):
            opened.put(record("o", embedding=unit(3, 0.9)))
    assert opened.alerts(after) == []
    assert opened.claim_deliveries("orphans", 10, 0) == []
    opened.put(record("o", embedding=unit(3, 0.9)))
    assert records_of(opened.alerts(after)) == ["o"]
    assert [each.alert.record for each in opened.claim_deliveries("orphans", 10, 60)] == ["o"]
    opened.close()


@pytest.mark.parametrize("watch_database", MILVUS, indirect=True)
def test_an_example_that_is_erased_during_an_enrolment_is_in_no_alert(
    watch_database: MilvusDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    enrolling, erasing = watch_database.open(), watch_database.open()
    for replica in (enrolling, erasing):
        replica.start_alerts(AlertRules())
    enrolling.put(record("example", embedding=unit(4)))
    example = WatchVector(unit(4), "example", "example", "c1")
    enrolling.put_watchlist(watchlist("race", example))
    write = enrolling._watch._write_alert  # type: ignore[attr-defined]

    def erase_first(*arguments: Any) -> Any:
        assert erasing.delete("example")
        return write(*arguments)

    monkeypatch.setattr(enrolling._watch, "_write_alert", erase_first)  # type: ignore[attr-defined]
    enrolling.put(record("seen", embedding=unit(4, 0.9)))
    (alert,) = enrolling.alerts(AlertQuery(10, after=FIRST_CURSOR, watchlists=("race",)))
    assert (alert.record, alert.example, alert.example_camera) == ("seen", None, None)
    # The same for a watchlist that is put while its example is erased.
    erasing.put(record("example", embedding=unit(4)))
    forget = erasing._watch.forget  # type: ignore[attr-defined]

    def put_after(ids: Sequence[str]) -> None:
        forget(ids)
        monkeypatch.setattr(erasing._watch, "forget", forget)  # type: ignore[attr-defined]
        enrolling.put_watchlist(watchlist("race", example, uid="put again"))

    monkeypatch.setattr(erasing._watch, "forget", put_after)  # type: ignore[attr-defined]
    assert erasing.delete("example")
    assert [each.vectors for each in enrolling._watch.refresh().watchlists if each.name == "race"] == [()]  # type: ignore[attr-defined]
    for replica in (enrolling, erasing):
        replica.close()


def _failing_for(gallery: Any, fail: Any) -> Any:
    upsert = gallery._connection.upsert
    return lambda collection, rows: fail() if collection == gallery._records else upsert(collection, rows)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["c1", "c2", None]),
            st.one_of(st.none(), st.integers(-3000, 3000)),
            st.one_of(st.none(), st.integers(0, 2000)),
            st.sampled_from([{}, {"a": 1}, {"a": "1", "b": True}]),
        ),
        min_size=1,
        max_size=6,
    ),
    st.fixed_dictionaries(
        {},
        optional={
            "camera_ids": st.sampled_from([(), ("c1",), ("c1", "c2")]),
            "exclude_camera_ids": st.just(("c2",)),
            "after": st.integers(-3000, 0).map(at),
            "before": st.integers(0, 3000).map(at),
            "metadata": st.sampled_from([{"a": 1}, {"b": True}]),
            "metadata_texts": st.just({"a": "1"}),
            "created_after": st.sampled_from([NOON, at(1)]),
            "time_of_day": st.builds(
                TimeOfDay, st.integers(0, 43_000), st.integers(43_001, 86_400), st.sampled_from([0, 7200, -3600])
            ),
            "exclude_ids": st.just(("r0",)),
        },
    ),
)
@settings(max_examples=40, deadline=None)
def test_a_row_passes_a_filter_as_in_a_search(
    filter_gallery: Gallery, rows: list[tuple[Any, ...]], conditions: dict[str, Any]
) -> None:
    records = [
        record(
            f"r{number}",
            camera_id=camera,
            start_time=None if start is None else at(start),
            end_time=None if length is None else at((start or 0) + length),
            metadata=metadata,
        )
        for number, (camera, start, length, metadata) in enumerate(rows)
    ]
    filter_gallery.enrol(records, "replace")
    chosen = Filter(**conditions)
    found = {each.id for each in filter_gallery.list(chosen, limit=100).items}
    for each in records:
        assert passes(encode(each, DIMENSION), chosen) == (each.id in found)


@pytest.fixture(scope="module")
def filter_gallery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gallery]:
    opened = open_gallery(tmp_path_factory.mktemp("filters"))
    yield opened
    opened.close()


def test_rejects_can_only_take_alerts_away() -> None:
    generator = np.random.default_rng(0)
    vectors = generator.standard_normal((300, DIMENSION))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    examples = [WatchVector(each) for each in vectors[:5]]
    rejects = [WatchVector(each, "reject") for each in vectors[5:9]]
    calibration = make_calibration()
    for fields in ({"min_score": 0.3}, {"min_score": None, "min_probability": 0.4, "prior": 0.3}):
        plain = Matcher([watchlist("w", *examples, **fields)], calibration, DIMENSION)
        rejecting = Matcher([watchlist("w", *examples, *rejects, **fields)], calibration, DIMENSION)
        found = 0
        for number, each in enumerate(vectors[9:]):
            row = encode(record(f"r{number}", embedding=each), DIMENSION)
            before, after = plain.match(row, 0), rejecting.match(row, 0)
            assert len(after) <= len(before)
            if after:
                assert after[0].score <= before[0].score + 1e-12
                found += 1
        assert 0 < found < len(vectors) - 9


def test_a_matcher_compares_as_a_loop_does() -> None:
    generator = np.random.default_rng(1)
    vectors = generator.standard_normal((130, DIMENSION))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    lists = [
        watchlist(f"w{number}", *(WatchVector(each) for each in vectors[3 * number : 3 * number + 3]), min_score=0.6)
        for number in range(10)
    ]
    matcher = Matcher(lists, None, DIMENSION)
    assert matcher.entries == 30
    for number, each in enumerate(vectors[30:]):
        row = encode(record(f"r{number}", embedding=each), DIMENSION)
        expected = {}
        for one in lists:
            score = max(float(np.dot(each.astype(float), entry.vector.astype(float))) for entry in one.vectors)
            if score >= 0.6:
                expected[one.name] = score
        found = {match.watchlist.name: match.score for match in matcher.match(row, 0)}
        assert found == pytest.approx(expected, abs=1e-6)


def test_a_watchlist_that_cannot_raise_alerts_says_why() -> None:
    lists = [
        watchlist("empty", vectors=()),
        watchlist("uncalibrated", min_score=None, min_probability=0.5, prior=0.1),
    ]
    faults = Matcher(lists, None, DIMENSION).faults
    assert "erased" in faults["empty"]
    assert "min_score" in faults["uncalibrated"]
    unreachable = watchlist("unreachable", min_score=None, min_probability=0.99, prior=0.01)
    assert "larger prior" in Matcher([unreachable], make_calibration(), DIMENSION).faults["unreachable"]
