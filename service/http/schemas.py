"""The bodies of requests and answers, as `docs/openapi.json` shows them."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator
from pydantic.json_schema import SkipJsonSchema

from model.spec import BundleSpec
from service.gallery.records import Filter
from service.http.fields import MAX_ITEMS, Answer, Body, Box, CameraId, Embedding, Metadata, Parameters, Timestamp
from service.ids import TrackletId

EncodedFrame = Annotated[str, Field(description="one JPEG, PNG or WebP file in base64")]
SpaceName = Annotated[str, Field(min_length=1, max_length=64)]

FrameCount = Annotated[int, Field(description="frames that were used; 0 where an embedding was sent")]
ClipCount = Annotated[
    int,
    Field(
        description="clips whose mean the embedding is, fewer with `max_clips`; 0 where an embedding was sent. "
        "Embeddings of any number of clips are compared with each other"
    ),
]


ThumbnailUrl = Annotated[
    str | SkipJsonSchema[None],
    Field(description="path of the record's picture; there where one is kept", examples=["/gallery/gate-3/thumbnail"]),
]


def _refuse_earlier(end: datetime | None, begin: datetime | None, name: str) -> datetime | None:
    if end and begin and end < begin:
        raise ValueError(f"is before {name}")
    return end


class FootageBody(Body):
    """A tracklet's footage and where it is from."""

    FORM_JSON: ClassVar[frozenset[str]] = frozenset({"boxes", "max_clips"})
    """Fields whose text in a form is JSON; the others are text."""
    NOT_IN_FORMS: ClassVar[frozenset[str]] = frozenset({"frames", "embedding", "embedding_space"})

    id: TrackletId | None = None
    camera_id: CameraId | None = None
    boxes: Annotated[
        list[Box] | None,
        Field(
            fail_fast=True,
            min_length=1,
            max_length=MAX_ITEMS,
            description="for full frames or a full video: one `[frame, x, y, w, h]` per tracklet frame, `frame` "
            "counted from 0, pixels; they are used in the order of their frames",
        ),
    ] = None
    frames: Annotated[
        list[EncodedFrame] | None,
        Field(fail_fast=True, max_length=MAX_ITEMS, description="the tracklet's frames in time order"),
    ] = None
    max_clips: Annotated[
        int | None,
        Field(
            ge=1,
            description="compute at most this many clips, evenly spaced over the tracklet, in less time and less "
            "exactly; default all. Only their frames are decoded and count as usable or not; other frames are not "
            "looked at. Goes with footage only",
        ),
    ] = None


class TrackletBody(FootageBody):
    """What is kept of a tracklet, beside its embedding."""

    FORM_JSON: ClassVar[frozenset[str]] = FootageBody.FORM_JSON | {"metadata"}

    start_time: Timestamp | None = None
    end_time: Timestamp | None = None
    metadata: Metadata | None = None
    expires_at: Annotated[
        Timestamp | None,
        Field(
            description="from then on the record is not found any more, and it is erased; default: after the service's "
            "`retention_days`, if it has any"
        ),
    ] = None

    @field_validator("end_time")
    @classmethod
    def _check_times(cls, end: datetime | None, info: ValidationInfo) -> datetime | None:
        return _refuse_earlier(end, info.data.get("start_time"), "start_time")

    @field_validator("expires_at")
    @classmethod
    def _check_expiry(cls, expires_at: datetime | None) -> datetime | None:
        if expires_at and expires_at <= datetime.now(UTC):
            raise ValueError("has passed already, so that the record would never be found")
        return expires_at


class EmbedBody(TrackletBody):
    """`POST /embed`."""


class PutBody(TrackletBody):
    """`PUT /gallery/{id}`: frames, or an embedding that this model made earlier."""

    embedding: Embedding | None = None
    embedding_space: SpaceName | None = None


class FilterBody(Body):
    """Which records are meant: all conditions together. A record's time must overlap `after` to `before`."""

    camera_ids: Annotated[list[CameraId] | None, Field(min_length=1, max_length=1000)] = None
    exclude_camera_ids: Annotated[list[CameraId], Field(max_length=1000)] = Field(default_factory=list)
    after: Timestamp | None = None
    before: Timestamp | None = None
    metadata: Annotated[Metadata, Field(max_length=100, description="equality of every key given")] = Field(
        default_factory=dict
    )

    @field_validator("before")
    @classmethod
    def _check_times(cls, before: datetime | None, info: ValidationInfo) -> datetime | None:
        return _refuse_earlier(before, info.data.get("after"), "after")

    def to_filter(self, *, exclude_cameras: tuple[str, ...] = (), exclude_ids: tuple[str, ...] = ()) -> Filter:
        """The gallery's filter, with more that is left out."""
        return Filter(
            camera_ids=None if self.camera_ids is None else tuple(self.camera_ids),
            exclude_camera_ids=(*self.exclude_camera_ids, *exclude_cameras),
            after=self.after,
            before=self.before,
            metadata=self.metadata,
            exclude_ids=exclude_ids,
        )


class SearchBody(FootageBody):
    """`POST /search`: frames, an embedding, or the id of an enrolled tracklet, and how to search."""

    FORM_JSON: ClassVar[frozenset[str]] = FootageBody.FORM_JSON | {
        *("filter", "top_k", "min_score", "exclude_same_camera", "rerank")
    }

    ELSEWHERE: ClassVar[Mapping[str, str]] = {
        "metadata": "goes in filter, as filter.metadata",
        "start_time": "goes in filter, as filter.after",
        "end_time": "goes in filter, as filter.before",
    }

    embedding: Embedding | None = None
    embedding_space: SpaceName | None = None
    top_k: Annotated[int, Field(ge=1)] = 10
    min_score: Annotated[float | None, Field(ge=-1, le=1)] = None
    filter: FilterBody = FilterBody()
    exclude_same_camera: bool = False
    rerank: Annotated[
        bool, Field(description="order the best candidates anew by k-reciprocal re-ranking; scores stay cosines")
    ] = False


