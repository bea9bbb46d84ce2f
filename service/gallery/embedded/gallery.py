"""The gallery that needs no server: SQLite keeps the records, an index in memory finds them."""

import logging
import sqlite3
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from service.gallery import checks, clock
from service.gallery.embedded import audit, rows, transactions
from service.gallery.embedded.database import (
    OWNER_ONLY_DIRECTORY,
    Stamp,
    connect,
    prepare,
    sweep_unfinished,
    sync_directory,
    translate,
)
from service.gallery.embedded.index.columns import Entry, RowFilter
from service.gallery.embedded.index.rebuild import EXACT_BYTES, Rebuilder
from service.gallery.embedded.index.saver import IndexSaver, Loaded, load_index
from service.gallery.embedded.lock import DirectoryLock
from service.gallery.embedded.metadata_terms import Terms
from service.gallery.embedded.readers import Readers
from service.gallery.embedded.stored_vectors import read_some
from service.gallery.embedded.writer import Change, Work, Writer
from service.gallery.protocol import Gallery
from service.gallery.records import (
    AuditEntry,
    EmptyFilter,
    Erasure,
    Filter,
    GalleryBroken,
    GalleryError,
    Hit,
    InvalidArgument,
    OnConflict,
    Page,
    Record,
    SearchResult,
)

log = logging.getLogger(__name__)

T = TypeVar("T")

_EXPIRED_AT_ONCE = 5000
"""Records that one transaction of `expire` removes: others wait for it, and its log takes the room of their vectors."""
_MAX_OVERTAKEN = 10
"""Snapshots that a search takes beside the writers, before it holds them up."""


