"""Enrolment of many records, expiry, erasure and the audit log, and which data stay on the disk."""

import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from service.gallery import (
    Filter,
    GalleryError,
    InvalidArgument,
)
from service.gallery.embedded.database import connect
from service.gallery.embedded.gallery import EmbeddedGallery
from tests.service.gallery.samples import JPEG, at, enrol, found, open_gallery, record, vector
from tests.service.live import wait_for


def test_an_enrolment_of_many_records_is_one_transaction(gallery: EmbeddedGallery, tmp_path: Path) -> None:
    """If one record cannot be stored, none is, whether the check or the database finds the error."""
    with pytest.raises(InvalidArgument, match="duplicate id 'a'"):
        gallery.enrol([record("a"), record("b"), record("a")], "replace")
    with pytest.raises(InvalidArgument, match="thumbnail"):
        gallery.enrol([record("a"), record("b", thumbnail=b"no picture")], "replace")
    with sqlite3.connect(tmp_path / "data" / "gallery.sqlite") as other:
        other.execute(
            "CREATE TRIGGER refuse BEFORE INSERT ON embeddings WHEN NEW.number = 3 "
            "BEGIN SELECT RAISE(ABORT, 'not the third'); END"
        )
    other.close()
    with pytest.raises(GalleryError, match="not the third"):
        gallery.enrol([record(name) for name in "abcd"], "replace")
    assert gallery.count() == 0
    assert found(gallery) == set()


