"""Embeddings drawn like those that the bundled model computes of real people, as many as are wanted.

A person is a centre around a common mean, a tracklet is a point around its person, shifted by its camera, and made unit
length. How far both reach
in each direction was measured (``benchmarks/gallery/spread.json``, by ``python -m benchmarks.gallery.spread``). Real
directions are not the axes, so the drawn vectors are rotated: an index that quantises each dimension by itself would
otherwise find a few wide ones and many empty ones, and look better than it is.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SPREAD = Path(__file__).with_name("spread.json")
CHUNK = 4096
"""Rows that are drawn together, from a seed of their own: any part of a million can be drawn again."""
TRACKLETS_PER_PERSON = 20
CAMERAS = 100
_CENTRES, _QUERIES, _ROTATION, _CROWD, _CAMERA, _SHIFTS = range(1, 7)
Rows = NDArray[np.float32]


@dataclass(frozen=True)
class Spread:
    """Variances of unit vectors along directions ``[D]``, widest first: between people and within a person's tracklets.

    ``mean`` is the length of what all have in common. ``unevenness`` is the standard deviation of the logarithm of how
    far a tracklet is from its person: blurred and hidden people are far out. Of all pairs of people the share
    ``look_alikes`` has ``closeness`` of the variance between people in common, as two in dark coats have. ``camera`` is
    the share of the variance within a person that all tracklets of a camera have in common: its light and colours.
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
        """What was measured."""
        kept = json.loads(path.read_text(encoding="utf-8"))
        between, within = (np.asarray(kept[name], np.float64) for name in ("between", "within"))
        rest = (kept[name] for name in ("unevenness", "look_alikes", "closeness", "camera"))
        return cls(kept["mean"], between, within, *rest)

    def stretched(self, dimension: int) -> "Spread":
        """The same in another number of dimensions: alike in total and in how many directions really count.

        The curves are read at the same relative ranks, then made steeper or flatter until the effective number of
        directions (the participation ratio of the variances) is what was measured. Without that, cosines of different
        people would gather around 0 as the dimension grows, which those of real models do not.
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
    """A crowd of ``people`` and their tracklets, the same for the same ``seed``.

    How often a person was seen is log-normal: most have some ten tracklets where the mean is 20, a few have a hundred.
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
        """Of all people ``[P, D]``, before the rotation."""
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
        """Whose tracklets ``[CHUNK]`` a chunk holds."""
        return self._people(self._rng(0, chunk), CHUNK)

    def chunk(self, chunk: int) -> Rows:
        """Tracklets ``[CHUNK, D]``: rows ``chunk * CHUNK`` and on."""
        return self._draw(self._rng(0, chunk), cameras_of(chunk, self.seed))

    def queries(self, count: int) -> Rows:
        """Further tracklets ``[count, D]`` of the same people."""
        return self._draw(self._rng(_QUERIES), _cameras(self._rng(_QUERIES, _CAMERA), count))

    def query_people(self, count: int) -> NDArray[np.int64]:
        """Whose the queries are."""
        return self._people(self._rng(_QUERIES), count)

    def rows(self, count: int) -> Iterator[Rows]:
        """The first ``count`` tracklets, chunk by chunk."""
        for chunk in range(-(-count // CHUNK)):
            yield self.chunk(chunk)[: count - chunk * CHUNK]

    def _people(self, rng: np.random.Generator, count: int) -> NDArray[np.int64]:
        return np.minimum(np.searchsorted(self._shares, rng.random(count)), self.people - 1).astype(np.int64)

    def _draw(self, rng: np.random.Generator, cameras: NDArray[np.int64]) -> Rows:
        count = len(cameras)
        people = self._people(rng, count)
        reach = np.exp(rng.normal(0, self._spread.unevenness, (count, 1)))
        reach /= np.exp(self._spread.unevenness**2)  # its square is 1 on average
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
    """A random rotation in two steps, each of which shuffles the axes and rotates small blocks of them both ways.

    Each step costs ``D * (a + b)`` multiplications for ``D = a * b``, in place of ``D * D``.
    """

    def __init__(self, dimension: int, rng: np.random.Generator) -> None:
        a = next(size for size in range(int(dimension**0.5), 0, -1) if dimension % size == 0)
        b = dimension // a
        self._steps = [(rng.permutation(dimension), _orthogonal(a, rng), _orthogonal(b, rng)) for _ in range(2)]

    def apply(self, rows: Rows) -> Rows:
        """Rows ``[N, D]``, rotated."""
        for order, left, right in self._steps:
            blocks = np.take(rows, order, axis=1).reshape(len(rows), len(left), len(right))
            rows = (left @ (blocks @ right)).reshape(len(rows), -1)
        return np.ascontiguousarray(rows)


def draw(count: int, dimension: int, *, people: int | None = None, seed: int = 1) -> Drawing:
    """A crowd for a gallery of ``count`` tracklets, 20 of each person: see `Drawing.rows` and `Drawing.queries`."""
    return Drawing(dimension, people or max(1, count // TRACKLETS_PER_PERSON), seed)


def cameras_of(chunk: int, seed: int = 1) -> NDArray[np.int64]:
    """Which of the `CAMERAS` saw each tracklet ``[CHUNK]`` of a chunk, of any drawing of this seed; some see many."""
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
    """The participation ratio: n for n equal variances."""
    return float(variances.sum() ** 2 / (variances**2).sum())
