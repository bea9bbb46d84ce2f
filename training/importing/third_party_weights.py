"""Weights of other programs: their names, told in ours.

System A's kin name a state dict as we do (``base.layer1.0...``, ``bottleneck``, ``classifier``). System B's trunk is a
sequence (``base.4.0...``), its neck and classifier a module of their own (``classifier.bn``,
``classifier.classifier``); the temporal-attention baseline has a biased classifier and no neck. Trunks alone, of
torchvision and of IBN-Net, have no prefix. Any may be wrapped in ``state_dict`` and prefixed by ``module.``.
"""

import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from model.errors import Not3dError
from model.network import NetworkSpec
from training.loop.checkpoint import Checkpoint, CheckpointError, load_checkpoint


class WeightsError(Not3dError):
    """Weights that cannot be had, or do not fit the network; the message says which and what would."""


@dataclass(frozen=True)
class WeightReport:
    """What became of the weights in a file."""

    source: str
    loaded: int
    """entries of the state dict"""
    missing: tuple[str, ...]
    """entries of the network that the file has nothing for: they keep their initial values"""
    unused: tuple[str, ...]
    """entries of the file that the network, or the transfer, has no use for"""

    def __str__(self) -> str:
        lines = [f"{self.source}: {self.loaded} entries loaded"]
        lines += [f"  not in the file, as initialised: {shorten(self.missing)}"] if self.missing else []
        lines += [f"  in the file, not used: {shorten(self.unused)}"] if self.unused else []
        return "\n".join(lines)


def shorten(names: tuple[str, ...] | list[str], most: int = 6) -> str:
    """The first of some names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


_STAGES = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
_TRUNK = re.compile(r"(conv1|bn1|layer[1-4])\.")
# A later program of system A's author has action heads, and an inherited spatial transformer that it does not use.
_IGNORED = re.compile(r"(localization|fc_loc|class_\d+|fc)\.")


def read_state_dict(path: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The weights in a file by our names, and the names of those that no network of ours has an equal of.

    Only tensors and plain values are unpickled.

    Raises:
        WeightsError: there is no such file, or it holds no weights.
    """
    if not path.is_file():
        raise WeightsError(f"{path} does not exist")
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError):
        # PyTorch's own message recommends to read the file unsafely.
        raise WeightsError(
            f"{path} is no file of PyTorch weights, or holds more than tensors and plain values"
        ) from None
    for wrapper in ("state_dict", "model", "net"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not any(isinstance(value, Tensor) for value in content.values()):
        raise WeightsError(f"{path} holds no state dict")
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    ignored = tuple(name for name in tensors if _IGNORED.match(name.removeprefix("module.")))
    return rename(tensors), ignored


def rename(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A foreign state dict by our names; what no network of ours has an equal of is left out."""
    renamed = {}
    for foreign, tensor in state.items():
        name = foreign.removeprefix("module.")
        if _IGNORED.match(name):
            continue
        if _TRUNK.match(name):
            name = f"base.{name}"
        elif name.startswith("base."):
            _, stage, *rest = name.split(".")
            name = ".".join(("base", _STAGES.get(stage, stage), *rest))
        elif name.startswith("classifier."):
            name = name.replace("classifier.bn.", "bottleneck.").replace("classifier.classifier.", "classifier.")
        renamed[name] = tensor
    return renamed


def recognise(state: Mapping[str, Tensor]) -> NetworkSpec:
    """The network that a state dict by our names belongs to, read off its shapes.

    Raises:
        WeightsError: it is none of system A, B or the temporal-attention baseline.
    """
    try:
        kernel = state["attention_conv.weight"].shape
        classes = len(state["classifier.weight"])
        ibn = "base.layer1.0.bn1.IN.weight" in state
        deep = "base.layer1.0.conv3.weight" in state
    except KeyError as error:
        raise WeightsError(
            f"no {error.args[0]}: these are not the weights of system A, of B, or of the temporal-attention baseline"
        ) from None
    if not deep:
        raise WeightsError("the trunk is no ResNet50, which systems A and B have")
    height, width = int(kernel[2]), int(kernel[3])
    # [7, 4] is the map of 224x112 at stride 32; every other kernel is a map at stride 16, as [14, 7] is.
    stride = 2 if (height, width) == (7, 4) else 1
    return NetworkSpec(
        backbone="resnet50_ibn_a" if ibn else "resnet50",
        last_stride=stride,
        attention="full_map",
        attention_channels=int(kernel[0]),
        neck="bnneck" if "bottleneck.weight" in state else "none",
        classifier_bias="classifier.bias" in state,
        frame_height=224 if stride == 2 else 16 * height,
        frame_width=112 if stride == 2 else 16 * width,
        classes=classes,
    )


def import_checkpoint(path: Path, *, console: Console | None = None) -> Checkpoint:
    """A checkpoint of ours from one of system A's, B's or the baseline's program; ``console`` gets a report of it.

    Raises:
        WeightsError: not such a file, or its weights do not fit; the message names them.
    """
    if _is_ours(path):
        raise WeightsError(f"{path} is a checkpoint of not3d already: evaluate or export it as it is")
    state, ignored = read_state_dict(path)
    spec = recognise(state)
    checkpoint = Checkpoint(
        network_spec=spec,
        state_dict=state,
        training_data="not stated: imported weights",
        data_terms="not stated: those of whoever trained the weights, and of their data",
    )
    given = len(state)
    missing = tuple(name for name in _counters(checkpoint) if name not in state)  # older files have none
    state |= {name: torch.tensor(0) for name in missing}
    try:
        checkpoint.build()
    except CheckpointError as error:
        raise WeightsError(f"{path} does not fit {spec.backbone} with attention {spec.attention}: {error}") from None
    if console:
        console.print(str(WeightReport(path.name, given, missing, ignored)), highlight=False, markup=False)
    return checkpoint


def _is_ours(path: Path) -> bool:
    try:
        load_checkpoint(path)
    except CheckpointError:
        return False
    return True


def _counters(checkpoint: Checkpoint) -> list[str]:
    names = [name for name in checkpoint.state_dict if name.endswith("running_mean")]
    return [name.replace("running_mean", "num_batches_tracked") for name in names]
