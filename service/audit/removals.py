"""Removals of records: their entries in the audit log, and the erasure of what older entries say about them."""

import asyncio
import sqlite3
from collections.abc import Sequence
from functools import partial

from service.audit.entries import NewEntry, append, known_receipts, time_of_cut
from service.audit.log import AuditLog
from service.audit.mentions import mentioned_ids
from service.gallery.async_gallery import AsyncGallery
from service.gallery.clock import to_microseconds
from service.gallery.records import JSON, AuditEntry, Erasure, NamingCase, json_values

_PAGE = 100


class Removals:
    """Copies the entries that the gallery writes about removals into the audit log, in the order of the gallery.

    The gallery writes them in the transaction that removes the records, so none is lost if the process is killed: what
    was not copied is copied at the next start. The copy also erases the parts of older entries that name records which
    were deleted or erased, but not of those that expired: the audit log has a retention period of its own.
    """

    def __init__(self, gallery: AsyncGallery, audit: AuditLog) -> None:
        self._gallery, self._audit = gallery, audit
        self._ids: dict[str, Sequence[str]] = {}
        self._cases: dict[str, Sequence[str]] = {}
        self._lock = asyncio.Lock()
        self._asked = 0
        self._done = 0

    def note(self, erasure: Erasure) -> None:
        """Remember which records an erasure removed; the entry of the gallery has only their filter."""
        if erasure.receipt is not None:
            self._ids[erasure.receipt] = erasure.ids
            self.note_cases(erasure.receipt, erasure.cases)

    def note_cases(self, removal: str, cases: Sequence[NamingCase]) -> None:
        """Remember the cases whose footage shows a person of a removal, given by its receipt or the id of its record.

        The entry of the removal names them, because the footage is still to be judged by a person.
        """
        if shown := [case.id for case in cases if case.query == "footage"]:
            self._cases[removal] = shown

    async def copy(self) -> None:
        """Copy what is new, and return when it is on the disk. Concurrent calls share one copy."""
        self._asked += 1
        mine = self._asked
        async with self._lock:
            if self._done >= mine:
                return
            asked = self._asked
            await self._copy()
            self._done = asked

    async def _copy(self) -> None:
        new = await self._find_new()
        if not new:
            return
        gone: list[str] = []
        for entry in new:
            gone += await self._find_removed(entry)

        def work(connection: sqlite3.Connection) -> None:
            append(connection, [self._copy_of(entry) for entry in reversed(new)])
            self._audit.erase_now(connection, gone)

        await self._audit.run(work)
        for entry in new:
            self._ids.pop(entry.receipt, None)
            self._cases.pop(_name_of(entry), None)

    async def _find_new(self) -> list[AuditEntry]:
        """Return the entries that are not copied yet, newest first.

        Replicas write entries at the same time, so an older entry may appear after a newer one was copied. The search
        goes on until a full page has nothing new.
        """
        new: list[AuditEntry] = []
        cut = await self._audit.run(time_of_cut)
        before = None
        while True:
            page = await self._gallery.audit(limit=_PAGE, before=before)
            receipts = [entry.receipt for entry in page]
            known = await self._audit.run(partial(known_receipts, receipts=receipts))
            fresh = [
                entry for entry in page if entry.receipt not in known and to_microseconds(entry.time, "time") >= cut
            ]
            new += fresh
            if len(page) < _PAGE or not fresh:
                return new
            before = receipts[-1]

    async def _find_removed(self, entry: AuditEntry) -> Sequence[str]:
        """Return the ids of the records that an entry of the gallery is about."""
        if entry.action == "expire" or not entry.erased:
            return ()
        if entry.action == "delete":
            return (str(entry.filter["id"]),)
        if (known := self._ids.get(entry.receipt)) is not None:
            return known
        # Another replica erased them, or this process did just before it was killed: which named records are gone?
        named = await self._audit.run(mentioned_ids)
        return [id_ for id_ in named if await self._gallery.get(id_) is None]

    def _copy_of(self, entry: AuditEntry) -> NewEntry:
        details: dict[str, JSON] = {"filter": json_values(entry.filter), "erased": entry.erased}
        if cases := self._cases.get(_name_of(entry)):
            details["cases"] = list(cases)
        at = to_microseconds(entry.time, "time")
        return NewEntry(entry.action, entry.by, details, receipt=entry.receipt, at=at)


def _name_of(entry: AuditEntry) -> str:
    """Return under which name `note_cases` gets the cases of a removal."""
    return str(entry.filter["id"]) if entry.action == "delete" else entry.receipt
