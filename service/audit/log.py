"""The audit log of a service, and the group commit that makes entries durable."""

import asyncio
import logging
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Final, TypeVar

from service.audit.chain import Entry, Kind
from service.audit.database import FILE_NAME, connect, reading, translate
from service.audit.entries import Content, NewEntry, append, read_page
from service.audit.mentions import ENTRIES_AT_ONCE, count_unindexed, erase_mentions, index_next
from service.callers import Caller
from service.gallery.clock import now
from service.gallery.records import GalleryError, StorageLost
from service.sqlite import transaction

KEEP_ERASED: Final = 3600 * 1_000_000
"""Microseconds for which the log remembers erased ids, because a request that began before may name them."""
GATHER_SECONDS: Final = 0.03
"""While requests are concurrent, a transaction waits at most so long for more entries: see `AuditLog.expecting`."""
PREPARED_AT_ONCE: Final = 32
"""Entries with at most so many records are hashed in the event loop, because two threads that run Python only wait for
each other."""
INDEX_AFTER: Final = 4096
"""Entries that may be missing in the index of ids; to complete it takes a few tenths of a second."""
EXPIRY: Final = "expiry"
"""Who removes entries at the end of their time."""
_DAY: Final = 24 * 3600 * 1_000_000

log = logging.getLogger("not3d.service")

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]


@dataclass(slots=True)
class _Call:
    """What one caller wants of the next transaction, an entry or other work, and where the result goes."""

    work: "NewEntry | Work[object]"
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[object]
    result: object = None


