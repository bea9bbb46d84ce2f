"""What a case is: its query, the verdicts of operators, and which verdicts count."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from service.gallery.records import GalleryError
from service.verdicts import VerdictKind
from service.verdicts import decide as decide_one


class CaseError(GalleryError):
    """The file of the cases cannot be used; the message says what to do."""


@dataclass(frozen=True, slots=True, eq=False)
class CaseQuery:
    """What a case asks with: an enrolled tracklet, or a vector of footage that is not enrolled.

    Attributes:
        id: of the enrolled tracklet, or `None`.
        vector: float32 `[D]` of unit length; `None` if there is an `id`.
        embedding_space: of the vector.
        camera_id: of the vector's footage, if known.
        pictures: JPEG files of some frames of the footage, in time order.
    """

    id: str | None = None
    vector: NDArray[np.float32] | None = None
    embedding_space: str | None = None
    camera_id: str | None = None
    pictures: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one operator said about one record: whether it shows the person of the query.

    `author` is the operator as the client named them, otherwise `key`: the key or user with which the request came.
    """

    record: str
    verdict: VerdictKind
    author: str
    key: str
    time: datetime
    note: str = ""


@dataclass(frozen=True, slots=True)
class Case:
    """A named search with its purpose. Times are aware; a closed case cannot be changed until it is opened again.

    If the key that made it is limited to `cameras`, the case is about records of these only, and keys that do not see
    all of them do not see the case.
    """

    id: str
    name: str
    purpose: str
    created_at: datetime
    created_by: str
    closed_at: datetime | None = None
    closed_by: str | None = None
    query: CaseQuery | None = None
    cameras: frozenset[str] | None = None

    @property
    def is_open(self) -> bool:
        """Whether verdicts can be given."""
        return self.closed_at is None


def decide(
    verdicts: Iterable[Verdict], confirmations: int, *, trust_operator: bool = False
) -> Mapping[str, VerdictKind]:
    """Return the verdict that counts on each record; a record without one is left out.

    Args:
        verdicts: one of each author on each record, oldest first.
        confirmations: as `service.verdicts.decide`.
        trust_operator: as `service.verdicts.decide`.
    """
    of_record: dict[str, list[Verdict]] = {}
    for each in verdicts:
        of_record.setdefault(each.record, []).append(each)
    decided = {record: decide_one(given, confirmations, trust_operator) for record, given in of_record.items()}
    return {record: verdict for record, verdict in decided.items() if verdict is not None}


def newest_of(decided: Mapping[str, VerdictKind], verdicts: Sequence[Verdict], kind: VerdictKind) -> list[str]:
    """Return the records on which `kind` counts, the latest verdict first."""
    times = {each.record: each.time for each in verdicts}  # oldest first, so the latest stays
    found = [record for record, each in decided.items() if each == kind]
    return sorted(found, key=lambda record: (times[record], record), reverse=True)
