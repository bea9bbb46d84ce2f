import asyncio
import json
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.audit import log as audit_log
from service.audit.chain import Entry, canonical, canonical_record, verify
from service.audit.database import FILE_NAME, reading
from service.audit.entries import read_all
from service.audit.export import verify_source
from service.audit.log import AuditLog
from service.callers import Caller
from service.gallery.clock import now
from service.gallery.records import DiskFull, GalleryError, InvalidArgument, StorageLost

CALLER = Caller("desk", operator="v. ivanova")


@asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[AuditLog]:
    log = AuditLog.open(directory)
    try:
        yield log
    finally:
        await log.close()


def run(directory: Path, work: Callable[[AuditLog], Coroutine[Any, Any, Any]]) -> Any:
    async def main() -> Any:
        async with opened(directory) as log:
            return await work(log)

    return asyncio.run(main())


async def record_three(log: AuditLog) -> list[str]:
    found: list[dict[str, Any]] = [{"id": "a", "score": 0.5}, {"id": "b", "score": -0.25}]
    return [
        await log.record("search", CALLER, {"purpose": "case 7", "filter": {}}, found),
        await log.record("read_vectors", Caller("other"), {}, [{"id": "a"}]),
        await log.record("key", CALLER, {"created": "gate"}),
    ]


def entries_of(directory: Path) -> list[Entry]:
    with reading(directory) as connection:
        return list(read_all(connection))


def test_an_entry_says_who_did_what_and_is_on_the_disk(tmp_path: Path) -> None:
    receipts = run(tmp_path, record_three)
    first, second, third = entries_of(tmp_path)
    assert [first.receipt, second.receipt, third.receipt] == receipts
    assert (first.kind, first.by) == ("search", "desk")
    assert first.details == {"purpose": "case 7", "filter": {}, "operator": "v. ivanova"}
    assert first.records == [{"id": "a", "score": 0.5}, {"id": "b", "score": -0.25}]
    assert second.details == {}
    assert [each.position for each in (first, second, third)] == [1, 2, 3]


def test_the_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    run(tmp_path, record_three)
    assert (tmp_path / FILE_NAME).stat().st_mode & 0o077 == 0


def test_pages_go_back_in_time_and_can_be_of_some_kinds(tmp_path: Path) -> None:
    async def work(log: AuditLog) -> None:
        first, second, third = await record_three(log)
        assert [each.receipt for each in await log.read(2)] == [third, second]
        assert [each.receipt for each in await log.read(2, before=second)] == [first]
        assert [each.receipt for each in await log.read(9, kinds=["search", "key"])] == [third, first]
        with pytest.raises(InvalidArgument, match="before is not a receipt"):
            await log.read(1, before="x")

    run(tmp_path, work)


def test_entries_of_one_moment_share_a_transaction_and_stay_in_order(tmp_path: Path) -> None:
    async def work(log: AuditLog) -> list[str]:
        return await asyncio.gather(*(log.record("search", CALLER, {"n": n}) for n in range(200)))

    receipts = run(tmp_path, work)
    entries = entries_of(tmp_path)
    assert [each.receipt for each in entries] == receipts
    assert verify(entries).fault is None


def test_several_processes_write_one_chain(tmp_path: Path) -> None:
    async def work() -> None:
        async with opened(tmp_path) as one, opened(tmp_path) as other:
            await asyncio.gather(*(log.record("search", CALLER, {}) for log in (one, other) for _ in range(50)))

    asyncio.run(work())
    checked = verify_source(tmp_path)
    assert (checked.entries, checked.fault) == (100, None)


def test_erasing_a_person_removes_what_identifies_them_and_keeps_the_chain(tmp_path: Path) -> None:
    async def work(log: AuditLog) -> None:
        await record_three(log)
        assert await log.erase(["a", "not there"]) == 2

    run(tmp_path, work)
    first, second, _ = entries = entries_of(tmp_path)
    assert first.records == [{"id": "b", "score": -0.25}]
    assert (first.erased_records, second.erased_records) == (1, 1)
    assert first.details["purpose"] == "case 7"
    checked = verify(entries)
    assert (checked.entries, checked.fault) == (3, None)
    for file in tmp_path.iterdir():
        assert b'"id":"a"' not in file.read_bytes()