class AuditLog:
    """The audit log in the file `audit.sqlite` of a directory.

    An entry that was recorded is on the disk. Entries of concurrent requests share one transaction, in a thread of
    their own, so they wait only once for the disk and never for the gallery. Several processes may write to one file.

    Every method can raise `DiskFull` or another `GalleryError` if the file cannot be used.
    """

    def __init__(self, directory: Path, connection: sqlite3.Connection) -> None:
        """Use `open`."""
        self.path = directory / FILE_NAME
        self._connection = connection
        self._identity = _identity(self.path)
        self._wake = threading.Condition()
        self._calls: deque[_Call] = deque()
        self._closed = False
        self._expected = 0
        self._gathering = False
        self._unindexed = count_unindexed(connection)  # about: other processes may add and index entries
        self._erased: dict[str, int] = {}  # used by the thread only, as is what follows
        self._wipe = False
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)
        self._thread.start()

    @classmethod
    def open(cls, directory: Path) -> "AuditLog":
        """Open the log in a directory, or create both."""
        return cls(directory, connect(directory))

    async def record(
        self,
        kind: Kind,
        caller: Caller,
        details: Content,
        records: Sequence[Content] = (),
        *,
        started: int | None = None,
    ) -> str:
        """Add an entry and wait until it is on the disk.

        Args:
            kind: what happened.
            caller: who did it; the name goes into the entry's head, the operator into its details.
            details: what happened, without ids of records: they would stay when a person is erased.
            records: the records that the entry names: each has an `id`, and may have a `score`, a `role` and more.
            started: when the request began, in microseconds since 1970: records that were erased since are not named.

        Returns:
            The receipt, a UUIDv7.
        """
        if caller.operator is not None:
            details = {**details, "operator": caller.operator}
        entry = NewEntry(kind, caller.name, details, records, started=started)
        if len(records) <= PREPARED_AT_ONCE:
            entry.prepare()
        await self._submit(entry)
        return entry.receipt

    async def run(self, work: Work[T]) -> T:
        """Do work in the next transaction, and return its result once it is on the disk.

        The work must raise nothing but errors of SQLite and of the operating system; then the transaction is undone.
        """
        result: T = await self._submit(work)  # type: ignore[assignment]
        return result

    async def _submit(self, work: NewEntry | Work[object]) -> object:
        loop = asyncio.get_running_loop()
        call = _Call(work, loop, loop.create_future())
        with self._wake:
            if self._closed:
                raise GalleryError("the audit log is closed")
            self._calls.append(call)
            if not self._gathering or self._is_enough():
                self._wake.notify()
        return await call.future

    @contextmanager
    def expecting(self) -> Iterator[Callable[[], None]]:
        """Announce that an entry will be recorded soon, until the context ends or its value is called.

        Transactions gather entries until half of those that are announced have come, for at most `GATHER_SECONDS`: a
        transaction costs as much CPU time as some entries. A client that is alone never waits for others.
        """
        with self._wake:
            self._expected += 1
        waits = True

        def end() -> None:
            nonlocal waits
            if waits:
                waits = False
                with self._wake:
                    self._expected -= 1
                    if self._gathering and self._is_enough():
                        self._wake.notify()

        try:
            yield end
        finally:
            end()

    def _is_enough(self) -> bool:
        return 2 * len(self._calls) >= self._expected

    async def erase(self, ids: Sequence[str]) -> int:
        """Remove what entries say about these records, after they were erased; return how many parts were removed."""
        return await self.run(lambda connection: self.erase_now(connection, ids))

    def erase_now(self, connection: sqlite3.Connection, ids: Sequence[str]) -> int:
        """Do what `erase` does inside a transaction, as work for `run`."""
        at = now()
        self._erased.update(dict.fromkeys(ids, at))
        removed = erase_mentions(connection, ids)
        self._wipe = self._wipe or removed > 0
        return removed

    async def prune(self, days: float) -> int:
        """Remove entries that are older than so many days, once some are a day (or a tenth) older; return how many."""
        until = now() - round(days * _DAY)
        slack = round(min(days / 10, 1.0) * _DAY)

        def work(connection: sqlite3.Connection) -> int:
            oldest = connection.execute("SELECT time FROM entries ORDER BY position LIMIT 1").fetchone()
            return self._cut(connection, until) if oldest and oldest[0] < until - slack else 0

        return await self.run(work)

    async def close(self) -> None:
        """Write what was recorded, then close the file."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        await asyncio.to_thread(self._thread.join)

    async def read(self, limit: int, before: str | None = None, kinds: Sequence[str] = ()) -> list[Entry]:
        """Return the newest entries, as `read_page`."""

        def work() -> list[Entry]:
            with reading(self.path.parent) as connection:
                return read_page(connection, limit, before, kinds)

        return await asyncio.to_thread(work)

    def _forgotten(self, entry: NewEntry) -> frozenset[str]:
        """Return the ids of records that were erased since the request of an entry began."""
        started = entry.started
        return frozenset() if started is None else frozenset(id_ for id_, at in self._erased.items() if at >= started)

    def _cut(self, connection: sqlite3.Connection, until: int) -> int:
        kept = connection.execute(
            "SELECT position FROM entries WHERE time >= ? ORDER BY position LIMIT 1", (until,)
        ).fetchone()
        before = "" if kept is None else f"WHERE position < {int(kept[0])}"
        last = connection.execute(
            f"SELECT position, hash FROM entries {before} ORDER BY position DESC LIMIT 1"  # noqa: S608
        ).fetchone()
        if last is None:
            return 0
        connection.execute("UPDATE cut SET position = ?, hash = ?, time = ?", (*last, until))
        connection.execute("DELETE FROM mentions WHERE position <= ?", (last[0],))
        removed = connection.execute("DELETE FROM entries WHERE position <= ?", (last[0],)).rowcount
        details: Content = {"position": last[0], "hash": bytes(last[1]).hex(), "entries": removed}
        append(connection, [NewEntry("cut", EXPIRY, details, at=now())])
        self._wipe = True
        return int(removed)

    def _run(self) -> None:
        """Commit what was recorded, group by group, until the log is closed."""
        while group := self._next_group():
            error = self._commit(group)
            for loop in {call.loop for call in group}:
                own = [call for call in group if call.loop is loop]
                with suppress(RuntimeError):  # the loop was closed, so nothing waits any more
                    loop.call_soon_threadsafe(_answer, own, error)
            self._clean()
            if self._unindexed >= INDEX_AFTER:
                self._index()
        self._connection.close()

    def _next_group(self) -> Sequence[_Call]:
        """Wait for calls and return them; none if the log is closed."""
        with self._wake:
            self._wake.wait_for(lambda: self._calls or self._closed)
            self._gathering = True
            self._wake.wait_for(lambda: self._is_enough() or self._closed, GATHER_SECONDS)
            self._gathering = False
            group = list(self._calls)
            self._calls.clear()
        return group

    def _commit(self, group: Sequence[_Call]) -> GalleryError | None:
        try:
            for call in group:
                if isinstance(call.work, NewEntry):
                    call.work.prepare()  # before the file is locked
            with transaction(self._connection):
                for is_entry, calls in groupby(group, lambda call: isinstance(call.work, NewEntry)):
                    if is_entry:
                        entries = [call.work for call in calls if isinstance(call.work, NewEntry)]
                        append(self._connection, entries, [self._forgotten(entry) for entry in entries])
                        self._unindexed += len(entries)
                        continue
                    for call in calls:
                        assert not isinstance(call.work, NewEntry)  # noqa: S101 - for the type checker
                        call.result = call.work(self._connection)
            if _identity(self.path) != self._identity:
                return StorageLost(f"{self.path} was removed or replaced: restart the service")
        except (sqlite3.Error, OSError) as error:
            log.error("audit log not written", extra={"facts": {"reason": str(error)}})
            return translate(error, self.path)
        except Exception as error:  # the thread must go on, and every caller must get an answer
            log.exception("audit log not written")
            return GalleryError(f"the audit log failed: {error}")
        return None

    def _index(self) -> None:
        try:
            with transaction(self._connection):
                count = index_next(self._connection)
            self._unindexed = self._unindexed - count if count == ENTRIES_AT_ONCE else 0
        except sqlite3.Error as error:
            # The mark did not move, so nothing is lost. The next try comes after as many new entries.
            self._unindexed = 0
            log.warning("audit log not indexed", extra={"facts": {"reason": str(error)}})

    def _clean(self) -> None:
        """Overwrite what was erased in the write-ahead log too, and forget the ids whose time is over."""
        if self._wipe:
            with suppress(sqlite3.Error):  # a reader needs it still; tried again after the next transaction
                busy = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()[0][0]
                self._wipe = bool(busy)
        if self._erased:
            oldest = now() - KEEP_ERASED
            self._erased = {id_: at for id_, at in self._erased.items() if at > oldest}


def _answer(calls: Sequence[_Call], error: GalleryError | None) -> None:
    for call in calls:
        if call.future.done():  # the request was cancelled
            continue
        if error is None:
            call.future.set_result(call.result)
        else:
            mine = type(error)(*error.args)
            mine.__cause__ = error.__cause__
            call.future.set_exception(mine)


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino
