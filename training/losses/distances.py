"""Distances and masks between the clips of a batch, as the metric losses need them.

Losses work in float32 at least, whatever autocast gives them, and their inner products in float64: squared distances
are differences of nearly equal numbers, where half precision, and TF32 on GPUs, leave nothing.
"""

import torch
from torch import Tensor

SMALLEST_SQUARE = 1e-12
"""Squared distances are kept from zero, where the square root has no gradient (as in the published code)."""


def at_least_float32(x: Tensor) -> Tensor:
    """The same numbers in float32, or in float64 if they are."""
    return x if x.dtype == torch.float64 else x.float()


def unit_length(x: Tensor) -> Tensor:
    """Rows of ``[N, D]`` divided by their length plus 1e-12 (as published), float32 at least.

    A row of zeros stays, and gets no gradient: the formula's would be 1e12 times what comes in.
    """
    wide = at_least_float32(x)
    length = torch.linalg.vector_norm(wide, dim=1, keepdim=True)
    return torch.where(length > 0, wide / (length + 1e-12), 0.0)


def similarities(a: Tensor, b: Tensor) -> Tensor:
    """Inner products ``[N, M]`` of rows ``[N, D]`` and ``[M, D]``, in the precision of ``a``."""
    with torch.autocast(a.device.type, enabled=False):
        return (a.double() @ b.double().T).to(a.dtype)


def euclidean_distances(x: Tensor) -> Tensor:
    """Euclidean distances ``[N, N]`` of rows ``[N, D]``, 1e-6 at least, in the precision of ``x``."""
    wide = x.double()
    squares = wide.square().sum(dim=1)
    with torch.autocast(x.device.type, enabled=False):
        products = wide @ wide.T
    distances = (squares.unsqueeze(0) + squares.unsqueeze(1) - 2 * products).clamp(min=SMALLEST_SQUARE).sqrt()
    return distances.to(x.dtype)


def pairs(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Which of ``[N, N]`` are positives (another clip of the same person), and which negatives (another person)."""
    same = labels.unsqueeze(0) == labels.unsqueeze(1)
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    return same & ~itself, ~same
