"""Replicas, as galleries of one collection, that change the same records at the same time."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

pytest.importorskip("pymilvus")

from service.gallery import DuplicateId, Filter, GalleryUnavailable, clock
from service.gallery.milvus import distributed_locks
from service.gallery.milvus import gallery as milvus_gallery
from tests.service.gallery.engines import MILVUS, MilvusDatabase, milvus_database
from tests.service.gallery.samples import at, record


@pytest.fixture(scope="module", params=MILVUS)
def database(request: pytest.FixtureRequest) -> Iterator[MilvusDatabase]:
    with milvus_database(request.param) as database:
        database.open().close()
        yield database


@pytest.fixture
def replicas(database: MilvusDatabase) -> Iterator[list[Any]]:
    database.empty()
    opened = [database.open() for _ in range(3)]
    yield opened
    for one in opened:
        one.close()


def at_once(calls: list[Any]) -> list[Any]:
    """Run the calls at the same time, and return what each returned or raised."""
    together = threading.Barrier(len(calls))

    def run(call: Any) -> Any:
        together.wait()
        try:
            return call()
        except DuplicateId as error:
            return error

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


@pytest.mark.parametrize("name", [f"n{number}" for number in range(5)])
def test_of_replicas_adding_one_id_at_once_exactly_one_wins(replicas: list[Any], name: str) -> None:
    answers = at_once([partial(one.add, record(name, camera_id=f"r{i}")) for i, one in enumerate(replicas)])
    won = [i for i, answer in enumerate(answers) if answer is None]
    assert len(won) == 1, answers
    assert all(one.get(name).camera_id == f"r{won[0]}" for one in replicas)
    assert replicas[0].count() == 1


@pytest.mark.parametrize("name", [f"n{number}" for number in range(3)])
def test_of_replicas_putting_one_id_at_once_exactly_one_finds_it_new(replicas: list[Any], name: str) -> None:
    assert sorted(at_once([partial(one.put, record(name)) for one in replicas])) == [False, False, True]
    assert sorted(at_once([partial(one.delete, name) for one in replicas])) == [False, False, True]
    assert [entry.action for entry in replicas[0].audit()] == ["delete"]


def test_overlapping_enrolments_of_many_records_do_not_deadlock(replicas: list[Any]) -> None:
    names = [f"n{number}" for number in range(20)]
    orders = (names, names[::-1], names[7:] + names[:7])
    calls = [
        partial(one.enrol, [record(name) for name in order], "replace")
        for one, order in zip(replicas, orders, strict=True)
    ]
    taken = at_once(calls)
    assert sorted(map(len, taken)) == [0, 20, 20]


def test_of_replicas_that_skip_existing_ids_exactly_one_enrols_each_id(replicas: list[Any]) -> None:
    names = [f"n{number}" for number in range(20)]
    calls = [
        partial(one.enrol, [record(name, camera_id=f"c{number}") for name in names], "skip")
        for number, one in enumerate(replicas)
    ]
    taken = at_once(calls)
    assert sorted(map(len, taken)) == [0, 20, 20]
    winner = f"c{[len(one) for one in taken].index(0)}"
    assert {replicas[0].get(name).camera_id for name in names} == {winner}


def test_an_erasure_is_counted_once(replicas: list[Any]) -> None:
    replicas[0].enrol([record(f"n{number}") for number in range(10)], "replace")
    wanted = Filter(camera_ids=("c1",))
    erasures = at_once([partial(one.erase, wanted, dry_run=False) for one in replicas])
    assert sorted(erasure.erased for erasure in erasures) == [0, 0, 10]
    assert sorted(entry.erased for entry in replicas[0].audit()) == [0, 0, 10]
    replicas[0].enrol([record(f"n{number}", expires_at=at(number)) for number in range(10)], "replace")
    assert sorted(at_once([one.expire for one in replicas])) == [0, 0, 10]


def test_a_record_that_is_enrolled_during_an_erasure_stays(
    replicas: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(milvus_gallery, "_IDS_PER_QUERY", 2)
    eraser, other, _ = replicas
    eraser.enrol([record(name) for name in ("a", "b", "c")], "replace")
    request = eraser._locks.request

    def enrol_then_request(names: list[str]) -> Any:
        if "id a" in names:  # the records were counted
            other.put(record("d"))
        return request(names)

    monkeypatch.setattr(eraser._locks, "request", enrol_then_request)
    erasure = eraser.erase(Filter(camera_ids=("c1",)), dry_run=False, expected=3)
    assert (erasure.erased, erasure.ids) == (3, ["a", "b", "c"])
    assert [one.id for one in other.list().items] == ["d"]


def remove(gallery: Any, how: str) -> None:
    if how == "expire":
        gallery.expire()
    else:
        gallery.erase(Filter(camera_ids=("c1",)), dry_run=False)


@pytest.mark.parametrize("how", ["expire", "erase"])
def test_a_record_replaced_just_before_its_removal_stays(
    replicas: list[Any], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    remover, other, _ = replicas
    remover.enrol([record(name, expires_at=at(1) if how == "expire" else None) for name in ("a", "b", "c")], "replace")
    request = remover._locks.request
    held = []

    def put_then_request(names: list[str]) -> Any:
        if "id a" in names:  # the rows to remove have been found, and are not locked yet
            held.append(sorted(names))
            other.put(record("a", camera_id="c2"))
        return request(names)

    monkeypatch.setattr(remover._locks, "request", put_then_request)
    remove(remover, how)
    assert held == [["id a", "id b", "id c"]]
    assert [one.id for one in other.list().items] == ["a"]
    assert other._connection.count(other._records, 'id > ""') == 1


@pytest.mark.parametrize("how", ["expire", "erase"])
def test_an_enrolment_of_the_same_id_waits_for_the_removal(
    replicas: list[Any], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    remover, other, _ = replicas
    remover.put(record("a", expires_at=at(1) if how == "expire" else None))
    delete = remover._connection.delete
    with ThreadPoolExecutor(1) as pool:
        puts: list[Any] = []

        def begin_put_then_delete(collection: str, where: str) -> None:
            puts.append(pool.submit(other.put, record("a", camera_id="c2")))
            with pytest.raises(TimeoutError):  # since the id stays locked until the record is removed
                puts[0].result(timeout=0.5)
            delete(collection, where)

        monkeypatch.setattr(remover._connection, "delete", begin_put_then_delete)
        remove(remover, how)
        assert [put.result() for put in puts] == [True]
    assert other.get("a").camera_id == "c2"


def test_more_records_are_removed_than_one_query_returns(replicas: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(milvus_gallery, "_IDS_PER_QUERY", 3)
    replicas[0].enrol(
        [record(f"n{number}", camera_id="c2" if number == 4 else "c1") for number in range(10)], "replace"
    )
    assert replicas[0].erase(Filter(camera_ids=("c1",)), dry_run=False).erased == 9
    assert [one.id for one in replicas[1].list().items] == ["n4"]


def test_a_lock_of_a_dead_replica_is_waited_for_until_its_lease_ends(
    replicas: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    dead, living, _ = replicas
    request = distributed_locks.LockRequest(dead._connection, dead._locks._collection, "dead", 1, ["id a"])
    request.write(0)
    monkeypatch.setattr(distributed_locks, "_MAX_WAIT_SECONDS", 0.5)
    with pytest.raises(GalleryUnavailable, match="another replica"):
        living.put(record("a"))
    assert living.put(record("b")) is True  # other ids are free
    later = clock.now() + 61 * 10**6
    monkeypatch.setattr(clock, "now", lambda: later)
    assert living.put(record("a")) is True


def test_a_replica_that_holds_a_lock_too_long_does_not_write(
    replicas: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributed_locks, "_MAX_HOLD_SECONDS", 0.0)
    with pytest.raises(GalleryUnavailable, match="too slowly"):
        replicas[0].put(record("a"))
    assert replicas[1].get("a") is None


def test_old_lock_requests_are_removed(replicas: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    gallery = replicas[0]
    gallery.put(record("a"))
    collection = gallery._locks._collection
    assert gallery._connection.count(collection, "") == 1
    monkeypatch.setattr(distributed_locks, "_SWEEP_SECONDS", 0.0)
    now = clock.now()
    monkeypatch.setattr(clock, "now", lambda: now + 200 * 10**6)
    gallery.put(record("b"))
    assert [row["name"] for row in gallery._connection.query(collection, "state >= 0", ["name"])] == ["id b"]
