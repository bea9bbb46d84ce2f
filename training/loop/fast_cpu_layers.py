"""Layers that train faster on a CPU, with the parameters, names and results of the plain layers."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.network.attention import AttentionConv
from model.network.backbone import IBN


def use_fast_cpu_layers(network: nn.Module) -> None:
    """Replace the layers of a network by their faster forms, in place, for training on a CPU.

    Parameters, buffers and their names do not change. In eval mode the layers compute the plain form.
    """
    for layer in network.modules():
        if type(layer) is IBN:
            layer.__class__ = FastIBN
        elif type(layer) is AttentionConv:
            layer.__class__ = FastAttentionConv


class FastIBN(IBN):
    """IBN-a that keeps channels-last memory in training.

    PyTorch's instance normalisation converts the map to NCHW and back, in both passes, and the layers around it then
    work on mixed layouts. Here the channels of each frame become channels of their own, `[1, N * C, H * W, 1]` in
    channels-last memory, which the batch normalisation kernel takes without a conversion.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `[N, C, H, W]`; the shape does not change."""
        norm = self.BN
        # With several processes, `norm` is a layer that shares its statistics between them.
        if not self.training or type(norm) is not nn.BatchNorm2d:
            return super().forward(x)
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked.add_(1)
        result: Tensor = _InstanceBatch.apply(
            x, self.IN.weight, self.IN.bias, norm.weight, norm.bias, self.IN.eps, norm
        )
        return result


class FastAttentionConv(AttentionConv):
    """The spatial attention over a full map as a matrix product, in training.

    A convolution reorders its 51 million weights and their gradient in every step.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Compute `[N, out]`, not negative, from maps `[N, C, H, W]`."""
        if self.pooled or not self.training or x.shape[-2:] != self.kernel_size:
            return super().forward(x)
        # In channels-last memory, both are views.
        flat, weight = (tensor.permute(0, 2, 3, 1).flatten(1) for tensor in (x, self.weight))
        return F.relu(F.linear(flat, weight, self.bias))


class _InstanceBatch(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        scale: Tensor,
        shift: Tensor,
        weight: Tensor,
        bias: Tensor,
        eps: float,
        norm: nn.BatchNorm2d,
    ) -> Tensor:
        frames = len(x)
        first, second = _split(x, len(scale))
        scales = scale.repeat(frames)
        first_out, *first_stats = torch.native_batch_norm(
            first, scales, shift.repeat(frames), None, None, True, 0.0, eps
        )
        second_out, *second_stats = torch.native_batch_norm(
            second, weight, bias, norm.running_mean, norm.running_var, True, norm.momentum or 0.0, norm.eps
        )
        ctx.save_for_backward(first, second, scales, weight, *first_stats, *second_stats)
        ctx.eps = eps, norm.eps
        return _join(first_out, second_out, x.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        first, second, scales, weight, *stats = ctx.saved_tensors
        shape = gradients[0].shape
        back = torch.ops.aten.native_batch_norm_backward
        first_back, second_back = _split(gradients[0], len(scales) // shape[0])
        first_back, scale, shift = back(
            first_back, first, scales, None, None, *stats[:2], True, ctx.eps[0], [True, True, True]
        )
        second_back, weight, bias = back(
            second_back, second, weight, None, None, *stats[2:], True, ctx.eps[1], [True, True, True]
        )
        per_frame = [v.view(shape[0], -1).sum(dim=0) for v in (scale, shift)]
        return _join(first_back, second_back, shape), *per_frame, weight, bias, None, None


def _split(x: Tensor, channels: int) -> tuple[Tensor, Tensor]:
    """Return the first channels as `[1, N * channels, H * W, 1]` and the others as they are, both channels-last."""
    rows = x.permute(2, 3, 0, 1)
    first = rows[..., :channels].reshape(1, x.shape[2] * x.shape[3], 1, -1).permute(0, 3, 1, 2)
    return first, x[:, channels:].contiguous(memory_format=torch.channels_last)


def _join(first: Tensor, second: Tensor, shape: torch.Size) -> Tensor:
    """Reverse `_split`."""
    count, _, height, width = shape
    out = torch.empty(shape, dtype=first.dtype, device=first.device, memory_format=torch.channels_last)
    channels = shape[1] - second.shape[1]
    out[:, :channels] = first.permute(0, 2, 3, 1).reshape(height, width, count, channels).permute(2, 3, 0, 1)
    out[:, channels:] = second
    return out
