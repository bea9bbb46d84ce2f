"""A checkpoint: one file that rebuilds a network and, if it is `last.pt`, continues its run."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.errors import Not3dError
from model.network import NetworkSpec, VideoReID, build_network


class CheckpointError(Not3dError):
    """A file that is not a checkpoint of this project, or does not fit the network that it describes."""


@dataclass(frozen=True)
class Checkpoint:
    """What is needed to rebuild, describe and continue to train a network."""

    network_spec: NetworkSpec
    state_dict: dict[str, Tensor]
    recipe: dict[str, Any] = field(default_factory=dict)
    """as in the file of the recipe"""
    training_data: str = ""
    data_terms: str = ""
    accuracy: list[dict[str, Any]] = field(default_factory=list)
    """fields of `model.spec.Accuracy`"""
    crops_source: str | None = None
    """folder of the training data; an export is compared on its crops"""
    people: str = ""
    """digest of the ids of the training people, in the order of the rows of the classifier"""
    progress: dict[str, Any] = field(default_factory=dict)
    """epoch, optimisers and random states; empty unless the run can be resumed from this checkpoint"""

    def build(self) -> VideoReID:
        """Build the network with its weights, in eval mode.

        Raises:
            CheckpointError: weights do not fit or are not finite, which the message names, or the backbone is unknown.
        """
        try:
            network = build_network(self.network_spec)
            network.load_state_dict(self.state_dict)
        except (RuntimeError, ValueError) as error:
            raise CheckpointError(str(error)) from None
        if odd := [name for name, value in network.state_dict().items() if not value.isfinite().all()]:
            raise CheckpointError(f"the weights are not finite, such as {odd[0]}: the training diverged")
        return network.eval()


def save_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Write a checkpoint atomically.

    Raises:
        CheckpointError: it cannot be written; an older file with this name is unchanged.
    """
    content = asdict(checkpoint) | {"network_spec": checkpoint.network_spec.model_dump(), "format": 1}
    scratch = path.with_suffix(".partial")
    try:
        torch.save(content, scratch)
        scratch.replace(path)
    except (OSError, RuntimeError) as error:  # PyTorch's writer raises RuntimeError if the disk is full
        scratch.unlink(missing_ok=True)
        reason = error.strerror if isinstance(error, OSError) else "the disk is full, or was removed"
        raise CheckpointError(
            f"{path} cannot be written: {reason}; free some space and run the command again"
        ) from None


def read_pytorch_file(path: Path) -> Any:
    """Return the content of a file that `torch.save` wrote, on the CPU; only tensors and plain values are unpickled.

    Raises:
        ValueError: the file is of another kind, is damaged, or holds something else.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - the unpickler raises whatever a damaged file leads it into, such as IndexError
        # The message of PyTorch recommends to read the file unsafely.
        raise ValueError(f"{path} is not a file of tensors and plain values") from None


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint onto the CPU; only tensors and plain values are unpickled.

    Raises:
        CheckpointError: the file is not a checkpoint of this project.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist")
    try:
        content = read_pytorch_file(path)
    except ValueError:
        raise CheckpointError(
            f"{path} is not a checkpoint: it is damaged, is not a PyTorch file, or holds more than tensors and plain "
            "values"
        ) from None
    if not isinstance(content, dict) or content.get("format") != 1:
        raise CheckpointError(f"{path} is not a checkpoint of not3d (format 1)")
    content.pop("format")
    try:
        spec = NetworkSpec.model_validate(content["network_spec"])
        checkpoint = Checkpoint(**content | {"network_spec": spec})
        for name, kind in (("state_dict", dict), ("recipe", dict), ("accuracy", list), ("progress", dict)):
            if not isinstance(getattr(checkpoint, name), kind):
                raise TypeError(name)
        return checkpoint
    except (KeyError, TypeError, ValueError):
        raise CheckpointError(f"{path} is a checkpoint of another version of not3d, or is incomplete") from None
