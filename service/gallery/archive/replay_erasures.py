"""Erasures that a restored snapshot knows nothing of, made again from an audit log that outlived it."""

import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from service.gallery.archive.read_only import open_stored
from service.gallery.embedded import audit
from service.gallery.protocol import Gallery
from service.gallery.records import AuditEntry, Filter, GalleryError

_MANY = 2**31
BY = "restore"
"""Who removed what is removed again."""


def read_log(source: Path) -> list[AuditEntry]:
    """A whole audit log, newest first: of a data directory or snapshot, or a file of JSON lines as `dump` makes them.

    Raises `GalleryError` where it cannot be read or understood; every entry is looked at.
    """
    if source.is_dir():
        with open_stored(source) as stored:
            entries = audit.read(stored.connection, _MANY, None)
    else:
        try:
            lines = source.read_text().splitlines()
        except (OSError, UnicodeError) as error:
            raise GalleryError(f"the audit log {source} cannot be read: {error}") from error
        entries = [_load(line, f"{source}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]
    for entry in entries:
        _condition(entry)
    return entries


def dump(entry: AuditEntry) -> str:
    """An entry as one line of JSON."""
    facts = {
        "receipt": entry.receipt,
        "time": entry.time.isoformat(),
        "action": entry.action,
        "by": entry.by,
        "filter": entry.filter,
        "erased": entry.erased,
    }
    return json.dumps(facts)


def erase_again(gallery: Gallery, entries: Sequence[AuditEntry]) -> int:
    """Remove from a restored gallery what the entries, newest first, removed and it does not know of; how many records.

    Afterwards nothing passes the filter of any of those erasures. What was erased under values that it got after the
    snapshot was taken is not recognised. Expiry needs no help: records carry their time.
    """
    known = {entry.receipt for entry in _all_of(gallery)}
    erased = 0
    for entry in reversed(entries):
        condition = None if entry.receipt in known else _condition(entry)
        if isinstance(condition, str):
            erased += gallery.delete(condition, by=BY)
        elif condition is not None:
            erased += gallery.erase(condition, dry_run=False, by=BY).erased
    return erased


def _all_of(gallery: Gallery) -> Iterable[AuditEntry]:
    before = None
    while entries := gallery.audit(limit=1000, before=before):
        yield from entries
        before = entries[-1].receipt


def _load(line: str, place: str) -> AuditEntry:
    try:
        facts = json.loads(line)
        return AuditEntry(**facts | {"time": datetime.fromisoformat(facts["time"])})
    except (ValueError, TypeError, KeyError) as error:
        raise GalleryError(f"{place} is no entry of an audit log: {error}") from error


def _condition(entry: AuditEntry) -> Filter | str | None:
    """The id that was deleted, or the filter of what was erased; `None` for an expiry."""
    given: dict[str, Any] = dict(entry.filter)
    try:
        if entry.action == "expire":
            return None
        if entry.action == "delete":
            return str(given["id"])
        for name in ("camera_ids", "exclude_camera_ids", "exclude_ids"):
            if name in given:
                given[name] = tuple(given[name])
        for name in ("after", "before"):
            if name in given:
                given[name] = datetime.fromisoformat(given[name])
        found = Filter(**given)
    except (ValueError, TypeError, KeyError) as error:
        raise GalleryError(f"the entry {entry.receipt} of the audit log cannot be made again: {error}") from error
    if found.is_empty:
        raise GalleryError(f"the entry {entry.receipt} of the audit log has no condition")
    return found
