"""The erasing-attention loss: erased frames should get little attention."""

from typing import Literal

import torch
from torch import Tensor

from training.losses.distances import at_least_float32


def erasing_attention_loss(attention: Tensor, erased: Tensor, form: Literal["logits", "scores"] = "logits") -> Tensor:
    """Penalises attention on erased frames.

    ``logits``: the sum over a clip of the ReLU logits of erased frames, as in the published code of systems A and B.
    ``scores``: the mean over T of their softmax scores, as in paper A, equation 12.

    Args:
        attention: ReLU logits ``[N, T]`` before the softmax
        erased: ``[N, T]``, true or 1 where the frame was erased
        form: which of the two

    Raises:
        ValueError: for an unknown form.
    """
    wide = at_least_float32(attention)
    mask = erased.to(wide.dtype)
    if form == "logits":
        return (mask * wide).sum(dim=1).mean()
    if form == "scores":
        return (mask * torch.softmax(wide, dim=1)).mean()
    raise ValueError(f"unknown form {form!r}")
