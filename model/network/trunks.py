"""All backbones by name: the values of `NetworkSpec.backbone`."""

from collections.abc import Callable

from model.network.backbone import BACKBONES, ResNet
from model.network.efficient import EFFICIENT_TRUNKS, EfficientTrunk

TRUNKS: dict[str, Callable[..., ResNet | EfficientTrunk]] = {**BACKBONES, **EFFICIENT_TRUNKS}
"""Constructors by name, with random weights; each takes `last_stride`, by default 1."""
