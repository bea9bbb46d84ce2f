"""What the service answers: typed values, and errors. Fields that a later version of the service adds are ignored."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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

    `errors` name the wrong fields and frames as the service's problem document does (RFC 9457). `retry_after` is the
    number of seconds after which the service accepts the request again, if it says so.
    """

    def __init__(
        self, status: int, title: str, detail: str, errors: Sequence[Json] = (), retry_after: float | None = None
    ) -> None:
        super().__init__(f"{title} ({status}): {detail}" if detail else f"{title} ({status})")
        self.status = status
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

    `embedding` is present if it was asked for.
    """

    id: str | None
    model: str
    embedding_space: str
    dim: int
    frames: int
    clips: int
    rejected_frames: tuple[RejectedFrame, ...]
    embedding: Embedding = None


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


@dataclass(frozen=True)
class SearchResult:
    """The hits, best first.

    `searched` counts the records that passed the filter. `exact` is false if an approximate index answered.
    `calibration` is `None` if hits have no `probability`.
    `score_mode` says what scores are: "cosine" of two embeddings, or "centred": after the mean of its camera's records
    was subtracted from each. A service that does not send it has cosines.
    """

    hits: Annotated[tuple[Hit, ...], Field(validation_alias="results")]
    embedding_space: str
    searched: int
    exact: bool
    took_ms: float
    calibration: Calibration | None = None
    score_mode: str = "cosine"


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


@dataclass(frozen=True)
class Page:
    """Some records of the gallery; `next_cursor` leads to the next page and is `None` on the last."""

    items: tuple[Record, ...]
    next_cursor: str | None


@dataclass(frozen=True)
class Erased:
    """How many records a filter matched, and how many were erased (0 in a dry run).

    `receipt_id` names the entry of the audit log; a dry run has none.
    """

    matched: int
    erased: int
    receipt_id: str | None = None


@dataclass(frozen=True)
class AuditEntry:
    """One removal: `by` is the fingerprint of an API key, `anonymous` or `expiry`; `erased` counts records."""

    receipt_id: str
    time: datetime
    action: str
    by: str
    filter: Json
    erased: int


@dataclass(frozen=True)
class AuditPage:
    """Entries of the audit log, newest first."""

    entries: tuple[AuditEntry, ...]


@dataclass(frozen=True)
class Info:
    """What the service is: the bundle's facts, the engine that runs, the gallery, the limits and the calibration."""

    version: str
    embedding_space: str
    model: Json
    engine: Json
    gallery: Json
    limits: Json
    calibration: Calibration | None = None
    thresholds: tuple[Threshold, ...] = ()


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
    """Return the JSON body of an answer as `kind`.

    Raises:
        ClientError: the body is not such an answer.
    """
    try:
        answer: Answer = _adapter(cast("Any", kind)).validate_json(body)
        return answer
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"])) or "body"
        raise ClientError(f"the answer is not {kind.__name__} of the service: {field}: {first['msg']}") from error


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
