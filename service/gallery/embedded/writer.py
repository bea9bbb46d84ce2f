"""All changes to the database, and the group commit that makes them durable.

Concurrent callers share one transaction, so they wait only once for the disk. `enrol`, `delete`, `erase` and `expire`
run inside a transaction. Their `now` is in microseconds since 1970, and their `cameras` are those of the protocol.
"""

import logging
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from service.gallery.checks import Row, audit_condition, check_count, encode
from service.gallery.embedded import alerts, audit, rows
from service.gallery.embedded.database import translate
from service.gallery.embedded.index.centring import CameraSums
from service.gallery.embedded.storage import Storage
from service.gallery.records import DuplicateId, Erasure, Filter, GalleryError, OnConflict, Record, StorageLost

log = logging.getLogger(__name__)

T = TypeVar("T")

_ROWS_AT_ONCE = 4096
_WRITE_TIMEOUT_MS = 10_000
_CHECKPOINT_TIMEOUT_MS = 1000
"""Shorter, because a waiting checkpoint blocks all changes, and a snapshot of the gallery may take minutes."""


@dataclass(slots=True)
class Change:
    """The changes of one transaction. The index applies first `added`, then `removed`.

    `other` is true if something changed that the index does not contain, such as the audit log. `removed_sums` are
    those of the removed rows, or `None` if the index does not need them: the vectors are gone after the commit.
    `watching` compares new rows with the watchlists; `None` if nothing is compared.
    """

    added: list[tuple[int, Row]] = field(default_factory=list)
    removed: list[int] = field(default_factory=list)
    other: bool = False
    removed_sums: CameraSums | None = None
    watching: alerts.Watching | None = None

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.other)


Work = Callable[[sqlite3.Connection, Change], T]


def enrol(
    connection: sqlite3.Connection,
    change: Change,
    new: Mapping[str, Row],
    space: str,
    on_conflict: OnConflict,
    now: int,
    cameras: frozenset[str] | None = None,
) -> set[str]:
    """Write the rows `new`, given by id. Return the ids that existed. Raises `DuplicateId`."""
    stored = rows.find_ids(connection, list(new), now)
    taken = {id_ for id_, one in stored.items() if not one.expired}
    of_others = taken - rows.find_ids(connection, list(taken), now, cameras).keys() if cameras is not None else set()
    if refused := taken if on_conflict == "error" else of_others:
        raise DuplicateId(min(refused))
    skipped = taken if on_conflict == "skip" else set()
    _remove(connection, change, [one.number for id_, one in stored.items() if id_ not in skipped])
    if expired := len(stored) - len(taken):
        audit.write_expiry(connection, expired, now)
    added = [row for id_, row in new.items() if id_ not in skipped]
    numbers = rows.insert(connection, added, space)
    change.added.extend(zip(numbers, added, strict=True))
    alerts.forget_expired(connection, [id_ for id_, one in stored.items() if one.expired])
    alerts.follow(connection, [row for row in added if row.id in taken])
    if change.watching is not None:
        alerts.raise_alerts(connection, change.watching, added)
    return taken


def update(
    connection: sqlite3.Connection,
    change: Change,
    id: str,
    new_record: Callable[[Record], Record | None],
    dimension: int,
    space: str,
    now: int,
    cameras: frozenset[str] | None = None,
) -> str | None:
    """Replace one record by what `new_record` returns, as `Gallery.update`. Return its id, or `None` if none is new."""
    stored = rows.find_ids(connection, [id], now, cameras).get(id)
    if stored is None or stored.expired:
        return None
    (record,) = rows.by_number(connection, [stored.number])
    thumbnails = rows.thumbnails_by_number(connection, [stored.number]).get(stored.number, ())
    new = new_record(replace(record, thumbnails=thumbnails))
    if new is None:
        return None
    row = encode(new, dimension)
    _remove(connection, change, [stored.number])
    change.added.extend(zip(rows.insert(connection, [row], space), [row], strict=True))
    alerts.follow(connection, [row])
    return new.id


