"""What the service answers, as typed values. Fields that a later service adds are passed over."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

Json = Mapping[str, Any]


@dataclass(frozen=True)
class RejectedFrame:
    """A frame that was left out, by its 0-based index among those sent, and why."""

    index: int
    reason: str


@dataclass(frozen=True)
class Embedded:
    """A tracklet that became a vector: ``frames`` were used, in ``clips``; ``embedding`` is there when asked for."""

    id: str | None
    model: str
    embedding_space: str
    dim: int
    frames: int
    clips: int
    rejected_frames: tuple[RejectedFrame, ...]
    embedding: tuple[float, ...] | None

    @classmethod
    def read(cls, answer: Json) -> Self:
        """From the answer of ``POST /embed`` or ``PUT /gallery/{id}``."""
        return cls(
            id=answer["id"],
            model=answer["model"],
            embedding_space=answer["embedding_space"],
            dim=answer["dim"],
            frames=answer["frames"],
            clips=answer["clips"],
            rejected_frames=tuple(RejectedFrame(item["index"], item["reason"]) for item in answer["rejected_frames"]),
            embedding=_vector(answer),
        )


@dataclass(frozen=True)
class Hit:
    """One record found; ``score`` is the cosine similarity, ``rank`` counts from 1.

    ``thumbnail_url`` is the path of its picture, for `Client.thumbnail`, where the service keeps one.
    """

    rank: int
    id: str
    score: float
    camera_id: str | None
    start_time: datetime | None
    end_time: datetime | None
    metadata: Json
    thumbnail_url: str | None = None


@dataclass(frozen=True)
class SearchResult:
    """The hits, best first. ``searched`` counts the records that passed the filter; ``exact`` is false where an
    approximate index answered.
    """

    hits: tuple[Hit, ...]
    embedding_space: str
    searched: int
    exact: bool
    took_ms: float

    @classmethod
    def read(cls, answer: Json) -> Self:
        """From the answer of ``POST /search``."""
        return cls(
            hits=tuple(
                Hit(
                    rank=hit["rank"],
                    id=hit["id"],
                    score=hit["score"],
                    camera_id=hit["camera_id"],
                    start_time=_time(hit["start_time"]),
                    end_time=_time(hit["end_time"]),
                    metadata=hit["metadata"] or {},
                    thumbnail_url=hit.get("thumbnail_url"),
                )
                for hit in answer["results"]
            ),
            embedding_space=answer["embedding_space"],
            searched=answer["searched"],
            exact=answer["exact"],
            took_ms=answer["took_ms"],
        )


@dataclass(frozen=True)
class Record:
    """One tracklet of the gallery; ``embedding`` is there when asked for, ``thumbnail_url`` where a picture is kept.

    From ``expires_at`` on the service finds it no more.
    """

    id: str
    camera_id: str | None
    start_time: datetime | None
    end_time: datetime | None
    metadata: Json
    frames: int
    clips: int
    embedding_space: str
    created_at: datetime
    embedding: tuple[float, ...] | None
    expires_at: datetime | None = None
    thumbnail_url: str | None = None

    @classmethod
    def read(cls, answer: Json) -> Self:
        """From the answer of ``GET /gallery/{id}`` or one item of ``GET /gallery``."""
        return cls(
            id=answer["id"],
            camera_id=answer["camera_id"],
            start_time=_time(answer["start_time"]),
            end_time=_time(answer["end_time"]),
            metadata=answer["metadata"] or {},
            frames=answer["frames"],
            clips=answer["clips"],
            embedding_space=answer["embedding_space"],
            created_at=datetime.fromisoformat(answer["created_at"]),
            embedding=_vector(answer),
            expires_at=_time(answer.get("expires_at")),
            thumbnail_url=answer.get("thumbnail_url"),
        )


@dataclass(frozen=True)
class Page:
    """Some records of the gallery; ``next_cursor`` leads to the next page and is ``None`` on the last."""

    items: tuple[Record, ...]
    next_cursor: str | None

    @classmethod
    def read(cls, answer: Json) -> Self:
        """From the answer of ``GET /gallery``."""
        return cls(tuple(Record.read(item) for item in answer["items"]), answer["next_cursor"])


@dataclass(frozen=True)
class Erased:
    """How many records a filter matched, and how many were erased (0 in a dry run).

    ``receipt_id`` names the entry of the audit log; a dry run has none.
    """

    matched: int
    erased: int
    receipt_id: str | None = None

    @classmethod
    def read(cls, answer: Json) -> Self:
        """From the answer of ``POST /gallery/erase``."""
        return cls(answer["matched"], answer["erased"], answer.get("receipt_id"))


@dataclass(frozen=True)
class AuditEntry:
    """One removal: ``by`` is the fingerprint of an API key, ``anonymous`` or ``expiry``; ``erased`` counts records."""

    receipt_id: str
    time: datetime
    action: str
    by: str
    filter: Json
    erased: int

    @classmethod
    def read(cls, answer: Json) -> Self:
        """From one entry of ``GET /audit``."""
        return cls(
            receipt_id=answer["receipt_id"],
            time=datetime.fromisoformat(answer["time"]),
            action=answer["action"],
            by=answer["by"],
            filter=answer["filter"],
            erased=answer["erased"],
        )


@dataclass(frozen=True)
class Info:
    """What the service says of itself: the bundle's facts, what really runs, the gallery and the limits."""

    version: str
    embedding_space: str
    model: Json
    engine: Json
    gallery: Json
    limits: Json

    @classmethod
    def read(cls, answer: Json) -> Self:
        """From the answer of ``GET /info``."""
        return cls(**{name: answer[name] for name in cls.__dataclass_fields__})


def _time(value: str | None) -> datetime | None:
    return None if value is None else datetime.fromisoformat(value)


def _vector(answer: Json) -> tuple[float, ...] | None:
    vector = answer.get("embedding")
    return tuple(vector) if vector else None
