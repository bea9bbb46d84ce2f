"""Read the weights of other programs and rename them to the names of this project.

Later programs of the author of Not 3D Re-ID use the names of this project (`base.layer1.0...`, `bottleneck`,
`classifier`). In the program of fantastic the trunk is a sequence (`base.4.0...`), and neck and classifier are one
module (`classifier.bn`, `classifier.classifier`). The temporal-attention baseline has a biased classifier and no neck.
The trunks of torchvision and IBN-Net have no prefix. All may be wrapped in `state_dict` and prefixed with `module.`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError
from rich.console import Console
from torch import Tensor

from model.errors import Not3dError
from model.network import NetworkSpec
from training.loop.checkpoint import Checkpoint, CheckpointError, load_checkpoint, read_pytorch_file


class WeightsError(Not3dError):
    """Weights are missing or do not fit the network."""


@dataclass(frozen=True)
class LoadedWeights:
    """Which weights of a file were loaded."""

    source: str
    loaded: int
    """number of entries of the state dict"""
    missing: tuple[str, ...]
    """entries of the network that the file does not have: they keep their initial values"""
    unused: tuple[str, ...]
    """entries of the file that were not loaded"""

    def __str__(self) -> str:
        lines = [f"{self.source}: {self.loaded} entries loaded"]
        lines += [f"  missing in the file, left as initialised: {shorten(self.missing)}"] if self.missing else []
        lines += [f"  in the file, not used: {shorten(self.unused)}"] if self.unused else []
        return "\n".join(lines)


def shorten(names: tuple[str, ...] | list[str], limit: int = 6) -> str:
    """Return the first names and the number of the others."""
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


_STAGES = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
_TRUNK = re.compile(r"(conv1|bn1|layer[1-4])\.")
# Action heads, and a spatial transformer that is not used, in a later program of the author of Not 3D Re-ID.
_IGNORED = re.compile(r"(localization|fc_loc|class_\d+|fc)\.")


def read_state_dict(path: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Read the weights in a file.

    Only tensors and plain values are unpickled.

    Returns:
        The state dict with the names of this project, and the names of weights that no network of this project has.

    Raises:
        WeightsError: the file does not exist or contains no weights.
    """
    if not path.is_file():
        raise WeightsError(f"{path} does not exist")
    try:
        content = read_pytorch_file(path)
    except ValueError:
        raise WeightsError(
            f"{path} is not a file of PyTorch weights, or contains more than tensors and plain values"
        ) from None
    for wrapper in ("state_dict", "model", "net"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not any(isinstance(value, Tensor) for value in content.values()):
        raise WeightsError(f"{path} contains no state dict")
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    ignored = tuple(name for name in tensors if _IGNORED.match(name.removeprefix("module.")))
    return rename(tensors), ignored


def rename(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the entries of a third-party state dict; leave out those that no network of this project has."""
    renamed = {}
    for third_party_name, tensor in state.items():
        name = third_party_name.removeprefix("module.")
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
    """Return the network of a state dict with the names of this project, from the shapes of its entries.

    Raises:
        WeightsError: the network is not that of not3d, fantastic or the temporal-attention baseline.
    """
    try:
        kernel = state["attention_conv.weight"].shape
        classifier = state["classifier.weight"].shape
        ibn = "base.layer1.0.bn1.IN.weight" in state
        deep = "base.layer1.0.conv3.weight" in state
    except KeyError as error:
        raise WeightsError(
            f"{error.args[0]} is missing: expected weights of not3d, fantastic or the temporal-attention baseline"
        ) from None
    if not deep:
        raise WeightsError("the trunk is not a ResNet50, which not3d and fantastic have")
    if len(kernel) != 4 or len(classifier) != 2:
        raise WeightsError(
            f"attention_conv.weight is {list(kernel)} and classifier.weight {list(classifier)}: expected "
            "[channels, 2048, height, width] and [people, 2048]"
        )
    height, width = int(kernel[2]), int(kernel[3])
    # The kernel is the whole feature map: [7, 4] of 224x112 frames at stride 32, all others (such as [14, 7]) at 16.
    stride = 2 if (height, width) == (7, 4) else 1
    try:
        return NetworkSpec(
            backbone="resnet50_ibn_a" if ibn else "resnet50",
            last_stride=stride,
            attention="full_map",
            attention_channels=int(kernel[0]),
            neck="bnneck" if "bottleneck.weight" in state else "none",
            classifier_bias="classifier.bias" in state,
            frame_height=224 if stride == 2 else 16 * height,
            frame_width=112 if stride == 2 else 16 * width,
            resampling="pil-bicubic",  # what these programs resize with
            classes=classifier[0],
        )
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise WeightsError(
            f"attention_conv.weight is {list(kernel)} and classifier.weight {list(classifier)}, which no network of "
            f"not3d or fantastic has ({faults}); the kernel must be the map of full frames, such as [14, 7]"
        ) from None


def import_checkpoint(path: Path, *, console: Console | None = None) -> Checkpoint:
    """Convert a file of weights of not3d, fantastic or the temporal-attention baseline into a checkpoint.

    Args:
        path: a file that another program wrote
        console: prints which weights were loaded

    Raises:
        WeightsError: the file is of another kind, or its weights do not fit.
    """
    if _is_checkpoint(path):
        raise WeightsError(f"{path} is already a checkpoint of this project: evaluate or export it directly")
    state, ignored = read_state_dict(path)
    if odd := [name for name, value in state.items() if not is_usable(value)]:
        raise WeightsError(f"{path} has weights that are complex, or not finite: {shorten(odd)}")
    spec = recognise(state)
    checkpoint = Checkpoint(
        network_spec=spec,
        state_dict=state,
        training_data="not stated: imported weights",
        data_terms="not stated: those of the weights and of the data that they were trained on",
    )
    given = len(state)
    # Files of old PyTorch versions have no counters.
    missing = tuple(name for name in _counters(checkpoint) if name not in state)
    state |= {name: torch.tensor(0) for name in missing}
    try:
        checkpoint.build()
    except CheckpointError as error:
        raise WeightsError(f"{path} does not fit {spec.backbone} with attention {spec.attention}: {error}") from None
    if console:
        console.print(str(LoadedWeights(path.name, given, missing, ignored)), highlight=False, markup=False)
    return checkpoint


def is_usable(value: Tensor) -> bool:
    """Return whether a tensor can be a weight: real and finite."""
    return not value.is_complex() and (value.layout != torch.strided or bool(value.isfinite().all()))


def _is_checkpoint(path: Path) -> bool:
    try:
        load_checkpoint(path)
    except CheckpointError:
        return False
    return True


def _counters(checkpoint: Checkpoint) -> list[str]:
    names = [name for name in checkpoint.state_dict if name.endswith("running_mean")]
    return [name.replace("running_mean", "num_batches_tracked") for name in names]
