"""Classification losses over person ids."""

import torch
from torch import Tensor

from training.losses.distances import at_least_float32


def label_smoothing_loss(logits: Tensor, labels: Tensor, epsilon: float = 0.1) -> Tensor:
    """Cross-entropy with label smoothing (paper A, equation 4): the target is ``(1 - eps) * onehot + eps / K``.

    Args:
        logits: ``[N, K]``
        labels: int64 ``[N]``
        epsilon: mass spread over all K classes, the right one included. K is the number of classes, where the code of
            system A's kin takes the number of clips in the batch, so that its targets do not sum to 1
    """
    log_probabilities = torch.log_softmax(at_least_float32(logits), dim=1)
    right = log_probabilities.gather(1, labels.unsqueeze(1)).squeeze(1)
    return -((1 - epsilon) * right + epsilon * log_probabilities.mean(dim=1)).mean()
