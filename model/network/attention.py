"""How the frames of a clip become one feature: spatial-temporal attention, or their mean.

Both attention forms give one logit ``a`` per frame (ReLU, as in the published code) and weigh the pooled frame features
with ``softmax(a)`` over the clip, summed. Paper A's equation 1 has a further 1/T that its code does not; BatchNorm
absorbs the scale in training, and published weights need the sum.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.network.spec import NetworkSpec


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


def map_size(spec: NetworkSpec) -> tuple[int, int]:
    """Height and width of the trunk's map for a network's frame size: four halvings, each rounded up."""
    return -(-spec.frame_height // 16), -(-spec.frame_width // 16)


def weigh_frames(features: Tensor, logits: Tensor | None) -> Tensor:
    """Clip features ``[N, C]`` from frame features ``[N, T, C]`` and logits ``[N, T]``; their mean without logits."""
    if logits is None:
        return features.mean(dim=1)
    return (features * torch.softmax(logits, dim=1).unsqueeze(2)).sum(dim=1)
