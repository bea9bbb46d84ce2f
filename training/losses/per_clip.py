"""Losses of each clip alone: its identity, and its attention on erased frames."""

from typing import Literal

import torch
from torch import Tensor

from training.losses.distances import at_least_float32


def label_smoothing_loss(logits: Tensor, labels: Tensor, epsilon: float = 0.1) -> Tensor:
    """Return the cross-entropy with label smoothing (not3d, equation 4): the target is `(1 - eps) * onehot + eps / K`.

    K is the number of classes. The later code of the author of not3d takes the number of clips in the batch instead,
    so that its targets do not sum to 1.

    Args:
        logits: `[N, K]`
        labels: int64 `[N]`
        epsilon: mass that is spread over all K classes, including the correct one
    """
    log_probabilities = torch.log_softmax(at_least_float32(logits), dim=1)
    right = log_probabilities.gather(1, labels.unsqueeze(1)).squeeze(1)
    return -((1 - epsilon) * right + epsilon * log_probabilities.mean(dim=1)).mean()


def erasing_attention_loss(attention: Tensor, erased: Tensor, form: Literal["logits", "scores"] = "logits") -> Tensor:
    """Penalise attention on erased frames.

    `logits`: the sum of the ReLU logits of the erased frames of a clip, as in the published code of not3d and
    fantastic. `scores`: the mean over T of their softmax scores, as in the not3d paper, equation 12.

    Args:
        attention: ReLU logits `[N, T]` before the softmax
        erased: `[N, T]`, true or 1 if the frame was erased
        form: which of the two

    Raises:
        ValueError: the form is unknown.
    """
    wide = at_least_float32(attention)
    mask = erased.to(wide.dtype)
    if form == "logits":
        return (mask * wide).sum(dim=1).mean()
    if form == "scores":
        return (mask * torch.softmax(wide, dim=1)).mean()
    raise ValueError(f"unknown form {form!r}")
