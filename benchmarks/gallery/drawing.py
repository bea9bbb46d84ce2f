"""Embeddings drawn like the bundled model's embeddings of real people, in any number, with records and filters.

A person is a centre around a common mean; a tracklet is a point around its person, shifted by its camera, of unit
length. The spread in each direction was measured (`benchmarks/gallery/spread.json`, by
`python -m benchmarks.gallery.spread`). The drawn vectors are rotated, because real directions are not the axes: an
index that quantises each dimension separately would otherwise look better than it is.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.gallery.records import JSON, Filter, Record

SPREAD = Path(__file__).with_name("spread.json")
CHUNK = 4096
"""Rows that are drawn together from their own seed, so any part of a million can be drawn again."""
TRACKLETS_PER_PERSON = 20
CAMERAS = 100
_CENTRES, _QUERIES, _ROTATION, _CROWD, _CAMERA, _SHIFTS = range(1, 7)
Rows = NDArray[np.float32]


@dataclass(frozen=True)
class Spread:
    """Variances of unit vectors along directions `[D]`, widest first: between people and within a person's tracklets.

    `mean` is the length of the common mean. `unevenness` is the standard deviation of the logarithm of a tracklet's
    distance from its person: blurred and occluded people are far away. The share `look_alikes` of all pairs of people
    has `closeness` of the variance between people in common, such as two people in dark coats. `camera` is the share of
    the variance within a person that is common to all tracklets of a camera: its light and colours.
    """

    mean: float
    between: NDArray[np.float64]
    within: NDArray[np.float64]
    unevenness: float
    look_alikes: float
    closeness: float
    camera: float

    @classmethod
    def load(cls, path: Path = SPREAD) -> "Spread":
        saved = json.loads(path.read_text(encoding="utf-8"))
        between, within = (np.asarray(saved[name], np.float64) for name in ("between", "within"))
        rest = (saved[name] for name in ("unevenness", "look_alikes", "closeness", "camera"))
        return cls(saved["mean"], between, within, *rest)

    def stretched(self, dimension: int) -> "Spread":
        """Return the spread in another number of dimensions, with the same total and effective number of directions.

        The curves are interpolated at the same relative ranks, then made steeper or flatter until the participation
        ratio of the variances is as measured. Without that, cosines of different people would approach 0 with growing
        dimension, unlike those of real models.
        """
        old, new = (np.linspace(0, 1, count) for count in (len(self.between), dimension))
        between, within = (np.interp(new, old, curve) for curve in (self.between, self.within))
        total = between + within
        wanted = _directions(self.between + self.within)
        low, high = 0.2, 5.0
        for _ in range(50):
            power = (low + high) / 2
            if _directions(total**power) > wanted:
                low = power
            else:
                high = power
        bend = total ** (power - 1)
        between *= bend * (self.between.sum() / (between * bend).sum())
        within *= bend * (self.within.sum() / (within * bend).sum())
        return replace(self, between=between, within=within)


class Drawing:
    """Drawn `people` and their tracklets, the same for the same `seed`.

    The number of tracklets per person is log-normal: with a mean of 20, most have about ten and a few have a hundred.
    """

    def __init__(self, dimension: int, people: int, seed: int = 1, spread: Spread | None = None) -> None:
        self.dimension, self.people, self.seed = dimension, people, seed
        spread = (spread or Spread.load()).stretched(dimension)
        self._spread = spread
        self._between, self._within = (np.sqrt(part).astype(np.float32) for part in (spread.between, spread.within))
        self._rotation = _Rotation(dimension, self._rng(_ROTATION))
        crowd = self._rng(_CROWD)
        weights = np.exp(crowd.normal(0, 1, people))
        self._shares = np.cumsum(weights) / weights.sum()
        self._looks = crowd.integers(0, max(1, round(1 / spread.look_alikes)), people)
        common = self._between * np.sign(crowd.normal(size=dimension)).astype(np.float32)
        self._common = common * np.float32(spread.mean / np.linalg.norm(common))
        shifts = self._rng(_SHIFTS).standard_normal((CAMERAS, dimension), np.float32)
        self._shifts = shifts * self._within * np.float32(spread.camera**0.5)

    @cached_property
    def _centres(self) -> Rows:
        """Centres of all people `[P, D]`, before the rotation."""
        rng, closeness = self._rng(_CENTRES), self._spread.closeness
        looks = rng.standard_normal((self._looks.max() + 1, self.dimension), np.float32) * np.float32(closeness**0.5)
        centres = np.empty((self.people, self.dimension), np.float32)
        for start in range(0, self.people, CHUNK):
            part = centres[start : start + CHUNK]
            rng.standard_normal(dtype=np.float32, out=part)
            part *= np.float32((1 - closeness) ** 0.5)
            part += looks[self._looks[start : start + CHUNK]]
            part *= self._between
            part += self._common
        return centres

    def people_of(self, chunk: int) -> NDArray[np.int64]:
        """Return the person of each tracklet of a chunk, `[CHUNK]`."""
        return self._people(self._rng(0, chunk), CHUNK)

    def chunk(self, chunk: int) -> Rows:
        """Return tracklets `[CHUNK, D]`, numbered from `chunk * CHUNK`."""
        return self._draw(self._rng(0, chunk), cameras_of(chunk, self.seed))

    def queries(self, count: int) -> Rows:
        """Return further tracklets `[count, D]` of the same people."""
        return self._draw(self._rng(_QUERIES), _cameras(self._rng(_QUERIES, _CAMERA), count))

    def query_people(self, count: int) -> NDArray[np.int64]:
        return self._people(self._rng(_QUERIES), count)

    def rows(self, count: int) -> Iterator[Rows]:
        for chunk in range(-(-count // CHUNK)):
            yield self.chunk(chunk)[: count - chunk * CHUNK]

    def _people(self, rng: np.random.Generator, count: int) -> NDArray[np.int64]:
        return np.minimum(np.searchsorted(self._shares, rng.random(count)), self.people - 1).astype(np.int64)

    def _draw(self, rng: np.random.Generator, cameras: NDArray[np.int64]) -> Rows:
        count = len(cameras)
        people = self._people(rng, count)
        reach = np.exp(rng.normal(0, self._spread.unevenness, (count, 1)))
        reach /= np.exp(self._spread.unevenness**2)  # its square has mean 1
        rows = rng.standard_normal((count, self.dimension), np.float32)
        rows *= self._within
        rows *= (reach * (1 - self._spread.camera) ** 0.5).astype(np.float32)
        rows += self._shifts[cameras]
        rows += self._centres[people]
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        return self._rotation.apply(rows)

    def _rng(self, *path: int) -> np.random.Generator:
        return _rng(self.seed, *path)


class _Rotation:
    """A random rotation in two steps; each permutes the axes and rotates small blocks of them.

    A step costs `D * (a + b)` multiplications for `D = a * b` instead of `D * D`.
    """

    def __init__(self, dimension: int, rng: np.random.Generator) -> None:
        a = next(size for size in range(int(dimension**0.5), 0, -1) if dimension % size == 0)
        b = dimension // a
        self._steps = [(rng.permutation(dimension), _orthogonal(a, rng), _orthogonal(b, rng)) for _ in range(2)]

    def apply(self, rows: Rows) -> Rows:
        """Return rows `[N, D]`, rotated."""
        for order, left, right in self._steps:
            blocks = np.take(rows, order, axis=1).reshape(len(rows), len(left), len(right))
            rows = (left @ (blocks @ right)).reshape(len(rows), -1)
        return np.ascontiguousarray(rows)


def draw(count: int, dimension: int, *, people: int | None = None, seed: int = 1) -> Drawing:
    """Return a drawing for a gallery of `count` tracklets, 20 per person."""
    return Drawing(dimension, people or max(1, count // TRACKLETS_PER_PERSON), seed)


def cameras_of(chunk: int, seed: int = 1) -> NDArray[np.int64]:
    """Return the camera of each tracklet of a chunk, `[CHUNK]`; some cameras see more than others."""
    return _cameras(_rng(seed, _CAMERA, chunk), CHUNK)


def _cameras(rng: np.random.Generator, count: int) -> NDArray[np.int64]:
    weights = 1 / (5 + np.arange(CAMERAS))
    return rng.choice(CAMERAS, count, p=weights / weights.sum())


def _rng(seed: int, *path: int) -> np.random.Generator:
    return np.random.default_rng([seed, len(path), *path])


def _orthogonal(size: int, rng: np.random.Generator) -> Rows:
    factor, triangle = np.linalg.qr(rng.normal(size=(size, size)))
    return (factor * np.sign(np.diag(triangle))).astype(np.float32)


def _directions(variances: NDArray[np.float64]) -> float:
    return float(variances.sum() ** 2 / (variances**2).sum())


BEGIN = datetime(2026, 3, 1, tzinfo=UTC)
DAYS = 30
TEAM = 7
"""The team of the 1 % filter, also for other libraries."""
_KEYS = {"shift": 2, "site": 10, "team": 100, "visit": 1000}
_MOST_EXCLUDED = 500
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Condition:
    """A named filter and the mask `[N]` of rows that pass it."""

    name: str
    filter: Filter
    mask: Mask


class Population:
    """Records of `count` tracklets in time order, with skewed cameras and metadata keys of different selectivity."""

    def __init__(self, count: int, seed: int = 1) -> None:
        self.count = count
        rng = np.random.default_rng([seed, 99])
        chunks = [cameras_of(chunk, seed) for chunk in range(-(-count // CHUNK))]
        self._cameras = np.concatenate(chunks)[:count]  # the cameras that shift the drawn vectors
        self._starts = np.sort(rng.random(count)) * DAYS * 86_400
        self._lasts = rng.exponential(8, count)
        self._keys = {name: rng.integers(0, values, count) for name, values in _KEYS.items()}

    def records(self, start: int, rows: NDArray[np.float32]) -> list[Record]:
        """Return the records of tracklets from `start` on, with their vectors `[n, D]`."""
        return [self._record(start + index, row) for index, row in enumerate(rows)]

    def teams(self, start: int, count: int) -> NDArray[np.int64]:
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
        """Return conditions from no filter to one that passes one row; one leaves out the `excluded` numbers."""
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
        # As the gallery stores them: integer microseconds.
        begins, lasts = (np.rint(1e6 * values).astype(np.int64) for values in (self._starts, self._lasts))
        low, high = ((moment - BEGIN) // timedelta(microseconds=1) for moment in (after, before))
        return Condition(name, Filter(after=after, before=before), (begins <= high) & (begins + lasts >= low))


def id_of(number: int) -> str:
    return f"tracklet-{number:07d}"


def number_of(id_: str) -> int:
    return int(id_.rpartition("-")[2])
