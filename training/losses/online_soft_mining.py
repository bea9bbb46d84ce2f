"""Online soft mining with class-aware attention: every pair of a batch, weighted by how telling it is."""

import torch
from torch import Tensor

from training.losses.distances import euclidean_distances, pairs, similarities, unit_length

_SMALLEST = 1e-12


def osm_caa_loss(
    features: Tensor,
    labels: Tensor,
    class_vectors: Tensor,
    *,
    sigma: float = 0.8,
    alpha: float = 1.2,
    balance: float = 0.5,
) -> Tensor:
    """OSM-CAA loss (Wang et al., AAAI 2019), as in system B's code.

    With unit features, ``d`` their Euclidean distances and ``h = max(alpha - d, 1e-12)``: a pair's mining score ``s``
    is ``exp(-d^2 / sigma^2)`` for the same person and ``h`` for others. A clip's attention is the softmax, over all
    classes, of its cosine to the class vectors, taken at its own class; a pair's is the smaller of its two. The loss
    is ``(1 - balance) * mean(d^2) / 2`` over pairs of the same person plus ``balance * mean(h^2) / 2`` over the others,
    both means weighted by score times attention. Gradient flows through the weights; the temperature that the original
    gives the softmax is left out, as in system B's code.

    Where a batch has no pairs of the same person, or none of others, that mean is zero (the published code: NaN).

    Args:
        features: ``[N, D]``, of any length
        labels: int64 ``[N]``, below K
        class_vectors: ``[K, D]``, of any length: the classifier's weights, or the centers of center loss ("CL")
        sigma: width of the positives' scores
        alpha: distance beyond which a negative hardly counts
        balance: l, the negatives' share
    """
    unit = unit_length(features)
    distances = euclidean_distances(unit)
    margins = (alpha - distances).clamp(min=_SMALLEST)
    classes = torch.softmax(similarities(unit, unit_length(class_vectors).to(unit.dtype)), dim=1)
    own = classes.gather(1, labels.unsqueeze(1)).squeeze(1)
    attention = torch.minimum(own.unsqueeze(0), own.unsqueeze(1))
    positive, negative = pairs(labels)
    exponents = (-distances.square() / sigma**2).masked_fill(~positive, -torch.inf)
    # Only ratios of weights matter: taken from the largest exponent, a small sigma cannot make all of them zero.
    largest = torch.where(positive.any(), exponents.detach().amax(), 0.0)
    scores = torch.exp(exponents - largest)
    pull = _weighted_mean(distances.square(), scores * attention, positive)
    push = _weighted_mean(margins.square(), margins * attention, negative)
    return ((1 - balance) * pull + balance * push) / 2


def _weighted_mean(values: Tensor, weights: Tensor, mask: Tensor) -> Tensor:
    weights = weights * mask
    total = weights.sum()
    return (weights * values).sum() / torch.where(total > 0, total, 1.0)
