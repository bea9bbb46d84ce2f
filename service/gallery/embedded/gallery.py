"""The gallery that needs no server: SQLite stores the records, an index in memory finds them."""

import logging
import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from service.gallery import checks, clock
from service.gallery.embedded import audit, rows, writer
from service.gallery.embedded.database import (
    OWNER_ONLY_DIRECTORY,
    DirectoryLock,
    Readers,
    Stamp,
    connect,
    prepare,
    remove_unfinished,
    sync_directory,
    translate,
)
from service.gallery.embedded.index.centring import CameraSums
from service.gallery.embedded.index.columns import FilterValues, RowFilter
from service.gallery.embedded.index.rebuild import EXACT_BYTES, Rebuilder
from service.gallery.embedded.index.saver import IndexSaver, LoadedIndex, load_index
from service.gallery.embedded.metadata_terms import MetadataTerms
from service.gallery.embedded.storage import Storage
from service.gallery.embedded.watching import EmbeddedAlerts
from service.gallery.embedded.writer import Change, Work, Writer
from service.gallery.protocol import Gallery
from service.gallery.records import (
    AuditEntry,
    CameraSummary,
    Erasure,
    Filter,
    GalleryBroken,
    GalleryError,
    Hit,
    OnConflict,
    Page,
    Record,
    ScoreMode,
    SearchResult,
)

log = logging.getLogger(__name__)

T = TypeVar("T")

_EXPIRED_AT_ONCE = 5000
"""Records that one transaction of `expire` removes. Others wait for it, and its log has the size of their vectors."""
_MAX_SNAPSHOTS = 10
"""Snapshots that a search tries before it pauses the writer."""