class EraseBody(Body):
    """`POST /gallery/erase`."""

    filter: FilterBody
    dry_run: bool = False


class EmbedQuery(Parameters):
    """Query parameters of `POST /embed`."""

    enroll: bool = True
    include_embedding: bool = False


class RecordQuery(Parameters):
    """Query parameters of `GET` and `PUT /gallery/{id}`."""

    include_embedding: bool = False


class ListQuery(Parameters):
    """Query parameters of `GET /gallery`."""

    camera_id: CameraId | None = None
    after: Timestamp | None = None
    before: Timestamp | None = None
    limit: Annotated[int, Field(ge=1)] = 100
    cursor: Annotated[str | None, Field(min_length=1, max_length=512)] = None

    @field_validator("before")
    @classmethod
    def _check_times(cls, before: datetime | None, info: ValidationInfo) -> datetime | None:
        return _refuse_earlier(before, info.data.get("after"), "after")


class AuditQuery(Parameters):
    """Query parameters of `GET /audit`."""

    limit: Annotated[int, Field(ge=1)] = 100
    before: Annotated[
        str | None, Field(min_length=1, max_length=64, description="a `receipt_id`: older entries than that one")
    ] = None


class RejectedFrame(Answer):
    """A frame, or box, that was left out: its 0-based index as sent, and why."""

    index: int
    reason: str


class EmbedAnswer(Answer):
    """`id` is null where a tracklet was only computed and brought no id of its own."""

    id: str | None
    model: str
    embedding_space: str
    dim: int
    frames: FrameCount
    clips: ClipCount
    rejected_frames: list[RejectedFrame]
    embedding: Annotated[list[float] | SkipJsonSchema[None], Field(description="unit length; there when asked for")] = (
        None
    )


class SearchHit(Answer):
    """One record found. `score` is the cosine similarity."""

    rank: int
    id: str
    score: float
    camera_id: str | None
    start_time: Timestamp | None
    end_time: Timestamp | None
    metadata: Metadata
    thumbnail_url: ThumbnailUrl = None


class SearchAnswer(Answer):
    """`searched` counts the records that passed the filter; `exact` is false where an approximate index answered."""

    results: list[SearchHit]
    embedding_space: str
    searched: int
    exact: bool
    took_ms: float


class RecordAnswer(Answer):
    """One record of the gallery."""

    id: str
    camera_id: str | None
    start_time: Timestamp | None
    end_time: Timestamp | None
    metadata: Metadata
    frames: FrameCount
    clips: ClipCount
    embedding_space: str
    created_at: Timestamp
    expires_at: Timestamp | None
    thumbnail_url: ThumbnailUrl = None
    embedding: Annotated[list[float] | SkipJsonSchema[None], Field(description="unit length; there when asked for")] = (
        None
    )


class PageAnswer(Answer):
    """A page of records; `next_cursor` is null on the last."""

    items: list[RecordAnswer]
    next_cursor: str | None


class EraseAnswer(Answer):
    """`receipt_id` names the entry of the audit log; in a dry run it is null and `erased` is 0."""

    matched: int
    erased: int
    receipt_id: str | None


class AuditEntryAnswer(Answer):
    """One removal. `by` is the fingerprint of the API key, `anonymous`, or `expiry`; `filter` is the condition."""

    receipt_id: str
    time: Timestamp
    action: Literal["delete", "erase", "expire"]
    by: str
    filter: Annotated[Metadata, Field(description='as of `POST /gallery/erase`; of one record `{"id": ...}`')]
    erased: Annotated[int, Field(description="records that were removed")]


class AuditAnswer(Answer):
    """Entries of the audit log, newest first; the last one's `receipt_id` as `before` leads to older ones."""

    entries: list[AuditEntryAnswer]


class StatusAnswer(Answer):
    """The service lives, or is ready."""

    status: Literal["alive", "ready"]


class EngineFacts(Answer):
    """What really runs: `provider` computes inside the engine, `warning` says what was asked for and does not run."""

    name: str
    version: str
    device: Literal["cpu", "cuda"]
    precision: str
    threads: int
    provider: str
    warning: str | None
    self_test_min_cosine: float


class GalleryFacts(Answer):
    """The gallery."""

    engine: str
    records: int
    retention_days: Annotated[float | None, Field(description="of a record that names no `expires_at`; null: for ever")]
    thumbnails: Annotated[bool, Field(description="whether a small picture of each new tracklet is kept")]


class LimitFacts(Answer):
    """What a request may ask for; more is refused."""

    max_frames: int
    max_clips: int
    max_video_frames: int
    max_frame_bytes: int
    max_pixels: int
    max_request_pixels: int
    max_side: int
    min_side: int
    min_usable_share: float
    max_request_bytes: int
    max_metadata_bytes: int
    max_pending_requests: int
    max_pending_bytes: int
    max_top_k: int
    max_page: int
    rerank_candidates: int


class InfoAnswer(Answer):
    """`GET /info`."""

    version: str
    model: BundleSpec
    embedding_space: str
    engine: EngineFacts
    gallery: GalleryFacts
    limits: LimitFacts
