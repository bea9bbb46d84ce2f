"""Entries as rows of the audit log: add them to the end of the chain, and read them."""

import json
import secrets
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

from pydantic import JsonValue

from service.audit.chain import SALT_BYTES, Entry, Kind, Part, canonical, digest_of, hash_of
from service.gallery.clock import format_timestamp, now, to_datetime
from service.gallery.records import InvalidArgument
from service.ids import new_id
from service.sqlite import transaction

_ROWS_AT_ONCE: Final = 500
_ROWS_OF_STATEMENT: Final = 100
"""SQLite's limit of values in a statement was 999 once."""

Content = Mapping[str, JsonValue]


@dataclass(frozen=True)
class NewEntry:
    """What `write` adds to the log. `started`, in microseconds: no record that was erased after it is named."""

    kind: Kind
    by: str
    details: Content
    records: Sequence[Content] = ()
    receipt: str = field(default_factory=new_id)
    at: int = field(default_factory=now)
    started: int | None = None

    def prepare(self) -> Sequence[Part]:
        """Return the details and one part for each record; they are made once."""
        return self._parts

    @cached_property
    def _parts(self) -> Sequence[Part]:
        contents = (self.details, *self.records)
        salts = secrets.token_bytes(SALT_BYTES * len(contents))
        return [
            Part.of(content, salts[SALT_BYTES * index : SALT_BYTES * (index + 1)])
            for index, content in enumerate(contents)
        ]


def append(
    connection: sqlite3.Connection, entries: Sequence[NewEntry], gone: Sequence[frozenset[str]] | None = None
) -> None:
    """Add entries to the end of the chain, in the open transaction.

    Each statement gives up Python's lock and waits for it, which costs a busy service more than the statement. So there
    are two for all entries, and not some for each. The index of the ids that entries name is written later, for many
    entries at once: see `service.audit.mentions`.

    Args:
        connection: of the log.
        entries: in their order.
        gone: for each entry, ids of records whose contents are left out.
    """
    found = connection.execute("SELECT position, hash FROM entries ORDER BY position DESC LIMIT 1").fetchone()
    position, previous = found or read_cut(connection)
    rows: list[tuple[object, ...]] = []
    for entry, left_out in zip(entries, gone or [frozenset[str]()] * len(entries), strict=True):
        position += 1
        parts = entry.prepare()
        ids = [str(one["id"]) for one in entry.records]
        kept = [part.erased() if id_ in left_out else part for id_, part in zip(ids, parts[1:], strict=True)]
        digest = hash_of(
            position,
            entry.receipt,
            format_timestamp(to_datetime(entry.at)),
            entry.kind,
            entry.by,
            [part.digest for part in parts],
            bytes(previous),
        )
        text = write_parts([parts[0], *kept])
        rows.append((position, entry.receipt, entry.at, entry.kind, entry.by, text, previous, digest))
        previous = digest
    for start in range(0, len(rows), _ROWS_OF_STATEMENT):
        some = rows[start : start + _ROWS_OF_STATEMENT]
        values = ", ".join(["(?, ?, ?, ?, ?, ?, ?, ?)"] * len(some))
        flat = [value for row in some for value in row]
        connection.execute(f"INSERT INTO entries VALUES {values}", flat)  # noqa: S608


def append_now(connection: sqlite3.Connection, entry: NewEntry) -> None:
    """Add an entry in a transaction of its own, also while a service writes to the same file."""
    with transaction(connection):
        append(connection, [entry])


def known_receipts(connection: sqlite3.Connection, receipts: Sequence[str]) -> set[str]:
    """Return those of these receipts that entries have."""
    found = connection.execute(
        "SELECT receipt FROM entries WHERE receipt IN (SELECT value FROM json_each(?))", (canonical(list(receipts)),)
    )
    return {receipt for (receipt,) in found}


def time_of_cut(connection: sqlite3.Connection) -> int:
    """Return the time before which all entries were removed, in microseconds since 1970; 0 if none was."""
    return int(connection.execute("SELECT time FROM cut").fetchone()[0])


def read_page(
    connection: sqlite3.Connection, limit: int, before: str | None = None, kinds: Sequence[str] = ()
) -> list[Entry]:
    """Return at most `limit` entries, newest first; with `before`, those older than this receipt.

    Raises:
        InvalidArgument: no entry has this receipt.
    """
    end = None
    if before is not None:
        found = connection.execute("SELECT position FROM entries WHERE receipt = ?", (before,)).fetchone()
        if found is None:
            raise InvalidArgument("before is not a receipt of this audit log")
        end = found[0]
    rows = connection.execute(
        "SELECT * FROM entries WHERE (?1 IS NULL OR position < ?1) "
        "AND (?2 = '[]' OR kind IN (SELECT value FROM json_each(?2))) ORDER BY position DESC LIMIT ?3",
        (end, canonical(list(kinds)), limit),
    )
    return [_read_entry(row) for row in rows]


def read_all(connection: sqlite3.Connection) -> Iterator[Entry]:
    """Yield all entries, oldest first."""
    position = 0
    while True:
        rows = connection.execute(
            "SELECT * FROM entries WHERE position > ? ORDER BY position LIMIT ?", (position, _ROWS_AT_ONCE)
        ).fetchall()
        if not rows:
            return
        yield from map(_read_entry, rows)
        position = rows[-1][0]


def read_cut(connection: sqlite3.Connection) -> tuple[int, bytes]:
    """Return position and hash of the last entry whose time is over; those before the first entry if none was."""
    position, digest = connection.execute("SELECT position, hash FROM cut").fetchone()
    return int(position), bytes(digest)


def _read_entry(row: Sequence[Any]) -> Entry:
    position, receipt, at, kind, by, parts, previous, digest = row
    return Entry(position, receipt, to_datetime(at), kind, by, tuple(read_parts(parts)), bytes(previous), bytes(digest))


def write_parts(parts: Sequence[Part]) -> str:
    """Return parts as JSON: `[salt, content]`, or `[digest]` of an erased one."""
    texts = (
        f'["{part.digest.hex()}"]' if part.salt is None else f'["{part.salt.hex()}",{part.content}]' for part in parts
    )
    return f"[{','.join(texts)}]"


def read_parts(text: str) -> Iterator[Part]:
    """Read what `write_parts` returned."""
    for first, *content in json.loads(text):
        if content:
            salt, plain = bytes.fromhex(first), canonical(content[0])
            yield Part(digest_of(salt, plain), salt, plain)
        else:
            yield Part(bytes.fromhex(first), None, None)