def delete(
    connection: sqlite3.Connection,
    change: Change,
    id: str,
    by: str,
    now: int,
    cameras: frozenset[str] | None = None,
) -> bool:
    """Remove one record and write an entry to the audit log. Return false if the record does not exist."""
    stored = rows.find_ids(connection, [id], now, cameras).get(id)
    if stored is not None or cameras is None:
        # Also of a record that has expired: a watchlist may still have its vector.
        change.other |= alerts.forget(connection, [id], change.watching)
    if stored is None:
        return False
    _remove(connection, change, [stored.number])
    if stored.expired:  # `expire` has not removed it yet, so the entry names the expiry and not the caller
        audit.write_expiry(connection, 1, now)
    else:
        audit.write(connection, "delete", by=by, condition={"id": id}, erased=1, at=now)
    return not stored.expired


def erase(
    connection: sqlite3.Connection,
    change: Change,
    filter: Filter,
    by: str,
    now: int,
    expected: int | None = None,
) -> tuple[Erasure, int]:
    """Remove all records that pass, and write an entry to the audit log even if none passes.

    Returns:
        What was erased, and how many expired records were removed besides.

    Raises:
        OtherCount: another number of records passes than `expected`.
    """
    enrolled, expired = rows.numbers_where(connection, filter, now)
    check_count(len(enrolled), expected)
    ids = rows.ids_of(connection, enrolled)
    alerts.forget(connection, [*ids.values(), *rows.ids_of(connection, expired).values()], change.watching)
    without_time = rows.count_without_time(connection, filter, now)
    _remove(connection, change, [*enrolled, *expired])
    if expired:
        audit.write_expiry(connection, len(expired), now)
    condition = audit_condition(filter)
    receipt = audit.write(connection, "erase", by=by, condition=condition, erased=len(enrolled), at=now)
    change.other = True
    erasure = Erasure(len(enrolled), len(enrolled), receipt, list(ids.values()), without_time)
    return erasure, len(expired)


def expire(connection: sqlite3.Connection, change: Change, limit: int, now: int) -> int:
    """Remove at most `limit` expired records and write an entry to the audit log. Return how many were removed."""
    numbers = rows.expired(connection, now, limit)
    alerts.forget_expired(connection, list(rows.ids_of(connection, numbers).values()))
    _remove(connection, change, numbers)
    if numbers:
        audit.write_expiry(connection, len(numbers), now)
    return len(numbers)


def _remove(connection: sqlite3.Connection, change: Change, numbers: Sequence[int]) -> None:
    if change.removed_sums is not None:
        sums = CameraSums(change.removed_sums.dimension)
        for start in range(0, len(numbers), _ROWS_AT_ONCE):
            part = numbers[start : start + _ROWS_AT_ONCE]
            sums.add_all(*rows.vectors_by_camera(connection, part, sums.dimension))
        change.removed_sums.add_sums(sums)
    rows.delete(connection, numbers)
    change.removed.extend(numbers)


class _Call:
    """The work of one caller, and its result or error."""

    __slots__ = ("error", "finished", "result", "work")

    def __init__(self, work: Work[Any]) -> None:
        self.work = work
        self.finished = False
        self.result: Any = None
        self.error: GalleryError | None = None


