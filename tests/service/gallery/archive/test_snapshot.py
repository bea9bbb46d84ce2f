"""Snapshots are taken while a service writes, are complete or absent, and can be restored."""

import json
import os
import shutil
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from service.gallery import JSON, Filter, GalleryError, GalleryLocked
from service.gallery.archive.read_only import open_read_only
from service.gallery.archive.snapshot import read_manifest, restore, take_snapshot
from service.gallery.archive.verify import verify
from service.gallery.embedded.database import Stamp
from service.gallery.embedded.gallery import EmbeddedGallery
from tests.service.gallery.samples import DIMENSION, SPACE, assert_same, enrol, open_gallery, record, vector

NAMES = [f"r{number:02}" for number in range(30)]


@pytest.fixture
def filled(tmp_path: Path) -> EmbeddedGallery:
    """An open gallery of NAMES in `tmp_path / "data"`."""
    gallery = open_gallery(tmp_path / "data")
    enrol(gallery, map(record, NAMES))
    return gallery


@pytest.fixture
def snapshot(filled: EmbeddedGallery, tmp_path: Path) -> Path:
    """A snapshot of NAMES, whose gallery is closed."""
    take_snapshot(tmp_path / "data", tmp_path / "snapshot")
    filled.close()
    return tmp_path / "snapshot"


def everything(directory: Path) -> bytes:
    # A file being written may be gone before it is read.
    return b"".join(path.read_bytes() for path in sorted(directory.iterdir()) if path.suffix != ".part")


def test_a_snapshot_of_an_open_gallery_is_restored(filled: EmbeddedGallery, tmp_path: Path) -> None:
    manifest = take_snapshot(tmp_path / "data", tmp_path / "backups" / "monday")
    filled.add(record("later"))
    filled.close()
    assert read_manifest(tmp_path / "backups" / "monday") == manifest
    assert (manifest.records, manifest.embedding_space, manifest.model_name) == (30, SPACE, "sample")
    assert verify(tmp_path / "backups" / "monday").is_intact
    assert restore(tmp_path / "backups" / "monday", tmp_path / "again") == manifest
    assert {path.name for path in (tmp_path / "again").iterdir()} == {"lock", *manifest.files}
    gallery = open_gallery(tmp_path / "again")
    assert [item.id for item in gallery.list(limit=100).items] == NAMES
    for name in NAMES:
        assert_same(gallery.get(name), record(name))
        assert [hit.record.id for hit in gallery.search(vector(name), 1).hits] == [name]
    gallery.add(record("new"))
    gallery.close()


def test_a_snapshot_has_one_state_with_every_change_acknowledged_before(
    filled: EmbeddedGallery, tmp_path: Path
) -> None:
    """Pairs are enrolled together: a snapshot has no half of a pair, and every pair enrolled before it."""
    stop = threading.Event()
    done = 0

    def write() -> None:
        nonlocal done
        while not stop.is_set():
            filled.enrol([record(f"{side}{done:05}") for side in ("left", "right")], "replace")
            done += 1

    with ThreadPoolExecutor(1) as pool:
        writer = pool.submit(write)
        try:
            for number in range(3):
                before = done
                while done < before + 5 and not writer.done():
                    stop.wait(0.001)
                acknowledged = done
                take_snapshot(tmp_path / "data", tmp_path / f"s{number}")
                assert verify(tmp_path / "data").problems == []
                with closing(sqlite3.connect(tmp_path / f"s{number}" / "gallery.sqlite")) as connection:
                    ids = {id_ for (id_,) in connection.execute("SELECT id FROM tracklets")}
                pairs = {id_[-5:] for id_ in ids if id_.startswith("left")}
                assert pairs == {id_[-5:] for id_ in ids if id_.startswith("right")}
                assert len(pairs) >= acknowledged
                assert verify(tmp_path / f"s{number}").problems == []
        finally:
            stop.set()
    writer.result()
    filled.close()


def test_a_snapshot_contains_no_data_of_records_erased_before(tmp_path: Path) -> None:
    gallery = open_gallery(tmp_path / "data", dimension=64)
    for n in range(40):
        secret: dict[str, JSON] = {"secret": f"secret-{n}-"}
        camera = "erased" if n == 7 else "kept"
        gallery.add(record(f"r{n}", embedding=vector(f"{n}", 64), camera_id=camera, metadata=secret))
    gallery.close()  # so that the index file holds them as well
    gallery = open_gallery(tmp_path / "data", dimension=64)
    gallery.erase(Filter(camera_ids=("erased",)), dry_run=False)
    gallery.delete("r9")
    gallery.put(record("r11", embedding=vector("new", 64)))
    take_snapshot(tmp_path / "data", tmp_path / "snapshot")
    kept = everything(tmp_path / "snapshot")
    for number in (7, 9, 11):
        assert f"secret-{number}-".encode() not in kept
        assert vector(str(number), 64).tobytes()[:64] not in kept
    assert b"secret-8-" in kept
    assert vector("8", 64).tobytes()[:64] in kept
    gallery.close()


