"""How the frames of a clip become one feature, by the name in `NetworkSpec`.

`full_map`, `pooled`
    A convolutional attention gives one logit `a` per frame (after a ReLU, as in the published code of not3d and
    fantastic). The feature of the clip is the sum of the pooled frame features, weighted by `softmax(a)` over the clip.
    Equation 1 of the not3d paper has a further 1/T, which its code lacks. BatchNorm absorbs the scale in training, and
    published weights need the sum.
`mean`, `max`
    Average and maximum pooling over time, the baselines of Gao & Nevatia (2018).
`sta`
    aas_rfu: the energy of the map weights each horizontal stripe of each frame, without parameters.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class AttentionConv(nn.Conv2d):
    """The spatial attention: a convolution over the map of a frame, to one vector per frame.

    `full_map`: the kernel is as large as the map (not3d: [14, 7], 2048 to 256 channels, 51 million weights).
    `pooled`: a 1x1 kernel, then ReLU and the mean over the map, for any frame size and with far fewer weights.
    """

    def __init__(self, channels: int, out: int, kernel: tuple[int, int] | None) -> None:
        super().__init__(channels, out, kernel or 1)
        self.pooled = kernel is None

    def initialise(self) -> None:
        """Draw the initial weights of not3d and fantastic, instead of those of the layer."""
        nn.init.kaiming_normal_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Compute `[N, out]`, not negative, from maps `[N, C, H, W]`."""
        if not self.pooled and x.shape[-2:] != self.kernel_size:
            raise ValueError(
                f"the map must have the size of the attention kernel, {list(self.kernel_size)} "
                f"(got {list(x.shape[-2:])}); [14, 7] is for frames of 224x112"
            )
        x = F.relu(super().forward(x))
        return x.mean(dim=(2, 3)) if self.pooled else x.flatten(1)


class TemporalAttention(nn.Conv1d):
    """The temporal attention: a convolution of width 3 over the frames of a clip, to one logit per frame."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, 1, 3, padding=1)

    def initialise(self, bias: float = 0.0) -> None:
        """Draw the initial weights of not3d and fantastic, instead of those of the layer."""
        nn.init.kaiming_normal_(self.weight)
        if self.bias is not None:
            nn.init.constant_(self.bias, bias)

    def forward(self, x: Tensor) -> Tensor:
        """Compute logits `[N, T]`, not negative, from frame vectors `[N, T, C]`."""
        return F.relu(super().forward(x.transpose(1, 2))).squeeze(1)


def weight_frames(features: Tensor, logits: Tensor) -> Tensor:
    """Return clip features `[N, C]`: frame features `[N, T, C]` weighted by the softmax of logits `[N, T]`."""
    return (features * torch.softmax(logits, dim=1).unsqueeze(2)).sum(dim=1)


def stripe_scores(maps: Tensor, stripes: int) -> Tensor:
    """Return the weight of each frame in each horizontal stripe, `S(n, m)` of aas_rfu.

    The energy of a cell is the sum of squares over its channels, divided by the energy of the frame; the result is an
    attention map. The share of a stripe is divided by the sum of the shares of this stripe over all frames. (The STA
    program that we compared with takes the root of the energy and an L2 norm instead.) If the stripes do not divide
    the rows of the map, some stripes have one more row.

    Args:
        maps: `[N, T, C, H, W]`
        stripes: M, at most H

    Returns:
        `[N, T, M]`, with sum 1 over T.
    """
    # Half precision overflows at the square of 256. The small terms avoid 0 / 0 for maps of zeros.
    wide = maps.to(torch.promote_types(maps.dtype, torch.float32))
    energy = wide.square().sum(dim=2).sum(dim=3)
    attention = energy / (energy.sum(dim=2, keepdim=True) + 1e-12)
    shares = _sum_stripes(attention, stripes) + 1e-12
    return shares / shares.sum(dim=1, keepdim=True)


def weight_stripes(maps: Tensor, scores: Tensor) -> Tensor:
    """Return clip features `[N, C]`: maps `[N, T, C, H, W]` weighted by scores `[N, T, M]`.

    Sums over T and averages over cells. The aas_rfu paper does not state whether frames are summed or averaged; the
    results differ by the factor T.
    """
    parts = _sum_stripes(maps.mean(dim=4), scores.shape[2]) / maps.shape[3]
    return (parts * scores.unsqueeze(2)).sum(dim=(1, 3))


def _sum_stripes(rows: Tensor, stripes: int) -> Tensor:
    """Sum `[..., H]` to `[..., stripes]`; the numbers of rows of two stripes differ by at most one."""
    height = rows.shape[-1]
    edges = [round(height * part / stripes) for part in range(stripes + 1)]
    return torch.stack([rows[..., top:bottom].sum(dim=-1) for top, bottom in pairwise(edges)], dim=-1)
