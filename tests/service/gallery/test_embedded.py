"""What a user of the embedded gallery relies on, seen through its public methods and real files."""

import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.gallery import (
    DuplicateId,
    EmbeddedGallery,
    EmptyFilter,
    Erasure,
    Filter,
    Gallery,
    GalleryError,
    InvalidArgument,
)
from service.gallery.index import Index
from tests.service.gallery.samples import DIMENSION, assert_same, at, enrol, open_gallery, record, vector


def test_is_a_gallery(gallery: EmbeddedGallery) -> None:
    behind_the_protocol: Gallery = gallery
    assert (behind_the_protocol.dimension, behind_the_protocol.count()) == (DIMENSION, 0)


def test_a_record_comes_back_as_it_went_in(gallery: EmbeddedGallery) -> None:
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
    assert gallery.get("nobody") is None


def test_an_id_is_enrolled_once(gallery: EmbeddedGallery) -> None:
    gallery.add(record("a"))
    with pytest.raises(DuplicateId, match="'a'") as caught:
        gallery.add(record("a", camera_id="c2"))
    assert caught.value.id == "a"
    assert_same(gallery.get("a"), record("a"))
    assert gallery.count() == 1


def test_of_many_adding_one_id_at_once_exactly_one_wins(gallery: EmbeddedGallery) -> None:
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


def test_put_creates_then_replaces(gallery: EmbeddedGallery) -> None:
    assert gallery.put(record("a")) is True
    replacement = record("a", embedding=vector("other"), camera_id="c2", metadata={"k": 1})
    assert gallery.put(replacement) is False
    assert_same(gallery.get("a"), replacement)
    found = gallery.search(vector("other"), 5)
    assert [hit.record.id for hit in found.hits] == ["a"]
    assert found.hits[0].score == pytest.approx(1)
    assert gallery.search(vector("other"), 5, Filter(camera_ids=("c1",))).searched == 0
    assert gallery.count() == 1


def test_delete(gallery: EmbeddedGallery) -> None:
    gallery.add(record("a", metadata={"k": 1}))
    assert gallery.delete("a") is True
    assert gallery.delete("a") is False
    assert gallery.get("a") is None
    assert gallery.search(vector("a"), 5).hits == []
    gallery.add(record("a"))
    assert gallery.search(vector("a"), 5, Filter(metadata={"k": 1})).hits == []


def test_search_ranks_by_cosine(gallery: EmbeddedGallery) -> None:
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


def test_ties_rank_by_id_at_the_cut_off_too(gallery: EmbeddedGallery) -> None:
    # More ties than candidates are fetched at first, enrolled in no order.
    names = [f"t{number:03}" for number in np.random.default_rng(1).permutation(150)]
    enrol(gallery, [record(name, embedding=vector("same")) for name in names])
    gallery.add(record("best", embedding=vector("query")))
    gallery.add(record("worst", embedding=-vector("query")))
    for top_k in (1, 2, 7, 100, 151, 152, 500):
        found = gallery.search(vector("query"), top_k)
        assert [hit.record.id for hit in found.hits] == ["best", *sorted(names), "worst"][:top_k]
        assert found.searched == 152


def test_min_score_leaves_out_but_counts(gallery: EmbeddedGallery) -> None:
    for name in ("a", "b", "c"):
        gallery.add(record(name))
    found = gallery.search(vector("b"), 5, min_score=0.999)
    assert [hit.record.id for hit in found.hits] == ["b"]
    assert found.searched == 3


def test_filters_by_camera(gallery: EmbeddedGallery) -> None:
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
    assert found(Filter(exclude_ids=("a", "d", "nobody"))) == {"b", "c"}


def test_filters_by_time_where_intervals_overlap(gallery: EmbeddedGallery) -> None:
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


def test_filters_by_metadata(gallery: EmbeddedGallery) -> None:
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


def test_pages_are_stable_while_the_gallery_changes(gallery: EmbeddedGallery) -> None:
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


def test_a_full_last_page_has_no_cursor(gallery: EmbeddedGallery) -> None:
    for name in ("a", "b", "c", "d"):
        gallery.add(record(name))
    first = gallery.list(limit=2)
    second = gallery.list(limit=2, cursor=first.next_cursor)
    assert [item.id for item in second.items] == ["c", "d"]
    assert second.next_cursor is None


@pytest.mark.parametrize("cursor", ["", "x", "bm90IG91cnM=", "YWZ0ZXI6/w==", "YWZ0ZXI6_w==", "ключ"])
def test_a_strange_cursor_is_refused(gallery: EmbeddedGallery, cursor: str) -> None:
    with pytest.raises(InvalidArgument, match="cursor"):
        gallery.list(cursor=cursor)


def test_erase(gallery: EmbeddedGallery) -> None:
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
def test_unusable_embeddings_are_refused(
    gallery: EmbeddedGallery, embedding: np.ndarray[tuple[int], np.dtype[np.float32]], reason: str
) -> None:
    with pytest.raises(InvalidArgument, match=reason):
        gallery.add(record("a", embedding=embedding))
    with pytest.raises(InvalidArgument, match=reason):
        gallery.search(embedding, 5)
    assert gallery.count() == 0


