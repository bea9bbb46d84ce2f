"""The audit log of a service. A process of its own adds the entries: see `service.audit.writer`."""

import asyncio
import json
import logging
import socket
import sqlite3
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar

from typing_extensions import override

from service.audit import writer
from service.audit.chain import Entry, Kind
from service.audit.database import FILE_NAME, connect, identity_of, reading, translate
from service.audit.entries import Content, NewEntry, append, read_page
from service.audit.mentions import erase_mentions
from service.callers import Caller
from service.gallery.clock import now
from service.gallery.records import GalleryError, GalleryUnavailable, StorageLost
from service.sqlite import transaction

KEEP_ERASED: Final = 3600 * 1_000_000
"""Microseconds for which the log remembers erased ids, because a request that began before may name them."""
EXPIRY: Final = "expiry"
"""Who removes entries at the end of their time."""
END_SECONDS: Final = 10.0
_DAY: Final = 24 * 3600 * 1_000_000

log = logging.getLogger("not3d.service")

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]


class AuditLog:
    """The audit log in the file `audit.sqlite` of a directory.

    An entry that was recorded is on the disk. A process of its own writes the entries, so they wait neither for
    Python's lock nor for the gallery, and those of concurrent requests wait for the disk together. If that process
    ends, what waits for it fails, and the next entry starts it again. Several processes may write to one file.

    Every method can raise `DiskFull` or another `GalleryError` if the file cannot be used.
    """

    def __init__(self, directory: Path, connection: sqlite3.Connection) -> None:
        """Use `open`."""
        self.path = directory / FILE_NAME
        self._connection = connection
        self._identity = identity_of(self.path)
        self._lock = threading.Lock()
        self._closed = False
        self._wipe = False
        self._erased: dict[str, int] = {}
        self._channel: _Channel | None = None
        self._starting: asyncio.Task[_Channel] | None = None

    @classmethod
    def open(cls, directory: Path) -> "AuditLog":
        """Open the log in a directory, or create both."""
        return cls(directory, connect(directory))

    async def start(self) -> None:
        """Start the process that writes the entries, unless it runs. The first entry would start it too."""
        await self._find_channel()

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
        channel = self._channel
        if channel is None or channel.ended:
            channel = await self._find_channel()
        entry = NewEntry(kind, caller.name, details, records, gone=self._forgotten(started))
        await channel.add(entry.to_line())
        return entry.receipt

    async def run(self, work: Work[T]) -> T:
        """Do work in a transaction, and return its result once it is on the disk.

        The work must raise nothing but errors of SQLite and of the operating system; then the transaction is undone.
        """
        return await asyncio.to_thread(self._run, work)

    async def erase(self, ids: Sequence[str], entries: Sequence[NewEntry] = ()) -> int:
        """Remove the parts of entries that name these records, and add entries; return how many parts were removed."""
        at = now()
        self._erased = {id_: since for id_, since in self._erased.items() if since > at - KEEP_ERASED}
        self._erased |= dict.fromkeys(ids, at)
        if self._channel is not None:  # entries that are not written yet may name them
            await self._channel.wait()

        def work(connection: sqlite3.Connection) -> int:
            append(connection, entries)
            removed = erase_mentions(connection, ids)
            self._wipe = self._wipe or removed > 0
            return removed

        return await self.run(work)

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
        self._closed = True
        if self._starting is not None:
            with suppress(GalleryError):
                await self._starting
        if self._channel is not None:
            await self._channel.wait()
            await self._channel.close()
        await asyncio.to_thread(self._close)

    async def read(self, limit: int, before: str | None = None, kinds: Sequence[str] = ()) -> list[Entry]:
        """Return the newest entries, as `read_page`."""

        def work() -> list[Entry]:
            with reading(self.path.parent) as connection:
                return read_page(connection, limit, before, kinds)

        return await asyncio.to_thread(work)

    def _forgotten(self, started: int | None) -> frozenset[str]:
        """Return the ids of records that were erased since a request began."""
        if started is None or not self._erased:
            return frozenset()
        return frozenset(id_ for id_, at in self._erased.items() if at >= started)

    async def _find_channel(self) -> "_Channel":
        """Return the channel to the process; start the process if it does not run. Concurrent calls start it once."""
        if self._closed:
            raise GalleryError("the audit log is closed")
        if self._channel is not None and not self._channel.ended:
            return self._channel
        if self._starting is None or self._starting.done():
            self._starting = asyncio.create_task(self._start())
        return await asyncio.shield(self._starting)

    async def _start(self) -> "_Channel":
        if self._channel is not None:
            log.error("the process of the audit log has ended; it is started again")
            await self._channel.close()
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.to_thread(writer.start, self.path.parent, theirs)
        channel = _Channel(process)
        await asyncio.get_running_loop().create_unix_connection(lambda: channel, sock=ours)
        try:
            await channel.ready
        except GalleryError:
            await channel.close()
            raise
        self._channel = channel
        return channel

    def _run(self, work: Work[T]) -> T:
        with self._lock:
            if self._closed:
                raise GalleryError("the audit log is closed")
            try:
                with transaction(self._connection):
                    result = work(self._connection)
                if identity_of(self.path) != self._identity:
                    raise StorageLost(f"{self.path} was removed or replaced: restart the service")
            except (sqlite3.Error, OSError) as error:
                log.error("audit log not written", extra={"facts": {"reason": str(error)}})
                raise translate(error, self.path) from error
            self._clean()
        return result

    def _close(self) -> None:
        with self._lock:
            self._connection.close()

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

    def _clean(self) -> None:
        """Overwrite what was erased in the write-ahead log too."""
        if self._wipe:
            with suppress(sqlite3.Error):  # a reader needs it still; tried again after the next transaction
                busy = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()[0][0]
                self._wipe = bool(busy)