def test_a_digest_does_not_tell_which_id_was_erased(tmp_path: Path) -> None:
    """The same content has another digest in each entry, so a list of all ids cannot be tried."""

    async def work(log: AuditLog) -> None:
        for _ in range(2):
            await log.record("read_vectors", CALLER, {}, [{"id": "a"}])

    run(tmp_path, work)
    first, second = entries_of(tmp_path)
    assert first.parts[1].digest != second.parts[1].digest
    assert len(first.parts[1].salt or b"") == 16


def test_a_search_that_was_running_does_not_bring_an_erased_person_back(tmp_path: Path) -> None:
    async def work(log: AuditLog) -> None:
        began = now()
        await log.erase(["a"])
        await log.record("search", CALLER, {}, [{"id": "a"}, {"id": "b"}], started=began)
        await log.record("search", CALLER, {}, [{"id": "a"}], started=now())  # enrolled again

    run(tmp_path, work)
    first, second = entries_of(tmp_path)
    assert (first.records, first.erased_records) == ([{"id": "b"}], 1)
    assert second.records == [{"id": "a"}]


@pytest.mark.parametrize(
    ("statement", "position", "reason"),
    [
        ("UPDATE entries SET requester = 'x' WHERE position = 2", 2, "was changed"),
        ("UPDATE entries SET kind = 'search' WHERE position = 2", 2, "was changed"),
        ("UPDATE entries SET time = time + 1 WHERE position = 2", 2, "was changed"),
        ("UPDATE entries SET parts = replace(parts, 'case 7', 'case 8')", 1, "was changed"),
        ("DELETE FROM entries WHERE position = 2", 3, "entries between them are missing"),
        ("UPDATE entries SET hash = previous WHERE position = 1", 1, "was changed"),
        ("DELETE FROM entries WHERE position = 1", 2, "follows entry 0"),
    ],
)
def test_the_chain_shows_what_was_changed(tmp_path: Path, statement: str, position: int, reason: str) -> None:
    run(tmp_path, record_three)
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as connection:
        for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall():
            connection.execute(f"DROP TRIGGER {name}")
        connection.execute(statement)
        connection.commit()
    fault = verify_source(tmp_path).fault
    assert fault is not None
    assert fault.position == position
    assert reason in fault.reason


@pytest.mark.parametrize("statement", ["UPDATE entries SET time = 0", "DELETE FROM entries"])
def test_programs_that_open_the_file_cannot_change_entries(tmp_path: Path, statement: str) -> None:
    run(tmp_path, record_three)
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as connection, pytest.raises(sqlite3.Error, match="append"):
        connection.execute(statement)


def test_old_entries_are_cut_off_and_the_rest_is_anchored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(log: AuditLog) -> None:
        await record_three(log)
        third = (await log.read(1))[0]
        monkeypatch.setattr(audit_log, "now", lambda: now() + 10 * 24 * 3600 * 1_000_000)
        assert await log.prune(30) == 0
        assert await log.prune(5) == 3
        assert await log.prune(5) == 0
        (entry,) = await log.read(9)
        assert (entry.kind, entry.by, entry.position) == ("cut", "expiry", 4)
        assert entry.details == {"position": 3, "hash": third.hash.hex(), "entries": 3}
        await log.record("search", CALLER, {})

    run(tmp_path, work)
    checked = verify_source(tmp_path)
    assert (checked.entries, checked.position, checked.fault) == (2, 5, None)
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as connection:
        assert connection.execute("SELECT count(*) FROM mentions").fetchone() == (0,)


TEXT = st.text(st.characters(exclude_categories=["Cs"]))
NUMBER = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBER | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


@given(st.fixed_dictionaries({"id": TEXT | NUMBER, "role": TEXT, "rank": NUMBER | st.booleans(), "score": NUMBER}))
def test_a_hit_is_written_as_any_other_json(hit: dict[str, Any]) -> None:
    assert canonical_record(hit) == canonical(hit)


