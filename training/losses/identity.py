"""Classification losses over person ids."""

import torch
from torch import Tensor


def label_smoothing_loss(logits: Tensor, labels: Tensor, epsilon: float = 0.1) -> Tensor:
    """Cross-entropy with label smoothing (paper A, equation 4): the target is ``(1 - eps) * onehot + eps / K``.

    Args:
        logits: ``[N, K]``
        labels: int64 ``[N]``
        epsilon: mass spread over all K classes, the right one included
    """
    log_probabilities = torch.log_softmax(logits.float() if logits.dtype != torch.float64 else logits, dim=1)
    right = log_probabilities.gather(1, labels.unsqueeze(1)).squeeze(1)
    return -((1 - epsilon) * right + epsilon * log_probabilities.mean(dim=1)).mean()
