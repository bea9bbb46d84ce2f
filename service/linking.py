"""The probable appearances of one person in time order: which records of the gallery are linked, one to the next.

The path grows from one record, the strongest link first. A record is added if

- it does not contradict time: a person is at one place at a moment, and needs the site's minimum time between cameras;
- at least half of the records on the path are linked with it, and at least two if it is not one of the first hits of
  the record that the path began with. A chain of single links drifts from one person to another. If that record has
  more links than first hits, then the threshold is too low for links to tell people apart, and only first hits count;
- no record that is not linked with the path explains it better. A first hit may have such a record with a score that
  is higher by `MARGIN`, because it is linked with the first record itself. For all others the path must be better by
  `MARGIN`.

Each record that comes that far is searched with once, to find what else explains it.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Annotated, Final, TypeAlias

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from model.errors import Not3dError
from model.files import read_at_most
from service.gallery.records import Hit, Record

CANDIDATES: Final = 50
"""Neighbours that are looked at from each record."""
FIRST_HITS: Final = 10
"""Hits of the first record that need no second link: as many as a search returns by default."""
MARGIN: Final = 0.1
"""Difference of two scores from which on one explanation is better than the other."""
_MAX_FILE: Final = 4 * 2**20
_NO_VECTOR: Final = np.empty(0, np.float32)

Camera = Annotated[str, Field(min_length=1, max_length=200)]
Seconds = Annotated[float, Field(ge=0, le=7 * 24 * 3600, allow_inf_nan=False)]


class TravelTimesError(Not3dError):
    """A file of travel times that cannot be used. The message names the file and the entry."""


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    start: Camera = Field(alias="from")
    end: Camera = Field(alias="to")
    seconds: Seconds


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    travel_times: tuple[_Entry, ...] = Field((), max_length=100_000)
    overlapping: tuple[tuple[Camera, Camera], ...] = Field((), max_length=100_000)
    tolerance_seconds: Seconds = 0.0


@dataclass(frozen=True)
class TravelTimes:
    """What a site knows about the way between its cameras.

    Attributes:
        minimum: seconds that a person needs at least from one camera to another, by `(from, to)`; 0 for other pairs.
        overlapping: pairs of cameras, each in both orders, on which one person can be at the same time.
        tolerance: seconds by which the clocks of two cameras can differ; all minimums between two are less by it.
    """

    minimum: Mapping[tuple[str, str], float] = field(default_factory=dict)
    overlapping: frozenset[tuple[str, str]] = frozenset()
    tolerance: float = 0.0

    def allow(self, one: "Place", other: "Place") -> bool:
        """Return whether one person can have been at both places."""
        first, second = sorted((one, other), key=lambda place: (place.start, place.end))
        pair = first.camera or "", second.camera or ""
        if pair in self.overlapping:
            return True
        gap = (second.start - first.end).total_seconds()
        # One camera has one clock. Two without a name may be two.
        tolerance = 0.0 if first.camera is not None and first.camera == second.camera else self.tolerance
        least = self.minimum.get(pair, 0.0) - tolerance
        # Of two single moments that are the same, the gap is 0, too.
        return gap > least if first.start == second.start else gap >= least

    @classmethod
    def load(cls, path: Path) -> "TravelTimes":
        """Read the file that `NOT3D_TRAVEL_TIMES` names; docs/linking.md describes it.

        A pair that is given in one direction only has the same time in the other.

        Raises:
            TravelTimesError: the file is missing, or an entry is wrong or contradicts another one.
        """
        try:
            content = read_at_most(path, _MAX_FILE)
            if content is None:
                raise TravelTimesError(f"{path} has more than {_MAX_FILE} bytes, the maximum of travel times")
            read = _File.model_validate_json(content)
        except OSError as error:
            raise TravelTimesError(f"{path} cannot be read: {error.strerror}") from error
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]
            place = ".".join(map(str, fault["loc"])) or "the file"
            example = '{"travel_times": [{"from": "gate", "to": "hall", "seconds": 40}], "overlapping": []}'
            raise TravelTimesError(f"{path}: {place}: {fault['msg']}; write it as {example}") from error
        minimum: dict[tuple[str, str], float] = {}
        for number, entry in enumerate(read.travel_times):
            if (entry.start, entry.end) in minimum:
                raise TravelTimesError(
                    f"{path}: travel_times.{number}: duplicate entry {entry.start} to {entry.end}: remove one of them"
                )
            minimum[entry.start, entry.end] = entry.seconds
        minimum |= {(end, start): seconds for (start, end), seconds in minimum.items() if (end, start) not in minimum}
        pairs = {pair for one, other in read.overlapping for pair in ((one, other), (other, one))}
        return cls(minimum, frozenset(pairs), read.tolerance_seconds)


@dataclass(frozen=True)
class Place:
    """Where and when a record was seen; `start` is at most `end`."""

    camera: str | None
    start: datetime
    end: datetime

    @classmethod
    def of(cls, record: Record) -> "Place | None":
        """Return the place of a record; `None` without a time."""
        start, end = record.start_time or record.end_time, record.end_time or record.start_time
        return None if start is None or end is None else cls(record.camera_id, start, end)


@dataclass(frozen=True)
class Step:
    """A record on the path.

    Attributes:
        record: the record.
        place: where and when.
        score: of its link; `None` for the record that the path began with.
        probability: of its link, if a calibration is in force.
        linked_to: the id of the record on the path with which it was found.
        links: number of records that were on the path and linked with it when it was added; 0 for the first one.
    """

    record: Record
    place: Place
    score: float | None = None
    probability: float | None = None
    linked_to: str | None = None
    links: int = 0


@dataclass(frozen=True)
class Links:
    """What one search found.

    Attributes:
        hits: the best `CANDIDATES` records, best first, also those below the thresholds: they show what else explains
            a record.
        linked: ids of the hits that pass the thresholds.
        probabilities: of the hits, by id; empty without a calibration.
    """

    hits: Sequence[Hit]
    linked: frozenset[str]
    probabilities: Mapping[str, float]


@dataclass(frozen=True)
class ProbablePath:
    """The records of a path in time order, the number of searches, and whether no limit ended it."""

    steps: Sequence[Step]
    searches: int
    is_complete: bool


Search: TypeAlias = Callable[[Record], Awaitable[Links]]
Read: TypeAlias = Callable[[str], Awaitable[Record | None]]


def max_searches(max_steps: int) -> int:
    """Return how many searches a path takes at most: some records are searched with and not added."""
    return 1 + FIRST_HITS + 2 * max_steps


async def find_path(
    seed: Record, search: Search, read: Read, *, travel_times: TravelTimes, max_steps: int
) -> ProbablePath:
    """Grow a path from `seed`.

    Args:
        seed: the record that the path begins with; it has a time.
        search: searches with a record within the time window, without that record itself.
        read: reads a record again, with its embedding; `None` if it was removed meanwhile.
        travel_times: what the site knows.
        max_steps: maximum number of records on the path besides the seed.

    Raises:
        ValueError: the seed has no time.
    """
    place = Place.of(seed)
    if place is None:
        raise ValueError("the seed has no time")
    growth = _Growth(search, read, travel_times, max_searches(max_steps))
    await growth.begin(seed, place)
    try:
        while (step := await growth.find_next()) is not None:
            if len(growth.path) > max_steps:
                return growth.result(is_complete=False)
            growth.add(step)
    except _TooManySearches:
        return growth.result(is_complete=False)
    return growth.result(is_complete=True)


class _TooManySearches(Exception):
    pass


@dataclass
class _Growth:
    """A path that grows.

    Attributes:
        path: its records, by id.
        links: how many records on the path are linked with a record, by its id.
        waiting: records that are linked with some record on the path, each with its strongest link.
        refused: records that will never be added.
        neighbours: of each record that was searched with: the scores of others by id, best first.
        linked: of the same records: the links to others.
        first_hits: the best hits of the first record.
        hits: all its hits above the thresholds.
    """

    search: Search
    read: Read
    travel_times: TravelTimes
    max_searches: int
    searches: int = 0
    path: dict[str, Step] = field(default_factory=dict)
    links: Counter[str] = field(default_factory=Counter)
    waiting: dict[str, Step] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    neighbours: dict[str, Mapping[str, float]] = field(default_factory=dict)
    linked: dict[str, Sequence[Step]] = field(default_factory=dict)
    first_hits: frozenset[str] = frozenset()
    hits: frozenset[str] = frozenset()

    async def begin(self, seed: Record, place: Place) -> None:
        """Start with this record."""
        found = await self._look_around(seed)
        self.hits = found.linked
        linked = [hit.record.id for hit in found.hits if hit.record.id in found.linked]
        self.first_hits = frozenset(linked[:FIRST_HITS])
        self.add(Step(seed, place))

    async def find_next(self) -> Step | None:
        """Return the strongest link of a record that belongs to the path, or `None`."""
        ready = [step for step in self.waiting.values() if self._agrees(step.record.id)]
        ours = {id_ for id_, links in self.links.items() if links >= 2 and 2 * links >= len(self.path)}
        ours |= self.path.keys()
        for step in sorted(ready, key=lambda each: (-(each.score or 0.0), each.record.id)):
            id_ = step.record.id
            if not all(self.travel_times.allow(step.place, each.place) for each in self.path.values()):
                self._refuse(id_)  # the path only grows, so it never fits later
            elif (id_ in self.neighbours or await self._examine(step)) and self._is_best_explained(step, ours):
                return replace(step, links=self.links[id_])
        return None

    def add(self, step: Step) -> None:
        """Add a record that was searched with, and count its links."""
        id_ = step.record.id
        self.path[id_] = step
        self.waiting.pop(id_, None)
        for link in self.linked[id_]:
            other = link.record.id
            self.links[other] += 1
            if other in self.path or other in self.refused:
                continue
            known = self.waiting.get(other)
            if known is None or (link.score or 0.0) > (known.score or 0.0):
                self.waiting[other] = link

    def result(self, *, is_complete: bool) -> ProbablePath:
        """Return the path as it is now."""
        steps = sorted(self.path.values(), key=lambda each: (each.place.start, each.place.end, each.record.id))
        return ProbablePath(steps, self.searches, is_complete)

    def _refuse(self, id_: str) -> None:
        self.refused.add(id_)
        self.waiting.pop(id_, None)

    def _agrees(self, id_: str) -> bool:
        """Return whether enough records on the path are linked with this one."""
        is_first = id_ in self.first_hits
        if len(self.hits) > FIRST_HITS:
            return is_first
        return 2 * self.links[id_] >= len(self.path) and (is_first or self.links[id_] >= 2)

    async def _examine(self, step: Step) -> bool:
        """Search with a record; return `False` if it was erased or changed since it was found."""
        if self.searches >= self.max_searches:
            raise _TooManySearches
        again = await self.read(step.record.id)
        if again is None or Place.of(again) != step.place:
            self._refuse(step.record.id)
            return False
        await self._look_around(again)
        return True

    async def _look_around(self, record: Record) -> Links:
        found = await self.search(record)
        self.searches += 1
        self.neighbours[record.id] = {hit.record.id: hit.score for hit in found.hits}
        steps = []
        for hit in found.hits:
            place = Place.of(hit.record)
            if place is not None and hit.record.id in found.linked:
                # Without the vector: some thousands of links may wait.
                other = replace(hit.record, embedding=_NO_VECTOR, thumbnails=())
                steps.append(Step(other, place, hit.score, found.probabilities.get(other.id), record.id))
        self.linked[record.id] = steps
        return found

    def _is_best_explained(self, step: Step, ours: Set[str]) -> bool:
        """Return whether no record that is not linked with the path (`ours`) explains this one better."""
        is_first = step.record.id in self.first_hits
        others = (score for id_, score in self.neighbours[step.record.id].items()
                  if id_ not in ours and not (is_first and id_ in self.hits))  # fmt: skip
        return next(others, -1.0) - (step.score or 0.0) <= (MARGIN if is_first else -MARGIN)
