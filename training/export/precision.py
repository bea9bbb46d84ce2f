"""Compare two precisions of one network: does the coarser one rank like the finer one, also in one gallery?"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.engines import Engine, embed_in_parallel
from model.ranking import cosine_scores
from model.spec import BundleSpec
from model.tracklet import normalise
from training.evaluation.embed import embed_tracklets
from training.evaluation.metrics import rank_metrics
from training.evaluation.protocols import EvaluationSet

Features = NDArray[np.float32]


@dataclass(frozen=True)
class Ranking:
    """In percent, rounded to two digits."""

    rank1: float
    mean_ap: float


@dataclass(frozen=True)
class PrecisionComparison:
    """Rankings within each precision and across both, and cosines between the two features of a tracklet."""

    exact: Ranking
    other: Ranking
    other_in_exact: Ranking
    """queries of the coarser precision, gallery of the exact one"""
    exact_in_other: Ranking
    mean_cosine: float
    min_cosine: float


def compare_precisions(exact: Engine, other: Engine, spec: BundleSpec, people: EvaluationSet) -> PrecisionComparison:
    """Embed all clips of the tracklets on both engines, and rank by cosine within and across them."""
    exact_query, exact_gallery = _features(exact, spec, people)
    query, gallery = _features(other, spec, people)
    cosines = (normalise(exact_gallery) * normalise(gallery)).sum(axis=1)
    return PrecisionComparison(
        exact=_rank(exact_query, exact_gallery, people),
        other=_rank(query, gallery, people),
        other_in_exact=_rank(query, exact_gallery, people),
        exact_in_other=_rank(exact_query, gallery, people),
        mean_cosine=round(float(cosines.mean()), 6),
        min_cosine=round(float(cosines.min()), 6),
    )


def _features(engine: Engine, spec: BundleSpec, people: EvaluationSet) -> tuple[Features, Features]:
    """Return the features of queries and gallery; a gallery that contains the queries begins with them."""
    features = embed_tracklets(
        embed_in_parallel(engine),
        [*people.query, *people.gallery_only],
        frame_size=(spec.frame_height, spec.frame_width),
        resampling=spec.preprocessing.resampling,
        clip_length=spec.clip_length,
        clip_weights=spec.clip_weights,
    )
    queries = len(people.query)
    return features[:queries], features if people.queries_in_gallery else features[queries:]


def _rank(query: Features, gallery: Features, people: EvaluationSet) -> Ranking:
    metrics = rank_metrics(
        1 - cosine_scores(query, gallery),
        [tracklet.person for tracklet in people.query],
        [tracklet.person for tracklet in people.gallery],
        [tracklet.camera for tracklet in people.query],
        [tracklet.camera for tracklet in people.gallery],
        people.average_precision,
    )
    return Ranking(round(100 * metrics.rank1, 2), round(100 * metrics.mean_ap, 2))
