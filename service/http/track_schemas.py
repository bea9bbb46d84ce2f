"""The query parameters and the answer of `GET /gallery/{id}/track`, as in `docs/openapi.json`."""

from datetime import datetime
from typing import Annotated

from pydantic import AfterValidator, Field, ValidationInfo
from pydantic.json_schema import SkipJsonSchema

from service.http.fields import Answer, Integer, Parameters, Timestamp
from service.http.schemas import CalibrationUsed, Purpose, ScoreModeName, ThumbnailCount, ThumbnailUrl

MAX_STEPS = 100
"""Maximum records on a path besides the first; each takes one search."""


def _not_before_after(value: datetime | None, info: ValidationInfo) -> datetime | None:
    after: datetime | None = info.data.get("after")
    if value and after and value < after:
        raise ValueError("must not be before after")
    return value


class TrackQuery(Parameters):
    """Query parameters of `GET /gallery/{id}/track`."""

    after: Timestamp | None = Field(None, description="Begin of the time window. Default: 12 hours before the record")
    before: Annotated[Timestamp | None, AfterValidator(_not_before_after)] = Field(
        None, description="End of the time window. Default: 12 hours after the record"
    )
    min_score: float | None = Field(None, ge=-1, le=1, description="Leave out links that score less")
    min_probability: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Leave out links that are less probable; with `min_score`, both must hold. Default: 0.5, if "
        "neither is sent. 409 if links have no probability: send `min_score` then",
    )
    prior: float | None = Field(
        None, gt=0, lt=1, description="As in `POST /search`; for each link among the records of the time window"
    )
    max_steps: Integer = Field(30, ge=1, le=MAX_STEPS, description="Maximum records on the path besides this one")
    purpose: Purpose | None = Field(None, description="As in `POST /search`; some services require it")


class StepAnswer(Answer):
    """A probable appearance on the path.

    `linked_to` is the record on the path with which it was found, and `score` and `probability` are of this link; the
    record that the path began with has none. `gap_seconds` is the time since the end of the appearances before; it is
    negative if two cameras saw the person at the same time.
    """

    id: str
    camera_id: str | None
    start_time: Timestamp
    end_time: Timestamp
    score: float | None
    probability: float | SkipJsonSchema[None] = Field(None, description="Absent without a calibration")
    linked_to: str | None
    links: int = Field(description="Records on the path that were linked with it when it was added")
    gap_seconds: float | None = Field(description="null for the first appearance")
    thumbnails: ThumbnailCount
    thumbnail_url: ThumbnailUrl = None


class TrackAnswer(Answer):
    """`GET /gallery/{id}/track`: probable appearances of one person in time order, no proof of a path taken."""

    id: str
    steps: list[StepAnswer]
    after: Timestamp
    before: Timestamp
    min_score: float | None
    min_probability: float | None
    complete: bool = Field(
        description="false: `max_steps`, or the number of searches that it allows, ended the path; there may be more"
    )
    calibration: CalibrationUsed | SkipJsonSchema[None] = Field(
        None, description="Under which prior the links of the first record have their probability"
    )
    embedding_space: str
    score_mode: ScoreModeName
    searched: int = Field(description="Records in the time window, besides this one")
    searches: int
    exact: bool
    took_ms: float
