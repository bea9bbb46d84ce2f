"""What a gallery stores and returns, and the errors it raises."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from model.errors import Not3dError

OnConflict: TypeAlias = Literal["error", "replace", "skip"]
"""What happens if an id exists: nothing is enrolled, the new record replaces the old one, or the old one stays."""
ScoreMode: TypeAlias = Literal["cosine", "centred"]
"""What a score is: the cosine of two vectors, or of two from which the means of their cameras were subtracted first."""
JSON: TypeAlias = JsonValue


# Compared by identity: an array has no single truth value, so a generated __eq__ would raise.
@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """One enrolled tracklet.

    `embedding` is float32 `[D]` of unit length. Times are aware, and `start_time <= end_time` if both are given.
    `frames` and `clips` count what the embedding was computed from. At `expires_at` the record stops being enrolled,
    and soon after that it is erased. `thumbnail` is a JPEG that is only written: a record that is read has
    `has_thumbnail` instead, and `Gallery.thumbnail` returns the JPEG.
    """

    id: str
    embedding: NDArray[np.float32]
    camera_id: str | None
    start_time: datetime | None
    end_time: datetime | None
    metadata: dict[str, JSON]
    frames: int
    clips: int
    created_at: datetime
    expires_at: datetime | None = None
    has_thumbnail: bool = False
    thumbnail: bytes | None = None


@dataclass(frozen=True, slots=True)
class Filter:
    """Conditions on records; a record passes if it fulfils all that are given.

    - `camera_ids`: the record's camera is one of these (`None`: any; an empty tuple matches nothing).
    - `exclude_camera_ids`: the record's camera is none of these; a record without a camera passes.
    - `after`, `before` (aware): the record's interval `[start_time, end_time]` overlaps `[after, before]`, ends
      included. If a record has only one of the times, its interval is that instant; without any, it never passes.
    - `metadata`: the record has every given top-level key with an equal value. Numbers are equal by value (1 equals
      1.0); `true` and "1" do not equal 1; nested values are compared as one value.
    - `exclude_ids`: the record's id is none of these.
    """

    camera_ids: tuple[str, ...] | None = None
    exclude_camera_ids: tuple[str, ...] = ()
    after: datetime | None = None
    before: datetime | None = None
    metadata: Mapping[str, JSON] = field(default_factory=dict)
    exclude_ids: tuple[str, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether no condition is given, so that every record passes."""
        return self.camera_ids is None and not (
            self.exclude_camera_ids or self.after or self.before or self.metadata or self.exclude_ids
        )


@dataclass(frozen=True, slots=True)
class Hit:
    """A record that a search found, with its score in -1..1: see `ScoreMode`.

    If scores are centred, `centred` `[D]` is the unit vector that was compared.
    """

    record: Record
    score: float
    centred: NDArray[np.float64] | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The hits of a search, best first.

    `searched` is the number of records that passed the filter. `exact` is false if an approximate index answered.
    If scores are centred, `centred_query` `[D]` is the unit vector with which the hits' were compared.
    """

    hits: list[Hit]
    searched: int
    exact: bool
    centred_query: NDArray[np.float64] | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a listing; `next_cursor` is `None` on the last page."""

    items: list[Record]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class Erasure:
    """How many records a filter matched, and how many were erased (0 on a dry run).

    `receipt` is the id of the entry in the audit log; `None` on a dry run.
    """

    matched: int
    erased: int
    receipt: str | None = None


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One removal in the append-only audit log, which contains no vectors and no pictures.

    `by` says who removed the records: the fingerprint of an API key, or "expiry". `filter` is the condition as JSON,
    `{"id": ...}` if one record was deleted. `erased` is the number of records removed.
    """

    receipt: str
    time: datetime
    action: Literal["delete", "erase", "expire"]
    by: str
    filter: dict[str, JSON]
    erased: int


class GalleryError(Not3dError):
    """The gallery cannot do what was asked; the message is for its operator."""


class InvalidArgument(GalleryError, ValueError):
    """The caller passed a value that no gallery accepts, such as NaN. The message begins with the argument's name."""

    @property
    def argument(self) -> str:
        """The name of the argument."""
        return str(self).partition(" ")[0]


class EmptyFilter(InvalidArgument):
    """An erasure has no condition, so it would erase everything."""


class DuplicateId(GalleryError):
    """A record with this id is enrolled already."""

    def __init__(self, id: str) -> None:
        super().__init__(f"id {id!r} is enrolled already")
        self.id = id


class SpaceMismatch(GalleryError):
    """The stored embeddings are of another model, so they cannot be compared with this model's."""


class GalleryLocked(GalleryError):
    """Another process, or another gallery of this process, has the data directory open."""


class GalleryUnavailable(GalleryError):
    """The engine does not answer now, but may soon. It is unknown whether the change was made; call again."""


class GalleryBroken(GalleryError):
    """This process cannot use its gallery any more. Acknowledged changes are safe; restart the process."""


class DiskFull(GalleryError):
    """No space is left on the disk; the call changed nothing."""