def test_an_erasure_during_a_long_snapshot_does_not_wait_and_is_completed_later(
    filled: EmbeddedGallery, tmp_path: Path
) -> None:
    with open_read_only(tmp_path / "data") as files:
        files.connection.execute("BEGIN")
        assert files.connection.execute("SELECT count(*) FROM tracklets").fetchone() == (30,)
        begin = time.monotonic()
        assert filled.erase(Filter(exclude_ids=tuple(NAMES[1:])), dry_run=False).erased == 1
        assert time.monotonic() - begin < 5
        assert vector(NAMES[0]).tobytes() in everything(tmp_path / "data")
    filled.expire()  # as the service does all the time
    assert vector(NAMES[0]).tobytes() not in everything(tmp_path / "data")
    filled.close()


def open_approximate(directory: Path) -> EmbeddedGallery:
    return EmbeddedGallery.open(
        directory, embedding_space=SPACE, dimension=DIMENSION, model_name="sample", exact_bytes=100
    )


def indexed(directory: Path) -> bool:
    manifest = read_manifest(directory)
    assert ("index.faiss" in manifest.files) == (directory / "index.faiss").exists()
    return "index.faiss" in manifest.files


@pytest.mark.parametrize("linked", [True, False])
def test_the_saved_index_is_part_of_the_snapshot_and_is_used(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    linked: bool,
) -> None:
    """An approximate index is not trained again."""
    gallery = open_approximate(tmp_path / "data")
    gallery.enrol([record(f"r{number:03}") for number in range(200)], "replace")
    assert gallery._rebuilder.wait(120)
    gallery.close()
    gallery = open_approximate(tmp_path / "data")
    gallery.add(record("later"))  # not in the saved index
    if not linked:
        monkeypatch.setattr("os.link", refuse)
    take_snapshot(tmp_path / "data", tmp_path / "snapshot")
    gallery.close()
    assert indexed(tmp_path / "snapshot")
    assert verify(tmp_path / "snapshot").counts["rows in the saved index"] == 200
    restore(tmp_path / "snapshot", tmp_path / "again")
    monkeypatch.setattr("service.gallery.embedded.index.ivf.IvfVectors.train", refuse)
    gallery = open_approximate(tmp_path / "again")
    assert "8-bit" in gallery.engine
    assert [entry.getMessage() for entry in caplog.records if entry.levelname == "WARNING"] == []
    assert gallery.search(vector("later"), 1).hits[0].record.id == "later"
    assert gallery.search(vector("r077"), 1).hits[0].record.id == "r077"
    gallery.close()


def refuse(*arguments: object) -> None:
    raise OSError(18, "Invalid cross-device link")


@pytest.mark.parametrize("damage", ["delete", "replace", "flip", "foreign", "missing"])
def test_an_index_that_is_invalid_or_has_removed_records_is_left_out(
    filled: EmbeddedGallery, tmp_path: Path, damage: str
) -> None:
    filled.close()
    gallery = open_gallery(tmp_path / "data")
    path = tmp_path / "data" / "index.faiss"
    if damage == "delete":
        gallery.delete("r07")
    elif damage == "replace":
        gallery.put(record("r07", embedding=vector("other")))
    elif damage == "flip":
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    elif damage == "foreign":
        other = open_gallery(tmp_path / "other")
        other.add(record("a"))
        other.close()
        shutil.copy(tmp_path / "other" / "index.faiss", path)
    else:
        path.unlink()
    take_snapshot(tmp_path / "data", tmp_path / "snapshot")
    assert not indexed(tmp_path / "snapshot")
    assert vector("r07").tobytes() not in everything(tmp_path / "snapshot") or damage not in {"delete", "replace"}
    gallery.close()
    restore(tmp_path / "snapshot", tmp_path / "again")
    gallery = open_gallery(tmp_path / "again")
    assert gallery.count() == 30 - (damage == "delete")
    assert gallery.search(vector("r09"), 1).hits[0].record.id == "r09"
    gallery.close()


def test_row_numbers_are_not_reused_after_a_restore(filled: EmbeddedGallery, tmp_path: Path) -> None:
    filled.delete(NAMES[-1])
    take_snapshot(tmp_path / "data", tmp_path / "snapshot")
    filled.close()
    restore(tmp_path / "snapshot", tmp_path / "again")
    gallery = open_gallery(tmp_path / "again")
    gallery.add(record("new"))
    gallery.close()
    with closing(sqlite3.connect(tmp_path / "again" / "gallery.sqlite")) as connection:
        assert connection.execute("SELECT number FROM tracklets WHERE id = 'new'").fetchone() == (31,)


