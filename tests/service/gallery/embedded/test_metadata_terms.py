"""Every snapshot gets all its rows of a metadata term, whatever other snapshots have read."""

import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from service.gallery import Filter
from service.gallery.embedded import metadata_terms as terms
from service.gallery.embedded.gallery import EmbeddedGallery
from service.gallery.embedded.metadata_terms import MetadataTerms
from tests.service.gallery.samples import open_gallery, record, vector

TERM = b"t" * 32


class TermTable:
    """A file with the table of terms and its version, changed as the gallery's writer changes it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.version = 0
        self.last = 0
        self.writer = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self.writer.executescript(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF;"
            "CREATE TABLE gallery (version INTEGER); INSERT INTO gallery VALUES (0);"
            "CREATE TABLE metadata_terms (digest BLOB, number INTEGER, PRIMARY KEY (digest, number)) WITHOUT ROWID;"
        )

    def change(self, add: int = 0, remove: tuple[int, ...] = (), digest: bytes = TERM) -> None:
        self.writer.execute("BEGIN IMMEDIATE")
        numbers = range(self.last + 1, self.last + 1 + add)
        self.writer.executemany("INSERT INTO metadata_terms VALUES (?, ?)", [(digest, number) for number in numbers])
        self.writer.executemany("DELETE FROM metadata_terms WHERE number = ?", [(number,) for number in remove])
        self.writer.execute("UPDATE gallery SET version = version + 1")
        self.writer.execute("COMMIT")
        self.last += add

    def snapshot(self) -> "Snapshot":
        return Snapshot(self.path)


class Snapshot:
    def __init__(self, path: Path) -> None:
        self.connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self.connection.execute("BEGIN")
        self.version = int(self.connection.execute("SELECT version FROM gallery").fetchone()[0])

    def ask(self, terms: MetadataTerms, digest: bytes = TERM) -> "np.typing.NDArray[np.int64]":
        numbers = terms.numbers(self.connection, digest, self.version)
        assert (np.diff(numbers) > 0).all()
        missing = set(self.truth(digest)) - set(numbers.tolist())
        assert not missing
        return numbers

    def truth(self, digest: bytes = TERM) -> list[int]:
        query = "SELECT number FROM metadata_terms WHERE digest = ?"
        return [number for (number,) in self.connection.execute(query, (digest,))]

    def close(self) -> None:
        self.connection.close()


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cache terms of any size, and few versions."""
    monkeypatch.setattr(terms, "_MIN_CACHED_ROWS", 1)
    monkeypatch.setattr(terms, "_MAX_VERSIONS", 4)


@pytest.fixture
def table(tmp_path: Path) -> Iterator[TermTable]:
    table = TermTable(tmp_path / "table.sqlite")
    yield table
    table.writer.close()


def test_only_new_rows_are_read_again(table: TermTable) -> None:
    known = MetadataTerms()
    for total in (0, 3, 3, 1000, 5000):
        if total > table.last:
            table.change(add=total - table.last)
        snapshot = table.snapshot()
        assert snapshot.ask(known).tolist() == list(range(1, total + 1))
        queries: list[str] = []
        snapshot.connection.set_trace_callback(queries.append)
        snapshot.ask(known)
        assert f"number > {total}" in queries[0]
        snapshot.close()


def test_an_older_snapshot_misses_no_row(table: TermTable) -> None:
    """A row that was removed later is still enrolled in it. Reading it must not change what newer snapshots get."""
    known = MetadataTerms()
    table.change(add=10)
    before = table.snapshot()
    table.change(add=10, remove=(3, 4))
    after = table.snapshot()
    assert after.ask(known).tolist() == [1, 2, *range(5, 21)]
    assert before.ask(known).tolist() == list(range(1, 11))
    assert after.ask(known).tolist() == [1, 2, *range(5, 21)]
    before.close()
    after.close()


def test_an_older_snapshot_uses_what_was_read_up_to_its_version(table: TermTable) -> None:
    known = MetadataTerms()
    snapshots = []
    for step in range(8):
        table.change(add=5, remove=(5 * step - 2,))
        snapshots.append(table.snapshot())
        snapshots[-1].ask(known)
    for snapshot in snapshots[::-1]:
        numbers = snapshot.ask(known).tolist()
        assert numbers[-1] == 5 * snapshot.version
    for snapshot in snapshots:
        snapshot.close()


def test_removed_rows_may_stay_and_new_rows_are_added(table: TermTable) -> None:
    known = MetadataTerms()
    table.change(add=10)
    first = table.snapshot()
    first.ask(known)
    table.change(remove=tuple(range(1, 11)))
    table.change(add=2)
    second = table.snapshot()
    assert second.truth() == [11, 12]
    assert second.ask(known).tolist() == list(range(1, 13))
    first.close()
    second.close()


def test_the_least_recently_used_terms_are_evicted(table: TermTable) -> None:
    known = MetadataTerms(capacity=300)
    for name in (b"a", b"b", b"c"):
        table.change(add=100, digest=name)
    snapshot = table.snapshot()
    for name in (b"a", b"b", b"a", b"c"):
        assert len(snapshot.ask(known, name)) == 100
    assert list(known._cached) == [b"a", b"c"]
    table.change(add=1000, digest=b"d")
    later = table.snapshot()
    assert len(later.ask(known, b"d")) == 1000  # too many to cache
    assert not known._cached
    assert known._size == 0
    snapshot.close()
    later.close()


def test_snapshots_of_many_threads_miss_no_row_during_changes(table: TermTable) -> None:
    """The writer adds and removes rows while readers ask, some of them with old snapshots."""
    known = MetadataTerms(capacity=2000)
    table.change(add=50)
    done = threading.Event()

    def read(seed: int) -> None:
        choice = np.random.default_rng(seed)
        held = [table.snapshot() for _ in range(3)]
        for _ in range(150):
            place = int(choice.integers(3))
            if choice.random() < 0.5:
                held[place].close()
                held[place] = table.snapshot()
            held[place].ask(known)
        for snapshot in held:
            snapshot.close()

    def write() -> None:
        choice = np.random.default_rng(0)
        while not done.is_set():
            table.change(add=int(choice.integers(4)), remove=tuple(choice.integers(1, table.last, 3).tolist()))

    with ThreadPoolExecutor(5) as pool:
        writing = pool.submit(write)
        reading = [pool.submit(read, seed) for seed in range(4)]
        try:
            for one in reading:
                one.result(120)
        finally:
            done.set()
        writing.result(120)


def test_a_metadata_filter_sees_complete_replacements(tmp_path: Path) -> None:
    """Every search of a gallery finds a record that is replaced again and again exactly once."""
    gallery: EmbeddedGallery = open_gallery(tmp_path)
    wanted = Filter(metadata={"site": 1})
    gallery.enrol([record(f"r{number}", metadata={"site": number % 2}) for number in range(100)], "replace")
    done = threading.Event()

    def write() -> None:
        while not done.is_set():
            gallery.put(record("moving", metadata={"site": 1}))

    def read() -> None:
        for _ in range(60):
            found = gallery.search(vector("moving"), 200, wanted)
            assert [hit.record.id for hit in found.hits].count("moving") == 1
            assert found.searched == 51

    gallery.put(record("moving", metadata={"site": 1}))
    with ThreadPoolExecutor(3) as pool:
        writing = pool.submit(write)
        reading = [pool.submit(read) for _ in range(2)]
        try:
            for one in reading:
                one.result(120)
        finally:
            done.set()
        writing.result(120)
    gallery.close()
