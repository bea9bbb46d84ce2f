"""The network's optimiser, as a recipe describes it."""

import torch
from torch import nn

from training.recipe import Optimiser


def build_optimiser(network: nn.Module, settings: Optimiser) -> torch.optim.Optimizer:
    """Adam on every trainable tensor alike, biases and BatchNorm included (as published for systems A and B), or AdamW.

    AdamW's decay is not for biases and normalisation, whose scale the next layer undoes.
    """
    parameters = [p for p in network.parameters() if p.requires_grad]
    if settings.name == "adam":
        return torch.optim.Adam(parameters, settings.learning_rate, weight_decay=settings.weight_decay, fused=True)
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, settings.learning_rate, fused=True)