def test_nothing_is_overwritten(snapshot: Path, tmp_path: Path) -> None:
    before = everything(snapshot)
    with pytest.raises(GalleryError, match="exists"):
        take_snapshot(tmp_path / "data", snapshot)
    with pytest.raises(GalleryError, match="not empty"):
        restore(snapshot, tmp_path / "data")
    assert everything(snapshot) == before
    (tmp_path / "other.part").mkdir()
    with pytest.raises(GalleryError, match=r"other\.part exists: another process is writing it"):
        take_snapshot(tmp_path / "data", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_an_open_gallery_is_not_overwritten_by_a_restore(snapshot: Path, tmp_path: Path) -> None:
    gallery = open_gallery(tmp_path / "other")
    for name in ("gallery.sqlite", "gallery.sqlite-wal", "gallery.sqlite-shm"):
        (tmp_path / "other" / name).unlink()
    with pytest.raises(GalleryLocked):
        restore(snapshot, tmp_path / "other")
    gallery._readers.close()
    gallery._resources.close()


def test_a_directory_with_only_a_lock_and_a_cache_is_restored_into(snapshot: Path, tmp_path: Path) -> None:
    (tmp_path / "data-2" / "cache").mkdir(parents=True)
    (tmp_path / "data-2" / "restoring.part").mkdir()
    (tmp_path / "data-2" / "restoring.part" / "gallery.sqlite").write_text("of a restore that was killed")
    (tmp_path / "data-2" / "index.faiss").write_text("which had its place already")
    with pytest.raises(GalleryError, match="interrupted: run `not3d gallery restore` again"):
        open_gallery(tmp_path / "data-2")
    restore(snapshot, tmp_path / "data-2")
    assert verify(tmp_path / "data-2").is_intact
    assert not (tmp_path / "data-2" / "restoring.part").exists()
    (tmp_path / "data-2" / "restoring.part").mkdir()  # killed before the last step
    open_gallery(tmp_path / "data-2").close()
    assert not (tmp_path / "data-2" / "restoring.part").exists()


def test_no_service_starts_before_the_restored_gallery_is_prepared(snapshot: Path, tmp_path: Path) -> None:
    """Erasures are repeated before the directory has a gallery, even if the restore is interrupted."""
    seen: list[Path] = []

    def interrupt(folder: Path, _stamp: Stamp) -> None:
        assert verify(folder).is_intact
        assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["lock", folder.name]
        seen.append(folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        restore(snapshot, tmp_path / "new", interrupt)
    assert seen
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["lock"]
    restore(snapshot, tmp_path / "new")
    assert verify(tmp_path / "new").is_intact


def test_a_directory_without_a_gallery_is_refused_and_unchanged(tmp_path: Path) -> None:
    for call in (lambda: take_snapshot(tmp_path / "data", tmp_path / "out"), lambda: verify(tmp_path / "data")):
        with pytest.raises(GalleryError, match="there is no gallery"):
            call()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(GalleryError, match="is not a snapshot"):
        restore(tmp_path, tmp_path / "out")


@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_snapshot_is_refused_and_leaves_nothing(snapshot: Path, tmp_path: Path, damage: str) -> None:
    path = snapshot / "gallery.sqlite"
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif damage == "cut":
        path.write_bytes(data[:-1])
    else:
        path.unlink()
    with pytest.raises(GalleryError, match=r"gallery\.sqlite"):
        restore(snapshot, tmp_path / "again")
    assert [path.name for path in (tmp_path / "again").iterdir()] == ["lock"]
    report = verify(snapshot)
    assert not report.is_intact
    assert "gallery.sqlite" in report.problems[0]


@pytest.mark.parametrize(
    "change",
    [{"format": "not3d-gallery-snapshot-9"}, {"files": {"../../escape": {"bytes": 1, "sha256": ""}}}, {"more": 1}],
)
def test_an_unknown_manifest_is_refused(snapshot: Path, tmp_path: Path, change: dict[str, object]) -> None:
    path = snapshot / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(GalleryError, match="is not a manifest that this version can read"):
        restore(snapshot, tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_a_snapshot_that_fails_leaves_no_files(filled: EmbeddedGallery, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "data" / "gallery.sqlite") as other:
        other.execute("PRAGMA user_version = 99")
    other.close()
    with pytest.raises(GalleryError, match="schema version 99"):
        take_snapshot(tmp_path / "data", tmp_path / "out")
    filled.close()
    path = tmp_path / "data" / "gallery.sqlite"
    data = bytearray(path.read_bytes())
    data[8192 * 2 : 8192 * 6] = os.urandom(8192 * 4)
    path.write_bytes(data)
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA user_version")
    with pytest.raises(GalleryError):
        take_snapshot(tmp_path / "data", tmp_path / "out")
    assert not list(tmp_path.glob("out*"))


def test_a_snapshot_on_a_read_only_disk_is_read(snapshot: Path, tmp_path: Path) -> None:
    shutil.copytree(snapshot, tmp_path / "copy")
    for path in (tmp_path / "copy").iterdir():
        path.chmod(0o444)
    (tmp_path / "copy").chmod(0o555)
    try:
        assert verify(tmp_path / "copy").is_intact
        restore(tmp_path / "copy", tmp_path / "again")
    finally:
        (tmp_path / "copy").chmod(0o755)
    open_gallery(tmp_path / "again").close()
