"""The `Gallery` protocol: the methods that every gallery engine has."""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from service.gallery.records import AuditEntry, Erasure, Filter, OnConflict, Page, Record, ScoreMode, SearchResult


class Gallery(Protocol):
    """A searchable store of tracklet embeddings, all of one embedding space.

    Every method is synchronous and may be called from any thread. When a method that changes records returns, the
    change survives the end of the process and every later call sees it. An expired record (`expires_at` has passed)
    is not enrolled: no method returns or counts it, and its id is free, even if `expire` has not been called.

    Every method can raise these errors:

    - `InvalidArgument`: a value that no gallery accepts.
    - `GalleryUnavailable`: the engine does not answer now; call again later.
    - `GalleryBroken`: this process cannot use its gallery any more; restart the process.
    - `DiskFull`: no space is left.
    - `GalleryError`, the base class of these: anything else that fails.
    """

    embedding_space: str
    """The 16 hex digits that name the model of the embeddings."""
    dimension: int
    """The length D of every embedding."""
    score_mode: ScoreMode
    """What the scores of searches are."""

    @property
    def engine(self) -> str:
        """The storage and search engine, as text for people."""
        ...

    def enrol(self, records: Sequence[Record], on_conflict: OnConflict) -> set[str]:
        """Enrol records in one durable step: all that `on_conflict` allows, or none if this raises.

        A search sees either the old or the new state of a record. If several calls enrol one free id at the same time,
        only one of them finds it free.

        Args:
            records: all of them are held in memory, so pass at most some thousands. An id may occur only once.
            on_conflict: what happens if an id exists: raise an error, replace the record, or skip the new one.

        Returns:
            The ids that existed.

        Raises:
            DuplicateId: an id exists and `on_conflict` is "error".
        """
        ...

    def add(self, record: Record) -> None:
        """Enrol a new record. Raises `DuplicateId` if its id exists."""
        self.enrol([record], "error")

    def put(self, record: Record) -> bool:
        """Enrol a record, or replace the one with its id. Return whether the id is new."""
        return not self.enrol([record], "replace")

    def get(self, id: str) -> Record | None:
        """Return the record with this id, or `None`."""
        ...

    def thumbnail(self, id: str) -> bytes | None:
        """Return the JPEG of this record, or `None`."""
        ...

    def delete(self, id: str, *, by: str = "") -> bool:
        """Remove one record and write an entry to the audit log. Return whether the record existed."""
        ...

    def list(
        self,
        *,
        camera_id: str | None = None,
        after: datetime | None = None,
        before: datetime | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> Page:
        """Return one page of records in the order of their ids.

        A record that stays enrolled during the listing is on exactly one of the pages.

        Args:
            camera_id: only records of this camera.
            after: only records whose interval ends at or after this time, as in `Filter`.
            before: only records whose interval starts at or before this time, as in `Filter`.
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
    ) -> SearchResult:
        """Return the `top_k` records that pass `filter` and have the best scores with `embedding` `[D]`.

        If scores are centred, `camera_id` is the camera whose mean is subtracted from the query; without it, or if no
        record is of this camera, that is the mean of all records. Otherwise it has no effect.

        Records with equal scores are ordered by id, also at the cut-off. Records that score less than
        `min_score` are left out, but counted in `searched`.
        """
        ...

    def erase(self, filter: Filter, *, dry_run: bool, by: str = "") -> Erasure:
        """Remove every record that passes `filter` and write an entry to the audit log, even if none passes.

        A dry run only counts. Raises `EmptyFilter` if the filter has no condition, since that would erase everything.
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

    def count(self) -> int:
        """Return how many records are enrolled."""
        ...

    def close(self) -> None:
        """Release files, locks and connections. Later calls raise `GalleryError`; a second `close` does nothing."""
        ...
