"""The bodies and query parameters of requests, and the bodies of answers, as in `docs/openapi.json`."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator
from pydantic.json_schema import SkipJsonSchema

from model.spec import BundleSpec
from service.gallery.records import Filter, ScoreMode
from service.http.fields import MAX_ITEMS, Answer, Body, Box, CameraId, Embedding, Metadata, Parameters, Timestamp
from service.ids import TrackletId

EncodedFrame = Annotated[str, Field(description="A JPEG, PNG or WebP file in base64")]
SpaceName = Annotated[str, Field(min_length=1, max_length=64)]

FrameCount = Annotated[int, Field(description="Frames that were used; 0 if an embedding was sent")]
ClipCount = Annotated[
    int,
    Field(
        description="Clips that were embedded; the embedding is their mean. Fewer with `max_clips`; 0 if an embedding "
        "was sent. Embeddings of any number of clips can be compared"
    ),
]


ThumbnailUrl = Annotated[
    str | SkipJsonSchema[None],
    Field(description="Path of the record's picture; absent if it has none", examples=["/gallery/gate-3/thumbnail"]),
]

ScoreModeName = Annotated[
    ScoreMode,
    Field(
        description="What a score is. `cosine`: the cosine of two embeddings. `centred`: the cosine after the mean of "
        "its camera's records was subtracted from each. Thresholds of one do not fit the other"
    ),
]


def _not_before(name: str) -> AfterValidator:
    """Return a validator that compares a time with the field of this name, declared above it."""

    def check(value: datetime | None, info: ValidationInfo) -> datetime | None:
        start: datetime | None = info.data.get(name)
        if value and start and value < start:
            raise ValueError(f"must not be before {name}")
        return value

    return AfterValidator(check)


class FootageBody(Body):
    """The footage of a tracklet and its camera."""

    FORM_JSON: ClassVar[frozenset[str]] = frozenset({"boxes", "max_clips"})
    """Fields that are JSON in a form; the others are text."""
    NOT_IN_FORMS: ClassVar[frozenset[str]] = frozenset({"frames", "embedding", "embedding_space"})

    id: TrackletId | None = None
    camera_id: CameraId | None = None
    boxes: list[Box] | None = Field(
        None,
        fail_fast=True,
        min_length=1,
        max_length=MAX_ITEMS,
        description="For full frames or a full video: one `[frame, x, y, w, h]` for each frame of the tracklet. "
        "`frame` is the 0-based index of the full frame; the others are pixels. Used in the order of `frame`",
    )
    frames: list[EncodedFrame] | None = Field(
        None, fail_fast=True, max_length=MAX_ITEMS, description="The tracklet's frames in time order"
    )
    max_clips: int | None = Field(
        None,
        ge=1,
        description="Embed at most this many clips, evenly spaced over the tracklet: faster and less exact. "
        "Default: all. Other frames are not decoded and do not count as unusable. Allowed only with footage",
    )


class TrackletBody(FootageBody):
    """A tracklet with the fields of its record."""

    FORM_JSON: ClassVar[frozenset[str]] = FootageBody.FORM_JSON | {"metadata"}

    start_time: Timestamp | None = None
    end_time: Annotated[Timestamp | None, _not_before("start_time")] = None
    metadata: Metadata | None = None
    expires_at: Timestamp | None = Field(
        None,
        description="From this time on the record is not found any more, and it is erased. Default: after the "
        "service's `retention_days`, if set",
    )

    @field_validator("expires_at")
    @classmethod
    def _check_expiry(cls, expires_at: datetime | None) -> datetime | None:
        if expires_at and expires_at <= datetime.now(UTC):
            raise ValueError("is in the past, so the record would never be found")
        return expires_at


class EmbedBody(TrackletBody):
    """`POST /embed`."""


class PutBody(TrackletBody):
    """`PUT /gallery/{id}`: footage, or an embedding of this model."""

    embedding: Embedding | None = None
    embedding_space: SpaceName | None = None


class FilterBody(Body):
    """All conditions must hold. The time of a record must overlap the interval from `after` to `before`."""

    camera_ids: list[CameraId] | None = Field(None, min_length=1, max_length=1000)
    exclude_camera_ids: list[CameraId] = Field(default_factory=list, max_length=1000)
    after: Timestamp | None = None
    before: Annotated[Timestamp | None, _not_before("after")] = None
    metadata: Metadata = Field(
        default_factory=dict, max_length=100, description="All these keys must have equal values in the record"
    )

    def to_filter(self, *, exclude_cameras: tuple[str, ...] = (), exclude_ids: tuple[str, ...] = ()) -> Filter:
        """Return the filter for the gallery, with additional exclusions."""
        return Filter(
            camera_ids=None if self.camera_ids is None else tuple(self.camera_ids),
            exclude_camera_ids=(*self.exclude_camera_ids, *exclude_cameras),
            after=self.after,
            before=self.before,
            metadata=self.metadata,
            exclude_ids=exclude_ids,
        )


class SearchBody(FootageBody):
    """`POST /search`: footage, an embedding, or the id of an enrolled tracklet, and how to search."""

    FORM_JSON: ClassVar[frozenset[str]] = FootageBody.FORM_JSON | {
        *("filter", "top_k", "min_score", "prior", "min_probability", "exclude_same_camera", "rerank")
    }

    ELSEWHERE: ClassVar[Mapping[str, str]] = {
        "metadata": "belongs in filter: send filter.metadata",
        "start_time": "belongs in filter: send filter.after",
        "end_time": "belongs in filter: send filter.before",
    }

    embedding: Embedding | None = None
    embedding_space: SpaceName | None = None
    top_k: int = Field(10, ge=1)
    min_score: float | None = Field(None, ge=-1, le=1)
    prior: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Probability that a searched record shows the query's person before its score is known: expected "
        "matches / searched records. Default: the service's setting. Without effect if hits have no `probability`",
    )
    min_probability: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Leave out hits below this probability; with `min_score`, both must hold. 409 if hits have none",
    )
    filter: FilterBody = FilterBody()
    exclude_same_camera: bool = False
    rerank: bool = Field(
        False, description="Re-rank the best candidates (k-reciprocal); scores stay what they are without it"
    )


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
    before: Annotated[Timestamp | None, _not_before("after")] = None
    limit: int = Field(100, ge=1)
    cursor: str | None = Field(None, min_length=1, max_length=512)


class AuditQuery(Parameters):
    """Query parameters of `GET /audit`."""

    limit: int = Field(100, ge=1)
    before: str | None = Field(None, min_length=1, max_length=64, description="A `receipt_id`: list only older entries")


class RejectedFrame(Answer):
    """A frame or box that was not used: its 0-based index as sent, and why."""

    index: int
    reason: str


class EmbedAnswer(Answer):
    """`id` is null if a tracklet without an id was embedded and not enrolled."""

    id: str | None
    model: str
    embedding_space: str
    dim: int
    frames: FrameCount
    clips: ClipCount
    rejected_frames: list[RejectedFrame]
    embedding: list[float] | SkipJsonSchema[None] = Field(None, description="Of unit length; absent unless requested")


class CalibrationUsed(Answer):
    """What an answer's probabilities are based on.

    `source` says whether the calibration came with the bundle or is the site's own. `fitted_people` and
    `fitted_cameras` are 0 if the fitted pairs did not name them.
    """

    id: str
    source: Literal["bundle", "site"]
    prior: float = Field(description="The prior of these probabilities: of the request, or the service's")
    fitted_people: int
    fitted_cameras: int
    fitted_at: Timestamp


class SearchHit(Answer):
    """A record that was found. `score` is its similarity to the query, -1 to 1, as the answer's `score_mode` says."""

    rank: int
    id: str
    score: float
    probability: float | SkipJsonSchema[None] = Field(
        None,
        description="Probability that the record shows the query's person, under the prior in `calibration`. Absent if "
        "no calibration for such scores is in force",
    )
    camera_id: str | None
    start_time: Timestamp | None
    end_time: Timestamp | None
    metadata: Metadata
    thumbnail_url: ThumbnailUrl = None


