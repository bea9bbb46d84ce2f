"""The audit log: who removed what and when, entry after entry, none of which is ever changed or taken out."""

import json
import sqlite3
from datetime import datetime
from typing import Literal

from service.gallery.embedded.rows import moment
from service.gallery.records import JSON, AuditEntry, Filter, InvalidArgument
from service.http.fields import format_timestamp
from service.ids import new_id

EXPIRY = "expiry"
"""Who removed what had expired."""


def write(
    connection: sqlite3.Connection,
    action: Literal["delete", "erase", "expire"],
    *,
    by: str,
    condition: dict[str, JSON],
    erased: int,
    at: int,
) -> str:
    """Add an entry to the transaction that removes the records; its receipt, a UUIDv7. `at` is in microseconds."""
    receipt = new_id()
    connection.execute(
        "INSERT INTO audit (receipt, time, action, requester, filter, erased) VALUES (?, ?, ?, ?, ?, ?)",
        (receipt, at, action, by, json.dumps(condition), erased),
    )
    return receipt


def write_expiry(connection: sqlite3.Connection, count: int, at: int) -> str:
    """Add an entry on `count` records that had expired at the moment `at`, in microseconds; its receipt."""
    return write(connection, "expire", by=EXPIRY, condition=condition_of_expiry(moment(at)), erased=count, at=at)


def read(connection: sqlite3.Connection, limit: int, before: str | None) -> list[AuditEntry]:
    """At most `limit` entries, newest first, older than the receipt `before`.

    Raises `InvalidArgument` for a receipt that nobody was given.
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
            receipt=receipt, time=moment(time), action=action, by=by, filter=json.loads(condition), erased=erased
        )
        for receipt, time, action, by, condition, erased in entries
    ]


def condition_of(filter: Filter) -> dict[str, JSON]:
    """A filter as an entry keeps it: the conditions that were given, under the names of the HTTP contract."""
    given: dict[str, JSON] = {}
    if filter.camera_ids is not None:
        given["camera_ids"] = list(filter.camera_ids)
    if filter.exclude_camera_ids:
        given["exclude_camera_ids"] = list(filter.exclude_camera_ids)
    if filter.after is not None:
        given["after"] = format_timestamp(filter.after)
    if filter.before is not None:
        given["before"] = format_timestamp(filter.before)
    if filter.metadata:
        given["metadata"] = dict(filter.metadata)
    if filter.exclude_ids:
        given["exclude_ids"] = list(filter.exclude_ids)
    return given


def condition_of_expiry(until: datetime) -> dict[str, JSON]:
    """The condition of what has expired at a moment."""
    return {"expired_until": format_timestamp(until)}
