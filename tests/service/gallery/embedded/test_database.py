"""Durability, schema, connections and lock of the database file, and errors for directories that cannot be used."""

import hashlib
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from service.gallery import Filter, GalleryError, GalleryLocked, SpaceMismatch
from service.gallery.archive.snapshot import restore, take_snapshot
from service.gallery.embedded import database
from service.gallery.embedded.database import Readers, connect
from tests.service.gallery.samples import JPEG, NOON, SPACE, assert_same, at, open_gallery, record, vector

ROOT = Path(__file__).parents[4]


def change(directory: Path, script: str) -> None:
    with closing(sqlite3.connect(directory / "gallery.sqlite")) as connection:
        connection.executescript(script)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    gallery = open_gallery(tmp_path / "data")
    gallery.add(record("a"))
    gallery.close()
    return tmp_path / "data"


def test_commits_are_synchronised_to_survive_a_power_failure(directory: Path) -> None:
    with closing(connect(directory, read_only=False)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL


def test_every_row_names_its_embedding_space(directory: Path) -> None:
    with closing(sqlite3.connect(directory / "gallery.sqlite")) as connection:
        assert connection.execute("SELECT embedding_space FROM tracklets").fetchall() == [(SPACE,)]


def test_a_model_of_another_space_is_refused(directory: Path) -> None:
    for dimension, space in ((8, "f" * 16), (16, SPACE)):
        with pytest.raises(SpaceMismatch) as caught:
            open_gallery(directory, dimension=dimension, embedding_space=space)
        for part in (str(directory), SPACE, space, f"dimension {dimension}", "model that made", "--data-dir", "enrol"):
            assert part in str(caught.value)
    gallery = open_gallery(directory)  # nothing was changed or left locked
    assert gallery.count() == 1
    gallery.close()


def test_a_row_of_another_space_is_refused(directory: Path) -> None:
    change(directory, "UPDATE tracklets SET embedding_space = 'ffffffffffffffff'")
    with pytest.raises(SpaceMismatch, match=r"1 rows.*ffffffffffffffff"):
        open_gallery(directory)


def test_a_later_schema_is_refused(directory: Path) -> None:
    change(directory, f"PRAGMA user_version = {database.SCHEMA_VERSION + 1}")
    with pytest.raises(GalleryError, match=f"schema version {database.SCHEMA_VERSION + 1}"):
        open_gallery(directory)


# A database of schema version 1 with one record, whose id is "old" and whose metadata are {"k": 1}.
VERSION_1 = f"""
BEGIN;
CREATE TABLE gallery (embedding_space TEXT NOT NULL, dimension INTEGER NOT NULL, model_name TEXT NOT NULL,
    version INTEGER NOT NULL, index_token TEXT, next_index_token TEXT) STRICT;
CREATE TABLE tracklets (number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE,
    embedding_space TEXT NOT NULL, camera_id TEXT, start_time INTEGER, end_time INTEGER, metadata TEXT NOT NULL,
    frames INTEGER NOT NULL, clips INTEGER NOT NULL, created_at INTEGER NOT NULL) STRICT;
CREATE INDEX tracklets_of_camera ON tracklets (camera_id, id);
CREATE TABLE embeddings (number INTEGER PRIMARY KEY REFERENCES tracklets (number) ON DELETE CASCADE,
    vector BLOB NOT NULL) STRICT;
CREATE TABLE metadata_terms (digest BLOB NOT NULL,
    number INTEGER NOT NULL REFERENCES tracklets (number) ON DELETE CASCADE,
    PRIMARY KEY (digest, number)) STRICT, WITHOUT ROWID;
CREATE INDEX metadata_terms_of_tracklet ON metadata_terms (number);
INSERT INTO gallery VALUES ('{SPACE}', 8, 'sample', 1, NULL, NULL);
INSERT INTO tracklets VALUES (7, 'old', '{SPACE}', 'c1', NULL, NULL, '{{"k": 1}}', 9, 3,
    {int(NOON.timestamp()) * 10**6});
INSERT INTO embeddings VALUES (7, x'{vector("old").astype("<f4").tobytes().hex()}');
INSERT INTO metadata_terms VALUES (x'{hashlib.sha256(b'["k",1]').hexdigest()}', 7);
PRAGMA application_id = {0x6E6F7433};
PRAGMA user_version = 1;
COMMIT;
"""


@pytest.fixture
def first_version(tmp_path: Path) -> Path:
    change(tmp_path, f"PRAGMA journal_mode = WAL;{VERSION_1}")
    return tmp_path


def test_a_gallery_of_the_first_version_is_migrated(first_version: Path) -> None:
    old = record("old", metadata={"k": 1})
    for _ in range(2):  # the second time without a migration
        gallery = open_gallery(first_version)
        assert_same(gallery.get("old"), old)
        assert [hit.record.id for hit in gallery.search(vector("old"), 5, Filter(metadata={"k": 1})).hits] == ["old"]
        gallery.put(record("new", expires_at=at(10**9), thumbnail=JPEG))
        assert gallery.thumbnail("new") == JPEG
        gallery.close()
    assert dump(first_version) == dump_of_a_new_one(first_version / "new")


def dump(directory: Path) -> list[tuple[str, str]]:
    """Return the schema without blanks."""
    with closing(sqlite3.connect(directory / "gallery.sqlite")) as connection:
        found = connection.execute("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name").fetchall()
    return [(name, "".join(sql.split())) for name, sql in found]


def dump_of_a_new_one(directory: Path) -> list[tuple[str, str]]:
    open_gallery(directory).close()
    return dump(directory)


def test_a_failed_migration_changes_nothing(first_version: Path) -> None:
    change(first_version, "CREATE TABLE audit (in_the_way TEXT)")
    with pytest.raises(GalleryError, match="audit already exists"):
        open_gallery(first_version)
    with closing(sqlite3.connect(first_version / "gallery.sqlite")) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (1,)
        columns = {name for _, name, *_ in connection.execute("PRAGMA table_info(tracklets)")}
        assert "expires_at" not in columns
    change(first_version, "DROP TABLE audit")
    open_gallery(first_version).close()


def test_a_gallery_of_another_space_is_not_migrated(first_version: Path) -> None:
    with pytest.raises(SpaceMismatch):
        open_gallery(first_version, embedding_space="f" * 16)
    with closing(sqlite3.connect(first_version / "gallery.sqlite")) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (1,)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit SET erased = 0",
        "DELETE FROM audit",
        "INSERT OR REPLACE INTO audit SELECT * FROM audit",
        "INSERT OR REPLACE INTO audit (receipt, time, action, requester, filter, erased) "
        "SELECT receipt, 0, 'erase', '', '{}', 0 FROM audit",
    ],
)
def test_the_audit_log_is_append_only(directory: Path, statement: str) -> None:
    gallery = open_gallery(directory)
    gallery.delete("a", by="me")
    before = gallery.audit()
    gallery.close()
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        change(directory, statement)
    gallery = open_gallery(directory)
    assert gallery.audit() == before
    gallery.close()


