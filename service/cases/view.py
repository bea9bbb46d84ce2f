"""A case as one caller sees it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from service.cases.records import Case, Verdict, decide, newest_of
from service.gallery.records import Filter
from service.gallery.visible import VisibleGallery
from service.settings import Settings
from service.verdicts import VerdictKind

IDS_AT_ONCE = 500
"""Ids that one call to the gallery looks for."""


@dataclass(frozen=True, eq=False)
class CaseOutline:
    """A case with what a caller sees: verdicts on records that are enrolled and that the caller may know of.

    Attributes:
        case: without its query if the query is a record that the caller does not see, because it was given another
            camera.
        verdicts: oldest first.
        confirmations: different people that must give a verdict before it counts.
        trust_operator: as for `decide`.
    """

    case: Case
    verdicts: Sequence[Verdict]
    confirmations: int
    trust_operator: bool

    @property
    def ids(self) -> list[str]:
        """The records on which there are verdicts, the oldest verdict first, and the query's."""
        return _named(self.case, self.verdicts)

    @cached_property
    def decided(self) -> Mapping[str, VerdictKind]:
        """The verdict that counts on each record."""
        return decide(self.verdicts, self.confirmations, trust_operator=self.trust_operator)

    def newest(self, kind: VerdictKind) -> list[str]:
        """Return the records on which `kind` counts, the latest verdict first."""
        return newest_of(self.decided, self.verdicts, kind)


async def outline_case(
    case: Case, verdicts: Sequence[Verdict], gallery: VisibleGallery, settings: Settings
) -> CaseOutline:
    """Return what a caller sees of a case and its verdicts, oldest first. No record is read."""
    ids = _named(case, verdicts)
    seen: set[str] = set()
    for start in range(0, len(ids), IDS_AT_ONCE):
        seen |= await gallery.find_ids(ids[start : start + IDS_AT_ONCE], Filter())
    if case.query and case.query.id is not None and case.query.id not in seen:
        case = replace(case, query=None)
    shown = [verdict for verdict in verdicts if verdict.record in seen]
    return CaseOutline(case, shown, settings.confirmations, settings.trust_operator)


def _named(case: Case, verdicts: Sequence[Verdict]) -> list[str]:
    ids = dict.fromkeys(verdict.record for verdict in verdicts)
    if case.query and case.query.id is not None:
        ids[case.query.id] = None
    return list(ids)
