"""Repeat the erasures that happened after a snapshot, from an audit log that is newer than the snapshot."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from service.gallery.archive.read_only import open_read_only
from service.gallery.checks import parse_condition
from service.gallery.embedded import audit
from service.gallery.protocol import Gallery
from service.gallery.records import AuditEntry, Filter, GalleryError, json_values

BY = "restore"
"""Who removes these records, as the audit log names it."""
_NO_LIMIT = 2**31


def read_audit_log(source: Path) -> list[AuditEntry]:
    """Read all entries of an audit log, newest first.

    Args:
        source: a data directory, a snapshot, or a file with one line of `to_json` for each entry.

    Raises:
        GalleryError: the log cannot be read, or an entry is invalid.
    """
    if source.is_dir():
        with open_read_only(source) as files:
            entries = audit.read(files.connection, _NO_LIMIT, None)
    else:
        try:
            lines = source.read_text().splitlines()
        except (OSError, UnicodeError) as error:
            raise GalleryError(f"the audit log {source} cannot be read: {error}") from error
        entries = [_from_json(line, f"{source}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]
    for entry in entries:
        _parse_condition(entry)
    return entries


def to_json(entry: AuditEntry) -> str:
    """Return an entry as one line of JSON."""
    return json.dumps(asdict(entry) | {"time": entry.time.isoformat(), "filter": json_values(entry.filter)})


def replay_erasures(gallery: Gallery, entries: Sequence[AuditEntry]) -> int:
    """Repeat the deletions and erasures of `entries` that are missing in the audit log of a restored gallery.

    After that, no record passes the filter of one of these erasures. A record that was replaced after the snapshot and
    then erased by a filter on its new values stays, since the restored record has the old values. Expired records are
    not a concern: a record contains its expiry time.

    Args:
        gallery: the restored gallery.
        entries: an audit log, newest entry first.

    Returns:
        How many records were removed.
    """
    known = {entry.receipt for entry in _all_entries(gallery)}
    erased = 0
    for entry in reversed(entries):
        condition = None if entry.receipt in known else _parse_condition(entry)
        if isinstance(condition, str):
            erased += gallery.delete(condition, by=BY)
        elif condition is not None:
            erased += gallery.erase(condition, dry_run=False, by=BY).erased
    return erased


def _all_entries(gallery: Gallery) -> Iterable[AuditEntry]:
    before = None
    while entries := gallery.audit(limit=1000, before=before):
        yield from entries
        before = entries[-1].receipt


def _from_json(line: str, location: str) -> AuditEntry:
    try:
        facts = json.loads(line)
        return AuditEntry(**facts | {"time": datetime.fromisoformat(facts["time"])})
    except (ValueError, TypeError, KeyError) as error:
        raise GalleryError(f"{location} is not an entry of an audit log: {error}") from error


def _parse_condition(entry: AuditEntry) -> Filter | str | None:
    """Return the id that was deleted, or the filter of an erasure; `None` for an expiry."""
    given: dict[str, Any] = json_values(entry.filter)
    try:
        if entry.action == "expire":
            return None
        if entry.action == "delete":
            return str(given["id"])
        filter_ = parse_condition(given)
    except (ValueError, TypeError, KeyError) as error:
        raise GalleryError(f"the entry {entry.receipt} of the audit log cannot be repeated: {error}") from error
    if filter_.is_empty:
        raise GalleryError(f"the entry {entry.receipt} of the audit log has no condition")
    return filter_
