"""3x3 convolutions by Winograd's algorithm, for maps so small that its transforms are matrix products too.

Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016: a tile of 2x2 outputs takes 16 products
instead of 36, one of 4x2 takes 24 instead of 72. With the map's cells as the rows of a matrix ``[H * W, N * C]``, both
transforms of all tiles are one product with a constant matrix, and forward, gradient of the input and gradient of the
weights are batched products. In the last stages of the trunks here the direct kernels already run at the CPU's peak, so
that only fewer products are faster. In bfloat16 the error is three times that of the direct kernel, just under 1% of a
result's norm; in float64 there is none to speak of.
"""

import math
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

_POINTS = {2: (0.0, 1.0, -1.0), 4: (0.0, 0.75, -0.75, 1.5, -1.5)}
"""Where polynomials are evaluated, by the outputs of a tile along an axis; infinity comes with them. Those of 4 err
least among the sets whose matrices bfloat16 holds exactly. (Tiles of 4 along both axes would err five times as much as
the direct kernel.)"""
_GAIN = 1.1
"""Winograd has to save at least this factor of the products: its intermediate results take time as well."""


class _Transforms(NamedTuple):
    """Constant matrices for one map size, with B tiles of P products each."""

    input: Tensor
    """``[P * B, H * W]``"""
    output: Tensor
    """``[H * W, P * B]``"""
    weight: Tensor
    """``[P, 9]``, float64"""
    products: int
    """P"""


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
    tiles = [(-(-size // tile), tile + 2) for size, tile in ((height, _tile(height)), (width, 2))]
    products = tiles[0][0] * tiles[0][1] * tiles[1][0] * tiles[1][1]
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
        # In the weights' own type: these coefficients are thirds and the like.
        w = by.weight.to(weight.dtype) @ weight.permute(2, 3, 0, 1).reshape(9, -1)
        w = w.to(dtype).view(by.products, out, channels)
        v = (by.input @ _rows(x.to(dtype))).view(by.products, -1, channels)
        y = by.output @ torch.bmm(v, w.transpose(1, 2)).view(-1, count * out)
        ctx.save_for_backward(v, w)
        ctx.about = x.shape, x.dtype, weight.dtype
        return _map(y, count, height, width, dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        (v, w), (shape, dtype, weight_dtype) = ctx.saved_tensors, ctx.about
        (count, channels, height, width), out = shape, w.shape[1]
        by = _transforms(height, width, v.dtype)
        g = (by.output.t() @ _rows(gradients[0].to(v.dtype))).view(by.products, -1, out)
        x_gradient = by.input.t() @ torch.bmm(g, w).view(-1, count * channels)
        w_gradient = torch.bmm(g.transpose(1, 2), v).view(by.products, -1).to(weight_dtype)
        w_gradient = by.weight.t().to(weight_dtype) @ w_gradient
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
    (down, up, g), (across, back, h) = _axis(height, _tile(height)), _axis(width, 2)
    there = torch.einsum("aiy,bjx->abijyx", down, across).reshape(-1, height * width)
    again = torch.einsum("yai,xbj->yxabij", up, back).reshape(height * width, -1)
    weight = torch.einsum("ay,bx->abyx", g, h).reshape(-1, 9)
    return _Transforms(there.to(dtype), again.to(dtype), weight, len(weight))


def _tile(height: int) -> int:
    """Outputs of a tile along a map's height: those that take fewer products."""
    return min((2, 4), key=lambda tile: (tile + 2) * -(-height // tile))


def _axis(size: int, tile: int) -> tuple[Tensor, Tensor, Tensor]:
    """Along one axis: from ``size`` cells to the products of each tile, ``[P, tiles, size]``; back from them,
    ``[size, P, tiles]``; and from the weights, ``[P, 3]``.

    The zeros around the map, and beyond the end of one that the tiles do not divide, are columns that are left out.
    """
    outputs, weight, inputs = _toom_cook(_POINTS[tile], tile)
    tiles, products = -(-size // tile), tile + 2
    there = torch.zeros(products, tiles, tile * tiles + 2, dtype=torch.float64)
    back = torch.zeros(tile * tiles, products, tiles, dtype=torch.float64)
    for index in range(tiles):
        there[:, index, tile * index : tile * index + products] = inputs
        back[tile * index : tile * (index + 1), :, index] = outputs
    return there[:, :, 1 : size + 1], back[:size], weight


def _toom_cook(points: tuple[float, ...], tile: int) -> tuple[Tensor, Tensor, Tensor]:
    """``A [tile, P]``, ``G [P, 3]``, ``B [P, P]``: ``A ((G g) * (B d))`` are ``tile`` outputs of filter g on cells d.

    Products of polynomials by their values at some points and at infinity, transposed. Each row of B is scaled by the
    differences of its point to the others, which leaves no fractions in it but those of the points; G takes them.
    """

    def powers(count: int) -> Tensor:
        rows = [[point**power for power in range(count)] for point in points]
        return torch.tensor([*rows, [0.0] * (count - 1) + [1.0]], dtype=torch.float64)

    scale = torch.tensor([*(math.prod(p - q for q in points if q != p) for p in points), 1.0], dtype=torch.float64)
    inputs = torch.linalg.inv(powers(tile + 2)).t() * scale[:, None]
    return powers(tile).t(), powers(3) / scale[:, None], inputs
