"""The bodies, query parameters and answers of the calls about cases, as in `docs/openapi.json`."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator

from service.http.fields import Answer, Body, CameraId, Embedding, Integer, Parameters, Timestamp
from service.http.schemas import CaseId, Purpose, SpaceName
from service.ids import TrackletId
from service.verdicts import VerdictKind


def _check_text(value: str) -> str:
    if not all(character.isprintable() or character == "\n" for character in value):
        raise ValueError("contains a character that cannot be printed")
    if not value.strip():
        raise ValueError("is empty")
    return value


CaseName = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_check_text)]
Note = Annotated[str, Field(max_length=2000)]
Status = Literal["open", "closed"]


class CaseQueryBody(Body):
    """What a case asks with: an enrolled tracklet, or an embedding."""

    id: TrackletId | None = None
    embedding: Embedding | None = None
    embedding_space: SpaceName | None = None
    camera_id: CameraId | None = None


class CaseBody(Body):
    """`POST /cases`."""

    name: CaseName
    purpose: Purpose = Field(description="Why the person is searched for; exported and written to the audit log")
    query: CaseQueryBody | None = Field(None, description="Default: that of the first search with this case")


class CasePatchBody(Body):
    """`PATCH /cases/{case}`: what is sent replaces what the case has."""

    name: CaseName | None = None
    purpose: Purpose | None = None
    status: Status | None = Field(None, description="`closed` refuses all later changes; `open` allows them again")
    query: CaseQueryBody | None = None


class VerdictBody(Body):
    """`PUT /cases/{case}/verdicts/{id}`."""

    verdict: VerdictKind = Field(description="Whether the record shows the person of the query")
    note: Note = ""

    @field_validator("note")
    @classmethod
    def _check_note(cls, note: str) -> str:
        return _check_text(note) if note else note


class CasesQuery(Parameters):
    """Query parameters of `GET /cases`."""

    status: Status | None = None
    limit: Integer = Field(100, ge=1)
    before: CaseId | None = Field(None, description="The `id` of a case: list only older ones")


class VerdictQuery(Parameters):
    """Query parameters of `DELETE /cases/{case}/verdicts/{id}`."""

    author: str | None = Field(
        None, min_length=1, max_length=200, description="Whose verdict. Default: the caller's own; others need `admin`"
    )


class PictureQuery(Parameters):
    """Query parameters of `GET /cases/{case}/picture`."""

    frame: Integer = Field(0, ge=0, description="Which picture of the query, in time order from 0")


class CaseQueryAnswer(Answer):
    """What a case asks with. Its vector is never in an answer."""

    id: str | None = Field(description="The enrolled tracklet; null if footage or an embedding was sent")
    camera_id: str | None
    pictures: int = Field(description="Number of pictures of the footage that are kept with the case")


class VerdictAnswer(Answer):
    """What one operator said about one record. `author` is their `X-Operator`, or the name of their key."""

    id: str
    verdict: VerdictKind
    author: str
    note: str
    time: Timestamp


class DecidedAnswer(Answer):
    """The records on which a verdict counts, the latest verdict first: what a search with the case uses."""

    same: list[str]
    different: list[str]
    unsure: list[str]


class CaseSummaryAnswer(Answer):
    """A case in a list."""

    id: str
    name: str
    purpose: str
    status: Status
    created_at: Timestamp
    created_by: str
    closed_at: Timestamp | None
    closed_by: str | None
    cameras: list[str] | None = Field(
        description="The case is about records of these only, because the key that opened it is limited to them"
    )
    query: CaseQueryAnswer | None
    counts: dict[VerdictKind, int] = Field(description="On how many records each verdict counts")


class CaseAnswer(CaseSummaryAnswer):
    """A case with all verdicts, oldest first. Those on records that are not enrolled any more are gone."""

    confirmations: int = Field(description="Different people that must give a verdict before it counts")
    decided: DecidedAnswer
    verdicts: list[VerdictAnswer]


class CasesAnswer(Answer):
    """Cases, newest first. For older ones, send the last `id` as `before`."""

    items: list[CaseSummaryAnswer]
