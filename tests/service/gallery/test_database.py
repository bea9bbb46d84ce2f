"""What the database file promises, and how a directory that cannot be used is refused."""

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from service.gallery import GalleryError, SpaceMismatch
from service.gallery.database import connect
from tests.service.gallery.samples import SPACE, open_gallery, record

ROOT = Path(__file__).parents[3]


def change(directory: Path, script: str) -> None:
    with closing(sqlite3.connect(directory / "gallery.sqlite")) as connection:
        connection.executescript(script)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    gallery = open_gallery(tmp_path / "data")
    gallery.add(record("a"))
    gallery.close()
    return tmp_path / "data"


def test_commits_are_made_to_survive_a_loss_of_power(directory: Path) -> None:
    with closing(connect(directory, read_only=False)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL


def test_every_row_carries_its_space(directory: Path) -> None:
    with closing(sqlite3.connect(directory / "gallery.sqlite")) as connection:
        assert connection.execute("SELECT embedding_space FROM tracklets").fetchall() == [(SPACE,)]


def test_another_space_does_not_open_the_gallery(directory: Path) -> None:
    for dimension, space in ((8, "f" * 16), (16, SPACE)):
        with pytest.raises(SpaceMismatch) as caught:
            open_gallery(directory, dimension=dimension, embedding_space=space)
        for told in (str(directory), SPACE, space, f"dimension {dimension}", "bundle", "--data-dir", "enrol"):
            assert told in str(caught.value)
    gallery = open_gallery(directory)  # and nothing was touched or left locked
    assert gallery.count() == 1
    gallery.close()


def test_a_row_of_another_space_does_not_open_either(directory: Path) -> None:
    change(directory, "UPDATE tracklets SET embedding_space = 'ffffffffffffffff'")
    with pytest.raises(SpaceMismatch, match=r"1 rows.*ffffffffffffffff"):
        open_gallery(directory)


def test_a_later_schema_is_left_alone(directory: Path) -> None:
    change(directory, "PRAGMA user_version = 2")
    with pytest.raises(GalleryError, match="schema version 2"):
        open_gallery(directory)


def test_a_database_of_another_program_is_left_alone(tmp_path: Path) -> None:
    change(tmp_path, "CREATE TABLE things (name TEXT)")
    with pytest.raises(GalleryError, match="another program"):
        open_gallery(tmp_path)


def test_a_damaged_database_is_told(directory: Path) -> None:
    (directory / "gallery.sqlite").write_bytes(b"not a database " * 1000)
    with pytest.raises(GalleryError, match=r"damaged.*backup"):
        open_gallery(directory)


def test_a_creation_that_was_broken_off_is_made_up_for(tmp_path: Path) -> None:
    (tmp_path / "gallery.sqlite").touch()
    gallery = open_gallery(tmp_path)
    gallery.add(record("a"))
    gallery.close()


def test_a_file_in_the_way_is_told(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    with pytest.raises(GalleryError, match="data cannot be used"):
        open_gallery(tmp_path / "data")


@contextmanager
def powerless() -> Iterator[None]:
    """Root may write anywhere, so be nobody for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("existing", [False, True])
def test_a_directory_that_cannot_be_written_is_told(existing: bool) -> None:
    # Not under tmp_path, which only its owner may enter.
    directory = Path(tempfile.mkdtemp())
    try:
        if existing:
            open_gallery(directory).close()
        directory.chmod(0o555)
        with powerless(), pytest.raises(GalleryError, match="cannot be written: Permission denied"):
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
# With room again, nothing is missing and enrolment goes on.
ballast.unlink()
gallery = open_gallery(disk / "data", dimension=512)
assert [item.id for item in gallery.list(limit=10_000).items] == sorted(enrolled)
gallery.add(record("more", embedding=vector("more", 512)))
assert gallery.search(vector("more", 512), 1).hits[0].record.id == "more"
gallery.close()
print("done")
"""


def test_a_full_disk_refuses_what_does_not_fit_and_loses_nothing(tmp_path: Path) -> None:
    """On a small file system of its own, which takes a user namespace."""
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
