"""What the service answers: typed values, and errors. Fields that a later version of the service adds are ignored."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from functools import cache
from typing import Annotated, Any, TypeVar, cast

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError

Json = Mapping[str, Any]
Answer = TypeVar("Answer")
Metadata = Annotated[Json, BeforeValidator(lambda value: value or {})]
Embedding = Annotated[tuple[float, ...] | None, BeforeValidator(lambda value: value or None)]


class ClientError(Exception):
    """A call did not succeed; the message says why."""


class UnreachableError(ClientError):
    """The service did not answer, or not in time."""


class ProblemError(ClientError):
    """The service refused a request.

    `errors` name the wrong fields and frames as the service's problem document does (RFC 9457), and `kind` is the last
    part of its `type`, such as "duplicate-id"; `None` if a proxy answered instead of the service. `retry_after` is the
    number of seconds after which the service accepts the request again, if it says so.
    """

    def __init__(
        self,
        status: int,
        title: str,
        detail: str,
        errors: Sequence[Json] = (),
        retry_after: float | None = None,
        kind: str | None = None,
    ) -> None:
        super().__init__(f"{title} ({status}): {detail}" if detail else f"{title} ({status})")
        self.status = status
        self.kind = kind
        self.retry_after = retry_after
        self.title = title
        self.detail = detail
        self.errors = tuple(errors)


@dataclass(frozen=True)
class RejectedFrame:
    """A frame that was not used: its 0-based index among those sent, and the reason."""

    index: int
    reason: str


@dataclass(frozen=True)
class Embedded:
    """A tracklet that became a vector: how many `frames` were used, in how many `clips`.

    `embedding` is present if it was asked for. `warnings` say in sentences what is probably wrong with the footage.
    """

    id: str | None
    model: str
    embedding_space: str
    dim: int
    frames: int
    clips: int
    rejected_frames: tuple[RejectedFrame, ...]
    embedding: Embedding = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Calibration:
    """What probabilities are based on.

    Attributes:
        id: names the fitted formula.
        source: "bundle", or "site" if it is the site's own.
        prior: the probability before the score is known. In `Info` that of requests that name none; `None` there means
            1 / (searched records + 1).
        fitted_people: number of people of the fitted pairs; 0 if the pairs did not name them.
        fitted_cameras: number of their cameras; 0 if the pairs did not name them.
        fitted_at: when.
    """

    id: str
    source: str
    prior: float | None
    fitted_people: int
    fitted_cameras: int
    fitted_at: datetime


@dataclass(frozen=True)
class Threshold:
    """A score that can serve as `min_score`, and the errors that were measured at it when the calibration was fitted.

    `fmr` is the share of pairs of two people that score at least `score`, `fnmr` the share of pairs of one person that
    score less; `fnmr_low` and `fnmr_high` are its 95% interval over people.
    """

    fmr: float
    score: float
    fnmr: float
    fnmr_low: float
    fnmr_high: float


@dataclass(frozen=True)
class Hit:
    """One record found; `score` is the cosine similarity, `rank` counts from 1.

    `thumbnail_url` is the path of its picture, for `Client.thumbnail`, if the service keeps one. `probability` is that
    of the same person, under the prior in the result's `calibration`; `None` if there is no calibration.
    """

    rank: int
    id: str
    score: float
    camera_id: str | None
    start_time: datetime | None
    end_time: datetime | None
    metadata: Metadata
    thumbnail_url: str | None = None
    probability: float | None = None
    thumbnails: int = 0


@dataclass(frozen=True)
class SearchResult:
    """The hits, best first.

    `searched` counts the records that passed the filter. `exact` is false if an approximate index answered.
    `calibration` is `None` if hits have no `probability`. `warnings` say in sentences what is probably wrong with the
    query's footage.
    `score_mode` says what scores are: "cosine" of two embeddings, or "centred": after the mean of its camera's records
    was subtracted from each. A service that does not send it has cosines.
    `next_cursor` is for `Client.more`; `None` if there are no more hits, or they were not asked for.
    """

    hits: Annotated[tuple[Hit, ...], Field(validation_alias="results")]
    embedding_space: str
    searched: int
    exact: bool
    took_ms: float
    calibration: Calibration | None = None
    score_mode: str = "cosine"
    warnings: tuple[str, ...] = ()
    next_cursor: str | None = None
    answer: Json = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True)
class Step:
    """A probable appearance on a path.

    It was found with the record `linked_to`; `score` and `probability` are of this link, and `None` for the record that
    the path began with. `links` records of the path were linked with it when it was added. `gap_seconds` is the time
    since the appearances before, `None` for the first.
    """

    id: str
    camera_id: str | None
    start_time: datetime
    end_time: datetime
    score: float | None
    linked_to: str | None
    gap_seconds: float | None
    probability: float | None = None
    links: int = 0
    thumbnails: int = 0


@dataclass(frozen=True)
class Track:
    """Probable appearances of one person in time order, no proof of a path taken.

    `complete` is false if the maximum of steps ended the path. `calibration` is `None` if links have no probability.
    """

    id: str
    steps: tuple[Step, ...]
    after: datetime
    before: datetime
    complete: bool
    embedding_space: str
    searched: int
    calibration: Calibration | None = None
    answer: Json = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True)
class Record:
    """One tracklet of the gallery.

    `embedding` is present if it was asked for, `thumbnail_url` if a picture is kept. From `expires_at` on, the service
    no longer finds the record.
    """

    id: str
    camera_id: str | None
    start_time: datetime | None
    end_time: datetime | None
    metadata: Metadata
    frames: int
    clips: int
    embedding_space: str
    created_at: datetime
    embedding: Embedding = None
    expires_at: datetime | None = None
    thumbnail_url: str | None = None
    thumbnails: int = 0


@dataclass(frozen=True)
class Page:
    """Some records of the gallery; `next_cursor` leads to the next page and is `None` on the last."""

    items: tuple[Record, ...]
    next_cursor: str | None
    answer: Json = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True)
class NamingCase:
    """A case that names records which are erased, with the number of its verdicts on them.

    `query` is "record" if the case asks with one of them, and "footage" if an operator said that the footage with which
    it asks shows the person of one of them: the case keeps this footage until it is removed.
    """

    id: str
    name: str
    status: str
    query: str | None = None
    verdicts: int = 0


@dataclass(frozen=True)
class Erased:
    """How many records a filter matched, and how many were erased (0 in a dry run).

    `receipt_id` names the entry of the audit log; a dry run has none. `without_time` counts the records that a
    condition on time left out because they have no time, `verdicts` what was removed from cases. `cases` name records.
    """

    matched: int
    erased: int
    receipt_id: str | None = None
    without_time: int = 0
    verdicts: int = 0
    cases: tuple[NamingCase, ...] = ()
    answer: Json = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True)
class Camera:
    """A camera with records; `camera_id` is `None` for records without one, the times if no record has one."""

    camera_id: str | None
    records: int
    first_time: datetime | None
    last_time: datetime | None
    answer: Json = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True)
class Verdict:
    """What one operator said about one record."""

    id: str
    verdict: str
    author: str
    note: str
    time: datetime


@dataclass(frozen=True)
class Case:
    """A named search with its purpose. `counts` says on how many records each verdict counts.

    `decided` has the records on which each verdict counts; it and `verdicts` are empty in a list of cases.
    """

    id: str
    name: str
    purpose: str
    status: str
    created_at: datetime
    created_by: str
    counts: Mapping[str, int]
    decided: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    verdicts: tuple[Verdict, ...] = ()
    answer: Json = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True)
class WatchVector:
    """An example or a reject of a watchlist: the tracklet of which it is a copy, or `None`, and who added it."""

    id: str | None
    camera_id: str | None
    source: str


@dataclass(frozen=True)
class Watchlist:
    """A person to be told about. `threshold` is the least score that raises an alert; `reason` says why none does."""

    name: str
    active: bool
    reason: str | None
    min_score: float | None
    min_probability: float | None
    prior: float | None
    threshold: float | None
    filter: Json
    cooldown: float
    expires_at: datetime | None
    created_at: datetime
    updated_at: datetime
    created_by: str
    examples: tuple[WatchVector, ...]
    rejects: tuple[WatchVector, ...]
    answer: Json = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True)
class Alert:
    """A probable appearance: a new tracklet that passed the threshold of a watchlist.

    `probability` and `calibration` are `None` without a calibration. `verdict` is the one that counts.
    """

    id: str
    time: datetime
    watchlist: str
    record_id: str
    camera_id: str | None
    start_time: datetime | None
    end_time: datetime | None
    score: float
    probability: float | None
    calibration: Json | None
    example_id: str | None
    verdict: str | None
    verdicts: tuple[Json, ...] = ()
    answer: Json = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True)
class AlertPage:
    """Alerts. Send `cursor` as `after` to read what is newer; `more` says whether this order goes on."""

    items: tuple[Alert, ...]
    cursor: str
    more: bool


@dataclass(frozen=True)
class AuditEntry:
    """Who did what: `by` is the name or fingerprint of a key, `anonymous` or `expiry`.

    `records` are those that the entry names, `erased_records` counts those that were erased since. `filter` and
    `erased` are of removals.
    """

    receipt_id: str
    time: datetime
    action: str
    by: str
    filter: Json
    erased: int
    kind: str = ""
    operator: str | None = None
    details: Json = field(default_factory=dict)
    records: tuple[Json, ...] = ()
    erased_records: int = 0
    position: int = 0
    hash: str = ""


@dataclass(frozen=True)
class AuditPage:
    """Entries of the audit log, newest first."""

    entries: tuple[AuditEntry, ...]


@dataclass(frozen=True)
class Info:
    """What the service is: the bundle's facts, the engine that runs, the gallery, the limits and the calibration.

    `model` and `engine` are empty if the service stores vectors of another system and embeds nothing.
    """

    version: str
    embedding_space: str
    model: Metadata
    engine: Metadata
    gallery: Json
    limits: Json
    calibration: Calibration | None = None
    thresholds: tuple[Threshold, ...] = ()
    dimension: int | None = None
    answer: Json = field(default_factory=dict, repr=False, compare=False)

    @property
    def clip_length(self) -> int:
        """Frames of one clip of the model.

        Raises:
            ClientError: the service has no model.
        """
        if not self.model:
            raise ClientError(
                f"the service stores vectors of the space {self.embedding_space} and has no model to embed pictures or "
                "videos: send embeddings, or use a service with a model"
            )
        return int(self.model["clip_length"])


def format_probability(probability: float) -> str:
    """Return a probability in percent, for people. It never reads as 0 or 100 percent, because no answer is certain."""
    percent = 100 * probability
    if percent < 0.01:
        return "< 0.01 %"
    if percent >= 99.95:
        return "> 99.9 %"
    if percent >= 99:
        return f"{percent:.1f} %"
    return f"{percent:.2g} %"


def read(kind: type[Answer], body: bytes) -> Answer:
    """Return the JSON body of an answer as `kind`; its attribute `answer`, if it has one, is the body itself.

    Raises:
        ClientError: the body is not such an answer.
    """
    answer: Answer = _read(kind, kind.__name__, body)
    return _with_json(answer, body)


def read_list(kind: type[Answer], body: bytes) -> tuple[Answer, ...]:
    """Return the JSON body of an answer that is an array of `kind`. Raises as `read`."""
    answers: tuple[Answer, ...] = _read(tuple[kind, ...], f"a list of {kind.__name__}", body)  # type: ignore[valid-type]
    return tuple(_with_json(answer, json.dumps(each)) for answer, each in zip(answers, json.loads(body), strict=True))


def _with_json(answer: Answer, body: bytes | str) -> Answer:
    """Keep the answer as the service sent it, with fields that this version of the client does not know."""
    if "answer" not in {each.name for each in fields(cast("Any", answer))}:
        return answer
    return cast("Answer", replace(cast("Any", answer), answer=json.loads(body)))


def _read(kind: Any, name: str, body: bytes) -> Any:
    try:
        return _adapter(kind).validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"])) or "body"
        raise ClientError(f"the answer is not {name} of the service: {field}: {first['msg']}") from error


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
