"""The trained weights beside a bundle, from which another training can start.

The network of a bundle is a graph in which normalisation is folded into convolutions; training needs them separately.
The classifier is left out, because it belongs to the people of one training.
"""

import zipfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model.bundle import WEIGHTS_FILE
from model.network import VideoReID
from training.importing.third_party_weights import LoadedWeights, WeightsError, shorten
from training.loop.checkpoint import CheckpointError, load_checkpoint

_CLASSIFIER = "classifier."


def save_trained_weights(network: nn.Module, folder: Path) -> Path:
    """Write the weights of a network into the folder of a bundle and return the file.

    Matrices and kernels are stored as fp16; statistics, scales and shifts, which are few, as fp32. A matrix with values
    that fp16 cannot hold is stored as fp32, too.
    """
    arrays: dict[str, NDArray[np.floating]] = {}
    for name, value in network.state_dict().items():
        if name.startswith(_CLASSIFIER) or not value.is_floating_point():
            continue
        exact = value.detach().float().cpu().numpy()
        with np.errstate(over="ignore"):
            half = exact.astype(np.float16)
        arrays[name] = half if exact.ndim > 1 and np.isfinite(half).all() else exact
    path = folder / WEIGHTS_FILE
    np.savez(path, allow_pickle=False, **arrays)
    return path


def load_trained_weights(network: VideoReID, start: Path, people: str) -> LoadedWeights:
    """Copy backbone, attention, embedding and neck of a trained model into a network, in place.

    The classifier is copied only from a checkpoint of the same training people.

    Args:
        network: of the same form; frame size and number of people may differ
        start: the folder of a bundle, or a checkpoint
        people: digest of the training people, as checkpoints have it

    Raises:
        WeightsError: there are no weights, or they are of another network, also if it has more layers.
    """
    state, their_people = _read(start)
    own = network.state_dict()
    wanted = [name for name, value in own.items() if value.is_floating_point()]
    skipped = () if people and people == their_people else (_CLASSIFIER,)
    chosen = {name: state[name] for name in wanted if name in state and not name.startswith(skipped)}
    if lost := [name for name in wanted if name not in state and not name.startswith(_CLASSIFIER)]:
        raise WeightsError(
            f"{start} is of another network than the recipe's ({network.spec.backbone}): {shorten(lost)} missing"
        )
    extra = [
        name
        for name, value in state.items()
        if value.is_floating_point() and name not in own and not name.startswith(_CLASSIFIER)
    ]
    if extra:
        raise WeightsError(
            f"{start} is of another network than the recipe's: it has {shorten(extra)}; give the recipe the same "
            "attention, embedding and neck"
        )
    if odd := [name for name, value in chosen.items() if not value.isfinite().all()]:
        raise WeightsError(f"{start} has weights that are not finite: {shorten(odd)}; start from another model")
    bias = chosen.get("bottleneck.bias")
    if bias is not None and network.spec.neck == "bnneck" and bias.any():
        raise WeightsError(
            f'{start} has a neck with a trained bias, which a BNNeck keeps at zero: set network.neck = "batch_norm"'
        )
    for name, value in chosen.items():
        if value.shape != own[name].shape:
            raise WeightsError(
                f"{start}: {name} is {list(value.shape)}, the recipe's network has {list(own[name].shape)}"
            )
    with torch.no_grad():
        for name, value in chosen.items():
            own[name].copy_(value)
    missing = tuple(name for name in wanted if name not in state)
    unused = tuple(name for name, value in state.items() if value.is_floating_point() and name not in chosen)
    return LoadedWeights(str(start), len(chosen), missing, unused)


def _read(start: Path) -> tuple[dict[str, Tensor], str]:
    """Return weights by name, and the digest of the people that they were trained on, `""` if it is unknown."""
    if start.is_file():
        try:
            checkpoint = load_checkpoint(start)
        except CheckpointError as error:
            raise WeightsError(str(error)) from None
        return checkpoint.state_dict, checkpoint.people
    path = start / WEIGHTS_FILE
    if not path.is_file():
        raise WeightsError(f"{start} has no {WEIGHTS_FILE}: export the model again, or start from its checkpoint")
    try:
        with np.load(path) as content:
            return {name: torch.from_numpy(content[name].astype(np.float32)) for name in content.files}, ""
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        raise WeightsError(f"{path} is damaged: export the model again") from None
