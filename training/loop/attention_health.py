"""Whether the temporal attention still tells frames apart.

Its logits come out of a ReLU (as in the published code of systems A and B). Once all of a clip's are zero, no gradient
flows through them and the clip's feature is a plain mean; the erasing-attention loss on logits pushes them there.
"""

import math

import torch
from torch import Tensor

DEAD_SHARE = 0.5
"""Share of clips without any attention from which a run is warned."""
ENTROPY = 0.999
"""Entropy of the weights, relative to log T, from which they are as good as equal."""


def attention_health(logits: Tensor) -> dict[str, Tensor]:
    """Figures of ReLU logits ``[N, T]``: ``dead_attention``, the share of clips whose logits are all zero, and
    ``attention_entropy``, the mean entropy of their softmax over log T, 1 where all frames weigh the same.

    Clips of one frame have nothing to weigh: no figures.
    """
    length = logits.shape[1]
    if length == 1:
        return {}
    logs = torch.log_softmax(logits.detach().float(), dim=1)
    entropy = -(logs.exp() * logs).sum(dim=1) / math.log(length)
    return {
        "dead_attention": (logits.detach() == 0).all(dim=1).float().mean(),
        "attention_entropy": entropy.mean(),
    }


def attention_warning(figures: dict[str, float]) -> str | None:
    """What to say about an epoch's mean figures, and what to do; ``None`` where the attention lives."""
    dead, entropy = figures.get("dead_attention"), figures.get("attention_entropy")
    if dead is None or entropy is None or (dead < DEAD_SHARE and entropy < ENTROPY):
        return None
    found = (
        f"{100 * dead:.0f} % of the clips have all-zero logits"
        if dead >= DEAD_SHARE
        else f"the weights' entropy is {entropy:.4f} of log T"
    )
    return (
        f"The attention is dead: {found}, so that clips are plain means of their frames. Start again with "
        'network.attention_bias = 1.0 and, where erasing_attention is used, losses.erasing_attention_form = "scores".'
    )
