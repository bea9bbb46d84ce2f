"""The protocol of a gallery, on every engine."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import get_args

import numpy as np
import pytest

from service.gallery import (
    CameraSummary,
    DuplicateId,
    EmptyFilter,
    Erasure,
    Filter,
    Gallery,
    InvalidArgument,
    OnConflict,
    TimeOfDay,
)
from tests.service.gallery.samples import DIMENSION, JPEG, NOON, assert_same, at, enrol, found, record, vector


@pytest.fixture
def gallery(any_gallery: Gallery) -> Gallery:
    return any_gallery


def test_a_new_gallery_is_empty(gallery: Gallery) -> None:
    assert (gallery.dimension, gallery.count()) == (DIMENSION, 0)


def test_a_record_is_read_as_it_was_enrolled(gallery: Gallery) -> None:
    full = record(
        "a.b:c_d-1",
        camera_id="käse",
        start_time=at(0),
        end_time=at(0.000001),
        metadata={"person": "7", "nested": {"x": [1, 2.5, None, True]}, "": "\ud83d", "big": 2**70, "1.0": 1.0},
    )
    bare = record("bare", camera_id=None)
    gallery.add(full)
    gallery.add(bare)
    assert_same(gallery.get(full.id), full)
    assert_same(gallery.get(bare.id), bare)
    assert gallery.get("absent") is None


def test_an_id_is_enrolled_once(gallery: Gallery) -> None:
    gallery.add(record("a"))
    with pytest.raises(DuplicateId, match="'a'") as caught:
        gallery.add(record("a", camera_id="c2"))
    assert caught.value.id == "a"
    assert_same(gallery.get("a"), record("a"))
    assert gallery.count() == 1


def test_of_many_adding_one_id_at_once_exactly_one_wins(gallery: Gallery) -> None:
    together = threading.Barrier(8)

    def add(thread: int, number: int) -> bool:
        together.wait()
        try:
            gallery.add(record(f"n{number}", camera_id=f"thread-{thread}"))
        except DuplicateId:
            return False
        return True

    for number in range(10):
        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(add, range(8), [number] * 8))
        assert sum(won) == 1
        winner = gallery.get(f"n{number}")
        assert winner is not None
        assert winner.camera_id == f"thread-{won.index(True)}"
    assert gallery.count() == 10


def test_put_enrols_then_replaces(gallery: Gallery) -> None:
    assert gallery.put(record("a")) is True
    replacement = record("a", embedding=vector("other"), camera_id="c2", metadata={"k": 1})
    assert gallery.put(replacement) is False
    assert_same(gallery.get("a"), replacement)
    found = gallery.search(vector("other"), 5)
    assert [hit.record.id for hit in found.hits] == ["a"]
    assert found.hits[0].score == pytest.approx(1)
    assert gallery.search(vector("other"), 5, Filter(camera_ids=("c1",))).searched == 0
    assert gallery.count() == 1


def test_delete_removes_one_record(gallery: Gallery) -> None:
    gallery.add(record("a", metadata={"k": 1}))
    assert gallery.delete("a") is True
    assert gallery.delete("a") is False
    assert gallery.get("a") is None
    assert gallery.search(vector("a"), 5).hits == []
    gallery.add(record("a"))
    assert gallery.search(vector("a"), 5, Filter(metadata={"k": 1})).hits == []


def test_search_ranks_by_cosine(gallery: Gallery) -> None:
    records = [record(f"r{number}") for number in range(200)]
    enrol(gallery, records)
    query = 3.5 * vector("query")  # any length: cosine only asks for the direction
    expected = {one.id: float(one.embedding @ vector("query")) for one in records}
    best = sorted(expected, key=lambda id_: -expected[id_])
    found = gallery.search(query, 10)
    assert [hit.record.id for hit in found.hits] == best[:10]
    assert [hit.score for hit in found.hits] == pytest.approx([expected[id_] for id_ in best[:10]], abs=1e-6)
    assert (found.searched, found.exact) == (200, True)
    assert_same(found.hits[0].record, next(one for one in records if one.id == best[0]))


def test_equal_scores_rank_by_id_also_at_the_cut_off(gallery: Gallery) -> None:
    # More ties than candidates are fetched at first, enrolled in no order.
    names = [f"t{number:03}" for number in np.random.default_rng(1).permutation(150)]
    enrol(gallery, [record(name, embedding=vector("same")) for name in names])
    gallery.add(record("best", embedding=vector("query")))
    gallery.add(record("worst", embedding=-vector("query")))
    for top_k in (1, 2, 7, 100, 151, 152, 500):
        found = gallery.search(vector("query"), top_k)
        assert [hit.record.id for hit in found.hits] == ["best", *sorted(names), "worst"][:top_k]
        assert found.searched == 152


def test_hits_below_min_score_are_left_out_but_counted(gallery: Gallery) -> None:
    for name in ("a", "b", "c"):
        gallery.add(record(name))
    found = gallery.search(vector("b"), 5, min_score=0.999)
    assert [hit.record.id for hit in found.hits] == ["b"]
    assert found.searched == 3


def test_filters_by_camera(gallery: Gallery) -> None:
    for name, camera in (("a", "c1"), ("b", "c2"), ("c", "c3"), ("d", None)):
        gallery.add(record(name, camera_id=camera))

    def found(filter_: Filter) -> set[str]:
        result = gallery.search(vector("q"), 10, filter_)
        assert result.searched == len(result.hits) == gallery.erase(filter_, dry_run=True).matched
        return {hit.record.id for hit in result.hits}

    assert found(Filter(camera_ids=("c1", "c3", "nowhere"))) == {"a", "c"}
    assert found(Filter(camera_ids=("c2",))) == {"b"}
    assert found(Filter(camera_ids=())) == set()
    assert found(Filter(exclude_camera_ids=("c1", "nowhere"))) == {"b", "c", "d"}
    assert found(Filter(camera_ids=("c1", "c2"), exclude_camera_ids=("c2",))) == {"a"}
    assert found(Filter(exclude_ids=("a", "d", "absent"))) == {"b", "c"}


def test_filters_by_time_if_intervals_overlap(gallery: Gallery) -> None:
    gallery.add(record("interval", start_time=at(10), end_time=at(20)))
    gallery.add(record("start", start_time=at(15)))
    gallery.add(record("end", end_time=at(30)))
    gallery.add(record("timeless"))

    def found(after: float | None, before: float | None) -> set[str]:
        times = (None if after is None else at(after), None if before is None else at(before))
        hits = gallery.search(vector("q"), 10, Filter(after=times[0], before=times[1])).hits
        listed = {item.id for item in gallery.list(Filter(after=times[0], before=times[1])).items}
        assert {hit.record.id for hit in hits} == listed
        return listed

    assert found(None, None) == {"interval", "start", "end", "timeless"}
    assert found(20, None) == {"interval", "end"}
    assert found(20.1, None) == {"end"}
    assert found(None, 10) == {"interval"}
    assert found(None, 9.9) == set()
    assert found(12, 14) == {"interval"}
    assert found(15, 15) == {"interval", "start"}
    assert found(30, 31) == {"end"}
    assert found(21, 29) == set()


@pytest.mark.parametrize(
    ("daily", "expected"),
    [
        (TimeOfDay(22 * 3600, 6 * 3600), {"evening", "night", "morning", "days"}),
        (TimeOfDay(6 * 3600 + 1, 22 * 3600 - 1), {"noon", "long", "days"}),
        (TimeOfDay(3 * 3600, 4 * 3600), {"night", "days"}),
        (TimeOfDay(0, 6 * 3600, 2 * 3600), {"evening", "night", "days"}),
        (TimeOfDay(0, 86_400), {"evening", "night", "morning", "noon", "long", "days"}),
        (TimeOfDay(12 * 3600, 12 * 3600 + 1, -86_399), {"noon", "long", "days"}),
    ],
)
def test_filters_by_time_of_day(gallery: Gallery, daily: TimeOfDay, expected: set[str]) -> None:
    midnight = NOON.replace(hour=0)

    def put(name: str, start: float | None, end: float | None) -> None:
        times = [None if hours is None else midnight + timedelta(hours=hours) for hours in (start, end)]
        gallery.add(record(name, start_time=times[0], end_time=times[1]))

    put("evening", 22, None)
    put("night", 27, 28)
    put("morning", None, 6)
    put("noon", 12, 12.5)
    put("long", -72 + 8, -72 + 20)
    put("days", 400 * 24, 402 * 24)
    put("timeless", None, None)
    assert found(gallery, Filter(time_of_day=daily)) == expected
    assert {item.id for item in gallery.list(Filter(time_of_day=daily)).items} == expected
    counted = gallery.erase(Filter(time_of_day=daily), dry_run=True)
    assert (counted.matched, counted.without_time) == (len(expected), 1)
    both = Filter(time_of_day=daily, camera_ids=("nowhere",))
    assert found(gallery, both) == set()


def test_filters_by_the_time_of_enrolment_and_by_no_time(gallery: Gallery) -> None:
    for minute in range(4):
        gallery.add(record(f"r{minute}", created_at=at(minute), start_time=at(0) if minute % 2 else None))
    assert found(gallery, Filter(created_after=at(1))) == {"r1", "r2", "r3"}
    assert found(gallery, Filter(created_after=at(1), created_before=at(2))) == {"r1", "r2"}
    assert found(gallery, Filter(created_before=at(-0.01))) == set()
    assert found(gallery, Filter(without_time=True)) == {"r0", "r2"}
    assert found(gallery, Filter(without_time=True, created_before=at(1))) == {"r0"}
    older = Filter(before=at(100), created_before=at(2))
    assert gallery.erase(older, dry_run=True) == Erasure(matched=1, erased=0, without_time=2)
    erased = gallery.erase(older, dry_run=False)
    assert (erased.matched, erased.erased, erased.without_time) == (1, 1, 2)
    assert gallery.erase(Filter(without_time=True), dry_run=False).without_time == 0
    assert found(gallery) == {"r3"}


def test_metadata_as_people_type_it(gallery: Gallery) -> None:
    for number, value in enumerate([12, "12", 12.0, True, "true", None, "null", "gate", '"gate"', [12], "0012"]):
        gallery.add(record(f"r{number:02}", metadata={"k": value, "n": number}))

    def of(text: str) -> set[int]:
        return {int(name[1:]) for name in found(gallery, Filter(metadata_texts={"k": text}))}

    assert of("12") == {0, 1, 2}
    assert of("true") == {3, 4}
    assert of("null") == {5, 6}
    assert of("gate") == {7}
    assert of('"gate"') == {8}
    assert of("[12]") == of("NaN") == set()
    assert of("0012") == {10}
    assert found(gallery, Filter(metadata_texts={"k": "12", "n": "1"})) == {"r01"}


def test_cameras_are_counted_with_their_times(gallery: Gallery) -> None:
    assert gallery.cameras() == []
    gallery.add(record("a", camera_id="c2", start_time=at(5), end_time=at(9)))
    gallery.add(record("b", camera_id="c2", end_time=at(3)))
    gallery.add(record("c", camera_id="c2"))
    gallery.add(record("d", camera_id="c1"))
    gallery.add(record("e", camera_id=None, start_time=at(1)))
    gallery.add(record("gone", camera_id="c9", start_time=at(1)))
    gallery.delete("gone")
    assert gallery.cameras() == [
        CameraSummary("c1", 1, None, None),
        CameraSummary("c2", 3, at(3), at(9)),
        CameraSummary(None, 1, at(1), at(1)),
    ]


def test_filters_by_metadata(gallery: Gallery) -> None:
    gallery.add(record("a", metadata={"n": 1, "who": "x"}))
    gallery.add(record("b", metadata={"n": True, "who": "x"}))
    gallery.add(record("c", metadata={"n": "1", "who": "y"}))

    def found(**metadata: object) -> set[str]:
        hits = gallery.search(vector("q"), 10, Filter(metadata=metadata)).hits  # type: ignore[arg-type]
        return {hit.record.id for hit in hits}

    assert found(n=1) == {"a"}
    assert found(n=True) == {"b"}
    assert found(n="1") == {"c"}
    assert found(who="x") == {"a", "b"}
    assert found(who="x", n=1.0) == {"a"}
    assert found(who="x", missing=None) == set()


def test_pages_are_stable_while_the_gallery_changes(gallery: Gallery) -> None:
    names = [f"r{number:02}" for number in range(30)]
    enrol(gallery, [record(name, camera_id="odd" if int(name[1:]) % 2 else None) for name in names])
    seen: list[str] = []
    cursor = None
    while True:
        page = gallery.list(limit=7, cursor=cursor)
        seen += [item.id for item in page.items]
        gallery.put(record("r05", camera_id="moved"))
        gallery.delete(seen[-1])  # even the one the cursor points at
        if page.next_cursor is None:
            break
        cursor = page.next_cursor
    assert seen == names
    odd = gallery.list(Filter(camera_ids=("odd",)), limit=100)
    assert [item.id for item in odd.items] == [
        name for name in names if int(name[1:]) % 2 and name != "r05" and gallery.get(name) is not None
    ]
    assert odd.next_cursor is None


def test_a_full_last_page_has_no_cursor(gallery: Gallery) -> None:
    for name in ("a", "b", "c", "d"):
        gallery.add(record(name))
    first = gallery.list(limit=2)
    second = gallery.list(limit=2, cursor=first.next_cursor)
    assert [item.id for item in second.items] == ["c", "d"]
    assert second.next_cursor is None


@pytest.mark.parametrize("cursor", ["", "x", "bm90IG91cnM=", "YWZ0ZXI6/w==", "YWZ0ZXI6_w==", "ключ"])
def test_an_invalid_cursor_is_refused(gallery: Gallery, cursor: str) -> None:
    with pytest.raises(InvalidArgument, match="cursor"):
        gallery.list(cursor=cursor)


def test_erase_removes_all_that_pass(gallery: Gallery) -> None:
    for number in range(10):
        gallery.add(record(f"r{number}", camera_id="c1" if number < 4 else "c2"))
    with pytest.raises(EmptyFilter):
        gallery.erase(Filter(), dry_run=True)
    assert gallery.erase(Filter(camera_ids=("c1",)), dry_run=True) == Erasure(matched=4, erased=0)
    assert gallery.count() == 10
    for erased in (4, 0):
        done = gallery.erase(Filter(camera_ids=("c1",)), dry_run=False)
        assert (done.matched, done.erased) == (erased, erased)
        assert done.receipt == gallery.audit(limit=1)[0].receipt
    assert gallery.count() == gallery.search(vector("r1"), 20).searched == 6
    assert {item.id for item in gallery.list().items} == {f"r{number}" for number in range(4, 10)}


@pytest.mark.parametrize(
    ("embedding", "reason"),
    [
        (np.ones(DIMENSION + 1, np.float32), "shape"),
        (np.ones((1, DIMENSION), np.float32), "shape"),
        (np.full(DIMENSION, np.nan, np.float32), "NaN"),
        (np.full(DIMENSION, np.inf, np.float32), "infinity"),
        (np.zeros(DIMENSION, np.float32), "length 0|direction"),
    ],
)
def test_invalid_embeddings_are_refused(
    gallery: Gallery, embedding: np.ndarray[tuple[int], np.dtype[np.float32]], reason: str
) -> None:
    with pytest.raises(InvalidArgument, match=reason):
        gallery.add(record("a", embedding=embedding))
    with pytest.raises(InvalidArgument, match=reason):
        gallery.search(embedding, 5)
    assert gallery.count() == 0


def test_invalid_numbers_are_refused(gallery: Gallery) -> None:
    with pytest.raises(InvalidArgument, match="top_k"):
        gallery.search(vector("q"), 0)
    with pytest.raises(InvalidArgument, match="limit"):
        gallery.list(limit=0)
    with pytest.raises(InvalidArgument, match="later"):
        gallery.search(vector("q"), 1, Filter(after=at(1), before=at(0)))
    with pytest.raises(InvalidArgument, match="time zone"):
        gallery.erase(Filter(after=at(1).replace(tzinfo=None)), dry_run=False)


def test_many_records_are_enrolled_or_replaced(gallery: Gallery) -> None:
    gallery.add(record("r1", camera_id="before"))
    many = [record(f"r{number}", metadata={"n": number}, thumbnail=JPEG if number else None) for number in range(3)]
    assert gallery.enrol(many, "replace") == {"r1"}
    assert gallery.enrol([], "replace") == set()
    assert gallery.count() == 3
    for one in many:
        assert_same(gallery.get(one.id), one)
    assert found(gallery, Filter(metadata={"n": 1})) == {"r1"}
    assert (gallery.thumbnail("r0"), gallery.thumbnail("r1")) == (None, JPEG)


def test_many_records_are_enrolled_or_skipped(gallery: Gallery, clock: Callable[[float], None]) -> None:
    mine = [record("r1", camera_id="mine", thumbnail=JPEG), record("r2", camera_id="old", expires_at=at(10))]
    gallery.enrol(mine, "replace")
    clock(10)
    many = [record(f"r{number}") for number in range(4)]
    assert gallery.enrol(many, "skip") == {"r1"}
    assert gallery.enrol(many, "skip") == {one.id for one in many}
    assert gallery.enrol([], "skip") == set()
    assert_same(gallery.get("r1"), mine[0])
    assert_same(gallery.get("r2"), many[2])
    assert gallery.thumbnail("r1") == JPEG
    assert gallery.count() == 4
    assert [(entry.action, entry.erased) for entry in gallery.audit()] == [("expire", 1)]


def test_of_many_records_none_is_enrolled_if_an_id_exists(gallery: Gallery) -> None:
    gallery.add(record("b", camera_id="before"))
    with pytest.raises(DuplicateId, match="'b'"):
        gallery.enrol([record(name) for name in "abc"], "error")
    assert gallery.count() == 1
    assert_same(gallery.get("b"), record("b", camera_id="before"))


def test_of_many_records_an_invalid_one_is_named_and_none_is_enrolled(gallery: Gallery) -> None:
    for on_conflict in get_args(OnConflict):
        with pytest.raises(InvalidArgument, match=r"^thumbnail is not a JPEG file \(record 'b'\)$"):
            gallery.enrol([record("a"), record("b", thumbnail=b"")], on_conflict)
        with pytest.raises(InvalidArgument, match="duplicate id 'a'"):
            gallery.enrol([record("a"), record("b"), record("a")], on_conflict)
    assert gallery.count() == 0


def test_several_ids_are_read_at_once(gallery: Gallery) -> None:
    records = [record(name, metadata={"name": name}) for name in ("a", "b", "c")]
    enrol(gallery, records)
    gallery.put(record("old", expires_at=datetime.now(UTC) + timedelta(milliseconds=1)))
    time.sleep(0.01)
    found = gallery.get_all(["c", "a", "absent", "old"])
    assert set(found) == {"a", "c"}
    for one in records[::2]:
        assert_same(found[one.id], one)
    assert gallery.get_all([]) == {}


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (Filter(), {"gate", "hall", "none"}),
        (Filter(camera_ids=("c1", "c2")), {"gate", "hall"}),
        (Filter(exclude_camera_ids=("c1",)), {"hall", "none"}),
        (Filter(after=at(5)), {"hall"}),
        (Filter(before=at(5)), {"gate"}),
        (Filter(without_time=True), {"none"}),
        (Filter(metadata={"k": 1}), {"gate", "none"}),
        (Filter(metadata_texts={"k": "2"}), {"hall"}),
        (Filter(time_of_day=TimeOfDay(12 * 3600, 12 * 3600 + 60)), {"gate"}),
        (Filter(exclude_ids=("gate",), created_before=at(0)), {"hall", "none"}),
    ],
)
def test_ids_are_found_by_a_filter(gallery: Gallery, wanted: Filter, expected: set[str]) -> None:
    gate = record("gate", camera_id="c1", start_time=at(0), metadata={"k": 1})
    hall = record("hall", camera_id="c2", end_time=at(10), metadata={"k": 2})
    enrol(gallery, [gate, hall, record("none", camera_id=None, metadata={"k": 1.0}), record("other")])
    gallery.put(record("old", expires_at=datetime.now(UTC) + timedelta(milliseconds=1)))
    time.sleep(0.01)
    asked = ["hall", "gate", "absent", "old", "none"]
    assert gallery.find_ids(asked, wanted) == expected
    assert gallery.find_ids(asked, wanted, cameras=frozenset({"c2", "c3"})) == expected & {"hall"}
    assert gallery.find_ids([], wanted) == set()


@pytest.mark.parametrize("top_k", [1, 7, 60])
def test_the_best_score_with_any_query_ranks(gallery: Gallery, top_k: int) -> None:
    names = [f"r{number:02}" for number in range(60)]
    enrol(gallery, [record(name, camera_id=f"c{int(name[1:]) % 3}") for name in names])
    gallery.add(record("twin", embedding=vector("r10"), camera_id="c1"))
    queries = [(vector("one"), None), (vector("two"), "c1"), (vector("r10"), None)]
    wanted = Filter(camera_ids=("c0", "c1"), exclude_ids=("r03",))
    expected = {
        name: max(float(vector("r10" if name == "twin" else name) @ query) for query, _ in queries)
        for name in [*names, "twin"]
        if name == "twin" or (int(name[1:]) % 3 < 2 and name != "r03")
    }
    order = sorted(expected, key=lambda name: (-round(expected[name], 5), name))
    found = gallery.search_best(queries, top_k, wanted)
    assert [hit.record.id for hit in found.hits] == order[:top_k]
    assert [hit.score for hit in found.hits] == pytest.approx([expected[name] for name in order[:top_k]], abs=1e-6)
    assert found.searched == len(expected)
    above = gallery.search_best(queries, 60, wanted, min_score=0.5)
    assert {hit.record.id for hit in above.hits} == {name for name, score in expected.items() if score >= 0.5}


def test_a_record_is_changed_and_keeps_its_vector_and_pictures(gallery: Gallery) -> None:
    pictures = tuple(JPEG + bytes([number]) for number in range(3))
    gallery.add(replace(record("a", start_time=at(1), metadata={"k": 1}), thumbnails=pictures))
    gallery.add(record("b"))
    changed = gallery.update("a", lambda old: replace(old, camera_id="new", metadata={"k": 2}, end_time=at(5)))
    expected = replace(
        record("a", camera_id="new", start_time=at(1), end_time=at(5), metadata={"k": 2}), thumbnails=pictures
    )
    assert_same(changed, expected)
    assert_same(gallery.get("a"), expected)
    assert [gallery.thumbnail("a", frame) for frame in (0, 1, 2, 3)] == [*pictures, None]
    assert gallery.thumbnail("a") == pictures[1]
    assert found(gallery, Filter(camera_ids=("new",), metadata={"k": 2}, after=at(4))) == {"a"}
    assert found(gallery, Filter(metadata={"k": 1})) == set()
    assert gallery.search(vector("a"), 1).hits[0].record.id == "a"
    assert gallery.update("absent", lambda old: old) is None
    assert gallery.update("b", lambda _: None) is None
    with pytest.raises(InvalidArgument, match="start_time is later"):
        gallery.update("a", lambda old: replace(old, end_time=at(0)))
    assert_same(gallery.get("a"), expected)
    assert gallery.count() == 2


def test_a_call_for_some_cameras_acts_as_if_no_other_records_existed(gallery: Gallery) -> None:
    mine, other, none = record("mine", camera_id="c1"), record("other", camera_id="c2"), record("none", camera_id=None)
    enrol(gallery, [mine, other, none])
    own = frozenset({"c1", "c3"})
    assert_same(gallery.get("mine", cameras=own), mine)
    assert set(gallery.get_all(["mine", "other", "none", "absent"], cameras=own)) == {"mine"}
    for id_ in ("other", "none", "absent"):
        assert gallery.get(id_, cameras=own) is None
        assert gallery.delete(id_, cameras=own) is False
        assert gallery.update(id_, lambda _: pytest.fail("it was read"), cameras=own) is None
    for conflict in get_args(OnConflict):
        with pytest.raises(DuplicateId, match="'other'"):
            gallery.enrol([record("new", camera_id="c1"), record("other", camera_id="c1")], conflict, cameras=own)
    assert gallery.put(record("mine", camera_id="c3"), cameras=own) is False
    assert gallery.put(record("new", camera_id="c1"), cameras=own) is True
    assert gallery.delete("mine", cameras=own) is True
    assert found(gallery) == {"new", "other", "none"}
    assert_same(gallery.get("other"), other)
    assert_same(gallery.get("none"), none)
