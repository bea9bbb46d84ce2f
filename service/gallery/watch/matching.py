"""Compare new tracklets with all watchlists: one matrix product, then exact numbers for the few that come near."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from model.calibration import Calibration
from model.feedback import combine_examples
from service.gallery.checks import Row, passes
from service.gallery.clock import to_microseconds
from service.gallery.watch.records import Watchlist, WatchVector

_SCORE_ERROR = 1e-4
"""Largest error of the product in single precision."""


@dataclass(frozen=True)
class Match:
    """A watchlist that a tracklet passes: its best example, the score and the probability with it."""

    watchlist: Watchlist
    example: WatchVector
    score: float
    probability: float | None


@dataclass(frozen=True)
class _Compiled:
    """A watchlist that is compared. `moved` are the examples `[E, D]` moved away from the rejects, if there are any."""

    watchlist: Watchlist
    examples: tuple[WatchVector, ...]
    moved: NDArray[np.float32] | None
    prior: float | None
    threshold: float
    expires_at: float


class Matcher:
    """All watchlists of a gallery, ready to be compared. It never changes; a change makes a new one.

    The score of a tracklet with an example is their cosine. If the watchlist has rejects, it is at most the cosine with
    the example moved away from the rejects (`model.feedback`), so rejects can only take alerts away, and a calibration
    of cosines never promises too much. The best example counts.

    The probability of the best of E examples uses the odds of the prior divided by E: a tracklet of someone else has E
    chances to come near one of them (Bonferroni).
    """

    def __init__(self, watchlists: Sequence[Watchlist], calibration: Calibration | None, dimension: int) -> None:
        self.watchlists = tuple(watchlists)
        self._calibration = calibration
        self._compiled = [each for each in map(self._compile, watchlists) if each is not None]
        vectors = [example.vector for each in self._compiled for example in each.examples]
        self._vectors = np.array(vectors, np.float32).reshape(-1, dimension)
        sizes = [len(each.examples) for each in self._compiled]
        self._owners = np.repeat(np.arange(len(sizes)), sizes)
        self._starts = np.cumsum([0, *sizes])
        thresholds = np.array([each.threshold - _SCORE_ERROR for each in self._compiled])
        self._thresholds = np.repeat(thresholds, sizes).astype(np.float32)

    @property
    def entries(self) -> int:
        """Number of examples that are compared."""
        return len(self._vectors)

    @cached_property
    def faults(self) -> Mapping[str, str]:
        """Why a watchlist raises no alert, by its name; the others are compared."""
        compared = {each.watchlist.name for each in self._compiled}
        return {each.name: fault_of(each, self._calibration) for each in self.watchlists if each.name not in compared}

    def match(self, row: Row, now: int) -> list[Match]:
        """Return the watchlists that a new tracklet passes at `now`, in microseconds since 1970.

        Cool-downs are not considered.
        """
        if not len(self._vectors):
            return []
        near = self._vectors @ row.vector >= self._thresholds
        if not near.any():
            return []
        found = [self._best(self._compiled[owner], owner, row) for owner in np.unique(self._owners[near])]
        return [match for match in found if match and self._holds(match, row, now)]

    def threshold_of(self, watchlist: Watchlist) -> float | None:
        """Return the least score that raises an alert; `None` if none does."""
        for each in self._compiled:
            if each.watchlist is watchlist:
                return each.threshold
        return None

    def _compile(self, watchlist: Watchlist) -> _Compiled | None:
        examples, rejects = watchlist.of_role("example"), watchlist.of_role("reject")
        threshold = threshold_of(watchlist, self._calibration)
        if not examples or threshold is None or threshold > 1:
            return None
        moved = None
        if rejects:
            vectors = np.stack([each.vector for each in examples])
            others = np.stack([each.vector for each in rejects])
            moved = combine_examples(vectors, [each.camera_id for each in examples], others, "max")
        ends = watchlist.expires_at
        return _Compiled(
            watchlist,
            examples,
            moved,
            prior_of(watchlist),
            threshold,
            math.inf if ends is None else to_microseconds(ends, "expires_at"),
        )

    def _best(self, compiled: _Compiled, owner: int, row: Row) -> Match | None:
        wide = row.vector.astype(np.float64)
        start, end = self._starts[owner], self._starts[owner + 1]
        scores = _cosines(self._vectors[start:end], wide)
        if compiled.moved is not None:
            scores = np.minimum(scores, _cosines(compiled.moved, wide))
        best = int(np.argmax(scores))
        score = float(scores[best])
        probability = None
        if self._calibration is not None and compiled.prior is not None:
            probability = float(self._calibration.probability([score], compiled.prior)[0])
        # The comparison uses the numbers of the alert, so that none contradicts its own threshold.
        watchlist = compiled.watchlist
        if watchlist.min_score is not None:
            passed = score >= watchlist.min_score
        else:
            passed = probability is not None and probability >= (watchlist.min_probability or 0.0)
        return Match(watchlist, compiled.examples[best], score, probability) if passed else None

    def _holds(self, match: Match, row: Row, now: int) -> bool:
        ends = match.watchlist.expires_at
        if ends is not None and to_microseconds(ends, "expires_at") <= now:
            return False
        # A tracklet that is an example already says nothing new.
        if any(each.record == row.id for each in match.watchlist.vectors):
            return False
        return passes(row, match.watchlist.filter)


def prior_of(watchlist: Watchlist) -> float | None:
    """Return the prior of one example of a watchlist: its odds are those of the watchlist's prior / examples."""
    examples = len(watchlist.of_role("example"))
    if watchlist.prior is None or not examples:
        return None
    odds = watchlist.prior / (1 - watchlist.prior) / examples
    return odds / (1 + odds)


def threshold_of(watchlist: Watchlist, calibration: Calibration | None) -> float | None:
    """Return the least score that passes a watchlist's threshold, `inf` if none does; `None` without a calibration."""
    if watchlist.min_score is not None:
        return watchlist.min_score
    prior = prior_of(watchlist)
    if calibration is None or prior is None:
        return None
    return calibration.score_at(watchlist.min_probability or 0.0, prior)


def fault_of(watchlist: Watchlist, calibration: Calibration | None) -> str:
    """Return why a watchlist raises no alert, in a sentence that ends with the cure."""
    if not watchlist.of_role("example"):
        return "all its examples were erased: put the watchlist again with other examples"
    threshold = threshold_of(watchlist, calibration)
    if threshold is None:
        return "no calibration for cosines of this model is in force: put the watchlist again with min_score"
    prior = prior_of(watchlist) or 0.0
    most = 0.0 if calibration is None else float(calibration.probability([1.0], prior)[0])
    return (
        f"the calibration never gives min_probability {watchlist.min_probability:g} under the prior "
        f"{watchlist.prior:.3g} with {len(watchlist.of_role('example'))} examples, at most {most:.3g}: send a lower "
        "one, a larger prior, fewer examples, or min_score"
    )


def _cosines(vectors: NDArray[np.float32], query: NDArray[np.float64]) -> NDArray[np.float64]:
    wide = vectors.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1) * np.linalg.norm(query)
    cosines: NDArray[np.float64] = np.clip(wide @ query / lengths, -1.0, 1.0)
    return cosines
