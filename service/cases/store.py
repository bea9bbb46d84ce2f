"""The cases in a SQLite file, `cases.sqlite` in the data directory."""

import asyncio
import json
import os
import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np

from service.cases.records import Case, CaseError, CaseQuery, Verdict
from service.gallery import clock
from service.gallery.async_gallery import AsyncGallery
from service.gallery.records import DiskFull, NamingCase
from service.ids import new_id
from service.sqlite import transaction
from service.verdicts import VerdictKind

T = TypeVar("T")

FILE_NAME: Final = "cases.sqlite"
APPLICATION_ID: Final = 0x6E6F7463
"""The bytes "notc", by which the file is known."""
VERSION: Final = 2
MAX_RECORDS_AT_ONCE: Final = 500
_SCHEMA: Final = """
CREATE TABLE cases (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    purpose TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    created_by TEXT NOT NULL,
    closed_at INTEGER,
    closed_by TEXT,
    query_id TEXT,
    query_vector BLOB,
    query_space TEXT,
    query_camera TEXT,
    cameras TEXT
) STRICT, WITHOUT ROWID;
CREATE TABLE query_pictures (
    case_id TEXT NOT NULL REFERENCES cases (id) ON DELETE CASCADE,
    frame INTEGER NOT NULL,
    jpeg BLOB NOT NULL,
    PRIMARY KEY (case_id, frame)
) STRICT;
"""
_VERDICTS: Final = """
CREATE TABLE verdicts (
    case_id TEXT NOT NULL REFERENCES cases (id) ON DELETE CASCADE,
    record TEXT NOT NULL,
    author TEXT NOT NULL,
    key TEXT NOT NULL,
    verdict TEXT NOT NULL CHECK (verdict IN ('same', 'different', 'unsure')),
    note TEXT NOT NULL,
    time INTEGER NOT NULL,
    PRIMARY KEY (case_id, record, key, author)
) STRICT, WITHOUT ROWID;
CREATE INDEX verdicts_of_record ON verdicts (record);
"""
# Version 1 had no cameras of a case, and one verdict of an author under all keys.
_FROM_1: Final = "ALTER TABLE cases ADD COLUMN cameras TEXT;ALTER TABLE verdicts RENAME TO old_verdicts;"
_FROM_1_VERDICTS: Final = """
INSERT INTO verdicts SELECT case_id, record, author, key, verdict, note, time FROM old_verdicts;
DROP TABLE old_verdicts;
"""
# `:cameras` are those of a key, or NULL: it sees the cases that are limited to some of them.
_SEEN: Final = (
    "(:cameras IS NULL OR (cameras IS NOT NULL AND NOT EXISTS "
    "(SELECT 1 FROM json_each(cameras) WHERE value NOT IN (SELECT value FROM json_each(:cameras)))))"
)
_CASE: Final = (
    "SELECT id, name, purpose, created_at, created_by, closed_at, closed_by, query_id, query_vector, query_space, "
    "query_camera, cameras FROM cases"
)

_NAMING: Final = f"""
SELECT cases.id, name, closed_at IS NULL, query_id IN (SELECT id FROM named),
    query_vector IS NOT NULL AND coalesce(sum(verdict = 'same'), 0), count(verdict)
FROM cases LEFT JOIN verdicts ON case_id = cases.id AND record IN (SELECT id FROM named)
WHERE {_SEEN} AND cases.id IN (
    SELECT case_id FROM verdicts WHERE record IN (SELECT id FROM named)
    UNION SELECT id FROM cases WHERE query_id IN (SELECT id FROM named)
)
GROUP BY cases.id ORDER BY cases.id DESC
"""  # noqa: S608