def test_a_database_of_another_program_is_refused(tmp_path: Path) -> None:
    change(tmp_path, "CREATE TABLE things (name TEXT)")
    with pytest.raises(GalleryError, match="another program"):
        open_gallery(tmp_path)


def test_a_damaged_database_is_reported(directory: Path) -> None:
    (directory / "gallery.sqlite").write_bytes(b"not a database " * 1000)
    with pytest.raises(GalleryError, match=r"damaged.*backup"):
        open_gallery(directory)


def test_an_interrupted_creation_is_completed(tmp_path: Path) -> None:
    (tmp_path / "gallery.sqlite").touch()
    gallery = open_gallery(tmp_path)
    gallery.add(record("a"))
    gallery.close()


def test_a_file_instead_of_the_directory_is_reported(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    with pytest.raises(GalleryError, match="data cannot be used"):
        open_gallery(tmp_path / "data")


@contextmanager
def as_nobody() -> Iterator[None]:
    """Become the user nobody, because root may write anywhere."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("existing", [False, True])
def test_a_directory_that_cannot_be_written_is_reported(existing: bool) -> None:
    # Not in tmp_path, which only its owner may enter.
    directory = Path(tempfile.mkdtemp())
    try:
        if existing:
            open_gallery(directory).close()
        directory.chmod(0o555)
        with as_nobody(), pytest.raises(GalleryError, match="cannot be written: Permission denied"):
            open_gallery(directory)
    finally:
        directory.chmod(0o755)
        shutil.rmtree(directory)


FILL_A_DISK = """
import sys
from pathlib import Path
from service.gallery import DiskFull, Filter
from tests.service.gallery.samples import open_gallery, record, vector, assert_same

disk = Path(sys.argv[1])
ballast = disk / "ballast"
ballast.write_bytes(bytes(100_000))
gallery = open_gallery(disk / "data", dimension=512)
enrolled = []
try:
    while len(enrolled) < 10_000:
        name = f"r{len(enrolled)}"
        gallery.add(record(name, embedding=vector(name, 512)))
        enrolled.append(name)
except DiskFull as error:
    print("full:", error)
assert 10 < len(enrolled) < 10_000
for name in enrolled:
    assert_same(gallery.get(name), record(name, embedding=vector(name, 512)))
assert gallery.get(f"r{len(enrolled)}") is None
assert gallery.search(vector("r0", 512), 1).searched == len(enrolled)
gallery.close()
# With free space, no record is missing and enrolment works.
ballast.unlink()
gallery = open_gallery(disk / "data", dimension=512)
assert [item.id for item in gallery.list(limit=10_000).items] == sorted(enrolled)
gallery.add(record("more", embedding=vector("more", 512)))
assert gallery.search(vector("more", 512), 1).hits[0].record.id == "more"
gallery.close()
print("done")
"""


def test_a_full_disk_refuses_new_records_and_loses_none(tmp_path: Path) -> None:
    """On a small file system, which needs a user namespace."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = f"mount -t tmpfs -o size=1m none {disk}"
    namespace = ["unshare", "--mount", "--map-root-user"]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*namespace, "sh", "-c", mount], check=False, capture_output=True).returncode
    ):
        pytest.skip("no small file system can be mounted here")
    done = subprocess.run(
        [*namespace, "sh", "-c", f'{mount} && exec "$0" -c "$1" {disk}', sys.executable, FILL_A_DISK],
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "full: no space left" in done.stdout
    assert done.stdout.endswith("done\n")


def modes(directory: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mode & 0o777 for path in (directory, *directory.iterdir())}


def test_only_the_owner_can_read_new_files(tmp_path: Path) -> None:
    """With any umask. SQLite's other files take the mode of the database."""
    earlier = os.umask(0o002)
    try:
        gallery = open_gallery(tmp_path / "data")
        gallery.add(record("a"))
        while_open = modes(tmp_path / "data")
        take_snapshot(tmp_path / "data", tmp_path / "snapshot")
        gallery.close()
        made = [while_open, modes(tmp_path / "data"), modes(tmp_path / "snapshot")]
        restore(tmp_path / "snapshot", tmp_path / "again")
        made.append(modes(tmp_path / "again"))
    finally:
        os.umask(earlier)
    assert {"gallery.sqlite", "gallery.sqlite-wal", "gallery.sqlite-shm", "lock"} < while_open.keys()
    assert "index.faiss" in made[1]
    for found in made:
        folder, *files = found.values()
        assert folder == 0o700
        assert set(files) == {0o600}


def test_an_existing_directory_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data").chmod(0o750)
    open_gallery(tmp_path / "data").close()
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o750


class Failing:
    """A real connection whose ROLLBACK fails."""

    def __init__(self, real: sqlite3.Connection) -> None:
        self.real = real
        self.closed = False

    @property
    def in_transaction(self) -> bool:
        return self.real.in_transaction

    def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        if statement == "ROLLBACK":
            raise sqlite3.OperationalError("disk I/O error")
        return self.real.execute(statement, *values)

    def close(self) -> None:
        self.closed = True
        self.real.close()


def test_a_connection_is_reused(tmp_path: Path) -> None:
    open_gallery(tmp_path).close()
    lent = Readers(tmp_path)
    with lent.snapshot() as first, lent.snapshot() as second:
        assert first is not second
    with lent.snapshot() as third:
        assert third in {first, second}
    lent.close()


def test_a_connection_that_cannot_end_its_transaction_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_gallery(tmp_path).close()
    lent = Readers(tmp_path)
    failing = Failing(connect(tmp_path, read_only=True))
    with monkeypatch.context() as patch:
        patch.setattr(database, "connect", lambda *_arguments, **_more: failing)
        with pytest.raises(GalleryError), lent.snapshot():
            pass
    assert failing.closed
    with lent.snapshot() as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    lent.close()


OPEN = """
import sys
from pathlib import Path
from service.gallery import GalleryLocked
from tests.service.gallery.samples import open_gallery
try:
    open_gallery(Path(sys.argv[1])).close()
except GalleryLocked as error:
    sys.exit(str(error))
"""


def open_elsewhere(directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", OPEN, str(directory)],
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_second_process_is_refused_with_the_id_of_the_first(tmp_path: Path) -> None:
    gallery = open_gallery(tmp_path)
    gallery.add(record("a"))
    refused = open_elsewhere(tmp_path)
    assert refused.returncode == 1
    assert f"by process {os.getpid()}" in refused.stderr
    assert "--data-dir" in refused.stderr
    assert gallery.get("a") is not None
    gallery.close()
    accepted = open_elsewhere(tmp_path)
    assert accepted.returncode == 0, accepted.stderr


def test_a_second_gallery_in_one_process_is_refused(tmp_path: Path) -> None:
    gallery = open_gallery(tmp_path)
    with pytest.raises(GalleryLocked):
        open_gallery(tmp_path)
    gallery.close()
    open_gallery(tmp_path).close()


def test_the_thumbnail_of_the_second_version_is_kept(directory: Path) -> None:
    change(
        directory,
        "DROP TABLE deliveries; DROP TABLE alert_verdicts; DROP TABLE alerts; DROP TABLE alert_clock;"
        "DROP TABLE watchlist_vectors; DROP TABLE watchlists; DROP TABLE thumbnails;"
        "CREATE TABLE thumbnails (number INTEGER PRIMARY KEY REFERENCES tracklets (number) ON DELETE CASCADE,"
        " jpeg BLOB NOT NULL) STRICT;"
        f"INSERT INTO thumbnails SELECT number, x'{JPEG.hex()}' FROM tracklets;"
        "PRAGMA user_version = 2",
    )
    gallery = open_gallery(directory)
    (kept,) = gallery.list(limit=1).items
    assert (kept.thumbnail_count, gallery.thumbnail(kept.id)) == (1, JPEG)
    assert gallery.thumbnail(kept.id, 1) is None
    gallery.close()
