"""The audit log: who removed what and when. Entries are only ever added."""

import json
import sqlite3
from typing import Literal

from service.gallery.checks import EXPIRY, audit_condition_of_expiry
from service.gallery.clock import to_datetime
from service.gallery.records import JSON, AuditEntry, InvalidArgument, StoredJson
from service.ids import new_id


def write(
    connection: sqlite3.Connection,
    action: Literal["delete", "erase", "expire"],
    *,
    by: str,
    condition: dict[str, JSON],
    erased: int,
    at: int,
) -> str:
    """Add an entry in the transaction that removes the records, and return its receipt, a UUIDv7.

    `at` is in microseconds since 1970.
    """
    receipt = new_id()
    connection.execute(
        "INSERT INTO audit (receipt, time, action, requester, filter, erased) VALUES (?, ?, ?, ?, ?, ?)",
        (receipt, at, action, by, json.dumps(condition), erased),
    )
    return receipt


def write_expiry(connection: sqlite3.Connection, count: int, at: int) -> str:
    """Add an entry about `count` records that had expired at `at`, in microseconds. Return its receipt."""
    return write(connection, "expire", by=EXPIRY, condition=audit_condition_of_expiry(at), erased=count, at=at)


def read(connection: sqlite3.Connection, limit: int, before: str | None) -> list[AuditEntry]:
    """Return at most `limit` entries, newest first, older than the receipt `before`.

    Raises:
        InvalidArgument: no entry has this receipt.
    """
    end = None
    if before is not None:
        found = connection.execute("SELECT position FROM audit WHERE receipt = ?", (before,)).fetchone()
        if found is None:
            raise InvalidArgument("before is not a receipt of this audit log")
        end = found[0]
    entries = connection.execute(
        "SELECT receipt, time, action, requester, filter, erased FROM audit WHERE ?1 IS NULL OR position < ?1 "
        "ORDER BY position DESC LIMIT ?2",
        (end, limit),
    )
    return [
        AuditEntry(
            receipt=receipt, time=to_datetime(time), action=action, by=by, filter=StoredJson(condition), erased=erased
        )
        for receipt, time, action, by, condition, erased in entries
    ]
