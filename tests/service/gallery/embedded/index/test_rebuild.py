"""The index is replaced in the background, without an effect on searches and changes."""

import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from service.gallery import Filter, GalleryError, Record
from service.gallery.embedded.gallery import EmbeddedGallery
from service.gallery.embedded.index import rebuild
from service.gallery.embedded.index.flat import FlatVectors
from service.gallery.embedded.index.ivf import IvfVectors
from tests.service.gallery.samples import NOON, SPACE, record, vector
from tests.service.live import wait_for

D = 16
EXACT = 4 * D * 500
"""The bytes of 500 vectors."""


def open_small(directory: Path) -> EmbeddedGallery:
    return EmbeddedGallery.open(directory, embedding_space=SPACE, dimension=D, model_name="sample", exact_bytes=EXACT)


def embedding(number: int) -> NDArray[np.float32]:
    return vector(f"n{number}", D)


def records(numbers: range) -> list[Record]:
    return [record(f"r{number:05}", embedding=embedding(number), camera_id=f"c{number % 5}") for number in numbers]


def settle(gallery: EmbeddedGallery) -> None:
    assert gallery._rebuilder.wait(120)


def check(gallery: EmbeddedGallery, numbers: range) -> None:
    """Check that all are counted, and that some are found by their vectors with and without a filter."""
    assert gallery.count() == len(numbers)
    for number in numbers[:: max(len(numbers) // 40, 1)]:
        for chosen in (Filter(), Filter(camera_ids=(f"c{number % 5}",))):
            found = gallery.search(embedding(number), 3, chosen)
            assert found.hits[0].record.id == f"r{number:05}"
            assert found.hits[0].score == pytest.approx(1, abs=1e-6)
            assert len(found.hits) == 3


def test_growing_and_shrinking_change_the_kind_of_index(tmp_path: Path) -> None:
    gallery = open_small(tmp_path)
    gallery.enrol(records(range(500)), "replace")
    settle(gallery)
    assert gallery.search(embedding(3), 1).exact
    assert "exact" in gallery.engine

    gallery.enrol(records(range(500, 1600)), "replace")
    settle(gallery)
    assert "approximate" in gallery.engine
    assert not gallery.search(embedding(3), 1).exact
    check(gallery, range(1600))
    trained = gallery._index.vectors
    assert isinstance(trained, IvfVectors)
    assert trained.trained_for == 1600

    for start in range(1600, 14200, 900):
        gallery.enrol(records(range(start, start + 900)), "replace")
    settle(gallery)
    grown = gallery._index.vectors
    assert isinstance(grown, IvfVectors)
    assert grown.trained_for > 8 * 1600
    assert grown.lists > trained.lists
    check(gallery, range(14200))

    gallery.erase(Filter(exclude_ids=tuple(one.id for one in records(range(200)))), dry_run=False)
    settle(gallery)
    assert isinstance(gallery._index.vectors, FlatVectors)
    assert gallery._index.dead == 0
    check(gallery, range(200))
    gallery.close()


def test_dead_rows_are_removed_from_either_kind_of_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rebuild, "_MIN_DEAD_TO_COMPACT", 20)
    gallery = open_small(tmp_path)
    for size in (400, 1500):
        gallery.enrol(records(range(size)), "replace")
        settle(gallery)
        gallery.enrol(records(range(size)), "replace")  # replaced: as many dead as living
        settle(gallery)
        assert gallery._index.dead == 0
        check(gallery, range(size))
    gallery.close()


def test_a_gallery_opens_with_its_saved_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gallery = open_small(tmp_path)
    gallery.enrol(records(range(1500)), "replace")
    settle(gallery)
    gallery.close()

    def no_training(*_: object) -> None:
        raise AssertionError("trained again")

    with monkeypatch.context() as patched:
        patched.setattr(IvfVectors, "train", no_training)
        gallery = open_small(tmp_path)
        settle(gallery)
    assert "approximate" in gallery.engine
    check(gallery, range(1500))
    gallery.delete("r00007")
    gallery.close()
    gallery = open_small(tmp_path)
    assert gallery.search(embedding(7), 1).hits[0].record.id != "r00007"
    gallery.close()


def test_a_new_index_is_saved_soon(tmp_path: Path) -> None:
    gallery = open_small(tmp_path)
    gallery.enrol(records(range(1500)), "replace")
    settle(gallery)
    wait_for((tmp_path / "index.faiss").exists)
    gallery.close()


def test_a_large_gallery_without_its_index_file_builds_one_at_the_start(tmp_path: Path) -> None:
    gallery = open_small(tmp_path)
    gallery.enrol(records(range(1500)), "replace")
    settle(gallery)
    gallery.close()
    (tmp_path / "index.faiss").unlink()
    gallery = open_small(tmp_path)
    assert "approximate" in gallery.engine
    check(gallery, range(1500))
    gallery.close()


def test_the_approximate_index_does_not_find_expired_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moment = [NOON]
    monkeypatch.setattr("service.gallery.clock.now", lambda: int(moment[0].timestamp() * 1e6))
    gallery = open_small(tmp_path)
    gallery.enrol(records(range(1500)), "replace")
    settle(gallery)
    brief = record("brief", embedding=vector("brief", D), expires_at=NOON + timedelta(hours=1))
    gallery.add(brief)
    assert gallery.search(brief.embedding, 1).hits[0].record.id == "brief"
    assert gallery.count() == 1501
    moment[0] += timedelta(hours=1)
    assert gallery.search(brief.embedding, 1).hits[0].record.id != "brief"
    assert gallery.count() == 1500
    gallery.close()


def test_changes_during_a_rebuild_are_in_the_new_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hold the rebuild right before the replacement while records are searched, added, replaced and deleted."""
    entered, go_on = threading.Event(), threading.Event()

    def slow_tuning(self: IvfVectors, queries: object, cancelled: Callable[[], bool]) -> None:
        entered.set()
        assert go_on.wait(120)

    monkeypatch.setattr(IvfVectors, "tune", slow_tuning)
    gallery = open_small(tmp_path)
    gallery.enrol(records(range(800)), "replace")
    assert entered.wait(120)
    assert "exact" in gallery.engine
    gallery.enrol(records(range(800, 900)), "replace")
    gallery.put(record("r00001", embedding=embedding(5001), camera_id="c1"))
    gallery.delete("r00002")
    check_before = gallery.search(embedding(850), 1)
    assert check_before.hits[0].record.id == "r00850"
    go_on.set()
    settle(gallery)
    assert "approximate" in gallery.engine
    assert gallery.count() == 899
    assert gallery.search(embedding(850), 1).hits[0].record.id == "r00850"
    assert gallery.search(embedding(5001), 1).hits[0].record.id == "r00001"
    assert gallery.search(embedding(2), 1).hits[0].record.id != "r00002"
    gallery.close()


def test_searches_and_changes_go_on_during_rebuilds(tmp_path: Path) -> None:
    gallery = open_small(tmp_path)
    gallery.enrol(records(range(300)), "replace")
    faults: list[str] = []
    over = threading.Event()

    def search() -> None:
        random = np.random.default_rng(threading.get_ident() % 1000)
        while not over.is_set():
            number = int(random.integers(0, 300))
            found = gallery.search(embedding(number), 1)
            if found.hits[0].record.id != f"r{number:05}" or found.hits[0].score < 0.999:
                faults.append(f"{number}: {found.hits[0].record.id}")

    searchers = [threading.Thread(target=search) for _ in range(3)]
    for thread in searchers:
        thread.start()
    for start in range(300, 3300, 250):
        gallery.enrol(records(range(start, start + 250)), "replace")
    settle(gallery)
    over.set()
    for thread in searchers:
        thread.join(120)
    assert not faults
    check(gallery, range(3300))
    gallery.close()


def test_a_failed_rebuild_is_logged_and_the_old_index_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise GalleryError("no memory to spare")

    monkeypatch.setattr(IvfVectors, "train", fail)
    gallery = open_small(tmp_path)
    gallery.enrol(records(range(800)), "replace")
    settle(gallery)
    gallery.enrol(records(range(800, 810)), "replace")
    settle(gallery)
    assert len([entry for entry in caplog.records if "could not be rebuilt" in entry.getMessage()]) == 1
    assert "exact" in gallery.engine
    check(gallery, range(810))
    gallery.close()


def test_without_a_thread_the_old_index_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    gallery = open_small(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        gallery.enrol(records(range(800)), "replace")
    assert "can't start new thread" in caplog.text
    check(gallery, range(800))
    gallery.close()


def test_closing_cancels_a_rebuild(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entered = threading.Event()

    def endless(self: IvfVectors, queries: object, cancelled: Callable[[], bool]) -> None:
        entered.set()
        while not cancelled():
            pass
        raise rebuild.BuildCancelled

    monkeypatch.setattr(IvfVectors, "tune", endless)
    gallery = open_small(tmp_path)
    gallery.enrol(records(range(800)), "replace")
    assert entered.wait(120)
    gallery.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "gallery-rebuilder"]
