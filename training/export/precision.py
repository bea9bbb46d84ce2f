"""Two arithmetics of one network: does the coarser one rank as the finer one does, also where their vectors meet?"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.engines import Engine, embed_in_parallel
from model.ranking import cosine_scores
from model.spec import BundleSpec
from model.tracklet import normalise
from training.evaluation.embed import embed_tracklets
from training.evaluation.metrics import rank_metrics
from training.evaluation.protocols import Selection

Features = NDArray[np.float32]


@dataclass(frozen=True)
class Ranking:
    """In percent, to two places."""

    rank1: float
    mean_ap: float


@dataclass(frozen=True)
class Comparison:
    """Rankings within each arithmetic, of each one's queries in the other's gallery, and the cosines between the two
    video features of one tracklet.
    """

    exact: Ranking
    other: Ranking
    other_in_exact: Ranking
    exact_in_other: Ranking
    mean_cosine: float
    min_cosine: float


def compare_arithmetics(exact: Engine, other: Engine, spec: BundleSpec, people: Selection) -> Comparison:
    """Embed the tracklets of ``people`` on both engines, all clips, and rank them by cosine in all four ways."""
    exact_query, exact_gallery = _features(exact, spec, people)
    query, gallery = _features(other, spec, people)
    cosines = (normalise(exact_gallery) * normalise(gallery)).sum(axis=1)
    return Comparison(
        exact=_rank(exact_query, exact_gallery, people),
        other=_rank(query, gallery, people),
        other_in_exact=_rank(query, exact_gallery, people),
        exact_in_other=_rank(exact_query, gallery, people),
        mean_cosine=round(float(cosines.mean()), 6),
        min_cosine=round(float(cosines.min()), 6),
    )


def _features(engine: Engine, spec: BundleSpec, people: Selection) -> tuple[Features, Features]:
    """Of queries and gallery; a gallery that holds the queries begins with them."""
    features = embed_tracklets(
        embed_in_parallel(engine),
        [*people.query, *people.others],
        frame_size=(spec.frame_height, spec.frame_width),
        clip_length=spec.clip_length,
    )
    queries = len(people.query)
    return features[:queries], features if people.queries_in_gallery else features[queries:]


def _rank(query: Features, gallery: Features, people: Selection) -> Ranking:
    metrics = rank_metrics(
        1 - cosine_scores(query, gallery),
        [tracklet.person for tracklet in people.query],
        [tracklet.person for tracklet in people.gallery],
        [tracklet.camera for tracklet in people.query],
        [tracklet.camera for tracklet in people.gallery],
        people.average_precision,
    )
    return Ranking(round(100 * metrics.rank1, 2), round(100 * metrics.mean_ap, 2))
