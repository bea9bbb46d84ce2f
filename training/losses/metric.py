"""Metric losses over clip features ``[N, D]`` and person labels ``[N]``.

All work in at least float32 whatever autocast gives them, and answer zero, with a gradient, for batches without pairs.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F


def ranked_list_loss(
    features: Tensor, labels: Tensor, *, margin: float = 1.3, alpha: float = 2.0, temperature: float = 1.0
) -> Tensor:
    """Ranked list loss on L2-normalised features, Euclidean distance (Wang et al., CVPR 2019; paper A).

    For each anchor: the mean over all positives of ``max(0, d - (alpha - margin))``, plus the mean of ``alpha - d``
    over negatives nearer than ``alpha``, weighted by ``exp(temperature * (alpha - d))``. Gradient flows through the
    weights. As in the published code, which divides by all positives where the paper says those that are not trivial;
    the paper gives neither temperature nor weights.

    ``alpha`` 2 makes every negative count, since unit vectors are at most 2 apart; with ``margin`` 0.04 (paper A on
    PRID) the positive term is nearly always zero.
    """
    distances = _euclidean(_unit(features))
    same = labels.unsqueeze(0) == labels.unsqueeze(1)
    positive = same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    negative = ~same & (distances < alpha)
    pull = (distances - (alpha - margin)).clamp(min=0) * positive
    pull = pull.sum(dim=1) / (positive.sum(dim=1).to(pull.dtype) + 1e-5)
    weights = torch.exp(temperature * (alpha - distances)) * negative
    push = (weights * (alpha - distances)).sum(dim=1) / (weights.sum(dim=1) + 1e-5)
    return (pull + push).mean()


def batch_hard_triplet_loss(
    features: Tensor, labels: Tensor, margin: float, metric: Literal["cosine", "euclidean"] = "cosine"
) -> Tensor:
    """Batch-hard triplet loss (Hermans et al., 2017): farthest positive against nearest negative of each anchor.

    ``cosine``: ``max(0, margin + hardest negative - hardest positive)`` similarity, as in system B's code.
    ``euclidean``: distances of un-normalised features, as in system C. Anchors without a positive or a negative are
    left out.
    """
    same = labels.unsqueeze(0) == labels.unsqueeze(1)
    positive = same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    if metric == "cosine":
        unit = _unit(features)
        distances = -_products(unit)
    elif metric == "euclidean":
        distances = _euclidean(_wide(features))
    else:
        raise ValueError(f"unknown metric {metric!r}")
    far = distances.masked_fill(~positive, -torch.inf).amax(dim=1)
    near = distances.masked_fill(same, torch.inf).amin(dim=1)
    usable = positive.any(dim=1) & (~same).any(dim=1)
    # where, not a product: an infinity times zero would be NaN in the gradient.
    losses = torch.where(usable, margin + torch.where(usable, far - near, 0.0), 0.0).clamp(min=0)
    return losses.sum() / usable.sum().clamp(min=1) if bool(usable.any()) else _wide(features).sum() * 0.0


def center_loss(features: Tensor, labels: Tensor, centers: Tensor) -> Tensor:
    """Mean squared distance ``||f - c_y||^2`` of features ``[N, D]`` to their class centers ``[K, D]`` (Wen et al.,
    2016).

    As in the code of systems A and B and of Luo et al.: a mean over the batch, without the paper's factor of one half.
    """
    return (_wide(features) - _wide(centers)[labels]).square().sum(dim=1).mean()


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _unit(x: Tensor) -> Tensor:
    return F.normalize(_wide(x), dim=1, eps=1e-12)


def _euclidean(x: Tensor) -> Tensor:
    """Distances ``[N, N]``; squares are kept from zero, where the square root has no gradient."""
    squares = x.square().sum(dim=1)
    return (squares.unsqueeze(0) + squares.unsqueeze(1) - 2 * _products(x)).clamp(min=1e-12).sqrt()


def _products(x: Tensor) -> Tensor:
    """Inner products ``[N, N]`` in the precision of ``x``, which autocast would lower."""
    with torch.autocast(x.device.type, enabled=False):
        return x @ x.T