class Writer:
    """The only connection that changes the database.

    A caller that finds the connection free becomes the leader of a group: it runs the work of all waiting callers in
    one transaction, commits, passes the new version and the changes to `on_commit`, and then lets the callers return.
    So the index never sees a change that is not committed.

    Work that raises `GalleryError` must not have changed anything; then only its caller gets the error. If SQLite
    fails, all callers of the group get the error, and nothing is committed. If the directory is not the one that
    is open, before or after the commit, all of them get the error as well: nothing is acknowledged that is not stored
    under its path.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        directory: Path,
        on_commit: Callable[[int, Change], None],
        new_change: Callable[[], Change] = Change,
        storage: Storage | None = None,
    ) -> None:
        """`new_change` makes the empty change of a transaction. `storage` is asked before and after each commit."""
        self._new_change = new_change
        self.storage = storage or Storage(directory)
        self._connection = connection
        self._directory = directory
        self._on_commit = on_commit
        self._condition = threading.Condition()
        self._waiting: list[_Call] = []
        self._busy = False
        self._closed = False

    def run(self, work: Work[T]) -> T:
        """Do `work` in a transaction, and return its result after the commit is on the disk.

        Raises:
            GalleryError: the error of the work or of the database.
        """
        call = _Call(work)
        with self._condition:
            if self._closed:
                raise GalleryError("the gallery is closed")
            self._waiting.append(call)
            while self._busy and not call.finished:
                self._condition.wait()
            if not call.finished:
                self._busy = True
                group, self._waiting = self._waiting, []
        if not call.finished:
            self._lead(group)
        if call.error is not None:
            raise call.error
        result: T = call.result
        return result

    def _lead(self, group: list[_Call]) -> None:
        try:
            self._commit(group)
        finally:
            with self._condition:
                for call in group:
                    if not call.finished:  # an unexpected exception ends the leader
                        call.error = GalleryError("the transaction was interrupted and not acknowledged: try again")
                        call.finished = True
                self._busy = False
                self._condition.notify_all()

    def _commit(self, group: list[_Call]) -> None:
        change = self._new_change()
        version = 0
        try:
            self.storage.check_writable()
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                for call in group:
                    try:
                        call.result = call.work(self._connection, change)
                    except GalleryError as error:
                        call.error = error
                if change:
                    statement = "UPDATE gallery SET version = version + 1 RETURNING version"
                    version = self._connection.execute(statement).fetchall()[0][0]
                    self._connection.execute("COMMIT")
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
        except (sqlite3.Error, GalleryError) as error:
            for call in group:
                call.error = self._error_of(error)
                call.finished = True
            if isinstance(error, sqlite3.Error):
                self.storage.on_failure(error)
            return
        try:
            if change:
                self._on_commit(version, change)
            self.storage.check_identity()
            self.storage.on_success()
        except StorageLost as error:
            for call in group:
                call.error = call.error or self._error_of(error)
        finally:
            for call in group:  # even if the index fails: the change is on the disk
                call.finished = True

    def _error_of(self, error: sqlite3.Error | GalleryError) -> GalleryError:
        """Return the error of one caller: each raises its own."""
        if isinstance(error, sqlite3.Error):
            mine = translate(error, self._directory)
            mine.__cause__ = error
        else:
            mine = type(error)(*error.args)
            mine.__cause__ = error.__cause__
        return mine

    def empty_log(self) -> bool:
        """Move all changes from the write-ahead log into the database file, and truncate the log.

        Waits for readers of older versions, but at most a second. A failure is only logged, because no change is lost.

        Returns:
            False if the log could not be emptied. Then call this again later.
        """
        try:
            with self.paused():
                return self._empty_log()
        except GalleryError:  # closing the connection empties the log too
            return False

    def _empty_log(self) -> bool:
        try:
            self._connection.execute(f"PRAGMA busy_timeout = {_CHECKPOINT_TIMEOUT_MS}")
            busy = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()[0][0]
            if busy:
                log.warning("write-ahead log in %s not emptied because of readers, will try again", self._directory)
        except sqlite3.Error as error:
            log.warning("write-ahead log not emptied: %s", translate(error, self._directory))
            return False
        finally:
            with suppress(sqlite3.Error):
                self._connection.execute(f"PRAGMA busy_timeout = {_WRITE_TIMEOUT_MS}")
        return not busy

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Return a context in which no transaction runs. It first waits for the running one.

        In this context, `on_commit` has been called for all committed changes.

        Raises:
            GalleryError: the writer is closing. SQLite's connection must not be used while it is being closed.
        """
        with self._condition:
            while self._busy and not self._closed:
                self._condition.wait()
            if self._closed:
                raise GalleryError("the gallery is closed")
            self._busy = True
        try:
            yield
        finally:
            with self._condition:
                self._busy = False
                self._condition.notify_all()

    def close(self) -> None:
        """Wait for running and waiting work, then close the connection, which also empties the write-ahead log."""
        with self._condition:
            self._closed = True
            while self._busy or self._waiting:
                self._condition.wait()
        self._connection.close()
