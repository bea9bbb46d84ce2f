"""The bodies and query parameters of requests, and the bodies of answers, as in `docs/openapi.json`."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, SecretStr, ValidationInfo, field_validator
from pydantic.json_schema import SkipJsonSchema

from model.feedback import Combine
from service.audit.chain import Kind
from service.callers import Scope
from service.gallery.records import Filter, InvalidArgument, ScoreMode, TimeOfDay
from service.http.fields import (
    MAX_ITEMS,
    Answer,
    Body,
    Box,
    CameraId,
    ClockTime,
    Embedding,
    Integer,
    Metadata,
    Parameters,
    Timestamp,
    UtcOffset,
    check_stated,
)
from service.http.problems import MAX_NAME, clip
from service.ids import TrackletId

Purpose = Annotated[str, Field(min_length=1, max_length=500), AfterValidator(check_stated)]
EncodedFrame = Annotated[str, Field(description="A JPEG, PNG, WebP or BMP file in base64")]
CaseId = Annotated[str, Field(pattern=r"^[0-9a-f-]{36}$", description="The `id` of a case")]
SpaceName = Annotated[str, Field(min_length=1, max_length=64)]

FrameCount = Annotated[int, Field(description="Frames that were used; 0 if an embedding was sent")]
ClipCount = Annotated[
    int,
    Field(
        description="Clips that were embedded; the embedding is their mean. Fewer with `max_clips`; 0 if an embedding "
        "was sent. Embeddings of any number of clips can be compared"
    ),
]


Warnings = Annotated[
    list[str],
    Field(
        description="What is probably wrong with the footage, one sentence each: frames with the shape or size of full "
        "frames, boxes of frames that do not exist. Empty if nothing was noticed"
    ),
]


ThumbnailCount = Annotated[
    int, Field(description="Number of pictures that are kept of the record: `frame` of a thumbnail is less than it")
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


def _not_past(expires_at: datetime | None) -> datetime | None:
    if expires_at and expires_at <= datetime.now(UTC):
        raise ValueError("is in the past, so the record would never be found")
    return expires_at


def _check_without_time(value: bool, info: ValidationInfo) -> bool:
    for name in ("after", "before", "time_of_day"):
        if value and info.data.get(name) is not None:
            raise ValueError(f"cannot be true together with {name}, which only records with a time can pass")
    return value


MAX_EXAMPLES = 100
"""Maximum examples of a search, and maximum rejected ones."""


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
        "`frame` is the 0-based index of the full frame; the others are pixels. Used in the order of `frame`. "
        "A box that cannot be cut out (outside its frame, empty, not finite, of a missing frame) is a rejected frame",
    )
    frames: list[EncodedFrame] | None = Field(
        None, fail_fast=True, max_length=MAX_ITEMS, description="The tracklet's frames in time order"
    )
    max_clips: Integer | None = Field(
        None,
        ge=1,
        description="Embed at most this many clips, evenly spaced over the tracklet: faster and less exact. "
        "Default: all. Other frames are not decoded, do not count as unusable, and do not count for `max_frames`; in a "
        "form of more frames than that, send it before them. Allowed only with footage",
    )


class TrackletBody(FootageBody):
    """A tracklet with the fields of its record."""

    FORM_JSON: ClassVar[frozenset[str]] = FootageBody.FORM_JSON | {"metadata"}

    start_time: Timestamp | None = None
    end_time: Annotated[Timestamp | None, _not_before("start_time")] = None
    metadata: Metadata | None = None
    expires_at: Annotated[Timestamp | None, AfterValidator(_not_past)] = Field(
        None,
        description="From this time on the record is not found any more, and it is erased. Default: after the "
        "service's `retention_days`, if set",
    )


class EmbedBody(TrackletBody):
    """`POST /embed`."""


class PutBody(TrackletBody):
    """`PUT /gallery/{id}`: footage, or an embedding of this model."""

    embedding: Embedding | None = None
    embedding_space: SpaceName | None = None


class TimeOfDayBody(Body):
    """A part of each day in local time, ends included; over midnight if `to` is earlier than `from`."""

    start: ClockTime = Field(alias="from")
    end: ClockTime = Field(alias="to")
    utc_offset: UtcOffset = Field(0, description="Local time minus UTC")

    @field_validator("end")
    @classmethod
    def _check_end(cls, end: int, info: ValidationInfo) -> int:
        if end == info.data.get("start"):
            raise ValueError("must differ from from; leave time_of_day out for the whole day")
        return end


class PatchBody(Body):
    """`PATCH /gallery/{id}`: fields that are sent replace those of the record. The embedding stays what it is."""

    camera_id: CameraId | None = Field(None, description="null: of no camera")
    start_time: Timestamp | None = Field(None, description="null: unknown")
    end_time: Annotated[Timestamp | None, _not_before("start_time")] = Field(None, description="null: unknown")
    metadata: Metadata | None = Field(None, description="Replaces all metadata; null: none")
    expires_at: Annotated[Timestamp | None, AfterValidator(_not_past)] = Field(
        None, description="null: after the service's `retention_days` since the enrolment, if set, otherwise never"
    )


class FilterBody(Body):
    """All conditions must hold. The time of a record must overlap the interval from `after` to `before`."""

    camera_ids: list[CameraId] | None = Field(None, min_length=1, max_length=1000)
    exclude_camera_ids: list[CameraId] = Field(default_factory=list, max_length=1000)
    after: Timestamp | None = None
    before: Annotated[Timestamp | None, _not_before("after")] = None
    time_of_day: TimeOfDayBody | None = Field(
        None, description="The time of a record must overlap this part of some day. Records without times never pass"
    )
    without_time: Annotated[bool, AfterValidator(_check_without_time)] = Field(
        False, description="true: only records that have neither start_time nor end_time"
    )
    created_after: Timestamp | None = Field(None, description="The record was enrolled at this time or later")
    created_before: Annotated[Timestamp | None, _not_before("created_after")] = Field(
        None, description="The record was enrolled at this time or earlier"
    )
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
            created_after=self.created_after,
            created_before=self.created_before,
            without_time=self.without_time,
            time_of_day=None
            if self.time_of_day is None
            else TimeOfDay(self.time_of_day.start, self.time_of_day.end, self.time_of_day.utc_offset),
        )


class SearchBody(FootageBody):
    """`POST /search`: footage, an embedding, or the id of an enrolled tracklet, more examples, and how to search."""

    FORM_JSON: ClassVar[frozenset[str]] = FootageBody.FORM_JSON | {
        *("filter", "top_k", "min_score", "prior", "min_probability", "exclude_same_camera", "rerank"),
        "paged",
        *("ids", "embeddings", "reject_ids"),
    }

    ELSEWHERE: ClassVar[Mapping[str, str]] = {
        "metadata": "belongs in filter: send filter.metadata",
        "start_time": "belongs in filter: send filter.after",
        "end_time": "belongs in filter: send filter.before",
    }

    embedding: Embedding | None = None
    embedding_space: SpaceName | None = None
    ids: list[TrackletId] = Field(
        default_factory=list,
        fail_fast=True,
        max_length=MAX_EXAMPLES,
        description="Enrolled tracklets that show the same person: further examples, or the only ones. At most 100 "
        "together with `embeddings`",
    )
    embeddings: list[Embedding] = Field(
        default_factory=list,
        fail_fast=True,
        max_length=MAX_EXAMPLES,
        description="Embeddings of the same person: further examples, or the only ones",
    )
    reject_ids: list[TrackletId] = Field(
        default_factory=list,
        fail_fast=True,
        max_length=MAX_EXAMPLES,
        description="Enrolled tracklets that show other people; the results move away from them. All examples and "
        "rejected tracklets are left out of the results",
    )
    case: CaseId | None = Field(
        None,
        description="A case: its query, if none is sent, and its verdicts are examples and rejected ones. The query of "
        "the first search with it is kept with it",
    )
    combine: Combine = Field(
        "mean",
        description="How several examples are combined. `mean`: a score is that with the mean of the examples (of each "
        "camera first, then over cameras). `max`: the best score with any of the examples",
    )
    top_k: Integer = Field(10, ge=1)
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
    purpose: Purpose | None = Field(
        None, description="Why this search is made, such as a case number; for the audit log. Some services require it"
    )
    exclude_same_camera: bool = False
    rerank: bool = Field(
        False, description="Re-rank the best candidates (k-reciprocal); scores stay what they are without it"
    )
    paged: bool = Field(False, description="Answer with `next_cursor`; without effect on re-ranked answers")
    cursor: str | None = Field(
        None,
        min_length=1,
        max_length=64,
        description="`next_cursor` of an answer: return the next hits of that search. Only `top_k` and `purpose` may "
        "be sent with it. 404 after ten minutes, after a restart, or if the service had to forget the search: search "
        "again",
    )


class EraseBody(Body):
    """`POST /gallery/erase`."""

    filter: FilterBody
    dry_run: bool = False
    expected: Integer | None = Field(
        None,
        ge=0,
        description="How many records a dry run counted: if another number passes now, nothing is erased (409)",
    )


class SessionBody(Body):
    """`POST /session`."""

    key: SecretStr = Field(min_length=1, max_length=1000)


class EmbedQuery(Parameters):
    """Query parameters of `POST /embed`."""

    enroll: bool = True
    include_embedding: bool = False


class RecordQuery(Parameters):
    """Query parameters of `GET` and `PUT /gallery/{id}`."""

    include_embedding: bool = False


class ThumbnailQuery(Parameters):
    """Query parameters of `GET /gallery/{id}/thumbnail`."""

    frame: Integer | None = Field(
        None, ge=0, description="Which of the kept pictures, in time order from 0. Default: the middle one"
    )


class ListQuery(Parameters):
    """Query parameters of `GET /gallery`; those that begin with `metadata.` are conditions on metadata."""

    model_config = Parameters.model_config | {"extra": "allow"}

    camera_id: CameraId | None = None
    after: Timestamp | None = None
    before: Annotated[Timestamp | None, _not_before("after")] = None
    without_time: Annotated[bool, AfterValidator(_check_without_time)] = False
    created_after: Timestamp | None = None
    created_before: Annotated[Timestamp | None, _not_before("created_after")] = None
    limit: Integer = Field(100, ge=1)
    cursor: str | None = Field(None, min_length=1, max_length=512)

    def to_filter(self) -> Filter:
        """Return the filter for the gallery.

        Raises:
            InvalidArgument: a parameter is unknown, or a condition on metadata is sent twice.
        """
        texts: dict[str, str] = {}
        for name, value in (self.model_extra or {}).items():
            prefix, dot, key = name.partition(".")
            if prefix != "metadata" or not dot:
                raise InvalidArgument(f"{clip(name, MAX_NAME)} is an unknown query parameter")
            if not isinstance(value, str):
                raise InvalidArgument(f"{clip(name, MAX_NAME)} is sent twice: send it once")
            texts[key] = value
        return Filter(
            camera_ids=None if self.camera_id is None else (self.camera_id,),
            after=self.after,
            before=self.before,
            created_after=self.created_after,
            created_before=self.created_before,
            without_time=self.without_time,
            metadata_texts=texts,
        )


class AuditQuery(Parameters):
    """Query parameters of `GET /audit`."""

    limit: Integer = Field(100, ge=1)
    before: str | None = Field(None, min_length=1, max_length=64, description="A `receipt_id`: list only older entries")
    kind: list[Kind] = Field(default_factory=list, max_length=20, description="Only entries of these kinds")


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
    warnings: Warnings
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
    thumbnails: ThumbnailCount
    thumbnail_url: ThumbnailUrl = None


class SearchAnswer(Answer):
    """`searched` is the number of records that passed the filter; `exact` is false if an approximate index was used.

    `calibration` is present if hits have a `probability`.
    """

    results: list[SearchHit]
    warnings: Warnings
    embedding_space: str
    score_mode: ScoreModeName
    searched: int
    exact: bool
    calibration: CalibrationUsed | SkipJsonSchema[None] = None
    next_cursor: str | None = Field(
        None,
        description="Send it as `cursor` for the next hits. Null if there are no more, or as many were shown as one "
        "search may return; absent unless `paged` or `cursor` was sent",
    )
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
    thumbnails: ThumbnailCount
    thumbnail_url: ThumbnailUrl = None
    embedding: list[float] | SkipJsonSchema[None] = Field(None, description="Of unit length; absent unless requested")


class PageAnswer(Answer):
    """A page of records; `next_cursor` is null on the last page."""

    items: list[RecordAnswer]
    next_cursor: str | None


class NamingCaseAnswer(Answer):
    """A case that names records which are erased."""

    id: str
    name: str
    status: Literal["open", "closed"]
    query: Literal["record", "footage"] | None = Field(
        description="`record`: the query is one of the records and is removed with it. `footage`: an operator said "
        "that one of the records shows the person of the footage with which the case asks. **The case keeps this "
        "footage**: look at it, and remove the case if it shows the person. Null: only verdicts name the records"
    )
    verdicts: int = Field(description="Verdicts on the records")


class EraseAnswer(Answer):
    """`receipt_id` is the id of the entry in the audit log. In a dry run it is null and `erased` is 0."""

    matched: int
    erased: int
    receipt_id: str | None
    without_time: int = Field(
        description="Records that `after`, `before` or `time_of_day` left out only because they have no time. They are "
        "not erased; the filter `without_time` finds them"
    )
    verdicts: int = Field(
        description="Verdicts on erased records, with their notes, that were removed from cases; 0 in a dry run"
    )
    cases: list[NamingCaseAnswer] = Field(
        description="Cases that name the records, newest first; those that a key which is limited to cameras does not "
        "see are left out. In the audit log the entry of the erasure names those with `footage`, as `details.cases`"
    )


class CameraAnswer(Answer):
    """A camera with records. `camera_id` is null for records without a camera, the times if no record has one."""

    camera_id: str | None
    records: int
    first_time: Timestamp | None = Field(description="The earliest time of its records")
    last_time: Timestamp | None = Field(description="The latest time of its records")


SignedInBy = Literal["key", "session", "proxy", "nothing"]


class SessionAnswer(Answer):
    """Who the caller is. `cameras` is null for a caller who sees all records; `expires_at` is that of a session."""

    name: str
    scopes: list[Scope]
    cameras: list[str] | None
    signed_in_by: SignedInBy
    expires_at: Timestamp | None


class AuditEntryAnswer(Answer):
    """An entry of the audit log: who did what, and when.

    `by` is the name of a key or of a proxy's user, the fingerprint `key:...` of a key in `NOT3D_API_KEYS`, `anonymous`,
    or `expiry`. `details` depends on `kind`. Of a search it has the purpose, the filter and what was asked with: the
    SHA-256 of frames or of a vector. `records` has the records that the entry names, with the scores that were
    returned; `erased_records` counts those that were erased since, of which nothing is left here.
    """

    receipt_id: str
    time: Timestamp
    kind: Kind
    by: str
    operator: str | None = Field(description="The person whom the client named in `X-Operator`; nothing proves it")
    details: Metadata
    records: list[Metadata]
    erased_records: int
    position: int
    hash: str = Field(description="Of this entry and the one before it; `not3d audit verify` checks all")
    action: Kind = Field(description="The same as `kind`", deprecated=True)
    filter: Metadata = Field(description='Which records: a filter as in `POST /gallery/erase`, or `{"id": ...}`')
    erased: int = Field(description="Number of records that were removed")


class AuditAnswer(Answer):
    """Entries of the audit log, newest first. For older ones, send the last `receipt_id` as `before`."""

    entries: list[AuditEntryAnswer]