class SearchAnswer(Answer):
    """`searched` is the number of records that passed the filter; `exact` is false if an approximate index was used.

    `calibration` is present if hits have a `probability`.
    """

    results: list[SearchHit]
    embedding_space: str
    score_mode: ScoreModeName
    searched: int
    exact: bool
    calibration: CalibrationUsed | SkipJsonSchema[None] = None
    took_ms: float


class RecordAnswer(Answer):
    """A record of the gallery."""

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
    embedding: list[float] | SkipJsonSchema[None] = Field(None, description="Of unit length; absent unless requested")


class PageAnswer(Answer):
    """A page of records; `next_cursor` is null on the last page."""

    items: list[RecordAnswer]
    next_cursor: str | None


class EraseAnswer(Answer):
    """`receipt_id` is the id of the entry in the audit log. In a dry run it is null and `erased` is 0."""

    matched: int
    erased: int
    receipt_id: str | None


class AuditEntryAnswer(Answer):
    """A removal of records. `by` is the fingerprint of an API key, `anonymous`, or `expiry`."""

    receipt_id: str
    time: Timestamp
    action: Literal["delete", "erase", "expire"]
    by: str
    filter: Metadata = Field(description='Which records: a filter as in `POST /gallery/erase`, or `{"id": ...}`')
    erased: int = Field(description="Number of records that were removed")


class AuditAnswer(Answer):
    """Entries of the audit log, newest first. For older ones, send the last `receipt_id` as `before`."""

    entries: list[AuditEntryAnswer]


class StatusAnswer(Answer):
    """Whether the service is alive or ready."""

    status: Literal["alive", "ready"]


class EngineFacts(Answer):
    """The engine in use. `provider` is its backend; `warning` says what was requested and is not in use."""

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
    score_mode: ScoreModeName
    retention_days: float | None = Field(description="Lifetime of a record without `expires_at`; null: unlimited")
    thumbnails: bool = Field(description="Whether a small picture of each new tracklet is kept")


class LimitFacts(Answer):
    """Limits of requests; what exceeds them is refused."""

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


class CalibrationFacts(Answer):
    """The calibration in force; as in the answer of a search."""

    id: str
    source: Literal["bundle", "site"]
    mode: str = Field(description="The scores that have a probability: `cosine` of searches that are not re-ranked")
    prior: float | None = Field(description="The prior of requests that name none; null: 1 / (searched records + 1)")
    fitted_people: int
    fitted_cameras: int
    fitted_at: Timestamp


class ThresholdFacts(Answer):
    """A score that can serve as `min_score`, and the errors that were measured at it when the calibration was fitted.

    `fmr` is the share of pairs of two people that score at least `score`, `fnmr` the share of pairs of one person that
    score less; `fnmr_low` and `fnmr_high` are its 95% interval over people.
    """

    fmr: float
    score: float
    fnmr: float
    fnmr_low: float
    fnmr_high: float


class InfoAnswer(Answer):
    """`GET /info`."""

    version: str
    model: BundleSpec
    embedding_space: str
    calibration: CalibrationFacts | None = Field(description="null: answers have no probabilities")
    thresholds: list[ThresholdFacts] = Field(description="Those that the calibration's data support")
    engine: EngineFacts
    gallery: GalleryFacts
    limits: LimitFacts
