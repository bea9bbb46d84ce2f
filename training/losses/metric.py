"""Metric losses over clip features `[N, D]` and person labels `[N]`.

A batch without pairs gives zero, with a gradient of zero.
"""

from typing import Literal

import torch
from torch import Tensor

from training.losses.distances import (
    SMALLEST_SQUARE,
    at_least_float32,
    euclidean_distances,
    pairs,
    similarities,
    unit_length,
)

_SMALLEST, _LARGEST = 1e-12, 1e12
"""Bounds of each entry of the matrix of center loss in the published code."""


def ranked_list_loss(
    features: Tensor,
    labels: Tensor,
    *,
    margin: float = 1.3,
    alpha: float = 2.0,
    temperature: float = 1.0,
    balance: float = 1.0,
    form: Literal["code", "paper"] = "code",
) -> Tensor:
    """Return the ranked list loss on unit features with Euclidean distance (Wang et al., CVPR 2019; not3d).

    For each anchor: the mean of `max(0, d - (alpha - margin))` over positives, plus the mean of `alpha - d` over
    negatives nearer than `alpha`, weighted by `exp(temperature * (alpha - d))`. Gradients flow through the weights.

    With `alpha` 2 all negatives count, because unit vectors are at most 2 apart. With `margin` 0.04 (not3d on PRID2011)
    the term of the positives is nearly always zero.

    Args:
        features: `[N, D]`, of any length
        labels: int64 `[N]`
        margin: m, between the boundary of the positives and that of the negatives
        alpha: boundary of the negatives, from 0 to 2
        temperature: T of the weights of the negatives; not stated in the not3d paper, 1 in the author's later code
        balance: lambda, weight of the term of the negatives; also 1 there
        form: `code` divides by the number of all positives and adds 1e-5 to both denominators, as published; `paper`
            divides by the number of positives beyond their boundary (the non-trivial ones) and adds nothing

    Raises:
        ValueError: the form is unknown.
    """
    if form not in ("code", "paper"):
        raise ValueError(f"unknown form {form!r}")
    distances = euclidean_distances(unit_length(features))
    positive, negative = pairs(labels)
    negative = negative & (distances < alpha)
    beyond = (distances - (alpha - margin)).clamp(min=0) * positive
    counted = positive if form == "code" else beyond > 0
    pull = beyond.sum(dim=1) / _denominator(counted.sum(dim=1).to(beyond.dtype), form)
    # All weights of an anchor, and the 1e-5 in the denominator, are divided by the largest weight: the ratio does not
    # change, and a high temperature cannot overflow.
    exponents = (temperature * (alpha - distances)).masked_fill(~negative, -torch.inf)
    largest = torch.where(negative.any(dim=1), exponents.detach().amax(dim=1), 0.0)
    weights = torch.exp(exponents - largest.unsqueeze(1))
    push = (weights * (alpha - distances)).sum(dim=1) / _denominator(weights.sum(dim=1), form, torch.exp(-largest))
    return (pull + balance * push).mean()


def batch_hard_triplet_loss(
    features: Tensor, labels: Tensor, margin: float, metric: Literal["cosine", "euclidean"] = "cosine"
) -> Tensor:
    """Return the batch-hard triplet loss (Hermans et al., 2017): hardest positive and negative, mean over anchors.

    `cosine`: `max(0, margin + largest negative - smallest positive)` similarity, as in the code of fantastic.
    `euclidean`: distances of features that are not normalised, for aas_rfu (ours: its paper names no metric).

    An anchor is one of its own positives, as published. This changes nothing for a person with two or more clips; the
    only clip of a person is still pushed away from its nearest negative. An anchor without negatives counts as zero.

    Args:
        features: `[N, D]`
        labels: int64 `[N]`
        margin: in units of the metric
        metric: which of the two

    Raises:
        ValueError: the metric is unknown.
    """
    if metric == "cosine":
        unit = unit_length(features)
        distances = 1 - similarities(unit, unit)
    elif metric == "euclidean":
        distances = euclidean_distances(at_least_float32(features))
    else:
        raise ValueError(f"unknown metric {metric!r}")
    _, negative = pairs(labels)
    far = distances.masked_fill(negative, 0.0).amax(dim=1)
    near = distances.masked_fill(~negative, torch.inf).amin(dim=1)
    # `where` instead of a product, because infinity times zero would be NaN in the gradient.
    alone = ~negative.any(dim=1)
    return torch.where(alone, 0.0, margin + far - near.masked_fill(alone, 0.0)).clamp(min=0).mean()


