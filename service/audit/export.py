"""The audit log as a file of JSON lines, and the check of a log or of such a file."""

import getpass
import json
import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from itertools import chain
from pathlib import Path

from service.audit.chain import START, Entry, Fault, Verification, verify
from service.audit.database import connect, reading
from service.audit.entries import NewEntry, append_now, read_all, read_cut
from service.gallery.records import GalleryError


def export_log(data_dir: Path, out: Path) -> int:
    """Write all entries of a log to a new file for its owner alone, oldest first, and return their number.

    The export is recorded in the log first, so the file ends with its own entry.

    Raises:
        GalleryError: there is no log, or the file exists.
    """
    with reading(data_dir):  # refuse a missing log before anything is written
        pass
    try:
        file = open(os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w")  # noqa: PTH123, SIM115
    except OSError as error:
        raise GalleryError(f"{out} cannot be written: {error.strerror}; name a new file") from error
    with file:
        with closing(connect(data_dir)) as connection:
            append_now(connection, NewEntry("export", f"account:{getpass.getuser()}", {"of": "audit log"}))
        count = 0
        with reading(data_dir) as connection:
            for entry in read_all(connection):
                file.write(json.dumps(entry.to_json()) + "\n")
                count += 1
        file.flush()
        os.fsync(file.fileno())
    return count


def verify_source(source: Path, expect: str | None = None) -> Verification:
    """Check the chain of a log in a data directory, or of a file that `export_log` wrote.

    Args:
        source: the directory or the file.
        expect: `POSITION:HASH` of an entry that must be there, unless the retention period has removed it.

    Raises:
        GalleryError: the log cannot be read, or `expect` is malformed.
    """
    position, wanted = _parse_expectation(expect)
    seen: list[Entry] = []

    def watched(entries: Iterator[Entry]) -> Iterator[Entry]:
        for entry in entries:
            if entry.position == position:
                seen.append(entry)
            yield entry

    if source.is_dir():
        with reading(source) as connection:
            start, previous = read_cut(connection)
            checked = verify(watched(read_all(connection)), start, previous)
    else:
        entries = _read_file(source)
        first = next(entries, None)
        # An exported log may begin after the entries whose time was over.
        start, previous = (first.position - 1, first.previous) if first else (0, START)
        checked = verify(watched(chain([first] if first else [], entries)), start, previous)
    if checked.fault is None and wanted is not None and position > start:
        if not seen:
            return replace(checked, fault=Fault(position, "is missing: the end of the log was cut off"))
        if seen[0].hash.hex() != wanted:
            return replace(checked, fault=Fault(position, "is another one than the expected entry"))
    return checked


def _read_file(path: Path) -> Iterator[Entry]:
    try:
        with path.open() as file:
            for number, line in enumerate(file, 1):
                try:
                    yield Entry.from_json(json.loads(line))
                except (KeyError, TypeError, ValueError) as error:
                    raise GalleryError(f"{path}, line {number} is not an entry of an audit log: {error}") from error
    except OSError as error:
        raise GalleryError(f"{path} cannot be read: {error.strerror}") from error


def _parse_expectation(expect: str | None) -> tuple[int, str | None]:
    if expect is None:
        return 0, None
    position, _, digest = expect.partition(":")
    if not position.isdigit() or len(digest) != 64:
        raise GalleryError(f"{expect} is not POSITION:HASH, as verify prints it")
    return int(position), digest.lower()
