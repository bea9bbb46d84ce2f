"""The protocol of a gallery, on every engine."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import get_args

import numpy as np
import pytest

from service.gallery import (
    DuplicateId,
    EmptyFilter,
    Erasure,
    Filter,
    Gallery,
    InvalidArgument,
    OnConflict,
)
from tests.service.gallery.samples import DIMENSION, JPEG, assert_same, at, enrol, found, record, vector


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
        listed = {item.id for item in gallery.list(after=times[0], before=times[1]).items}
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
    odd = gallery.list(camera_id="odd", limit=100)
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
