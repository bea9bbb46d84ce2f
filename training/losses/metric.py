"""Metric losses over clip features ``[N, D]`` and person labels ``[N]``.

Batches without pairs give zero, with a gradient of zero.
"""

from typing import Literal

import torch
from torch import Tensor

from training.losses.distances import at_least_float32, euclidean_distances, pairs, similarities, unit_length

_SMALLEST, _LARGEST = 1e-12, 1e12
"""Bounds of every entry of center loss's matrix in the published code."""


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
    """Ranked list loss on L2-normalised features, Euclidean distance (Wang et al., CVPR 2019; paper A).

    For each anchor: the mean of ``max(0, d - (alpha - margin))`` over positives, plus the mean of ``alpha - d`` over
    negatives nearer than ``alpha``, weighted by ``exp(temperature * (alpha - d))``. Gradient flows through the weights.

    ``alpha`` 2 makes every negative count, since unit vectors are at most 2 apart; with ``margin`` 0.04 (paper A on
    PRID) the positive term is nearly always zero.

    Args:
        features: ``[N, D]``, of any length
        labels: int64 ``[N]``
        margin: m, between the positives' boundary and the negatives'
        alpha: the negatives' boundary, in 0..2
        temperature: T of the negatives' weights; paper A does not give it, its kin's code has 1
        balance: lambda, weight of the negatives' term; 1 likewise
        form: ``code`` divides by the number of all positives and adds 1e-5 to both denominators, as published;
            ``paper`` divides by the number of positives beyond their boundary (those not trivial), and adds nothing

    Raises:
        ValueError: for an unknown form.
    """
    if form not in ("code", "paper"):
        raise ValueError(f"unknown form {form!r}")
    distances = euclidean_distances(unit_length(features))
    positive, negative = pairs(labels)
    negative = negative & (distances < alpha)
    beyond = (distances - (alpha - margin)).clamp(min=0) * positive
    counted = positive if form == "code" else beyond > 0
    pull = beyond.sum(dim=1) / _denominator(counted.sum(dim=1).to(beyond.dtype), form)
    # Weights are taken from each anchor's largest, and so is the 1e-5 beside their sum: the same ratio, and a high
    # temperature cannot overflow.
    exponents = (temperature * (alpha - distances)).masked_fill(~negative, -torch.inf)
    largest = torch.where(negative.any(dim=1), exponents.detach().amax(dim=1), 0.0)
    weights = torch.exp(exponents - largest.unsqueeze(1))
    push = (weights * (alpha - distances)).sum(dim=1) / _denominator(weights.sum(dim=1), form, torch.exp(-largest))
    return (pull + balance * push).mean()


def batch_hard_triplet_loss(
    features: Tensor, labels: Tensor, margin: float, metric: Literal["cosine", "euclidean"] = "cosine"
) -> Tensor:
    """Batch-hard triplet loss (Hermans et al., 2017): the worst positive against the worst negative, mean over anchors.

    ``cosine``: ``max(0, margin + largest negative - smallest positive)`` similarity, as in system B's code.
    ``euclidean``: distances of features as they are, as in system C (ours: its paper names no metric).

    An anchor is among its own positives, as published. That changes nothing for a person with two clips or more; a
    person's only clip is still pushed from its nearest negative. An anchor without negatives counts as zero.

    Args:
        features: ``[N, D]``
        labels: int64 ``[N]``
        margin: in units of the metric
        metric: which of the two

    Raises:
        ValueError: for an unknown metric.
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
    # where, not a product: an infinity times zero would be NaN in the gradient.
    alone = ~negative.any(dim=1)
    return torch.where(alone, 0.0, margin + far - near.masked_fill(alone, 0.0)).clamp(min=0).mean()


def center_loss(
    features: Tensor, labels: Tensor, centers: Tensor, *, form: Literal["code", "paper"] = "code"
) -> Tensor:
    """Squared distances ``||f - c_y||^2`` of features to their class centers (Wen et al., 2016).

    Args:
        features: ``[N, D]``, as they are
        labels: int64 ``[N]``
        centers: ``[K, D]``; rows that no label names only add their constant
        form: ``code``: their mean over the batch, each kept within 1e-12..1e12, plus the 1e-12 that the published code
            (systems A and B, Luo et al.) gives each of the other ``K - 1`` classes. ``paper``: half of their sum
            (paper A; Wen et al., equation 2)

    Raises:
        ValueError: for an unknown form.
    """
    squares = (at_least_float32(features) - at_least_float32(centers)[labels]).square().sum(dim=1)
    if form == "code":
        return squares.clamp(_SMALLEST, _LARGEST).mean() + (len(centers) - 1) * _SMALLEST
    if form == "paper":
        return squares.sum() / 2
    raise ValueError(f"unknown form {form!r}")


def _denominator(count: Tensor, form: Literal["code", "paper"], scale: Tensor | float = 1.0) -> Tensor:
    """``paper``: a sum over nothing is zero, whatever it is divided by."""
    return count + 1e-5 * scale if form == "code" else torch.where(count > 0, count, 1.0)
