"""The index of the ids of records that entries of the audit log name, and the erasure of what entries say about them.

An entry for a search names a dozen records, whose ids lie on as many pages of the index. To write these with each entry
would cost more than the entry. So entries are indexed later, many in one transaction, which also moves the mark in the
table `indexed`. Whatever reads the index completes it first, so it never misses an entry.
"""

import json
import sqlite3
from collections.abc import Sequence
from typing import Final

from service.audit.chain import canonical
from service.audit.entries import read_parts, write_parts

ENTRIES_AT_ONCE: Final = 512
"""Entries that are indexed in one transaction, for which new entries have to wait."""
_IDS_AT_ONCE: Final = 500

# The first part of an entry has its details. An erased part has its digest only.
_INDEX: Final = """
INSERT OR IGNORE INTO mentions
SELECT json_extract(part.value, '$[1].id') AS id, entries.position
FROM entries, json_each(entries.parts) AS part
WHERE entries.position > ?1 AND entries.position <= ?2 AND part.key > 0 AND json_array_length(part.value) = 2
ORDER BY id, entries.position
"""


def count_unindexed(connection: sqlite3.Connection) -> int:
    """Return how many entries at the end of the log are not in the index."""
    return int(
        connection.execute("SELECT count(*) FROM entries WHERE position > (SELECT position FROM indexed)").fetchone()[0]
    )


def index_next(connection: sqlite3.Connection) -> int:
    """Add the next `ENTRIES_AT_ONCE` entries to the index, in the open transaction; return how many there were."""
    (start,) = connection.execute("SELECT position FROM indexed").fetchone()
    some = "SELECT position FROM entries WHERE position > ? ORDER BY position LIMIT ?"
    count, last = connection.execute(
        f"SELECT count(*), max(position) FROM ({some})",  # noqa: S608
        (start, ENTRIES_AT_ONCE),
    ).fetchone()
    if count:
        connection.execute(_INDEX, (start, last))
        connection.execute("UPDATE indexed SET position = ?", (last,))
    return int(count)


def index_all(connection: sqlite3.Connection) -> None:
    """Add all entries to the index, in the open transaction."""
    while index_next(connection) == ENTRIES_AT_ONCE:
        pass


def mentioned_ids(connection: sqlite3.Connection) -> list[str]:
    """Return the ids of all records that entries name; in an open transaction, because it completes the index."""
    index_all(connection)
    return [id_ for (id_,) in connection.execute("SELECT DISTINCT id FROM mentions")]


def erase_mentions(connection: sqlite3.Connection, ids: Sequence[str]) -> int:
    """Remove the parts that name these records, in the open transaction; return how many."""
    removed = 0
    if ids:
        index_all(connection)
    for start in range(0, len(ids), _IDS_AT_ONCE):
        some = set(ids[start : start + _IDS_AT_ONCE])
        wanted = canonical(sorted(some))
        found = connection.execute(
            "SELECT DISTINCT position FROM mentions WHERE id IN (SELECT value FROM json_each(?))", (wanted,)
        ).fetchall()
        for (position,) in found:
            (text,) = connection.execute("SELECT parts FROM entries WHERE position = ?", (position,)).fetchone()
            details, *named = read_parts(text)
            kept = [
                part.erased() if part.content and json.loads(part.content)["id"] in some else part for part in named
            ]
            removed += sum(before is not after for before, after in zip(named, kept, strict=True))
            values = (write_parts([details, *kept]), position)
            connection.execute("UPDATE entries SET parts = ? WHERE position = ?", values)
        connection.execute("DELETE FROM mentions WHERE id IN (SELECT value FROM json_each(?))", (wanted,))
    return removed
