"""3x3 convolutions by Winograd's F(2x2, 3x3), for maps so small that the transforms are matrix products too.

Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016: a tile of 2x2 outputs takes 16 products
instead of 36. With the map's cells as the rows of a matrix ``[H * W, N * C]``, both transforms of all tiles are one
product with a constant matrix, and forward, gradient of the input and gradient of the weights are batched products of
16. In the last stages of the trunks here the direct kernels already run at the CPU's peak, so fewer products are the
only way to be faster. In bfloat16 the error is about twice that of the direct kernel; in float64 there is none.
"""

from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

_INPUT = ((1.0, 0.0, -1.0, 0.0), (0.0, 1.0, 1.0, 0.0), (0.0, -1.0, 1.0, 0.0), (0.0, 1.0, 0.0, -1.0))
_WEIGHT = ((1.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0.0, 0.0, 1.0))
_OUTPUT = ((1.0, 1.0, 1.0, 0.0), (0.0, 1.0, -1.0, -1.0))
_GAIN = 1.1
"""Winograd has to save at least this factor of the products: its intermediate results take time as well."""


class _Transforms(NamedTuple):
    """Constant matrices, each with its transpose, for one map size; B is the number of tiles."""

    input: Tensor
    """``[16 * B, H * W]``"""
    output: Tensor
    """``[H * W, 16 * B]``"""
    weight: Tensor
    """``[16, 9]``"""
    input_back: Tensor
    output_back: Tensor
    weight_back: Tensor


class WinogradConv2d(nn.Conv2d):
    """A 3x3 convolution of stride 1 and padding 1 without bias; the fast form in training under autocast only."""

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, H, W]`` to ``[N, K, H, W]``."""
        device = x.device.type
        if not (self.training and torch.is_autocast_enabled(device) and pays(self.weight, *x.shape[2:])):
            return super().forward(x)
        result: Tensor = winograd(x, self.weight, torch.get_autocast_dtype(device))
        return result


def suits(layer: nn.Module) -> bool:
    """Whether a layer is a convolution of the kind that :class:`WinogradConv2d` computes."""
    return type(layer) is nn.Conv2d and (
        (layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.groups, layer.bias)
        == ((3, 3), (1, 1), (1, 1), (1, 1), 1, None)
    )


def pays(weight: Tensor, height: int, width: int) -> bool:
    """Whether Winograd with weights ``[K, C, 3, 3]`` takes clearly fewer products than the direct form on a map."""
    out, channels = weight.shape[:2]
    cells = height * width
    products = 16 * (-(-height // 2)) * (-(-width // 2))
    # Direct kernels leave out the taps that fall on the padding.
    direct = (3 * height - 2) * (3 * width - 2) * channels * out
    return _GAIN * products * (cells * (channels + out) + channels * out) < direct


def winograd(x: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
    """The convolution of maps ``[N, C, H, W]`` with weights ``[K, C, 3, 3]``, computed in ``dtype``."""
    result: Tensor = _Winograd.apply(x, weight, dtype)
    return result


class _Winograd(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
        (count, channels, height, width), out = x.shape, len(weight)
        by = _transforms(height, width, dtype)
        w = (by.weight @ weight.to(dtype).permute(2, 3, 0, 1).reshape(9, -1)).view(16, out, channels)
        v = (by.input @ _rows(x.to(dtype))).view(16, -1, channels)
        y = by.output @ torch.bmm(v, w.transpose(1, 2)).view(-1, count * out)
        ctx.save_for_backward(v, w)
        ctx.about = x.shape, x.dtype, weight.dtype
        return _map(y, count, height, width, dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        (v, w), (shape, dtype, weight_dtype) = ctx.saved_tensors, ctx.about
        (count, channels, height, width), out = shape, w.shape[1]
        by = _transforms(height, width, v.dtype)
        g = (by.output_back @ _rows(gradients[0].to(v.dtype))).view(16, -1, out)
        x_gradient = by.input_back @ torch.bmm(g, w).view(-1, count * channels)
        w_gradient = by.weight_back @ torch.bmm(g.transpose(1, 2), v).view(16, -1)
        weight = torch.empty(
            (out, channels, 3, 3), dtype=weight_dtype, device=v.device, memory_format=torch.channels_last
        )
        weight.copy_(w_gradient.view(3, 3, out, channels).permute(2, 3, 0, 1))
        return _map(x_gradient, count, height, width, dtype), weight, None


def _rows(x: Tensor) -> Tensor:
    """``[N, C, H, W]`` to ``[H * W, N * C]``."""
    return x.permute(2, 3, 0, 1).reshape(x.shape[2] * x.shape[3], -1)


def _map(rows: Tensor, count: int, height: int, width: int, dtype: torch.dtype) -> Tensor:
    """The opposite of :func:`_rows`, in channels-last memory, as the layers around expect it."""
    maps = rows.view(height, width, count, -1).permute(2, 3, 0, 1)
    return torch.empty(maps.shape, dtype=dtype, device=rows.device, memory_format=torch.channels_last).copy_(maps)


@cache
def _transforms(height: int, width: int, dtype: torch.dtype) -> _Transforms:
    (down, up), (across, back) = _axis(height), _axis(width)
    g = torch.tensor(_WEIGHT)
    matrices = [
        torch.einsum("aiy,bjx->abijyx", down, across).reshape(-1, height * width),
        torch.einsum("yai,xbj->yxabij", up, back).reshape(height * width, -1),
        torch.einsum("ay,bx->abyx", g, g).reshape(16, 9),
    ]
    # Zeros, ones, halves and quarters: exact in every dtype.
    return _Transforms(*(m.to(dtype).contiguous() for m in [*matrices, *(m.t() for m in matrices)]))


def _axis(size: int) -> tuple[Tensor, Tensor]:
    """Along one axis: from ``size`` cells to 4 values of each tile, ``[4, tiles, size]``; back: ``[size, 4, tiles]``.

    The zeros around the map, and beyond the end of an odd one, are columns that are left out.
    """
    tiles = -(-size // 2)
    there, back = torch.zeros(4, tiles, 2 * tiles + 2), torch.zeros(2 * tiles, 4, tiles)
    for tile in range(tiles):
        there[:, tile, 2 * tile : 2 * tile + 4] = torch.tensor(_INPUT)
        back[2 * tile : 2 * tile + 2, :, tile] = torch.tensor(_OUTPUT)
    return there[:, :, 1 : size + 1], back[:size]