class CaseStore:
    """The cases of one data directory. Every change is on the disk when its call returns.

    On a Milvus server each replica has the cases of its own data directory.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        """Use `open`."""
        self._path, self._connection = path, connection
        self._lock = threading.Lock()

    @classmethod
    def open(cls, directory: Path) -> "CaseStore":
        """Open the cases in a directory, or create an empty file there.

        Raises:
            CaseError: the file cannot be used.
        """
        path = directory / FILE_NAME
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            with suppress(FileExistsError):  # SQLite would create it readable for all
                os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
            connection = sqlite3.connect(path, timeout=10, isolation_level=None, check_same_thread=False)
            try:
                _prepare(connection, path)
            except BaseException:
                connection.close()
                raise
        except (sqlite3.Error, OSError) as error:
            raise _translate(error, path) from error
        return cls(path, connection)

    async def create(self, name: str, purpose: str, author: str, cameras: frozenset[str] | None = None) -> Case:
        """Add a case, limited to `cameras` or to none, and return it."""
        case = Case(new_id(), name, purpose, clock.to_datetime(clock.now()), author, cameras=cameras)

        def work(connection: sqlite3.Connection) -> Case:
            created_at = clock.to_microseconds(case.created_at, "created_at")
            connection.execute(
                "INSERT INTO cases (id, name, purpose, created_at, created_by, cameras) VALUES (?, ?, ?, ?, ?, ?)",
                (case.id, name, purpose, created_at, author, _text_of(cameras)),
            )
            return case

        return await self._run(work)

    async def get(self, case: str, cameras: frozenset[str] | None = None) -> Case | None:
        """Return a case, or `None` if there is none that a key with these cameras sees; `None` for all cameras."""

        def work(connection: sqlite3.Connection) -> Case | None:
            values = {"id": case, "cameras": _text_of(cameras)}
            found = connection.execute(f"{_CASE} WHERE id = :id AND {_SEEN}", values).fetchone()
            if found is None:
                return None
            pictures = connection.execute("SELECT jpeg FROM query_pictures WHERE case_id = ? ORDER BY frame", (case,))
            return _read_case(found, tuple(jpeg for (jpeg,) in pictures))

        return await self._run(work)

    async def find(
        self, *, is_open: bool | None, before: str | None, limit: int, cameras: frozenset[str] | None = None
    ) -> Sequence[Case]:
        """Return at most `limit` cases without the pictures of their queries, newest first, older than `before`.

        Only those that a key with these cameras sees, as `get`.
        """
        conditions = [_SEEN]
        values = {"before": before, "limit": limit, "cameras": _text_of(cameras)}
        if is_open is not None:
            conditions.append("closed_at IS NULL" if is_open else "closed_at IS NOT NULL")
        if before is not None:
            conditions.append("id < :before")

        def work(connection: sqlite3.Connection) -> Sequence[Case]:
            where = " AND ".join(conditions)
            found = connection.execute(f"{_CASE} WHERE {where} ORDER BY id DESC LIMIT :limit", values)
            return [_read_case(row, ()) for row in found]

        return await self._run(work)

    async def update(self, case: str, *, name: str | None = None, purpose: str | None = None) -> None:
        """Change the name or the purpose of a case."""

        def work(connection: sqlite3.Connection) -> None:
            for column, value in (("name", name), ("purpose", purpose)):
                if value is not None:
                    connection.execute(f"UPDATE cases SET {column} = ? WHERE id = ?", (value, case))  # noqa: S608

        await self._run(work)

    async def close_case(self, case: str, author: str) -> None:
        """Close a case."""
        await self._execute(
            "UPDATE cases SET closed_at = ?, closed_by = ? WHERE id = ? AND closed_at IS NULL",
            (clock.now(), author, case),
        )

    async def reopen(self, case: str) -> None:
        """Open a closed case again."""
        await self._execute("UPDATE cases SET closed_at = NULL, closed_by = NULL WHERE id = ?", (case,))

    async def remove(self, case: str) -> bool:
        """Remove a case with its query and its verdicts; return whether it existed."""
        return bool(await self._execute("DELETE FROM cases WHERE id = ?", (case,)))

    async def set_query(self, case: str, query: CaseQuery) -> bool:
        """Set what an open case asks with; return whether there is such a case."""
        vector = None if query.vector is None else query.vector.astype("<f4").tobytes()
        values = (query.id, vector, query.embedding_space, query.camera_id, case)

        def work(connection: sqlite3.Connection) -> bool:
            changed = connection.execute(
                "UPDATE cases SET query_id = ?, query_vector = ?, query_space = ?, query_camera = ? "
                "WHERE id = ? AND closed_at IS NULL",
                values,
            ).rowcount
            if changed:
                connection.execute("DELETE FROM query_pictures WHERE case_id = ?", (case,))
                rows = [(case, frame, jpeg) for frame, jpeg in enumerate(query.pictures)]
                connection.executemany("INSERT INTO query_pictures (case_id, frame, jpeg) VALUES (?, ?, ?)", rows)
            return bool(changed)

        return await self._run(work)

    async def put_verdict(
        self, case: str, record: str, verdict: VerdictKind, author: str, key: str, note: str = ""
    ) -> bool:
        """Set the verdict of an author on a record of an open case; return whether there is such a case."""
        return bool(
            await self._execute(
                "INSERT OR REPLACE INTO verdicts (case_id, record, author, key, verdict, note, time) "
                "SELECT id, ?, ?, ?, ?, ?, ? FROM cases WHERE id = ? AND closed_at IS NULL",
                (record, author, key, verdict, note, clock.now(), case),
            )
        )

    async def remove_verdict(self, case: str, record: str, author: str, key: str | None = None) -> bool:
        """Remove the verdicts of an author on a record, under one key or all; return whether there was one."""
        statement = (
            "DELETE FROM verdicts WHERE case_id = ?1 AND record = ?2 AND author = ?3 AND (?4 IS NULL OR key = ?4)"
        )
        return bool(await self._execute(statement, (case, record, author, key)))

    async def verdicts(self, case: str) -> list[Verdict]:
        """Return all verdicts of a case, oldest first."""

        def work(connection: sqlite3.Connection) -> list[Verdict]:
            found = connection.execute(
                "SELECT record, verdict, author, key, time, note FROM verdicts WHERE case_id = ? "
                "ORDER BY time, record, author, key",
                (case,),
            )
            return [
                Verdict(record, verdict, author, key, clock.to_datetime(time), note)
                for record, verdict, author, key, time, note in found
            ]

        return await self._run(work)

    async def records(self, after: str = "") -> list[str]:
        """Return the next `MAX_RECORDS_AT_ONCE` ids of records that cases name, greater than `after`, ascending."""

        def work(connection: sqlite3.Connection) -> list[str]:
            found = connection.execute(
                "SELECT record FROM verdicts WHERE record > ?1 UNION SELECT query_id FROM cases WHERE query_id > ?1 "
                "ORDER BY 1 LIMIT ?2",
                (after, MAX_RECORDS_AT_ONCE),
            )
            return [record for (record,) in found]

        return await self._run(work)

    async def find_naming(self, records: Sequence[str], cameras: frozenset[str] | None = None) -> Sequence[NamingCase]:
        """Return the cases that name any of these records, newest first, and that a key with `cameras` sees.

        If an operator said that a record shows the person of a case, the footage with which the case asks shows the
        person of that record.
        """

        def work(connection: sqlite3.Connection) -> Sequence[NamingCase]:
            connection.execute("CREATE TEMP TABLE IF NOT EXISTS named (id TEXT PRIMARY KEY) STRICT, WITHOUT ROWID")
            connection.execute("DELETE FROM named")
            connection.execute(
                "INSERT OR IGNORE INTO named SELECT value FROM json_each(?)", (json.dumps(list(records)),)
            )
            found = connection.execute(_NAMING, {"cameras": _text_of(cameras)}).fetchall()
            connection.execute("DELETE FROM named")
            return [
                NamingCase(id_, name, bool(is_open), "record" if asked else "footage" if same else None, verdicts)
                for id_, name, is_open, asked, same, verdicts in found
            ]

        return await self._run(work)

    async def forget(self, records: Sequence[str], cameras: frozenset[str] | None = None) -> int:
        """Remove all that cases say about records: verdicts, notes, and queries.

        Returns:
            How many verdicts were removed from the cases that a key with these cameras sees, as `get`.
        """

        def work(connection: sqlite3.Connection) -> int:
            removed = 0
            for record in records:
                values = {"record": record, "cameras": _text_of(cameras)}
                seen = f"SELECT count(*) FROM verdicts JOIN cases ON id = case_id WHERE record = :record AND {_SEEN}"  # noqa: S608
                removed += connection.execute(seen, values).fetchone()[0]
                connection.execute("DELETE FROM verdicts WHERE record = ?", (record,))
                connection.execute("UPDATE cases SET query_id = NULL WHERE query_id = ?", (record,))
            return removed

        removed = await self._run(work)
        await asyncio.to_thread(self._empty_log)
        return removed

    async def forget_missing(self, gallery: AsyncGallery) -> None:
        """Forget the records that are not enrolled any more: those that expired, or that another process erased."""
        ids = await self.records()
        while ids:
            enrolled = await gallery.get_all(ids)
            if gone := [id_ for id_ in ids if id_ not in enrolled]:
                await self.forget(gone)
            ids = await self.records(ids[-1])

    async def close(self) -> None:
        """Close the file."""
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        with self._lock:
            self._connection.close()

    def _empty_log(self) -> None:
        # SQLite overwrites what is removed in its file; the log still has it.
        with self._lock, suppress(sqlite3.Error):
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    async def _execute(self, statement: str, values: Sequence[object]) -> int:
        return await self._run(lambda connection: connection.execute(statement, values).rowcount)

    async def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return await asyncio.to_thread(self._in_transaction, work)

    def _in_transaction(self, work: Callable[[sqlite3.Connection], T]) -> T:
        with self._lock:
            try:
                with transaction(self._connection):
                    return work(self._connection)
            except sqlite3.Error as error:
                raise _translate(error, self._path) from error


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    for setting in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "secure_delete = ON"):
        connection.execute(f"PRAGMA {setting}")
    if not connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
        facts = f"PRAGMA application_id = {APPLICATION_ID};PRAGMA user_version = {VERSION};"
        connection.executescript(f"BEGIN IMMEDIATE;{_SCHEMA}{_VERDICTS}{facts}COMMIT;")
        return
    if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise CaseError(f"{path} is a database of another program: move it away, or use another --data-dir")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version == 1:
        steps = f"{_FROM_1}DROP INDEX verdicts_of_record;{_VERDICTS}{_FROM_1_VERDICTS}"
        connection.executescript(f"BEGIN IMMEDIATE;{steps}PRAGMA user_version = {VERSION};COMMIT;")
        return
    if version != VERSION:
        raise CaseError(
            f"{path} has version {version}, but this version of not3d reads {VERSION}: start the version of not3d that "
            "wrote it, or move the file away"
        )


def _translate(error: sqlite3.Error | OSError, path: Path) -> CaseError | DiskFull:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return DiskFull(f"no space left on the disk of {path}")
    if code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
        return CaseError(f"{path} is damaged ({error}): restore it from a backup, or move it away")
    return CaseError(f"{path} cannot be used: {error}")


def _text_of(cameras: frozenset[str] | None) -> str | None:
    return None if cameras is None else json.dumps(sorted(cameras))


def _read_case(row: Sequence[Any], pictures: tuple[bytes, ...]) -> Case:
    id_, name, purpose, created_at, created_by, closed_at, closed_by, query_id, vector, space, camera, cameras = row
    query = None
    if query_id is not None or vector is not None:
        values = None if vector is None else np.frombuffer(vector, "<f4").astype(np.float32)
        query = CaseQuery(query_id, values, space, camera, pictures)
    return Case(
        id=id_,
        name=name,
        purpose=purpose,
        created_at=clock.to_datetime(created_at),
        created_by=created_by,
        closed_at=None if closed_at is None else clock.to_datetime(closed_at),
        closed_by=closed_by,
        query=query,
        cameras=None if cameras is None else frozenset(json.loads(cameras)),
    )
