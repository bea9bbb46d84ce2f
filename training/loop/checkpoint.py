"""A checkpoint: one file from which a network can be built again and a run goes on."""

import pickle
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.errors import Not3dError
from model.network import NetworkSpec, VideoReID, build_network


class CheckpointError(Not3dError):
    """A file that is not a checkpoint of this project, or does not fit the network it describes."""


@dataclass(frozen=True)
class Checkpoint:
    """What is needed to rebuild, describe and go on training a network."""

    network_spec: NetworkSpec
    state_dict: dict[str, Tensor]
    recipe: dict[str, Any] = field(default_factory=dict)
    """as in the recipe's file"""
    training_data: str = ""
    data_terms: str = ""
    accuracy: list[dict[str, Any]] = field(default_factory=list)
    """fields of :class:`model.spec.Accuracy`"""
    crops_source: str | None = None
    """folder of the training data, whose crops an export is compared on"""
    progress: dict[str, Any] = field(default_factory=dict)
    """epoch, optimisers and random states; empty in a checkpoint that is only to be used"""

    def build(self) -> VideoReID:
        """The network with its weights, in eval mode.

        Raises:
            CheckpointError: names the weights that do not fit.
        """
        network = build_network(self.network_spec)
        try:
            network.load_state_dict(self.state_dict)
        except RuntimeError as error:
            raise CheckpointError(str(error)) from None
        return network.eval()


def save_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Writes the file whole or not at all."""
    content = asdict(checkpoint) | {"network_spec": checkpoint.network_spec.model_dump(), "format": 1}
    scratch = path.with_suffix(".partial")
    torch.save(content, scratch)
    scratch.replace(path)


def load_checkpoint(path: Path) -> Checkpoint:
    """Reads a checkpoint onto the CPU; only tensors and plain values are unpickled.

    Raises:
        CheckpointError: not a checkpoint of this project.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError):
        # PyTorch's own message recommends to read the file unsafely.
        raise CheckpointError(
            f"{path} is not a checkpoint: not PyTorch's, damaged, or with more in it than tensors and plain values"
        ) from None
    if not isinstance(content, dict) or content.get("format") != 1:
        raise CheckpointError(f"{path} is not a checkpoint of not3d (format 1)")
    content.pop("format")
    try:
        spec = NetworkSpec.model_validate(content["network_spec"])
        return Checkpoint(**content | {"network_spec": spec})
    except (KeyError, TypeError, ValueError):
        raise CheckpointError(f"{path} is a checkpoint of another version of not3d, or not whole") from None
