"""The `Gallery` protocol: the methods that every gallery engine has."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from service.gallery.records import (
    AuditEntry,
    CameraSummary,
    Erasure,
    Filter,
    Hit,
    OnConflict,
    Page,
    Record,
    ScoreMode,
    SearchResult,
)
from service.gallery.watch.store import AlertStore


class Gallery(AlertStore, Protocol):
    """A searchable store of tracklet embeddings, all of one embedding space.

    Methods with a parameter `cameras` act as if only records of these cameras existed; `None`: all. They do not read
    others, so that neither an answer nor its time tells about them.

    Every method is synchronous and may be called from any thread. When a method that changes records returns, the
    change survives the end of the process and every later call sees it. An expired record (`expires_at` has passed)
    is not enrolled: no method returns or counts it, and its id is free, even if `expire` has not been called.

    Every method can raise these errors:

    - `InvalidArgument`: a value that no gallery accepts.
    - `GalleryUnavailable`: the engine does not answer now; call again later.
    - `GalleryBroken`: this process cannot use its gallery any more; restart the process.
    - `DiskFull`: no space is left.
    - `StorageLost`: the data directory was removed or replaced.
    - `GalleryError`, the base class of these: anything else that fails.
    """

    embedding_space: str
    """The name of the space of the embeddings; vectors of other spaces are never compared with them."""
    dimension: int
    """The length D of every embedding."""
    score_mode: ScoreMode
    """What the scores of searches are."""

    @property
    def engine(self) -> str:
        """The storage and search engine, as text for people."""
        ...

    def enrol(
        self, records: Sequence[Record], on_conflict: OnConflict, *, cameras: frozenset[str] | None = None
    ) -> set[str]:
        """Enrol records in one durable step: all that `on_conflict` allows, or none if this raises.

        A search sees either the old or the new state of a record. If several calls enrol one free id at the same time,
        only one of them finds it free.

        Args:
            records: all of them are held in memory, so pass at most some thousands. An id may occur only once.
            on_conflict: what happens if an id exists: raise an error, replace the record, or skip the new one.
            cameras: records of other cameras are neither replaced nor skipped.

        Returns:
            The ids that existed.

        Raises:
            DuplicateId: an id exists and `on_conflict` is "error", or its record is not of `cameras`.
        """
        ...

    def add(self, record: Record) -> None:
        """Enrol a new record. Raises `DuplicateId` if its id exists."""
        self.enrol([record], "error")

    def put(self, record: Record, *, cameras: frozenset[str] | None = None) -> bool:
        """Enrol a record, or replace the one with its id. Return whether the id is new.

        Raises `DuplicateId` if the one with its id is not of `cameras`.
        """
        return not self.enrol([record], "replace", cameras=cameras)

    def update(
        self, id: str, change: Callable[[Record], Record | None], *, cameras: frozenset[str] | None = None
    ) -> Record | None:
        """Change one record in one durable step.

        Args:
            id: of the record.
            change: gets the record, with its thumbnails, and returns the new one with the same id and embedding, or
                `None` to leave it as it is. It may be called more than once.
            cameras: of the record; the new one may be of any camera.

        Returns:
            The new record, or `None` if none was changed.
        """
        ...

    def get(self, id: str, *, cameras: frozenset[str] | None = None) -> Record | None:
        """Return the record with this id, or `None`."""
        ...

    def get_all(self, ids: Sequence[str], *, cameras: frozenset[str] | None = None) -> Mapping[str, Record]:
        """Return the records of these ids, of which there may be some hundreds; an id without a record is left out."""
        ...

    def find_ids(
        self,
        ids: Sequence[str],
        filter: Filter = Filter(),  # noqa: B008 (frozen, so a shared default is safe)
        *,
        cameras: frozenset[str] | None = None,
    ) -> set[str]:
        """Return those of these ids, of which there may be some hundreds, that have a record that passes the filter.

        Neither vectors nor metadata are read.
        """
        ...

    def thumbnail(self, id: str, frame: int | None = None) -> bytes | None:
        """Return a JPEG of this record, or `None`: the middle one, or that with the index `frame` in time order."""
        ...

    def delete(self, id: str, *, by: str = "", cameras: frozenset[str] | None = None) -> bool:
        """Remove one record and write an entry to the audit log. Return whether the record existed."""
        ...

    def list(
        self,
        filter: Filter = Filter(),  # noqa: B008 (frozen, so a shared default is safe)
        *,
        limit: int = 100,
        cursor: str | None = None,
    ) -> Page:
        """Return one page of records in the order of their ids.

        A record that stays enrolled during the listing is on exactly one of the pages.

        Args:
            filter: only records that pass it.
            limit: the largest number of records on the page.
            cursor: the `next_cursor` of the previous page.
        """
        ...

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
        """Return the `top_k` records that pass `filter` and have the best scores with `embedding` `[D]`.

        If scores are centred, `camera_id` is the camera whose mean is subtracted from the query; without it, or if no
        record is of this camera, that is the mean of all records. Otherwise it has no effect. With `plain`, scores are
        cosines in every gallery.

        Records with equal scores are ordered by id, also at the cut-off. Records that score less than
        `min_score` are left out, but counted in `searched`.
        """
        ...

    def search_best(
        self,
        queries: Sequence[tuple[NDArray[np.float32], str | None]],
        top_k: int,
        filter: Filter = Filter(),  # noqa: B008 (frozen, so a shared default is safe)
        min_score: float | None = None,
        *,
        plain: bool = False,
    ) -> SearchResult:
        """Return the `top_k` records whose best score with any of the queries is highest; equal scores rank by id.

        Args:
            queries: each is an embedding `[D]` and its camera, as for `search`; at least one.
            top_k: as for `search`.
            filter: as for `search`.
            min_score: as for `search`, of the best score.
            plain: as for `search`.

        Returns:
            The hits with their best scores. If scores are centred, a hit's `centred` is of the query with which it has
            its best score, and `centred_query` is `[Q, D]`.
        """
        best: dict[str, Hit] = {}
        answers = []
        for embedding, camera_id in queries:
            answers.append(found := self.search(embedding, top_k, filter, min_score, camera_id, plain=plain))
            for hit in found.hits:
                known = best.get(hit.record.id)
                if known is None or hit.score > known.score:
                    best[hit.record.id] = hit
            # A record that is among the best of all queries is among the best of the query with its best score.
            ranked = sorted(best.values(), key=lambda hit: (-hit.score, hit.record.id))[:top_k]
            best = {hit.record.id: hit for hit in ranked}
        centred = [found.centred_query for found in answers if found.centred_query is not None]
        return SearchResult(
            list(best.values()),
            max(found.searched for found in answers),
            all(found.exact for found in answers),
            np.stack(centred) if centred else None,
        )

    def erase(self, filter: Filter, *, dry_run: bool, by: str = "", expected: int | None = None) -> Erasure:
        """Remove every record that passes `filter` and write an entry to the audit log, even if none passes.

        A dry run only counts, whatever is `expected`. A record that passes only after the count is not removed.

        Raises:
            EmptyFilter: the filter has no condition, so it would erase everything.
            OtherCount: another number of records passes than `expected`; nothing was removed.
        """
        ...

    def expire(self) -> int:
        """Remove the expired records and return their number.

        They are removed in steps of some thousands, and each step writes one entry to the audit log.
        """
        ...

    def audit(self, *, limit: int = 100, before: str | None = None) -> Sequence[AuditEntry]:
        """Return the newest entries of the audit log, newest first; with `before`, those older than this receipt."""
        ...

    def check(self) -> None:
        """Raise `GalleryBroken` if the process has to be restarted. Returns at once and calls no server."""
        ...

    def check_storage(self) -> None:
        """Check that changes can be stored now; this may wait for a disk.

        Raises:
            StorageLost: the data directory is not the one that is open.
            DiskFull: no space is left.
            GalleryError: the directory cannot be written.
        """
        ...

    def cameras(self) -> Sequence[CameraSummary]:
        """Return each camera that has records, in the order of their ids; records without a camera come last."""
        ...

    def count(self) -> int:
        """Return how many records are enrolled."""
        ...

    def close(self) -> None:
        """Release files, locks and connections. Later calls raise `GalleryError`; a second `close` does nothing."""
        ...
