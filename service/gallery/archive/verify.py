"""Check that the files of a gallery are intact: every row, vector, digest and index entry."""

import json
import sqlite3
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from service.gallery import clock
from service.gallery.archive.read_only import GalleryFiles, open_read_only
from service.gallery.archive.snapshot import MANIFEST_NAME, Manifest, check_files, read_manifest
from service.gallery.checks import LENGTH_TOLERANCE, terms_of
from service.gallery.embedded.database import Stamp
from service.gallery.embedded.index import file as index_file
from service.gallery.embedded.index.file import IndexFileError
from service.gallery.records import GalleryError, InvalidArgument

_ROWS_AT_ONCE = 1000
_MAX_DATABASE_PROBLEMS = 20
_OF_ANOTHER_SPACE = "SELECT id FROM tracklets WHERE embedding_space <> ?"
_WITHOUT_VECTOR = "SELECT id FROM tracklets WHERE number NOT IN (SELECT number FROM embeddings)"
_METADATA_AND_DIGESTS = (
    "SELECT id, metadata, (SELECT group_concat(hex(digest), ' ') FROM metadata_terms m WHERE m.number = t.number) "
    "FROM tracklets t"
)


@dataclass(slots=True)
class VerificationReport:
    """What a check found: `problems` are damaged data, `remarks` are about files that the service rebuilds."""

    stamp: Stamp | None = None
    manifest: Manifest | None = None
    counts: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    @property
    def is_intact(self) -> bool:
        """Whether nothing is damaged."""
        return not self.problems


def verify(directory: Path) -> VerificationReport:
    """Check a data directory, also while a service uses it, or a snapshot. Reads all files and changes none.

    Raises:
        GalleryError: there is no gallery, or its schema has another version.
    """
    report = VerificationReport()
    if (directory / MANIFEST_NAME).exists():
        report.manifest = read_manifest(directory)
        report.problems += check_files(directory, report.manifest)
    try:
        with open_read_only(directory) as files:
            report.stamp = files.stamp
            files.connection.execute("BEGIN")  # all statements below read one state
            _check_database(files.connection, report)
            _check_rows(files, report)
            _count(files.connection, report)
            files.connection.execute("COMMIT")
            _check_index(files, report)
    except GalleryError as error:
        if report.stamp is None and not report.problems and not isinstance(error.__cause__, sqlite3.DatabaseError):
            raise
        report.problems.append(str(error))
    if report.manifest is not None and report.counts and report.manifest.records != report.counts["records"]:
        report.problems.append(
            f"the database has {report.counts['records']} records, but the manifest says {report.manifest.records}"
        )
    return report


def _check_database(connection: sqlite3.Connection, report: VerificationReport) -> None:
    found = [str(row[0]) for row in connection.execute(f"PRAGMA integrity_check({_MAX_DATABASE_PROBLEMS})")]
    if found != ["ok"]:
        report.problems += [f"the database is damaged: {message}" for message in found]
    orphans = Counter((table, parent) for table, _, parent, _ in connection.execute("PRAGMA foreign_key_check"))
    for (table, parent), rows in orphans.items():
        report.problems.append(f"{rows} rows of {table} belong to no row of {parent}")


def _check_rows(files: GalleryFiles, report: VerificationReport) -> None:
    connection, stamp = files.connection, files.stamp
    _report_records(
        report,
        "are of another embedding space than the gallery",
        (id_ for (id_,) in connection.execute(_OF_ANOTHER_SPACE, (stamp.embedding_space,))),
    )
    _report_records(report, "have no vector", (id_ for (id_,) in connection.execute(_WITHOUT_VECTOR)))
    _report_records(
        report, f"have a vector that is not {stamp.dimension} finite numbers of length 1", _bad_vectors(files)
    )
    _report_records(report, "have metadata that filters do not find", _bad_terms(connection))


def _report_records(report: VerificationReport, problem: str, ids: Iterator[str]) -> None:
    found = list(ids)
    if found:
        named = ", ".join(found[:3]) + (", ..." if len(found) > 3 else "")
        report.problems.append(f"{len(found)} records {problem}: {named}")


def _bad_vectors(files: GalleryFiles) -> Iterator[str]:
    dimension = files.stamp.dimension
    found = files.connection.execute("SELECT t.id, e.vector FROM embeddings e JOIN tracklets t USING (number)")
    while chunk := found.fetchmany(_ROWS_AT_ONCE):
        yield from (id_ for id_, vector in chunk if len(vector) != 4 * dimension)
        complete = [(id_, vector) for id_, vector in chunk if len(vector) == 4 * dimension]
        rows = np.frombuffer(b"".join(vector for _, vector in complete), "<f4").reshape(-1, dimension)
        with np.errstate(all="ignore"):  # NaN and infinity have no length, and are reported
            lengths = np.linalg.norm(rows.astype(np.float64), axis=1)
            bad = ~(np.abs(lengths - 1) <= LENGTH_TOLERANCE)
        yield from (complete[position][0] for position in np.flatnonzero(bad))


def _bad_terms(connection: sqlite3.Connection) -> Iterator[str]:
    """Return the ids of records whose metadata differ from the digests that filters search."""
    for id_, text, digests in connection.execute(_METADATA_AND_DIGESTS):
        try:
            matches = set((digests or "").split()) == {digest.hex().upper() for digest in terms_of(json.loads(text))}
        except (ValueError, RecursionError, InvalidArgument):
            matches = False
        if not matches:
            yield id_


def _count(connection: sqlite3.Connection, report: VerificationReport) -> None:
    def one(statement: str) -> int:
        return int(connection.execute(statement).fetchone()[0])

    report.counts["records"] = one("SELECT count(*) FROM tracklets")
    expired = "SELECT count(*) FROM tracklets WHERE expires_at <= ?"
    report.counts["of them expired"] = int(connection.execute(expired, (clock.now(),)).fetchone()[0])
    report.counts["cameras"] = one("SELECT count(DISTINCT camera_id) FROM tracklets")
    report.counts["thumbnails"] = one("SELECT count(*) FROM thumbnails")
    report.counts["entries of the audit log"] = one("SELECT count(*) FROM audit")
    report.counts["bytes"] = one("PRAGMA page_count") * one("PRAGMA page_size")


def _check_index(files: GalleryFiles, report: VerificationReport) -> None:
    """Add a remark if the saved index cannot be used. Never a problem, because the index can be rebuilt."""
    name = index_file.FILE_NAME
    for last in (False, True):
        tokens = index_file.accepted_tokens(files.connection)
        try:
            numbers = index_file.load_numbers(files.directory, tokens, files.stamp)
            report.counts["rows in the saved index"] = len(numbers)
            return
        except FileNotFoundError:
            if last and tokens and report.manifest is None:  # a snapshot may have none
                report.remarks.append(f"{name} is missing: the index is rebuilt at the next start")
        except IndexFileError as error:
            # A service may have saved another index after the tokens were read: try once more.
            if last:
                report.remarks.append(f"{name} cannot be used, because {error}: it is rebuilt at the next start")
