"""What one transaction does: rows, entries of the audit log, and the `Change` that the index has to follow.

Each is the work of a `Writer`; `now` is the moment, in microseconds, that its caller has taken.
"""

import sqlite3
from collections.abc import Mapping, Sequence

from service.gallery.checks import Row, audit_condition
from service.gallery.embedded import audit, rows
from service.gallery.embedded.writer import Change
from service.gallery.records import DuplicateId, Filter, OnConflict


def enrol(
    connection: sqlite3.Connection,
    change: Change,
    new: Mapping[str, Row],
    space: str,
    on_conflict: OnConflict,
    now: int,
) -> set[str]:
    """Write the rows of ids; which ids were taken. Raises `DuplicateId` where that is refused."""
    places = rows.places_of(connection, list(new), now)
    taken = {id_ for id_, place in places.items() if not place.expired}
    if taken and on_conflict == "error":
        raise DuplicateId(min(taken))
    left = taken if on_conflict == "skip" else set()
    _remove(connection, change, [place.number for id_, place in places.items() if id_ not in left])
    if expired := len(places) - len(taken):
        audit.write_expiry(connection, expired, now)
    added = [row for id_, row in new.items() if id_ not in left]
    numbers = rows.insert(connection, added, space)
    change.added.extend(zip(numbers, added, strict=True))
    return taken


def delete(connection: sqlite3.Connection, change: Change, id: str, by: str, now: int) -> bool:
    """Remove one record, with an entry; false where there was none."""
    place = rows.places_of(connection, [id], now).get(id)
    if place is None:
        return False
    _remove(connection, change, [place.number])
    if place.expired:  # before anybody has swept it out: gone all the same, but not by this caller
        audit.write_expiry(connection, 1, now)
    else:
        audit.write(connection, "delete", by=by, condition={"id": id}, erased=1, at=now)
    return not place.expired


def erase(
    connection: sqlite3.Connection,
    change: Change,
    filter: Filter,
    by: str,
    now: int,
) -> tuple[int, int, str]:
    """Remove what passes, with an entry also where there was none: how many, how many expired ones, the receipt."""
    enrolled, expired = rows.split_where(connection, filter, now)
    _remove(connection, change, [*enrolled, *expired])
    if expired:
        audit.write_expiry(connection, len(expired), now)
    condition = audit_condition(filter)
    receipt = audit.write(connection, "erase", by=by, condition=condition, erased=len(enrolled), at=now)
    change.other = True
    return len(enrolled), len(expired), receipt


def expire(connection: sqlite3.Connection, change: Change, limit: int, now: int) -> int:
    """Remove at most `limit` records that have expired, with an entry; how many."""
    numbers = rows.expired(connection, now, limit)
    _remove(connection, change, numbers)
    if numbers:
        audit.write_expiry(connection, len(numbers), now)
    return len(numbers)


def _remove(connection: sqlite3.Connection, change: Change, numbers: Sequence[int]) -> None:
    rows.delete(connection, numbers)
    change.removed.extend(numbers)