@settings(max_examples=10, deadline=None)
@given(st.lists(st.dictionaries(TEXT, JSON, max_size=3), max_size=4))
def test_any_details_can_be_exported_read_again_and_verified(details: list[dict[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as folder:

        async def work(log: AuditLog) -> None:
            for each in details:
                await log.record("search", Caller("desk"), each, [{**each, "id": "b"}])

        run(Path(folder), work)
        entries = entries_of(Path(folder))
        lines = [json.dumps(each.to_json()) for each in entries]
    again = [Entry.from_json(json.loads(line)) for line in lines]
    assert again == entries
    assert [each.details for each in again] == [json.loads(canonical(each)) for each in details]
    assert verify(again).fault is None
    if len(again) > 1:
        assert verify([replace(again[0], kind="key"), *again[1:]]).fault is not None


def test_nothing_is_acknowledged_that_is_not_under_the_path(tmp_path: Path) -> None:
    async def work(log: AuditLog) -> None:
        await log.record("search", CALLER, {})
        log.path.rename(tmp_path / "elsewhere")
        with pytest.raises(GalleryError):
            await log.record("search", CALLER, {})
        log.path.touch()
        with pytest.raises(StorageLost, match="removed or replaced"):
            await log.record("search", CALLER, {})

    run(tmp_path, work)


def test_a_full_disk_is_an_error_and_the_log_goes_on(tmp_path: Path) -> None:
    async def work(log: AuditLog) -> None:
        pages = await log.run(lambda connection: connection.execute("PRAGMA max_page_count = 12").fetchone()[0])
        assert pages >= 8
        with pytest.raises(DiskFull):
            await log.record("search", CALLER, {"purpose": "x" * 200_000})
        await log.run(lambda connection: connection.execute("PRAGMA max_page_count = 100000").fetchone()[0])
        await log.record("search", CALLER, {})

    run(tmp_path, work)
    assert verify(entries_of(tmp_path)).fault is None


def test_a_file_of_another_program_is_refused(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as connection:
        connection.execute("CREATE TABLE other (x)")
    with pytest.raises(GalleryError, match="not an audit log"):
        AuditLog.open(tmp_path)
    with pytest.raises(GalleryError, match="has no audit log"), reading(tmp_path / "missing"):
        pass


def test_entries_of_concurrent_requests_share_transactions_of_few_statements(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_log, "GATHER_SECONDS", 30.0)  # a slow machine gathers as many entries as a fast one
    statements: list[str] = []

    found = [{"id": f"r{number}", "score": 0.5} for number in range(10)]

    async def search(log: AuditLog) -> None:
        with log.expecting():
            await log.record("search", CALLER, {}, found, started=now())

    async def work(log: AuditLog) -> None:
        # By the log's own thread: SQLite holds its lock while it calls back, and would wait for Python's for ever.
        await log.run(lambda connection: connection.set_trace_callback(statements.append))
        statements.clear()
        for _ in range(3):
            erasing = log.erase(["r3"])
            await asyncio.gather(*(search(log) for _ in range(150)), erasing)
        await log.run(lambda connection: connection.set_trace_callback(None))

    run(tmp_path, work)
    entries = entries_of(tmp_path)
    assert verify(entries).fault is None
    assert len(entries) == 450
    assert all(entry.erased_records == 1 for entry in entries)  # also of those that came after the erasure had begun
    commits = statements.count("COMMIT")
    inserts = sum(statement.startswith("INSERT") for statement in statements)
    assert commits <= 12, "a request of its own for each entry"
    assert inserts <= 4 * commits + 12


def test_a_single_client_does_not_wait_for_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_log, "GATHER_SECONDS", 30.0)

    async def work(log: AuditLog) -> None:
        for _ in range(5):
            await asyncio.wait_for(log.record("search", CALLER, {}), 20)

    run(tmp_path, work)
    assert len(entries_of(tmp_path)) == 5


def test_a_transaction_gathers_half_of_the_entries_that_are_expected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_log, "GATHER_SECONDS", 30.0)

    async def work(log: AuditLog) -> None:
        with log.expecting(), log.expecting() as other_ended, log.expecting():
            first = asyncio.create_task(log.record("search", CALLER, {}))
            await asyncio.sleep(0.05)
            assert not first.done()
            other_ended()  # that request failed, or its entry is written
            await asyncio.wait_for(first, 20)

    run(tmp_path, work)
