"""Distances and masks between the clips of a batch, for the metric losses.

Losses compute in float32 or float64, also under autocast, and their inner products in float64. Squared distances are
differences of nearly equal numbers, which half precision and TF32 cannot represent.
"""

import torch
from torch import Tensor

SMALLEST_SQUARE = 1e-12
"""Lower bound of squared distances, because the square root has no gradient at zero (as in the published code)."""


def at_least_float32(x: Tensor) -> Tensor:
    """Convert to float32, except float64."""
    return x if x.dtype == torch.float64 else x.float()


def unit_length(x: Tensor) -> Tensor:
    """Divide the rows of `[N, D]` by their length plus 1e-12 (as published), in float32 or float64.

    A row of zeros does not change and gets no gradient. The gradient of the formula would multiply by 1e12.
    """
    wide = at_least_float32(x)
    length = torch.linalg.vector_norm(wide, dim=1, keepdim=True)
    return torch.where(length > 0, wide / (length + 1e-12), 0.0)


def similarities(a: Tensor, b: Tensor) -> Tensor:
    """Return the inner products `[N, M]` of rows `[N, D]` and `[M, D]`, in the precision of `a`."""
    with torch.autocast(a.device.type, enabled=False):
        return (a.double() @ b.double().T).to(a.dtype)


def euclidean_distances(x: Tensor) -> Tensor:
    """Return the Euclidean distances `[N, N]` of rows `[N, D]`, at least 1e-6, in the precision of `x`."""
    wide = x.double()
    squares = wide.square().sum(dim=1)
    with torch.autocast(x.device.type, enabled=False):
        products = wide @ wide.T
    distances = (squares.unsqueeze(0) + squares.unsqueeze(1) - 2 * products).clamp(min=SMALLEST_SQUARE).sqrt()
    return distances.to(x.dtype)


def pairs(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return masks `[N, N]` of positives (another clip of the same person) and negatives (another person)."""
    same = labels.unsqueeze(0) == labels.unsqueeze(1)
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    return same & ~itself, ~same
