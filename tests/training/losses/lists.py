"""A batch for the tests of losses, and lengths and distances of plain lists."""

import math

import torch

LABELS = torch.tensor([0, 0, 1, 1, 2, 2, 2, 0])


def draw(count=8, channels=6):
    """Return features in float64, the same in each call."""
    return torch.randn(count, channels, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def unit(row):
    """Divide a row by its length plus 1e-12, as published."""
    length = math.hypot(*row) + 1e-12
    return [value / length for value in row]


def distance(a, b):
    """Return the Euclidean distance; its square is at least 1e-12, as published."""
    return math.sqrt(max(math.dist(a, b) ** 2, 1e-12))
