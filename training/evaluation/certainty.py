"""How sure a model may be: DET curve, errors of searches by gallery size, and how right its probabilities are."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import ArrayLike

from model.calibration import Calibration, CalibrationError
from training.evaluation.calibration import Quality, cross_fit, det_points, error_rates, measure
from training.evaluation.identification import SearchErrors, fpir_estimate, search_errors
from training.evaluation.pairs import Floats, Pairs, pairs_of_matrix


@dataclass(frozen=True)
class Kept:
    """What the threshold of a calibration promises, and what it does on these people."""

    score: float
    promised_fmr: float
    fmr: float
    fnmr: float

    def fpir(self, gallery: int) -> float:
        """Return the estimated FPIR in a gallery of this size."""
        return fpir_estimate(min(self.fmr, math.nextafter(1, 0)), gallery)


@dataclass(frozen=True)
class Certainty:
    """Measured on pairs from two cameras of one site, each person and each pair of people counting the same."""

    mated: int
    non_mated: int
    fmr: Floats
    """`[K]`, falling: false match rates of the DET curve"""
    fnmr: Floats
    """`[K]`: false non-match rates at these"""
    searches: SearchErrors
    calibration: str
    """whose probabilities `quality` measures, in words"""
    quality: Quality | None
    """None if there are too few people"""
    kept: tuple[Kept, ...] = ()
    """one for each threshold of the model's calibration"""

    @property
    def figures(self) -> dict[str, float]:
        """Return the figures of the report's table: in bits, and ECE in percent."""
        if self.quality is None:
            return {}
        found = {"Cllr": self.quality.cllr, "minimum Cllr": self.quality.min_cllr, "ECE": 100 * self.quality.ece}
        return {name: round(value, 3) for name, value in found.items()}

    def as_json(self) -> dict[str, Any]:
        """Return all figures as JSON values."""
        quality = self.quality
        return {
            "pairs": {"mated": self.mated, "non-mated": self.non_mated},
            "det": {"false match rate": self.fmr.tolist(), "false non-match rate": self.fnmr.tolist()},
            "identification": [
                {
                    "gallery": row.gallery,
                    "false positive identification rate": row.fpir,
                    "how": row.how,
                    "score": row.score,
                    "false negative identification rate": row.fnir,
                }
                for row in self.searches.identification
            ],
            "investigation": [
                {
                    "gallery": row.gallery,
                    "how": row.how,
                    "false negative identification rate": {str(rank): rate for rank, rate in row.fnir.items()},
                }
                for row in self.searches.investigation
            ],
            "calibration": {
                "of": self.calibration,
                "cllr": quality and quality.cllr,
                "minimum cllr": quality and quality.min_cllr,
                "ece": quality and quality.ece,
                "brier": quality and quality.brier,
                "reliability": [
                    {
                        "predicted": bar.predicted,
                        "observed": bar.observed,
                        "interval": [bar.low, bar.high],
                        "share": bar.share,
                    }
                    for bar in (quality.bins if quality else ())
                ],
                "thresholds": [
                    {"score": row.score, "promised fmr": row.promised_fmr, "fmr": row.fmr, "fnmr": row.fnmr}
                    for row in self.kept
                ],
            },
        }


def measure_certainty(
    scores: ArrayLike,
    query_ids: Sequence[str],
    gallery_ids: Sequence[str],
    query_cameras: Sequence[str],
    gallery_cameras: Sequence[str],
    *,
    calibration: Calibration | None = None,
    gallery_begins_with_queries: bool = False,
    seed: int = 1,
) -> Certainty | None:
    """Measure a model's scores and probabilities.

    Args:
        scores: `[Q, G]`, higher is more similar; `-inf` for comparisons that the protocol excludes.
        query_ids: person ids `[Q]`.
        gallery_ids: person ids `[G]`.
        query_cameras: camera ids `[Q]`.
        gallery_cameras: camera ids `[G]`.
        calibration: of these scores. Without one, a fit on each half of the people is measured on the other half.
        gallery_begins_with_queries: the first Q gallery rows are the queries.
        seed: of bootstrap, halves and choice of probes.

    Returns:
        The figures, or None if there are no pairs of one kind.
    """
    sides = query_ids, gallery_ids, query_cameras, gallery_cameras
    pairs = pairs_of_matrix(scores, *sides, gallery_begins_with_queries=gallery_begins_with_queries, seed=seed)
    if not pairs.mated or not pairs.non_mated:
        return None
    fmr, fnmr = det_points(pairs)
    described, quality = _measure_calibration(pairs, calibration, seed)
    kept = [
        Kept(threshold.score, threshold.fmr, *error_rates(pairs, threshold.score))
        for threshold in (calibration.thresholds if calibration else ())
    ]
    searches = search_errors(scores, *sides, pairs, seed=seed)
    return Certainty(pairs.mated, pairs.non_mated, fmr, fnmr, searches, described, quality, tuple(kept))


def _measure_calibration(pairs: Pairs, calibration: Calibration | None, seed: int) -> tuple[str, Quality | None]:
    if calibration is not None:
        described = f"the model's calibration {calibration.id}, fitted on {calibration.source}"
        return described, measure(pairs, calibration.llr(pairs.scores), seed=seed)
    try:
        return "a fit on half of these people, measured on the other half", measure(*cross_fit(pairs, seed), seed=seed)
    except CalibrationError:
        return "none: there are too few people", None