def test_expire_removes_records_in_steps(
    gallery: EmbeddedGallery, clock: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.gallery.embedded.gallery._EXPIRED_AT_ONCE", 4)
    gallery.enrol([record(f"r{number}", expires_at=at(number)) for number in range(1, 21)], "replace")
    assert gallery.expire() == 0
    assert gallery.audit() == []
    clock(10)
    assert gallery.expire() == 10
    assert [(entry.action, entry.by, entry.erased) for entry in gallery.audit()] == [
        ("expire", "expiry", 2),
        ("expire", "expiry", 4),
        ("expire", "expiry", 4),
    ]
    assert gallery.audit()[0].filter == {"expired_until": "2024-05-01T12:10:00Z"}
    assert gallery.count() == len(found(gallery)) == 10


def test_the_audit_log_is_read_in_pages_and_survives_a_restart(tmp_path: Path) -> None:
    gallery = open_gallery(tmp_path)
    receipts = [gallery.erase(Filter(camera_ids=("c",)), dry_run=False).receipt for _ in range(5)]
    gallery.close()
    gallery = open_gallery(tmp_path)
    pages = [gallery.audit(limit=2)]
    while pages[-1]:
        pages.append(gallery.audit(limit=2, before=pages[-1][-1].receipt))
    assert [entry.receipt for page in pages for entry in page] == receipts[::-1]
    assert [len(page) for page in pages] == [2, 2, 1, 0]
    for arguments in ({"before": "nothing"}, {"before": "a\0"}, {"limit": 0}):
        with pytest.raises(InvalidArgument, match=next(iter(arguments))):
            gallery.audit(**arguments)
    gallery.close()


def test_a_failed_erasure_removes_no_records_and_writes_no_entry(gallery: EmbeddedGallery, tmp_path: Path) -> None:
    gallery.enrol([record("a"), record("b")], "replace")
    with sqlite3.connect(tmp_path / "data" / "gallery.sqlite") as other:
        other.execute("CREATE TRIGGER refuse BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'no space'); END")
    other.close()
    for remove in (
        lambda: gallery.delete("a"),
        lambda: gallery.erase(Filter(camera_ids=("c1",)), dry_run=False),
    ):
        with pytest.raises(GalleryError, match="no space"):
            remove()
    assert found(gallery) == {"a", "b"}
    assert gallery.audit() == []


def on_disk(directory: Path) -> bytes:
    # A file being written may be gone before it is read, and has only what the others have.
    return b"".join(path.read_bytes() for path in directory.rglob("*") if path.is_file() and path.suffix != ".part")


@pytest.mark.parametrize("removal", ["erase", "expire", "delete"])
def test_no_data_of_removed_records_stay_on_the_disk(
    tmp_path: Path, removal: str, clock: Callable[[float], None]
) -> None:
    """Vectors, thumbnails and metadata of removed records are in no file, those of other records are."""
    gallery = open_gallery(tmp_path, dimension=64)
    enrol(
        gallery,
        [
            record(
                f"r{number}",
                embedding=vector(f"{number}", 64),
                camera_id=f"c{number}",
                metadata={"secret": f"secret-{number}-"},
                thumbnail=JPEG + f"face-{number}-".encode() * 2000,  # over several pages of the file
                expires_at=at(1) if removal == "expire" and number == 7 else None,
            )
            for number in range(20)
        ],
    )
    gallery.close()  # so that the index file contains them too
    gallery = open_gallery(tmp_path, dimension=64)
    if removal == "erase":
        assert gallery.erase(Filter(camera_ids=("c7",)), dry_run=False).erased == 1
    elif removal == "delete":
        assert gallery.delete("r7")
        assert gallery.expire() == 0  # which the service calls every minute
    else:
        clock(1)
        assert gallery.expire() == 1
    # The records are removed at once, and from the index file soon after that, in the background.
    for trace in (b"secret-7-", b"face-7-", vector("7", 64).tobytes()[32:]):
        assert trace not in (tmp_path / "gallery.sqlite").read_bytes()
        assert trace not in (tmp_path / "gallery.sqlite-wal").read_bytes()
    wait_for(lambda: vector("7", 64).tobytes() not in on_disk(tmp_path))
    for _ in range(2):
        kept = on_disk(tmp_path)
        for trace in (b"secret-8-", b"face-8-", vector("8", 64).tobytes()):
            assert trace in kept
        for trace in (b"secret-7-", b"face-7-", vector("7", 64).tobytes()[:64], vector("7", 64).tobytes()[-64:]):
            assert trace not in kept
        gallery.close()


def test_a_reader_of_an_old_state_delays_no_change_and_data_are_wiped_after_it(tmp_path: Path) -> None:
    """A snapshot is such a reader. The next `expire` after its end empties the write-ahead log."""
    gallery = open_gallery(tmp_path)
    gallery.enrol(
        [record("a", metadata={"secret": "secret-a-"}), record("b", metadata={"secret": "secret-b-"})], "replace"
    )
    with closing(connect(tmp_path, read_only=True)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM tracklets").fetchall()
        started = time.monotonic()
        gallery.erase(Filter(exclude_ids=("b",)), dry_run=False)
        gallery.add(record("c"))
        assert time.monotonic() - started < 5
        assert b"secret-a-" in on_disk(tmp_path)
    assert gallery.expire() == 0
    assert b"secret-a-" not in on_disk(tmp_path)
    assert b"secret-b-" in on_disk(tmp_path)
    gallery.close()


def files_with(trace: bytes, directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if path.is_file() and trace in path.read_bytes())


def wait_until_gone(trace: bytes, directory: Path) -> None:
    wait_for(lambda: trace not in on_disk(directory))
    assert files_with(trace, directory) == []


@pytest.mark.parametrize("removal", ["erase", "delete", "put", "replace", "add"])
@pytest.mark.parametrize("expired", [True, False])
def test_a_removal_of_an_expired_record_leaves_no_data(
    tmp_path: Path, clock: Callable[[float], None], removal: str, expired: bool
) -> None:
    """An expired record is not enrolled, but its vector is in the files until it is removed."""
    gallery = open_gallery(tmp_path, dimension=64)
    gallery.enrol([record(f"r{number}", embedding=vector(f"{number}", 64)) for number in range(10)], "replace")
    trace = vector("x", 64).tobytes()
    gallery.add(record("x", embedding=vector("x", 64), camera_id="c", expires_at=at(10)))
    gallery.close()
    assert "index.faiss" in files_with(trace, tmp_path)
    gallery = open_gallery(tmp_path, dimension=64)
    gallery.expire()
    if expired:
        clock(20)
    new = record("x", embedding=vector("y", 64))
    if removal == "erase":
        assert gallery.erase(Filter(camera_ids=("c",)), dry_run=False).erased == (not expired)
    elif removal == "delete":
        assert gallery.delete("x") is not expired
    elif removal == "put":
        assert gallery.put(new) is expired
    elif removal == "replace":
        assert gallery.enrol([new], "replace") == (set() if expired else {"x"})
    elif expired:
        gallery.add(new)
    else:
        gallery.delete("x")
        gallery.add(new)
    assert gallery.expire() == 0
    wait_until_gone(trace, tmp_path)
    assert vector("3", 64).tobytes() in on_disk(tmp_path)
    gallery.close()


def test_data_deleted_before_a_kill_are_wiped_by_the_first_expire(tmp_path: Path) -> None:
    gallery = open_gallery(tmp_path / "data", dimension=64)
    gallery.enrol([record(f"r{number}", embedding=vector(f"{number}", 64)) for number in range(10)], "replace")
    gallery.delete("r7")
    shutil.copytree(tmp_path / "data", tmp_path / "killed")
    gallery.close()
    trace = vector("7", 64).tobytes()
    gallery = open_gallery(tmp_path / "killed", dimension=64)
    assert "gallery.sqlite-wal" in files_with(trace, tmp_path / "killed")
    assert gallery.expire() == 0
    assert files_with(trace, tmp_path / "killed") == []
    gallery.close()


def test_a_partial_index_file_of_a_killed_process_is_removed_at_the_start(tmp_path: Path) -> None:
    """It may contain vectors that were erased while it was written."""
    open_gallery(tmp_path).close()
    (tmp_path / "index.faiss.part").write_bytes(b"the face of somebody erased")
    gallery = open_gallery(tmp_path)
    assert not (tmp_path / "index.faiss.part").exists()
    gallery.close()
