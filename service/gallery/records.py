"""What a gallery stores and returns, and the errors it raises."""

import json
from collections.abc import ItemsView, Iterator, Mapping, Sequence, ValuesView
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue
from typing_extensions import override

from model.errors import Not3dError

OnConflict: TypeAlias = Literal["error", "replace", "skip"]
"""What happens if an id exists: nothing is enrolled, the new record replaces the old one, or the old one stays."""
ScoreMode: TypeAlias = Literal["cosine", "centred"]
"""What a score is: the cosine of two vectors, or of two from which the means of their cameras were subtracted first."""
JSON: TypeAlias = JsonValue


MAX_THUMBNAILS = 8
"""Maximum pictures of a record."""


class StoredJson(Mapping[str, JSON]):
    """A JSON object that was stored, kept as its text and parsed when it is read.

    The metadata of a page of records can have some million values. Most readers pass the text on and need none of them.
    Each key that is read costs a parse of the whole text: use `json_values` to read more than one.
    """

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text

    @override
    def __getitem__(self, key: str) -> JSON:
        return self.parse()[key]

    @override
    def __iter__(self) -> Iterator[str]:
        return iter(self.parse())

    @override
    def __len__(self) -> int:
        return len(self.parse())

    @override
    def __repr__(self) -> str:
        return self.text

    @override
    def items(self) -> ItemsView[str, JSON]:
        """Return the keys with their values, parsed once."""
        return self.parse().items()

    @override
    def values(self) -> ValuesView[JSON]:
        """Return the values, parsed once."""
        return self.parse().values()

    def parse(self) -> dict[str, JSON]:
        """Return the object as a new dict."""
        parsed: dict[str, JSON] = json.loads(self.text)
        return parsed


def json_text(value: Mapping[str, JSON]) -> str:
    """Return a JSON object as text."""
    return value.text if isinstance(value, StoredJson) else json.dumps(value)


def json_values(value: Mapping[str, JSON]) -> dict[str, JSON]:
    """Return a JSON object as a new dict. Stored text is parsed once; `dict(value)` would parse it for each key."""
    return value.parse() if isinstance(value, StoredJson) else dict(value)


# Compared by identity: an array has no single truth value, so a generated __eq__ would raise.
@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """One enrolled tracklet.

    `embedding` is float32 `[D]` of unit length. Times are aware, and `start_time <= end_time` if both are given.
    `frames` and `clips` count what the embedding was computed from. At `expires_at` the record stops being enrolled,
    and soon after that it is erased. `thumbnails` are JPEG files of some of its frames, in time order, that are only
    written: a record that is read has `thumbnail_count` instead, and `Gallery.thumbnail` returns one of them.
    """

    id: str
    embedding: NDArray[np.float32]
    camera_id: str | None
    start_time: datetime | None
    end_time: datetime | None
    metadata: Mapping[str, JSON]
    frames: int
    clips: int
    created_at: datetime
    expires_at: datetime | None = None
    thumbnail_count: int = 0
    thumbnails: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class TimeOfDay:
    """A part of each day, both ends included; it passes over midnight if `end` is less than `start`.

    Attributes:
        start: seconds since local midnight, 0 to 86,400.
        end: seconds since local midnight, 0 to 86,400, other than `start`.
        utc_offset: local time minus UTC, in seconds.
    """

    start: int
    end: int
    utc_offset: int = 0


@dataclass(frozen=True, slots=True)
class Filter:
    """Conditions on records; a record passes if it fulfils all that are given.

    - `camera_ids`: the record's camera is one of these (`None`: any; an empty tuple matches nothing).
    - `exclude_camera_ids`: the record's camera is none of these; a record without a camera passes.
    - `after`, `before` (aware): the record's interval `[start_time, end_time]` overlaps `[after, before]`, ends
      included. If a record has only one of the times, its interval is that instant; without any, it never passes.
    - `time_of_day`: the record's interval overlaps this part of some day. A record without times never passes.
    - `without_time`: if true, the record has neither start_time nor end_time.
    - `created_after`, `created_before` (aware): the record was enrolled in this interval, ends included.
    - `metadata`: the record has every given top-level key with an equal value. Numbers are equal by value (1 equals
      1.0); `true` and "1" do not equal 1; nested values are compared as one value.
    - `metadata_texts`: as `metadata`, with values as people type them: `12` is the number and the text, `true` the
      boolean and the text.
    - `exclude_ids`: the record's id is none of these.
    """

    camera_ids: tuple[str, ...] | None = None
    exclude_camera_ids: tuple[str, ...] = ()
    after: datetime | None = None
    before: datetime | None = None
    metadata: Mapping[str, JSON] = field(default_factory=dict)
    exclude_ids: tuple[str, ...] = ()
    created_after: datetime | None = None
    created_before: datetime | None = None
    without_time: bool = False
    time_of_day: TimeOfDay | None = None
    metadata_texts: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        """Whether no condition is given, so that every record passes."""
        return self == Filter()

    @property
    def needs_time(self) -> bool:
        """Whether only records with a time can pass."""
        return self.after is not None or self.before is not None or self.time_of_day is not None

    def of_records_without_time(self) -> "Filter":
        """Return the filter of the records that pass all other conditions and have no time."""
        return replace(self, after=None, before=None, time_of_day=None, without_time=True)


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
    If scores are centred, `centred_query` `[D]` is the unit vector with which the hits' were compared; `[Q, D]` for
    several queries.
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

    `receipt` is the id of the entry in the audit log; `None` on a dry run. `ids` has those of the erased records.
    `without_time` counts the records that only a condition on time left out, because they have no time. `verdicts`
    counts the verdicts on erased records that were removed from cases. `cases` has the cases that name the records.
    """

    matched: int
    erased: int
    receipt: str | None = None
    ids: Sequence[str] = field(default=(), repr=False, compare=False)
    without_time: int = 0
    verdicts: int = 0
    cases: "Sequence[NamingCase]" = ()


@dataclass(frozen=True, slots=True)
class NamingCase:
    """A case that names records which are erased.

    `query` says what the query of the case has to do with the records: it is one of them ("record"), an operator said
    that its footage shows the person of one of them ("footage"), or nothing that is known (`None`). `verdicts` counts
    the verdicts on the records.
    """

    id: str
    name: str
    is_open: bool
    query: Literal["record", "footage"] | None
    verdicts: int


@dataclass(frozen=True, slots=True)
class CameraSummary:
    """How many records are enrolled of one camera, or without a camera, and the earliest and latest of their times."""

    camera_id: str | None
    records: int
    first_time: datetime | None
    last_time: datetime | None


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
    filter: Mapping[str, JSON]
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


class OtherCount(GalleryError):
    """Another number of records passes the filter of an erasure than its caller expects; nothing was erased."""

    def __init__(self, counted: int, expected: int) -> None:
        super().__init__(f"{counted} records pass the filter now, not {expected}")


class SpaceMismatch(GalleryError):
    """The stored embeddings are of another model, so they cannot be compared with this model's."""


class GalleryLocked(GalleryError):
    """Another process, or another gallery of this process, has the data directory open."""


class GalleryUnavailable(GalleryError):
    """The engine does not answer now, but may soon. It is unknown whether the change was made; call again."""


class GalleryBroken(GalleryError):
    """This process cannot use its gallery any more. Acknowledged changes are safe; restart the process."""


class StorageLost(GalleryError):
    """The data directory is not the one that this process has open, so nothing can be stored."""


class DiskFull(GalleryError):
    """No space is left on the disk; the call changed nothing."""