def test_unusable_numbers_are_refused(gallery: EmbeddedGallery) -> None:
    with pytest.raises(InvalidArgument, match="top_k"):
        gallery.search(vector("q"), 0)
    with pytest.raises(InvalidArgument, match="limit"):
        gallery.list(limit=0)
    with pytest.raises(InvalidArgument, match="later"):
        gallery.search(vector("q"), 1, Filter(after=at(1), before=at(0)))
    with pytest.raises(InvalidArgument, match="time zone"):
        gallery.erase(Filter(after=at(1).replace(tzinfo=None)), dry_run=False)


def test_everything_is_there_after_a_restart(tmp_path: Path) -> None:
    records = [record(f"r{number}", start_time=at(number), metadata={"n": number}) for number in range(50)]
    gallery = open_gallery(tmp_path)
    enrol(gallery, records)
    gallery.delete("r9")
    before = gallery.search(vector("q"), 60)
    gallery.close()
    gallery = open_gallery(tmp_path)
    after = gallery.search(vector("q"), 60)
    assert [(hit.record.id, hit.score) for hit in after.hits] == [(hit.record.id, hit.score) for hit in before.hits]
    assert gallery.get("r9") is None
    assert_same(gallery.get("r49"), records[49])
    assert gallery.search(vector("q"), 60, Filter(after=at(40), metadata={"n": 45})).searched == 1
    gallery.close()


def test_a_closed_gallery_says_so(tmp_path: Path) -> None:
    gallery = open_gallery(tmp_path)
    gallery.add(record("a"))
    gallery.close()
    gallery.close()
    for call in (
        lambda: gallery.add(record("b")),
        lambda: gallery.get("a"),
        lambda: gallery.delete("a"),
        lambda: gallery.put_many([record("b")]),
        lambda: gallery.thumbnail("a"),
        gallery.expire,
        gallery.audit,
        gallery.list,
        lambda: gallery.search(vector("a"), 1),
        lambda: gallery.erase(Filter(camera_ids=("c1",)), dry_run=False),
        gallery.count,
    ):
        with pytest.raises(GalleryError, match="closed"):
            call()


def test_searches_see_whole_replacements_while_writers_write(gallery: EmbeddedGallery) -> None:
    """A record that is replaced again and again is found by every search, in one of its states and never in two."""
    states = [record("moving", embedding=vector(f"s{number}"), camera_id=f"s{number}") for number in range(2)]
    gallery.add(states[0])
    enrol(gallery, [record(f"still{number}") for number in range(50)])
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            gallery.put(states[number % 2])

    def read() -> None:
        for number in range(60):
            found = gallery.search(vector(f"s{number % 2}"), 51)
            moving = [hit for hit in found.hits if hit.record.id == "moving"]
            assert len(moving) == 1
            assert found.searched == 51
            state = states[int((moving[0].record.camera_id or "")[1:])]
            assert_same(moving[0].record, state)
            assert moving[0].score == pytest.approx(float(vector(f"s{number % 2}") @ state.embedding), abs=1e-6)

    with ThreadPoolExecutor(4) as pool:
        writing = pool.submit(write)
        reading = [pool.submit(read) for _ in range(3)]
        try:
            for one in reading:
                one.result(timeout=60)
        finally:
            stop.set()
        writing.result(timeout=60)


def test_a_search_that_commits_keep_overtaking_comes_to_its_end(
    gallery: EmbeddedGallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its look at the database and the one at the index, there is always a commit: as long as one can be."""
    gallery.add(record("r"))
    search, commits = type(gallery._index).search, 0
    with ThreadPoolExecutor(1) as pool:

        def overtaken(index: Index, *arguments: Any) -> Any:
            nonlocal commits
            commits += 1
            wait([pool.submit(gallery.put, record(f"w{commits}"))], timeout=0.5)
            return search(index, *arguments)

        monkeypatch.setattr(type(gallery._index), "search", overtaken)
        found = gallery.search(vector("r"), 100)
    assert 1 < commits < 100
    # Of the writer that was held up, the search saw nothing; it went on afterwards.
    assert sorted(hit.record.id for hit in found.hits) == sorted(["r", *(f"w{n}" for n in range(1, commits))])
    assert gallery.count() == commits + 1


def test_an_error_of_the_database_comes_out_as_the_gallerys_own(gallery: EmbeddedGallery, tmp_path: Path) -> None:
    gallery.add(record("a"))
    with sqlite3.connect(tmp_path / "data" / "gallery.sqlite") as other:
        other.execute("DROP TABLE metadata_terms")
    other.close()
    for _ in range(3):
        with pytest.raises(GalleryError, match="metadata_terms"):
            gallery.search(vector("a"), 1, Filter(metadata={"k": 1}))
    assert gallery.get("a") is not None
