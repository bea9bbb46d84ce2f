"""What callers of the embedded gallery rely on, tested through its public methods and real files."""

import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from service.gallery import (
    Filter,
    GalleryBroken,
    GalleryError,
)
from service.gallery.embedded.gallery import EmbeddedGallery
from service.gallery.embedded.index.index import Index
from tests.service.gallery.samples import assert_same, at, enrol, open_gallery, record, vector


def test_a_restart_keeps_all_records(tmp_path: Path) -> None:
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


def test_a_closed_gallery_refuses_calls(tmp_path: Path) -> None:
    gallery = open_gallery(tmp_path)
    gallery.add(record("a"))
    gallery.close()
    gallery.close()
    for call in (
        lambda: gallery.add(record("b")),
        lambda: gallery.get("a"),
        lambda: gallery.delete("a"),
        lambda: gallery.enrol([record("b")], "replace"),
        lambda: gallery.enrol([record("b")], "skip"),
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


def test_searches_see_complete_replacements_during_writes(gallery: EmbeddedGallery) -> None:
    """Every search finds a record that is replaced again and again exactly once, in one of its states."""
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
                one.result(timeout=120)
        finally:
            stop.set()
        writing.result(timeout=120)


def test_a_search_ends_even_if_commits_are_faster(gallery: EmbeddedGallery, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is always a commit between reading the database and the index, unless the writer is paused."""
    gallery.add(record("r"))
    search, commits = type(gallery._index).search, 0
    pause, is_paused = gallery._writer.paused, False

    @contextmanager
    def paused() -> Iterator[None]:
        nonlocal is_paused
        with pause():
            is_paused = True
            yield

    monkeypatch.setattr(gallery._writer, "paused", paused)
    with ThreadPoolExecutor(1) as pool:

        def overtaken(index: Index, *arguments: Any, plain: bool) -> Any:
            nonlocal commits
            commits += 1
            put = pool.submit(gallery.put, record(f"w{commits}"))
            if not is_paused:
                assert put.result()
            return search(index, *arguments, plain=plain)

        monkeypatch.setattr(type(gallery._index), "search", overtaken)
        found = gallery.search(vector("r"), 100)
    assert 1 < commits < 100
    # The search does not see the change that was paused, which is made after it.
    assert sorted(hit.record.id for hit in found.hits) == sorted(["r", *(f"w{n}" for n in range(1, commits))])
    assert gallery.count() == commits + 1


def test_a_database_error_becomes_a_gallery_error(gallery: EmbeddedGallery, tmp_path: Path) -> None:
    gallery.add(record("a"))
    with sqlite3.connect(tmp_path / "data" / "gallery.sqlite") as other:
        other.execute("DROP TABLE metadata_terms")
    other.close()
    for _ in range(3):
        with pytest.raises(GalleryError, match="metadata_terms"):
            gallery.search(vector("a"), 1, Filter(metadata={"k": 1}))
    assert gallery.get("a") is not None


def test_an_index_that_lost_a_commit_is_refused_and_is_right_after_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise searches would wait forever for a version that the index never reaches."""

    def no_memory(*arguments: Any) -> None:
        raise MemoryError

    gallery = open_gallery(tmp_path)
    gallery.add(record("a"))
    with monkeypatch.context() as patched:
        patched.setattr("service.gallery.embedded.gallery.FilterValues", no_memory)
        gallery.add(record("b"))  # it is committed
    with ThreadPoolExecutor(1) as pool:
        searching = pool.submit(gallery.search, vector("a"), 1)
        try:
            with pytest.raises(GalleryBroken, match="restart"):
                searching.result(timeout=120)
        finally:
            gallery._index.fail()  # ends a search that still waits
    with pytest.raises(GalleryBroken, match="restart"):
        gallery.add(record("c"))
    with pytest.raises(GalleryBroken, match="restart"):
        gallery.check()
    (tmp_path / "index.faiss").write_bytes(b"saved before")
    gallery.close()
    assert (tmp_path / "index.faiss").read_bytes() == b"saved before"
    gallery = open_gallery(tmp_path)
    assert {hit.record.id for hit in gallery.search(vector("b"), 5).hits} == {"a", "b"}
    gallery.close()


@pytest.mark.parametrize("part", ["_rebuilder", "_saver", "_readers", "_writer"])
def test_a_failure_while_closing_still_closes_the_gallery(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    gallery = open_gallery(tmp_path)
    gallery.add(record("a"))
    one = getattr(gallery, part)
    close = one.close

    def fail() -> None:
        close()
        raise RuntimeError("it cannot be closed")

    monkeypatch.setattr(one, "close", fail)
    with pytest.raises(RuntimeError, match="cannot be closed"):
        gallery.close()
    gallery = open_gallery(tmp_path)
    assert gallery.count() == 1
    gallery.close()


def test_a_row_without_its_vector_is_reported_as_damage(tmp_path: Path) -> None:
    gallery = open_gallery(tmp_path)
    enrol(gallery, [record("a"), record("b")])
    gallery.close()
    with closing(sqlite3.connect(tmp_path / "gallery.sqlite")) as other, other:
        other.execute("DELETE FROM embeddings WHERE number = 1")
    gallery = open_gallery(tmp_path)  # with the saved index, which has the vector
    with pytest.raises(GalleryError, match="Restore it from a backup") as found:
        gallery.search(vector("b"), 2)
    assert not isinstance(found.value, GalleryBroken)
    gallery.check()
    gallery.close()
