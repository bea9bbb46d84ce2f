"""What a gallery holds, what is asked of it, and how it refuses."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, TypeAlias, Union

import numpy as np
from numpy.typing import NDArray

from model.errors import Not3dError

OnConflict: TypeAlias = Literal["error", "replace", "skip"]
"""What happens if an id exists: nothing is enrolled, the new record replaces the old one, or the old one stays."""
JSON: TypeAlias = Union[list["JSON"], dict[str, "JSON"], str, bool, int, float, None]  # noqa: UP007 (text has no |)


# Compared by identity: an array has no single truth value, so a generated __eq__ would raise.
@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """One enrolled tracklet.

    `embedding` is float32 `[D]` of unit length. Times are aware; `start_time <= end_time` where both are given.
    `frames` and `clips` count what the embedding was computed from. From `expires_at` on the record is not found any
    more, and soon after that it is erased. `thumbnail` is a JPEG that is given at enrolment and never read back with
    the record: `has_thumbnail` says whether `Gallery.thumbnail` has one.
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
    """Which records a search or an erasure is about; every given condition must hold.

    - `camera_ids`: the record's camera is one of these (`None`: any; an empty tuple matches nothing).
    - `exclude_camera_ids`: it is none of these; a record without a camera passes.
    - `after`, `before` (aware): the record's interval `[start_time, end_time]` overlaps `[after, before]`, ends
      included. A single given time counts as an instant; a record without times never matches a time filter.
    - `metadata`: equal on every given top-level key. Numbers compare by value (1 equals 1.0); `true` is not 1,
      "1" is not 1, and nested values compare as a whole.
    - `exclude_ids`: the record is none of these.
    """

    camera_ids: tuple[str, ...] | None = None
    exclude_camera_ids: tuple[str, ...] = ()
    after: datetime | None = None
    before: datetime | None = None
    metadata: Mapping[str, JSON] = field(default_factory=dict)
    exclude_ids: tuple[str, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether nothing is asked, so that every record would match."""
        return (
            self.camera_ids is None
            and not self.exclude_camera_ids
            and self.after is None
            and self.before is None
            and not self.metadata
            and not self.exclude_ids
        )


@dataclass(frozen=True, slots=True)
class Hit:
    """A record found, with its cosine similarity to the query in -1..1."""

    record: Record
    score: float


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The best `hits`, best first; `searched` rows passed the filter; `exact` unless an approximate index answered."""

    hits: list[Hit]
    searched: int
    exact: bool


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a listing; `next_cursor` is `None` on the last one."""

    items: list[Record]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class Erasure:
    """How many records a filter matched and how many of them were erased (0 on a dry run).

    `receipt` names the entry of the audit log; a dry run has none.
    """

    matched: int
    erased: int
    receipt: str | None = None


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One removal, as the append-only audit log keeps it: never a vector, never a picture.

    `by` is who asked: the fingerprint of an API key, or what expired records. `filter` is the condition as JSON, for a
    single removal `{"id": ...}`; `erased` counts the records that went.
    """

    receipt: str
    time: datetime
    action: Literal["delete", "erase", "expire"]
    by: str
    filter: dict[str, JSON]
    erased: int


# The names below say what happened, and read better without an "Error" at the end.
class GalleryError(Not3dError):
    """The gallery could not do what was asked; the message is meant for its operator."""


class InvalidArgument(GalleryError, ValueError):
    """The caller passed something no gallery accepts: a vector of another length, NaN, a broken cursor.

    The message begins with the argument's name.
    """

    @property
    def argument(self) -> str:
        """Which argument it is."""
        return str(self).partition(" ")[0]


class EmptyFilter(InvalidArgument):
    """An erasure without any condition, which would erase everything."""


class DuplicateId(GalleryError):
    """A record of this id is enrolled already."""

    def __init__(self, id: str) -> None:
        super().__init__(f"id {id!r} is enrolled already")
        self.id = id


class SpaceMismatch(GalleryError):
    """The stored embeddings are of another model: they cannot be compared with this one's."""


class GalleryLocked(GalleryError):
    """Another process, or another gallery of this one, has the data directory open."""


class GalleryUnavailable(GalleryError):
    """The engine does not answer now and may soon: nothing is known to have been changed, and asking again is right."""


class GalleryBroken(GalleryError):
    """This process can no longer answer from its gallery: all that was acknowledged is whole, and a new start helps."""


class DiskFull(GalleryError):
    """No space left; nothing of the refused call was kept."""
