"""The index of the ids that entries name is written later than the entries, and an erasure misses none of them."""

import asyncio
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from service.audit import log as audit_log
from service.audit import mentions
from service.audit.database import FILE_NAME, reading
from service.audit.entries import read_all
from service.audit.export import verify_source
from service.audit.log import AuditLog
from service.callers import Caller
from service.sqlite import transaction

CALLER = Caller("desk")


async def record(log: AuditLog, ids: list[str]) -> None:
    for id_ in ids:
        await log.record("search", CALLER, {"id": "details are no record"}, [{"id": id_, "score": 0.5}, {"id": "all"}])


def erase(directory: Path, *ids: str) -> int:
    async def work() -> int:
        log = AuditLog.open(directory)
        try:
            return await log.erase(ids)
        finally:
            await log.close()

    return asyncio.run(work())


def write(directory: Path, ids: list[str]) -> None:
    async def work() -> None:
        log = AuditLog.open(directory)
        await record(log, ids)
        await log.close()

    asyncio.run(work())


def state_of(directory: Path) -> tuple[int, list[str]]:
    """Return up to which position entries are indexed, and the ids in the index."""
    with closing(sqlite3.connect(directory / FILE_NAME)) as connection:
        (mark,) = connection.execute("SELECT position FROM indexed").fetchone()
        return mark, [id_ for (id_,) in connection.execute("SELECT DISTINCT id FROM mentions ORDER BY id")]


def remaining(directory: Path) -> list[str]:
    with reading(directory) as connection:
        return [str(one["id"]) for entry in read_all(connection) for one in entry.records]


def test_a_person_whom_only_entries_name_that_are_not_indexed_is_erased(tmp_path: Path) -> None:
    write(tmp_path, ["a", "b", "a"])
    assert state_of(tmp_path) == (0, [])
    assert erase(tmp_path, "a", "unknown") == 2
    assert remaining(tmp_path) == ["all", "b", "all", "all"]
    assert state_of(tmp_path) == (3, ["all", "b"])
    assert verify_source(tmp_path).fault is None
    for file in tmp_path.iterdir():
        assert b'"id":"a"' not in file.read_bytes()


def test_entries_are_indexed_in_batches_while_the_log_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name in ((audit_log, "INDEX_AFTER"), (audit_log, "ENTRIES_AT_ONCE"), (mentions, "ENTRIES_AT_ONCE")):
        monkeypatch.setattr(module, name, 2)
    write(tmp_path, ["a", "b", "c", "d", "a"])
    assert state_of(tmp_path) == (4, ["a", "all", "b", "c", "d"])
    write(tmp_path, ["e", "a"])  # one entry was left over before
    assert state_of(tmp_path)[0] in {6, 7}
    assert erase(tmp_path, "a") == 3
    assert "a" not in remaining(tmp_path)
    assert verify_source(tmp_path).fault is None


_KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from service.audit.database import connect
from service.audit.log import AuditLog
from service.audit.mentions import index_next
from service.callers import Caller

async def main():
    log = AuditLog.open(Path(sys.argv[1]))
    for id_ in "ab":
        await log.record("search", Caller("desk"), {}, [{"id": id_}])
    other = connect(Path(sys.argv[1]))
    other.execute("BEGIN IMMEDIATE")
    assert index_next(other) == 2
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


def test_a_process_that_is_killed_before_the_index_is_written_loses_neither_entries_nor_mentions(
    tmp_path: Path,
) -> None:
    killed = subprocess.run([sys.executable, "-c", _KILLED, str(tmp_path)], timeout=120, check=False)
    assert killed.returncode == -9
    assert state_of(tmp_path) == (0, [])
    assert remaining(tmp_path) == ["a", "b"]
    assert erase(tmp_path, "a") == 1
    assert remaining(tmp_path) == ["b"]
    assert verify_source(tmp_path).fault is None


def test_a_log_of_version_1_is_read_as_it_is_and_becomes_version_2_when_it_is_written(tmp_path: Path) -> None:
    write(tmp_path, ["a", "b"])
    with closing(sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None)) as connection:
        with transaction(connection):
            mentions.index_all(connection)
        connection.execute("DROP TABLE indexed")
        connection.execute("PRAGMA user_version = 1")
    assert verify_source(tmp_path).entries == 2
    assert remaining(tmp_path) == ["a", "all", "b", "all"]
    write(tmp_path, ["a"])
    assert state_of(tmp_path) == (2, ["a", "all", "b"])
    assert erase(tmp_path, "a") == 2
    assert remaining(tmp_path) == ["all", "b", "all", "all"]
    assert verify_source(tmp_path).fault is None


def test_an_empty_log_of_version_1_whose_entries_were_all_cut_off_goes_on_after_the_cut(tmp_path: Path) -> None:
    write(tmp_path, ["a"])
    with closing(sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None)) as connection:
        connection.execute("UPDATE cut SET position = 1")
        connection.execute("DELETE FROM entries")
        connection.execute("DROP TABLE indexed")
        connection.execute("PRAGMA user_version = 1")
    write(tmp_path, ["a"])
    assert state_of(tmp_path)[0] == 1
    assert erase(tmp_path, "a") == 1


def test_a_log_of_a_later_version_is_refused(tmp_path: Path) -> None:
    write(tmp_path, ["a"])
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as connection:
        connection.execute("PRAGMA user_version = 3")
    with pytest.raises(Exception, match="use the version that wrote it"):
        write(tmp_path, ["a"])


def test_an_index_that_cannot_be_written_keeps_no_entry_from_being_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(audit_log, "INDEX_AFTER", 1)

    def fail(_: sqlite3.Connection) -> int:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(audit_log, "index_next", fail)
    write(tmp_path, ["a", "b"])
    assert "audit log not indexed" in caplog.text
    assert state_of(tmp_path) == (0, [])
    assert erase(tmp_path, "a") == 1
