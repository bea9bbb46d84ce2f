"""What the service needs of a gallery, whichever engine keeps it."""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from service.gallery.records import AuditEntry, Erasure, Filter, Page, Record, SearchResult


class Gallery(Protocol):
    """A searchable store of embedded tracklets, all of one embedding space.

    Every method is synchronous and may be called from any thread. Once a changing method has returned, its change
    survives the death of the process and is seen by every later call. All raise `GalleryError` when the engine fails,
    `GalleryUnavailable` where it will be back, `GalleryBroken` where only a new start of the process helps, `DiskFull`
    when there is no space left, and `InvalidArgument` for values no gallery accepts. A record whose `expires_at` has
    passed is enrolled no more, whether or not `expire` has been called since: no method finds or counts it, and its id
    is free.
    """

    @property
    def embedding_space(self) -> str:
        """The 16 hex digits of the model whose embeddings are kept here."""
        ...

    @property
    def dimension(self) -> int:
        """The length D of every embedding."""
        ...

    @property
    def engine(self) -> str:
        """What keeps and searches the records, for people to read."""
        ...

    def add(self, record: Record) -> None:
        """Enrol a new record. Raises `DuplicateId` where its id is taken; of two at once exactly one wins."""
        ...

    def put(self, record: Record) -> bool:
        """Enrol or replace, in one step that no search sees half of. True where the id was new."""
        ...

    def put_many(self, records: Sequence[Record]) -> int:
        """Enrol or replace all of them in one durable step, or none; how many ids were new.

        An id may be there once only. Some hundreds to thousands at a time are right.
        """
        ...

    def add_many(self, records: Sequence[Record]) -> set[str]:
        """Enrol all of them whose id is free in one durable step, or none; the ids that were taken.

        Records that had these ids stay as they are. As for `put_many`, an id may be there once only.
        """
        ...

    def get(self, id: str) -> Record | None:
        """The record of this id."""
        ...

    def thumbnail(self, id: str) -> bytes | None:
        """The JPEG kept with this record."""
        ...

    def delete(self, id: str, *, by: str = "") -> bool:
        """Remove one record, with an entry in the audit log. False where there was none."""
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
        """Records in order of their ids. A record that stays enrolled meanwhile is on exactly one of the pages.

        `after` and `before` mean what they mean in `Filter`. `cursor` is a page's `next_cursor`.
        """
        ...

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
        ...

    def erase(self, filter: Filter, *, dry_run: bool, by: str = "") -> Erasure:
        """Remove every record that passes `filter`, with an entry in the audit log, also where there was none.

        Raises `EmptyFilter` where that would be all of them.
        """
        ...

    def expire(self) -> int:
        """Remove what has expired; how many. Each step, of thousands at most, is an entry of the audit log."""
        ...

    def audit(self, *, limit: int = 100, before: str | None = None) -> Sequence[AuditEntry]:
        """The audit log, newest first, of entries older than the receipt `before`."""
        ...

    def check(self) -> None:
        """Raises `GalleryBroken` where only a new start of the process helps. Asks nobody, and never waits."""
        ...

    def count(self) -> int:
        """How many records are enrolled."""
        ...

    def close(self) -> None:
        """Let go of files and locks; a second call does nothing. Later calls of other methods raise `GalleryError`."""
        ...