class EmbeddedGallery(Gallery):
    """A `Gallery` in a directory: records in SQLite, committed before a call returns, and a FAISS index in memory.

    Up to `exact_bytes` of vectors the index compares every one with a query; above it reads a part of them, and
    compares the best in full precision. It changes from one to the other in the background.

    The index only ever follows what SQLite has committed, and is brought up to it when the gallery is opened, so a
    crash at any moment loses nothing that was acknowledged. Every search reads one version of both.
    """

    def __init__(
        self,
        directory: Path,
        stamp: Stamp,
        connection: sqlite3.Connection,
        loaded: Loaded,
        exact_bytes: int,
        resources: ExitStack,
    ) -> None:
        """Use `open`."""
        self.embedding_space = stamp.embedding_space
        self.dimension = stamp.dimension
        self._index = loaded.index
        self._resources = resources
        self._readers = Readers(directory)
        self._writer = Writer(connection, directory, self._follow)
        self._saver = IndexSaver(directory, stamp, loaded, self._writer)
        self._rebuilder = Rebuilder(
            self._index,
            self._readers,
            self._writer,
            stamp.dimension,
            exact_bytes,
            partial(self._saver.request, urgent=True),
        )
        self._terms = Terms()
        self._closing = threading.Lock()
        self._closed = False
        # Whether something removed may still be read in SQLite's files, as after a kill: nobody knows at the start.
        self._remains = True

    @classmethod
    def open(
        cls,
        data_dir: Path,
        *,
        embedding_space: str,
        dimension: int,
        model_name: str,
        exact_bytes: int = EXACT_BYTES,
        gpu_bytes: int = 0,
    ) -> "EmbeddedGallery":
        """Open the gallery in a directory, or create it there.

        Raises `SpaceMismatch` where it holds embeddings of another model, `GalleryLocked` where someone else has it
        open, and `GalleryError` where the directory cannot be used or the database is damaged. An index file that is
        missing, damaged or foreign is only logged, and the index built from the database.
        """
        stamp = Stamp(embedding_space, dimension, model_name)
        with ExitStack() as resources:
            try:
                if not data_dir.is_dir():
                    data_dir.mkdir(parents=True, mode=OWNER_ONLY_DIRECTORY)
                    sync_directory(data_dir.parent)
                resources.callback(DirectoryLock(data_dir).release)
                sweep_unfinished(data_dir)
                connection = connect(data_dir, read_only=False)
                resources.callback(connection.close)
                prepare(connection, data_dir, stamp)
                loaded = load_index(connection, data_dir, stamp, exact_bytes, gpu_bytes)
            except (sqlite3.Error, OSError) as error:
                raise translate(error, data_dir) from error
            gallery = cls(data_dir, stamp, connection, loaded, exact_bytes, resources.pop_all())
        gallery._rebuilder.note()
        return gallery

    @property
    def engine(self) -> str:
        """What keeps and searches the records, for people to read."""
        return f"embedded (SQLite, {self._index.description})"

    @override
    def enrol(self, records: Sequence[Record], on_conflict: OnConflict) -> set[str]:
        new = checks.encode_all(records, lambda record: checks.encode(record, self.dimension))
        if not new:
            return set()
        now = clock.now()
        return self._change(
            lambda connection, change: transactions.enrol(
                connection, change, new, self.embedding_space, on_conflict, now
            )
        )

    def get(self, id: str) -> Record | None:
        """The record of this id."""
        checks.check_text(id, "id")
        with self._readers.snapshot() as connection:
            return rows.by_id(connection, id, clock.now())

    def thumbnail(self, id: str) -> bytes | None:
        """The JPEG kept with this record."""
        checks.check_text(id, "id")
        with self._readers.snapshot() as connection:
            return rows.thumbnail_of(connection, id, clock.now())

    def delete(self, id: str, *, by: str = "") -> bool:
        """Remove one record, with an entry in the audit log. False where there was none.

        What is left of it in the files goes with the next `erase` or `expire`.
        """
        checks.check_text(id, "id")
        checks.check_text(by, "by")
        now = clock.now()
        return self._change(lambda connection, change: transactions.delete(connection, change, id, by, now))

    def list(
        self,
        *,
        camera_id: str | None = None,
        after: datetime | None = None,
        before: datetime | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> Page:
        """Records in order of their ids. A record that stays enrolled meanwhile is on exactly one of the pages."""
        if limit < 1:
            raise InvalidArgument(f"limit is {limit}, not a positive number")
        last_seen = checks.decode_cursor(cursor)
        wanted = Filter(camera_ids=None if camera_id is None else (camera_id,), after=after, before=before)
        with self._readers.snapshot() as connection:
            # One more than asked for tells whether there is another page.
            found = rows.by_page(connection, wanted, last_seen, limit + 1, clock.now())
        items = found[:limit]
        return Page(items, checks.encode_cursor(items[-1].id) if len(found) > limit else None)

    def search(
        self,
        embedding: NDArray[np.float32],
        top_k: int,
        filter: Filter = Filter(),  # noqa: B008 (frozen, so a shared default is safe)
        min_score: float | None = None,
    ) -> SearchResult:
        """The `top_k` records nearest to `embedding` `[D]` by cosine, of those that pass `filter`.

        Equal scores rank by id, at the cut-off too. Records below `min_score` are left out but counted as searched.
        """
        query = checks.check_vector(embedding, self.dimension, "embedding")
        if not query.any():
            raise InvalidArgument("embedding is all zeros, which has no direction")
        if top_k < 1:
            raise InvalidArgument(f"top_k is {top_k}, not a positive number")
        for _ in range(_MAX_OVERTAKEN):
            if (found := self._search(query, top_k, filter, min_score)) is not None:
                return found
        with self._writer.paused():  # under a stream of commits, each of which was faster than the search
            if (found := self._search(query, top_k, filter, min_score)) is not None:
                return found
        raise GalleryBroken("the search index is ahead of the database: restart the service")

    def erase(self, filter: Filter, *, dry_run: bool, by: str = "") -> Erasure:
        """Remove every record that passes `filter`, with an entry in the audit log, also where there was none.

        Their vectors do not stay behind on the disk: SQLite overwrites what it frees, its log is emptied, and the
        index is saved anew in the background. Raises `EmptyFilter` where that would be all of them.
        """
        if filter.is_empty:
            raise EmptyFilter("an erasure needs at least one condition: an empty filter would erase the whole gallery")
        checks.check_text(by, "by")
        now = clock.now()
        if dry_run:
            with self._readers.snapshot() as connection:
                return Erasure(matched=len(rows.numbers_where(connection, filter, now)), erased=0)
        rows.where(filter, now)  # a filter that cannot be used is refused before it waits for its turn
        erased, swept, receipt = self._change(
            lambda connection, change: transactions.erase(connection, change, filter, by, now)
        )
        if erased or swept:
            self._wipe(urgent=True)
        return Erasure(matched=erased, erased=erased, receipt=receipt)

    def expire(self) -> int:
        """Remove what has expired; how many. Each step of at most some thousands has its entry in the audit log.

        What `delete` and replaced records have left on the disk goes as well.
        """
        now = clock.now()

        def work(connection: sqlite3.Connection, change: Change) -> int:
            return transactions.expire(connection, change, _EXPIRED_AT_ONCE, now)

        removed = 0
        while step := self._change(work):
            removed += step
        if removed or self._remains:
            self._wipe(urgent=False)
        else:  # again where the last save failed
            self._saver.request_without_removed(urgent=False)
        return removed

    def audit(self, *, limit: int = 100, before: str | None = None) -> Sequence[AuditEntry]:
        """The audit log, newest first, of entries older than the receipt `before`."""
        if limit < 1:
            raise InvalidArgument(f"limit is {limit}, not a positive number")
        checks.check_text(before, "before")
        with self._readers.snapshot() as connection:
            return audit.read(connection, limit, before)

    def check(self) -> None:
        """Raises `GalleryBroken` where only a new start of the process helps. Asks nobody, and never waits."""
        self._index.check()

    def count(self) -> int:
        """How many records are enrolled."""
        if self._closed:
            raise GalleryError("the gallery is closed")
        return self._index.count(clock.now())

    def close(self) -> None:
        """Save the index and let go of files and locks; a second call does nothing."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
            with ExitStack() as last_first:  # all of them, whichever fails
                last_first.callback(self._resources.close)
                last_first.callback(self._writer.close)
                last_first.callback(self._readers.close)
                last_first.callback(self._saver.close)
                last_first.callback(self._rebuilder.close)

    def _search(
        self,
        query: NDArray[np.float32],
        top_k: int,
        filter: Filter,
        min_score: float | None,
    ) -> SearchResult | None:
        """Search one snapshot of the database; `None` where a commit overtook it, so that the index is newer."""
        with self._readers.snapshot() as connection:
            version = rows.version_of(connection)
            selection = self._select(connection, filter, version)
            candidates = self._index.search(
                query, top_k, selection, version, lambda numbers: self._fetch(connection, numbers)
            )
            if candidates is None:
                return None
            scores = dict(zip(candidates.numbers.tolist(), candidates.scores.tolist(), strict=True))
            if min_score is not None:
                scores = {number: score for number, score in scores.items() if score >= min_score}
            ids = rows.ids_of(connection, list(scores))
            ranked = sorted(scores, key=lambda number: (-scores[number], ids[number]))[:top_k]
            found = rows.by_number(connection, ranked)
        hits = [Hit(record, scores[number]) for number, record in zip(ranked, found, strict=True)]
        return SearchResult(hits, candidates.searched, candidates.exact)

    def _select(self, connection: sqlite3.Connection, filter: Filter, version: int) -> RowFilter:
        """The filter for the index; what it asks beyond cameras and times is looked up in this snapshot."""
        after, before = checks.interval_of(filter)
        terms = checks.terms_of(dict(filter.metadata))
        only = tuple(self._terms.numbers(connection, term, version) for term in terms)
        without = np.sort(rows.numbers_of(connection, filter.exclude_ids)) if filter.exclude_ids else None
        return RowFilter(clock.now(), filter.camera_ids, filter.exclude_camera_ids, after, before, only, without)

    def _wipe(self, *, urgent: bool) -> None:
        """Leave nothing of removed records in SQLite's files and, soon, in the saved index."""
        self._remains = False
        if not self._writer.empty_log():  # somebody is reading it, such as `not3d gallery snapshot`
            self._remains = True  # for `expire` to try again
        self._saver.request_without_removed(urgent=urgent)

    def _fetch(self, connection: sqlite3.Connection, numbers: NDArray[np.int64]) -> NDArray[np.float32]:
        """The vectors `[n, D]` of these rows, which are in the snapshot."""
        found, vectors = read_some(connection, numbers, self.dimension)
        if len(found) != len(numbers):
            raise rows.error_of_missing(connection, set(numbers.tolist()) - set(found.tolist()))
        in_order: NDArray[np.float32] = vectors[np.searchsorted(found, numbers)]
        return in_order

    def _change(self, work: Work[T]) -> T:
        # An index that lost a change would never catch up with the versions to come.
        self._index.check()
        return self._writer.run(work)

    def _follow(self, version: int, change: Change) -> None:
        if change.removed:
            self._remains = True
        try:
            entries = [
                Entry(number, row.camera_id, row.start_time, row.end_time, row.expires_at)
                for number, row in change.added
            ]
            vectors = np.array([row.vector for _, row in change.added], np.float32)
            self._index.apply(version, entries, vectors, change.removed)
        except Exception:  # whatever it is, such as a want of memory: the change is committed, and so acknowledged
            self._index.fail()  # it has lost a version for ever
            log.exception("the search index could not follow the database")
            return
        except BaseException:
            self._index.fail()
            raise
        self._saver.note(len(change.added), len(change.removed))
        self._rebuilder.note()
