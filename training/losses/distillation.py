"""Losses that bring features near those of a teacher, another network's features of the same crops."""

from torch import Tensor

from training.losses.distances import similarities, unit_length

__all__ = ["distillation_loss", "relation_loss"]


def distillation_loss(features: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean of one minus the cosine of each feature to its teacher's: `[N, D]` both.

    Raises:
        ValueError: The two have different lengths.
    """
    if features.shape != teacher.shape:
        raise ValueError(
            f"distillation needs features of the teacher's length (got {features.shape[1]} and {teacher.shape[1]}): "
            f"set network.embedding = {teacher.shape[1]}"
        )
    return (1 - (unit_length(features) * unit_length(teacher)).sum(dim=1)).mean()


def relation_loss(features: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean squared difference of the two matrices of cosines over a batch, without their diagonals.

    How alike two crops are is what a gallery ranks by; it can be learned whatever the features' lengths are (relational
    knowledge distillation, Park et al., CVPR 2019).

    Args:
        features: `[N, D]`
        teacher: `[N, E]`, of the same crops
    """
    one, other = (similarities(unit, unit) for unit in (unit_length(features), unit_length(teacher)))
    difference = (one - other).square()
    count = len(features)
    return (difference.sum() - difference.diagonal().sum()) / max(count * (count - 1), 1)
