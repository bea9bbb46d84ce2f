"""What the drawn tracklets' records say beside the vector, and the filters that ask for it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from benchmarks.gallery.embeddings import CAMERAS, CHUNK, cameras_of
from service.gallery.records import JSON, Filter, Record

BEGIN = datetime(2026, 3, 1, tzinfo=UTC)
DAYS = 30
TEAM = 7
"""The team that a filter of 1 % asks for, also where peers are asked."""
_KEYS = {"shift": 2, "site": 10, "team": 100, "visit": 1000}
_MOST_EXCLUDED = 500
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Condition:
    """A filter by its name, and the rows ``[N]`` that pass it."""

    name: str
    filter: Filter
    mask: Mask

    @property
    def allowed(self) -> int:
        """How many rows pass."""
        return int(self.mask.sum())


class Population:
    """Records of ``count`` tracklets in the order of their times: cameras skewed, keys that few or many have."""

    def __init__(self, count: int, seed: int = 1) -> None:
        self.count = count
        rng = np.random.default_rng([seed, 99])
        chunks = [cameras_of(chunk, seed) for chunk in range(-(-count // CHUNK))]
        self._cameras = np.concatenate(chunks)[:count]  # those that shift the drawn vectors
        self._starts = np.sort(rng.random(count)) * DAYS * 86_400
        self._lasts = rng.exponential(8, count)
        self._keys = {name: rng.integers(0, values, count) for name, values in _KEYS.items()}

    def records(self, start: int, rows: NDArray[np.float32]) -> list[Record]:
        """Of tracklets ``start`` and on, with their vectors ``[n, D]``."""
        return [self._record(start + place, row) for place, row in enumerate(rows)]

    def teams(self, start: int, count: int) -> NDArray[np.int64]:
        """The key that peers filter by."""
        return self._keys["team"][start : start + count]

    def _record(self, number: int, row: NDArray[np.float32]) -> Record:
        begin = BEGIN + timedelta(seconds=float(self._starts[number]))
        metadata: dict[str, JSON] = {name: int(values[number]) for name, values in self._keys.items()}
        return Record(
            id=id_of(number),
            embedding=row,
            camera_id=f"camera-{self._cameras[number]}",
            start_time=begin,
            end_time=begin + timedelta(seconds=float(self._lasts[number])),
            metadata=metadata | {"number": number},
            frames=32,
            clips=8,
            created_at=begin,
        )

    def conditions(self, excluded: Sequence[int]) -> list[Condition]:
        """From no filter to one that leaves one row; ``excluded`` are numbers that one of them leaves out."""
        everything = np.ones(self.count, np.bool_)
        found = [Condition("none", Filter(), everything)]
        found += [self._with_key(name) for name in _KEYS]
        only = self.count // 2
        found.append(Condition("metadata, one row", Filter(metadata={"number": only}), self._numbers([only])))
        found += [self._of_cameras([3]), self._of_cameras(range(40, CAMERAS))]
        busiest = self._cameras == 0
        found.append(Condition("all but camera 0", Filter(exclude_camera_ids=("camera-0",)), ~busiest))
        found += [self._between(name, hours) for name, hours in (("a week", 168), ("a day", 24), ("an hour", 1))]
        without = list(excluded)[:_MOST_EXCLUDED]
        left_out = Filter(exclude_ids=tuple(id_of(number) for number in without))
        found.append(Condition(f"all but {len(without)} ids", left_out, ~self._numbers(without)))
        site, week, some = found[2], found[9], self._of_cameras(range(10))
        mixed = Filter(some.filter.camera_ids, (), week.filter.after, week.filter.before, site.filter.metadata)
        found.append(Condition("10 cameras, a week, metadata", mixed, some.mask & week.mask & site.mask))
        return found

    def _numbers(self, numbers: Sequence[int]) -> Mask:
        mask = np.zeros(self.count, np.bool_)
        mask[list(numbers)] = True
        return mask

    def _with_key(self, name: str) -> Condition:
        value = min(TEAM, _KEYS[name] - 1)
        share = 100 / _KEYS[name]
        return Condition(f"metadata, {share:g} %", Filter(metadata={name: value}), self._keys[name] == value)

    def _of_cameras(self, cameras: Sequence[int]) -> Condition:
        names = tuple(f"camera-{number}" for number in cameras)
        text = f"{len(names)} camera{'s' if len(names) > 1 else ''}"
        return Condition(text, Filter(camera_ids=names), np.isin(self._cameras, list(cameras)))

    def _between(self, name: str, hours: int) -> Condition:
        after, before = (BEGIN + timedelta(hours=offset) for offset in (240, 240 + hours))
        # As the gallery keeps them: whole microseconds.
        begins, lasts = (np.rint(1e6 * values).astype(np.int64) for values in (self._starts, self._lasts))
        low, high = ((moment - BEGIN) // timedelta(microseconds=1) for moment in (after, before))
        return Condition(name, Filter(after=after, before=before), (begins <= high) & (begins + lasts >= low))


def id_of(number: int) -> str:
    """The record's id."""
    return f"tracklet-{number:07d}"


def number_of(id_: str) -> int:
    """The number in an id of `id_of`."""
    return int(id_.rpartition("-")[2])