def center_loss(
    features: Tensor, labels: Tensor, centers: Tensor, *, form: Literal["code", "paper"] = "code"
) -> Tensor:
    """Return the squared distances `||f - c_y||^2` of features to their class centers (Wen et al., 2016).

    Args:
        features: `[N, D]`, not normalised
        labels: int64 `[N]`
        centers: `[K, D]`; rows without a label add only their constant
        form: `code`: the mean over the batch, each distance limited to 1e-12..1e12, plus the 1e-12 that the published
            code (not3d, fantastic, Luo et al.) adds for each of the other `K - 1` classes. `paper`: half of the sum
            (not3d; Wen et al., equation 2)

    Raises:
        ValueError: the form is unknown.
    """
    squares = (at_least_float32(features) - at_least_float32(centers)[labels]).square().sum(dim=1)
    if form == "code":
        return squares.clamp(_SMALLEST, _LARGEST).mean() + (len(centers) - 1) * _SMALLEST
    if form == "paper":
        return squares.sum() / 2
    raise ValueError(f"unknown form {form!r}")


def osm_caa_loss(
    features: Tensor,
    labels: Tensor,
    class_vectors: Tensor,
    *,
    sigma: float = 0.8,
    alpha: float = 1.2,
    balance: float = 0.5,
) -> Tensor:
    """Return the OSM-CAA loss (Wang et al., AAAI 2019), as in the code of fantastic.

    Online soft mining weights each pair of a batch, and class-aware attention weights each clip. `d` are the Euclidean
    distances of unit features and `h = max(alpha - d, 1e-12)`. The mining score of a pair is `exp(-d^2 / sigma^2)` for
    the same person and `h` for different persons. The attention of a clip is the softmax, over all classes, of its
    cosine to the class vectors, taken at its own class; the attention of a pair is the smaller one of its two clips.
    The loss is `(1 - balance) * mean(d^2) / 2` over pairs of the same person plus `balance * mean(h^2) / 2` over the
    others. Both means are weighted by score times attention. Gradients flow through the weights. The original has a
    temperature in the softmax; the code of fantastic has none.

    If a batch has no pairs of one kind, the mean over them is zero (NaN in the published code).

    Args:
        features: `[N, D]`, of any length
        labels: int64 `[N]`, below K
        class_vectors: `[K, D]`, of any length: the weights of the classifier, or the centers of center loss ("CL")
        sigma: width of the scores of positives
        alpha: distance beyond which a negative hardly counts
        balance: l, the share of the negatives
    """
    unit = unit_length(features)
    distances = euclidean_distances(unit)
    margins = (alpha - distances).clamp(min=SMALLEST_SQUARE)
    classes = torch.softmax(similarities(unit, unit_length(class_vectors).to(unit.dtype)), dim=1)
    own = classes.gather(1, labels.unsqueeze(1)).squeeze(1)
    attention = torch.minimum(own.unsqueeze(0), own.unsqueeze(1))
    positive, negative = pairs(labels)
    exponents = (-distances.square() / sigma**2).masked_fill(~positive, -torch.inf)
    # Only ratios of weights matter. Relative to the largest exponent, a small sigma cannot make all weights zero.
    largest = torch.where(positive.any(), exponents.detach().amax(), 0.0)
    scores = torch.exp(exponents - largest)
    pull = _weighted_mean(distances.square(), scores * attention, positive)
    push = _weighted_mean(margins.square(), margins * attention, negative)
    return ((1 - balance) * pull + balance * push) / 2


def _denominator(count: Tensor, form: Literal["code", "paper"], scale: Tensor | float = 1.0) -> Tensor:
    """Return the denominator; an empty sum in `paper` form is divided by 1."""
    return count + 1e-5 * scale if form == "code" else torch.where(count > 0, count, 1.0)


def _weighted_mean(values: Tensor, weights: Tensor, mask: Tensor) -> Tensor:
    weights = weights * mask
    total = weights.sum()
    return (weights * values).sum() / torch.where(total > 0, total, 1.0)