class _Channel(asyncio.Protocol):
    """The socket to the process that writes the entries."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[None] = loop.create_future()
        self.ended = False
        self._process = process
        self._transport: asyncio.WriteTransport | None = None
        self._lost: asyncio.Future[None] = loop.create_future()
        self._received = b""
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def add(self, line: bytes) -> None:
        """Send an entry and wait until it is on the disk."""
        if self.ended or self._transport is None:
            raise _unknown()
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        self._transport.write(line)
        await asyncio.shield(future)  # a request that is cancelled does not take its entry back

    async def wait(self) -> None:
        """Wait until all entries that were sent are on the disk, or have failed."""
        if self._waiting:
            await asyncio.wait(list(self._waiting))

    async def close(self) -> None:
        """Close the socket, which ends the process."""
        if self._transport is not None:
            self._transport.close()
        await self._lost
        await asyncio.to_thread(_end, self._process)

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)  # noqa: S101 - for the type checker
        self._transport = transport

    @override
    def data_received(self, data: bytes) -> None:
        *lines, self._received = (self._received + data).split(b"\n")
        for line in lines:
            if not self.ready.done():
                self.ready.set_result(None)
                continue
            count, fault = json.loads(line)
            if fault is not None:
                log.error("audit log not written", extra={"facts": {"reason": fault[1]}})
            for _ in range(count):
                _settle(self._waiting.popleft(), None if fault is None else writer.ERRORS[fault[0]](fault[1]))

    @override
    def connection_lost(self, _error: Exception | None) -> None:
        self.ended = True
        _settle(self.ready, GalleryError("the process of the audit log does not start; the log says why"))
        while self._waiting:
            _settle(self._waiting.popleft(), _unknown())
        _settle(self._lost)


def _settle(future: asyncio.Future[None], error: GalleryError | None = None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)


def _unknown() -> GalleryError:
    return GalleryUnavailable(
        "the process of the audit log has ended, so it is unknown whether this is recorded: try again"
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
