"""How the frames of a clip become one feature, by the name that :class:`NetworkSpec` gives it.

``full_map``, ``pooled``
    A convolutional attention gives one logit ``a`` per frame (ReLU, as in the published code of systems A and B), and
    the pooled frame features are weighed with ``softmax(a)`` over the clip, summed. Paper A's equation 1 has a further
    1/T that its code does not; BatchNorm absorbs the scale in training, and published weights need the sum.
``mean``, ``max``
    Average and maximum pooling over time, the baselines of Gao & Nevatia (2018).
``sta``
    System C: the energy of the map weighs each horizontal stripe of each frame; nothing is learned.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class AttentionConv(nn.Conv2d):
    """The spatial attention: a convolution over a frame's map, to one vector per frame.

    ``full_map``: the kernel is the whole map (system A: [14, 7], 2048 to 256 channels, 51 million weights).
    ``pooled``: a 1x1 kernel, then ReLU and the mean over the map: any frame size, and far fewer weights.
    """

    def __init__(self, channels: int, out: int, kernel: tuple[int, int] | None) -> None:
        super().__init__(channels, out, kernel or 1)
        self.pooled = kernel is None
        nn.init.kaiming_normal_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``[N, C, H, W]`` to ``[N, out]``, not negative."""
        if not self.pooled and x.shape[-2:] != self.kernel_size:
            raise ValueError(
                f"the attention's kernel {list(self.kernel_size)} must be the whole map, {list(x.shape[-2:])}; "
                "[14, 7] belongs to frames of 224x112"
            )
        x = F.relu(super().forward(x))
        return x.mean(dim=(2, 3)) if self.pooled else x.flatten(1)


class TemporalAttention(nn.Conv1d):
    """The temporal attention: a convolution of width 3 over the frames of a clip, to one logit per frame."""

    def __init__(self, channels: int, bias: float = 0.0) -> None:
        super().__init__(channels, 1, 3, padding=1)
        nn.init.kaiming_normal_(self.weight)
        if self.bias is not None:
            nn.init.constant_(self.bias, bias)

    def forward(self, x: Tensor) -> Tensor:
        """Frame vectors ``[N, T, C]`` to logits ``[N, T]``, not negative."""
        return F.relu(super().forward(x.transpose(1, 2))).squeeze(1)


def weigh_frames(features: Tensor, logits: Tensor) -> Tensor:
    """Clip features ``[N, C]`` from frame features ``[N, T, C]`` and logits ``[N, T]``: softmax over T, summed."""
    return (features * torch.softmax(logits, dim=1).unsqueeze(2)).sum(dim=1)


def stripe_scores(maps: Tensor, stripes: int) -> Tensor:
    """System C's ``S(n, m)``: what each frame counts in each horizontal stripe, ``[N, T, stripes]``, sum 1 over T.

    Paper C: the energy of a cell is the sum of squares over its channels, divided by that of the whole frame, which
    leaves an attention map; a stripe's share of it is divided by the same stripe's of all frames. (The STA program
    that this was compared with takes the root of the energy and an L2 norm instead.) A map whose rows the stripes do
    not divide gives some of them a row more.

    Args:
        maps: ``[N, T, C, H, W]``
        stripes: M, at most H
    """
    # Half precision overflows at the square of 256; the small terms keep maps of zeros from 0 / 0.
    wide = maps.to(torch.promote_types(maps.dtype, torch.float32))
    energy = wide.square().sum(dim=2).sum(dim=3)
    attention = energy / (energy.sum(dim=2, keepdim=True) + 1e-12)
    shares = _sum_stripes(attention, stripes) + 1e-12
    return shares / shares.sum(dim=1, keepdim=True)


def weigh_stripes(maps: Tensor, scores: Tensor) -> Tensor:
    """Clip features ``[N, C]``: maps ``[N, T, C, H, W]`` weighed by scores ``[N, T, M]``; sum over T, mean over cells.

    Paper C does not say whether frames are summed or averaged: they differ by the constant T.
    """
    parts = _sum_stripes(maps.mean(dim=4), scores.shape[2]) / maps.shape[3]
    return (parts * scores.unsqueeze(2)).sum(dim=(1, 3))


def _sum_stripes(rows: Tensor, stripes: int) -> Tensor:
    """``[..., H]`` to ``[..., stripes]``; the stripes' numbers of rows differ by one at most."""
    height = rows.shape[-1]
    edges = [round(height * part / stripes) for part in range(stripes + 1)]
    return torch.stack([rows[..., top:bottom].sum(dim=-1) for top, bottom in pairwise(edges)], dim=-1)