class EmbeddedGallery(EmbeddedAlerts, Gallery):
    """A `Gallery` in a directory: records in SQLite, committed before a call returns, and a FAISS index in memory.

    The index only follows what SQLite has committed, and is brought up to date when the gallery is opened. So a crash
    at any moment loses nothing that was acknowledged. A search reads one version of both.
    """

    def __init__(
        self,
        directory: Path,
        stamp: Stamp,
        connection: sqlite3.Connection,
        loaded: LoadedIndex,
        exact_bytes: int,
        resources: ExitStack,
        storage: Storage,
    ) -> None:
        """Use `open`."""
        self.embedding_space = stamp.embedding_space
        self.dimension = stamp.dimension
        self._index = loaded.index
        self.score_mode: ScoreMode = "centred" if loaded.index.centred else "cosine"
        self._resources = resources
        self._storage = storage
        self._readers = Readers(directory, storage.check_identity)
        self._writer = Writer(connection, directory, self._on_commit, self._new_change, storage)
        self._saver = IndexSaver(directory, stamp, loaded, self._writer)
        self._rebuilder = Rebuilder(
            self._index,
            self._readers,
            self._writer,
            stamp.dimension,
            exact_bytes,
            partial(self._saver.request, urgent=True),
        )
        self._terms = MetadataTerms()
        self._closing = threading.Lock()
        self._closed = False
        # Whether SQLite's files may hold data of removed records. At the start this is unknown: the process may have
        # been killed before it wiped them.
        self._wipe_needed = True

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
        camera_centring: bool = False,
    ) -> "EmbeddedGallery":
        """Open the gallery in a directory, or create it there.

        An index file that is missing, damaged or of another gallery is only logged, and the index is built from the
        database.

        Args:
            data_dir: the directory.
            embedding_space: as in the protocol.
            dimension: as in the protocol.
            model_name: the model's name, for error messages.
            exact_bytes: up to so many bytes of vectors, a search compares all of them.
            gpu_bytes: memory on a GPU for a copy of the vectors, if FAISS finds one. Unused with `camera_centring`.
            camera_centring: subtract each camera's mean from queries and records before they are compared.

        Raises:
            SpaceMismatch: the gallery holds embeddings of another model.
            GalleryLocked: it is open already.
            GalleryError: the directory cannot be used, or the database is damaged.
        """
        stamp = Stamp(embedding_space, dimension, model_name)
        with ExitStack() as resources:
            try:
                if not data_dir.is_dir():
                    data_dir.mkdir(parents=True, mode=OWNER_ONLY_DIRECTORY)
                    sync_directory(data_dir.parent)
                resources.callback(DirectoryLock(data_dir).release)
                remove_unfinished(data_dir)
                connection = connect(data_dir, read_only=False)
                resources.callback(connection.close)
                prepare(connection, data_dir, stamp)
                loaded = load_index(connection, data_dir, stamp, exact_bytes, gpu_bytes, camera_centring)
                storage = Storage(data_dir)
            except (sqlite3.Error, OSError) as error:
                raise translate(error, data_dir) from error
            gallery = cls(data_dir, stamp, connection, loaded, exact_bytes, resources.pop_all(), storage)
        gallery._rebuilder.on_commit()
        return gallery

    @property
    @override
    def engine(self) -> str:
        return f"embedded (SQLite, {self._index.description})"

    @override
    def enrol(
        self, records: Sequence[Record], on_conflict: OnConflict, *, cameras: frozenset[str] | None = None
    ) -> set[str]:
        new = checks.encode_all(records, lambda record: checks.encode(record, self.dimension))
        if not new:
            return set()
        now = clock.now()
        return self._change(
            lambda connection, change: writer.enrol(
                connection, change, new, self.embedding_space, on_conflict, now, cameras
            )
        )

    @override
    def update(
        self, id: str, change: Callable[[Record], Record | None], *, cameras: frozenset[str] | None = None
    ) -> Record | None:
        checks.check_text(id, "id")
        now = clock.now()

        def work(connection: sqlite3.Connection, changes: Change) -> Record | None:
            new = writer.update(connection, changes, id, change, self.dimension, self.embedding_space, now, cameras)
            return None if new is None else rows.by_id(connection, new, now)

        return self._change(work)

    @override
    def get(self, id: str, *, cameras: frozenset[str] | None = None) -> Record | None:
        checks.check_text(id, "id")
        with self._readers.snapshot() as connection:
            return rows.by_id(connection, id, clock.now(), cameras)

    @override
    def get_all(self, ids: Sequence[str], *, cameras: frozenset[str] | None = None) -> Mapping[str, Record]:
        with self._readers.snapshot() as connection:
            return rows.by_ids(connection, ids, clock.now(), cameras)

    @override
    def find_ids(
        self,
        ids: Sequence[str],
        filter: Filter = Filter(),  # noqa: B008 (frozen, so a shared default is safe)
        *,
        cameras: frozenset[str] | None = None,
    ) -> set[str]:
        with self._readers.snapshot() as connection:
            return rows.ids_where(connection, ids, filter, clock.now(), cameras)

    @override
    def thumbnail(self, id: str, frame: int | None = None) -> bytes | None:
        checks.check_text(id, "id")
        with self._readers.snapshot() as connection:
            return rows.thumbnail_of(connection, id, frame, clock.now())

    @override
    def delete(self, id: str, *, by: str = "", cameras: frozenset[str] | None = None) -> bool:
        # Does not wipe: the next `erase` or `expire` removes what is left in the files.
        checks.check_text(id, "id")
        checks.check_text(by, "by")
        now = clock.now()
        return self._change(lambda connection, change: writer.delete(connection, change, id, by, now, cameras))

    @override
    def list(
        self,
        filter: Filter = Filter(),  # noqa: B008 (frozen, so a shared default is safe)
        *,
        limit: int = 100,
        cursor: str | None = None,
    ) -> Page:
        checks.check_limit(limit)
        last_seen = checks.decode_cursor(cursor)
        with self._readers.snapshot() as connection:
            # One more than the limit, to know whether there is another page.
            found = rows.by_page(connection, filter, last_seen, limit + 1, clock.now())
        items = found[:limit]
        return Page(items, checks.encode_cursor(items[-1].id) if len(found) > limit else None)

    @override
    def search(
        self,
        embedding: NDArray[np.float32],
        top_k: int,
        filter: Filter = Filter(),  # noqa: B008 (frozen, so a shared default is safe)
        min_score: float | None = None,
        camera_id: str | None = None,
        *,
        plain: bool = False,
    ) -> SearchResult:
        checks.check_text(camera_id, "camera_id")
        query = checks.check_query(embedding, self.dimension)
        checks.check_limit(top_k, "top_k")
        for _ in range(_MAX_SNAPSHOTS):
            if (found := self._search(query, top_k, filter, min_score, camera_id, plain=plain)) is not None:
                return found
        with self._writer.paused():  # commits came faster than the search
            if (found := self._search(query, top_k, filter, min_score, camera_id, plain=plain)) is not None:
                return found
        raise GalleryBroken("the search index is ahead of the database: restart the service")

    @override
    def erase(self, filter: Filter, *, dry_run: bool, by: str = "", expected: int | None = None) -> Erasure:
        checks.check_erasure(filter, by)
        now = clock.now()
        if dry_run:
            with self._readers.snapshot() as connection:
                enrolled, _ = rows.numbers_where(connection, filter, now)
                return Erasure(len(enrolled), 0, without_time=rows.count_without_time(connection, filter, now))
        rows.where(filter)  # refuse an invalid filter before waiting for the writer
        erasure, swept = self._change(
            lambda connection, change: writer.erase(connection, change, filter, by, now, expected)
        )
        if erasure.erased or swept:
            self._wipe(urgent=True)
        return erasure

    @override
    def expire(self) -> int:
        now = clock.now()

        def work(connection: sqlite3.Connection, change: Change) -> int:
            return writer.expire(connection, change, _EXPIRED_AT_ONCE, now)

        removed = 0
        while step := self._change(work):
            removed += step
        if removed or self._wipe_needed:
            self._wipe(urgent=False)
        else:  # the last save may have failed
            self._saver.request_purge(urgent=False)
        return removed

    @override
    def audit(self, *, limit: int = 100, before: str | None = None) -> Sequence[AuditEntry]:
        checks.check_limit(limit)
        checks.check_text(before, "before")
        with self._readers.snapshot() as connection:
            return audit.read(connection, limit, before)

    @override
    def check(self) -> None:
        self._index.check()

    @override
    def check_storage(self) -> None:
        self._storage.check()

    @override
    def cameras(self) -> Sequence[CameraSummary]:
        if self._closed:
            raise GalleryError("the gallery is closed")
        return self._index.cameras(clock.now())

    @override
    def count(self) -> int:
        if self._closed:
            raise GalleryError("the gallery is closed")
        return self._index.count(clock.now())

    @override
    def close(self) -> None:
        with self._closing:
            if self._closed:
                return
            self._closed = True
            with ExitStack() as last_first:  # closes all of them, even if one fails
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
        camera_id: str | None,
        *,
        plain: bool,
    ) -> SearchResult | None:
        """Search one snapshot of the database. Return `None` if the index is already past its version."""
        with self._readers.snapshot() as connection:
            version = rows.version_of(connection)
            row_filter = self._row_filter(connection, filter, version)
            read_vectors = partial(self._read_vectors, connection)
            candidates = self._index.search(query, top_k, row_filter, version, read_vectors, camera_id, plain=plain)
            if candidates is None:
                return None
            scores = dict(zip(candidates.numbers.tolist(), candidates.scores.tolist(), strict=True))
            if min_score is not None:
                scores = {number: score for number, score in scores.items() if score >= min_score}
            ids = rows.ids_of(connection, list(scores))
            ranked = sorted(scores, key=lambda number: (-scores[number], ids[number]))[:top_k]
            found = rows.by_number(connection, ranked)
        if candidates.centred is None:
            hits = [Hit(record, scores[number]) for number, record in zip(ranked, found, strict=True)]
        else:
            centred = dict(zip(candidates.numbers.tolist(), candidates.centred, strict=True))
            hits = [Hit(record, scores[number], centred[number]) for number, record in zip(ranked, found, strict=True)]
        return SearchResult(hits, candidates.searched, candidates.exact, candidates.centred_query)

    def _row_filter(self, connection: sqlite3.Connection, filter: Filter, version: int) -> RowFilter:
        """Look up metadata and ids of a filter in this snapshot."""
        after, before = checks.interval_of(filter)
        term_rows = tuple(
            np.unique(np.concatenate([self._terms.numbers(connection, term, version) for term in terms]))
            if len(terms) > 1
            else self._terms.numbers(connection, terms[0], version)
            for terms in checks.term_choices(filter)
        )
        created_after, created_before = checks.created_of(filter)
        exclude_rows = np.sort(rows.numbers_of(connection, filter.exclude_ids)) if filter.exclude_ids else None
        return RowFilter(
            clock.now(),
            filter.camera_ids,
            filter.exclude_camera_ids,
            after,
            before,
            term_rows,
            exclude_rows,
            created_after,
            created_before,
            filter.without_time,
            checks.daily_window(filter),
        )

    def _read_vectors(self, connection: sqlite3.Connection, numbers: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the vectors `[n, D]` of these rows of the snapshot, in this order."""
        found, vectors = rows.vectors_of(connection, numbers, self.dimension)
        if len(found) != len(numbers):
            raise rows.error_of_missing(connection, set(numbers.tolist()) - set(found.tolist()))
        in_order: NDArray[np.float32] = vectors[np.searchsorted(found, numbers)]
        return in_order

    def _wipe(self, *, urgent: bool) -> None:
        """Remove what is left of removed records in SQLite's files, and soon in the saved index.

        SQLite overwrites the pages that it frees, so emptying its log is enough.
        """
        self._wipe_needed = False
        if not self._writer.empty_log():  # a reader such as `not3d gallery snapshot` needs the log
            self._wipe_needed = True  # `expire` tries again
        self._saver.request_purge(urgent=urgent)

    def _new_change(self) -> Change:
        sums = CameraSums(self.dimension) if self._index.centred else None
        return Change(removed_sums=sums, watching=self._new_watching())

    @override
    def _change(self, work: Work[T]) -> T:
        # An index that lost a change would never reach the later versions.
        self._index.check()
        return self._writer.run(work)

    def _on_commit(self, version: int, change: Change) -> None:
        if change.removed or (change.watching and change.watching.changed):
            self._wipe_needed = True
        try:
            added = [
                FilterValues(number, row.camera_id, row.start_time, row.end_time, row.expires_at, row.created_at)
                for number, row in change.added
            ]
            vectors = np.array([row.vector for _, row in change.added], np.float32)
            self._index.apply(version, added, vectors, change.removed, change.removed_sums)
        except Exception:  # any: the change is committed, so the caller gets its answer; then the process ends
            self._index.fail()
            log.exception("search index failed: it does not follow the database any more")
            return
        except BaseException:
            self._index.fail()
            raise
        self._finish_watching(change.watching)
        self._saver.on_commit(len(change.added), len(change.removed))
        self._rebuilder.on_commit()
