"""The bodies, query parameters and answers of the calls about watchlists and alerts, as in `docs/openapi.json`."""

from typing import Annotated, Any

from pydantic import Field

from service.gallery.watch.records import ALERT_ID_PATTERN, MAX_VECTORS, Source
from service.http.fields import Answer, Body, Embedding, Integer, Parameters, Timestamp
from service.http.schemas import CalibrationUsed, CaseId, FilterBody, SpaceName
from service.ids import TrackletId
from service.verdicts import VerdictKind

WATCHLIST_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
MAX_COOLDOWN = 7 * 24 * 3600
WatchlistName = Annotated[
    str,
    Field(
        pattern=WATCHLIST_PATTERN,
        description="1 to 64 letters, digits, `.`, `_` or `-`, beginning with a letter or digit. It is in every alert "
        "and in metrics, so it should name a case and not a person",
        examples=["lost-child-12"],
    ),
]
AlertId = Annotated[str, Field(pattern=ALERT_ID_PATTERN, description="The `id` of an alert")]
Cursor = Annotated[
    str, Field(pattern=ALERT_ID_PATTERN, description="The `id` of an alert, also of one that was removed; or `cursor`")
]


class WatchlistBody(Body):
    """`PUT /watchlists/{name}`: whom to look for in each new tracklet, and when to raise an alert."""

    ids: list[TrackletId] = Field(
        default_factory=list,
        fail_fast=True,
        max_length=MAX_VECTORS,
        description="Enrolled tracklets that show the person. Their vectors are copied: the watchlist keeps them when "
        "the records expire, and loses them when the records are deleted or erased. At most 100 together with "
        "`embeddings`. Without `ids`, `embeddings` and `case`, an existing watchlist keeps its examples and rejects",
    )
    embeddings: list[Embedding] = Field(
        default_factory=list, fail_fast=True, max_length=MAX_VECTORS, description="Embeddings of the person"
    )
    embedding_space: SpaceName | None = Field(
        None, description="Of `embeddings`; another one than the service's is 409"
    )
    case: CaseId | None = Field(
        None,
        description="Copy the query and the confirmed records of this case as examples, and its rejected records as "
        "rejects; later verdicts of the case are not followed",
    )
    min_score: float | None = Field(
        None, ge=-1, le=1, description="Raise an alert from this cosine on. Exactly one of it and `min_probability`"
    )
    min_probability: float | None = Field(
        None, gt=0, lt=1, description="Raise an alert from this probability on; 409 without a calibration"
    )
    prior: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Probability that a new tracklet shows the person before its score is known: expected "
        "appearances / new tracklets. Default: NOT3D_PRIOR, or 1 / records in the gallery at the time of this "
        "request, rounded down to a power of ten",
    )
    filter: FilterBody = Field(default_factory=FilterBody, description="Compare only tracklets that pass")
    cooldown: float = Field(
        60.0,
        ge=0,
        le=MAX_COOLDOWN,
        description="Seconds around an alert in which this watchlist raises no other one on the same camera, by the "
        "start times of the tracklets",
    )
    expires_at: Timestamp | None = Field(None, description="When the watchlist ends and its vectors are removed")


class WatchVectorAnswer(Answer):
    """An example or a reject of a watchlist. Its vector is never in an answer."""

    id: str | None = Field(description="The tracklet of which it is a copy; null if an embedding was sent")
    camera_id: str | None
    source: Source = Field(description="Who added it: the request, its case, or a verdict on an alert")


class WatchlistAnswer(Answer):
    """A watchlist. A key that is limited to cameras sees the examples and the filter of these cameras only."""

    name: str
    active: bool = Field(description="Whether it can raise alerts now")
    reason: str | None = Field(description="Why it cannot, and the cure")
    min_score: float | None
    min_probability: float | None
    prior: float | None = Field(description="The prior in force; null without a calibration when it was put")
    threshold: float | None = Field(
        description="The least score that raises an alert. It follows from `min_probability`, the prior, the number of "
        "examples and the calibration"
    )
    filter: dict[str, Any] = Field(description="The conditions that were sent")
    cooldown: float
    expires_at: Timestamp | None
    created_at: Timestamp
    updated_at: Timestamp
    created_by: str
    examples: list[WatchVectorAnswer]
    rejects: list[WatchVectorAnswer]
    embedding_space: str


class WatchlistsAnswer(Answer):
    """All watchlists, by name."""

    items: list[WatchlistAnswer]


class AlertVerdictBody(Body):
    """`PUT /alerts/{id}/verdict`."""

    verdict: VerdictKind = Field(
        description="Whether the tracklet shows the person. `same` makes it an example of the watchlist, `different` a "
        "reject, once enough operators agree (NOT3D_CONFIRMATIONS)"
    )


class AlertVerdictAnswer(Answer):
    """What one operator said about an alert."""

    verdict: VerdictKind
    author: str
    time: Timestamp


class AlertAnswer(Answer):
    """A probable appearance: a new tracklet that passed the threshold of a watchlist. The data of each event too."""

    id: AlertId
    time: Timestamp = Field(description="When the tracklet was enrolled and compared")
    watchlist: str
    record_id: str = Field(description="The tracklet")
    camera_id: str | None
    start_time: Timestamp | None
    end_time: Timestamp | None
    score: float = Field(description="Cosine with the best example; with rejects at most that")
    probability: float | None = Field(description="That the tracklet shows the person; null without a calibration")
    calibration: CalibrationUsed | None = Field(description="What gave the probability, with the watchlist's prior")
    example_id: str | None = Field(
        description="The best example; null if it was sent as an embedding, was erased, or is of a camera that the key "
        "may not see"
    )
    verdict: VerdictKind | None = Field(description="The verdict that counts")
    verdicts: list[AlertVerdictAnswer] = Field(description="Of each operator, oldest first")


class AlertsQuery(Parameters):
    """Query parameters of `GET /alerts`."""

    after: Cursor | None = Field(None, description="Alerts after this one, oldest first")
    before: Cursor | None = Field(None, description="Alerts before this one, newest first")
    limit: Integer = Field(100, ge=1)
    watchlist: list[WatchlistName] = Field(default_factory=list, max_length=100, description="Only of these watchlists")
    judged_after: Timestamp | None = Field(
        None,
        description="Only those that have a verdict of a later time. To follow verdicts, send the time of the latest "
        "one that you have seen",
    )


class StreamQuery(Parameters):
    """Query parameters of `GET /alerts/stream`."""

    after: Cursor | None = Field(
        None, description="Begin after this alert. The header Last-Event-ID counts more. Default: new alerts only"
    )
    watchlist: list[WatchlistName] = Field(default_factory=list, max_length=100, description="Only of these watchlists")


class AlertsAnswer(Answer):
    """Alerts: newest first, or after a cursor oldest first."""

    items: list[AlertAnswer]
    cursor: str = Field(
        description="Send it as `after` to read what is newer than this answer. It is the id of the newest alert of "
        "the answer, otherwise what was sent, and never null"
    )
    more: bool = Field(description="Whether there are more in the order of this answer")
