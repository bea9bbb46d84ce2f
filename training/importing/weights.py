"""Weights to start from: a trunk trained on ImageNet, or trunk and attention of an earlier model."""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.error import URLError
from urllib.parse import urlparse

import torch
from rich.console import Console
from torch import Tensor, nn

from model.network import VideoReID
from training.importing.third_party_weights import WeightReport, WeightsError, read_state_dict, shorten
from training.loop.checkpoint import CheckpointError, load_checkpoint

_TORCHVISION = "https://download.pytorch.org/models/"
_IBN_NET = "https://github.com/XingangPan/IBN-Net/releases/download/v1.0/"

PUBLISHED = {
    "resnet18": f"{_TORCHVISION}resnet18-f37072fd.pth",
    "resnet50": f"{_TORCHVISION}resnet50-0676ba61.pth",
    "resnet18_ibn_a": f"{_IBN_NET}resnet18_ibn_a-2f571257.pth",
    "resnet50_ibn_a": f"{_IBN_NET}resnet50_ibn_a-d9d0bb7b.pth",
}
"""ImageNet weights by backbone: torchvision's IMAGENET1K_V1, as in system B, and those of IBN-Net's authors."""

_HASH = re.compile(r"-([0-9a-f]{8,})\.")
_TRANSFERRED = ("base.", "attention_conv.", "attention_tconv.")


def load_trunk(network: VideoReID, source: str, *, console: Console | None = None) -> WeightReport:
    """Loads the trunk ``network.base``; everything else stays as it is.

    Args:
        network: of a backbone that the weights are of
        source: ``imagenet`` for :data:`PUBLISHED`, a URL, or a file: torchvision's or IBN-Net's weights, or a
            checkpoint of system A's or B's program. Downloads are kept in torch's hub folder (``TORCH_HOME``); a hash
            in the file's name is checked.
        console: for a line before a download

    Raises:
        WeightsError: the weights cannot be had, are of another network, or lack a part of the trunk.
    """
    backbone = network.spec.backbone
    if source == "imagenet":
        if backbone not in PUBLISHED:
            raise WeightsError(
                f"there are no published ImageNet weights of {backbone}; known are {', '.join(sorted(PUBLISHED))}. "
                'Give a file or URL, or start from none (start.weights = "none")'
            )
        source = PUBLISHED[backbone]
    path = _download(source, console) if urlparse(source).scheme in ("http", "https", "file") else Path(source)
    state, ignored = read_state_dict(path)
    own = {name: value for name, value in network.state_dict().items() if name.startswith("base.")}
    _check_normalisation(own, state, source, backbone)
    missing = [name for name in own if name not in state]
    if lost := [name for name in missing if not name.endswith("num_batches_tracked")]:
        raise WeightsError(f"{source} is no {backbone}: it lacks {shorten(lost)}")
    return _copy(network, {name: state[name] for name in own if name in state}, state, source, missing, ignored)


def transfer_weights(network: VideoReID, checkpoint: Path) -> WeightReport:
    """Copies trunk and attention of a trained model, as systems A and B do; neck and classifier begin anew.

    Args:
        network: to copy into
        checkpoint: of this project, or of system A's or B's program

    Raises:
        WeightsError: not a checkpoint, or of another network.
    """
    if not checkpoint.is_file():
        raise WeightsError(f"{checkpoint} does not exist")
    ignored: tuple[str, ...] = ()
    try:
        state = load_checkpoint(checkpoint).state_dict
    except CheckpointError:
        state, ignored = read_state_dict(checkpoint)
    own = {name: value for name, value in network.state_dict().items() if name.startswith(_TRANSFERRED)}
    _check_normalisation(own, state, str(checkpoint), network.spec.backbone)
    missing = [name for name in own if name not in state]
    if lost := [n for n in missing if n.startswith("base.") and not n.endswith("num_batches_tracked")]:
        raise WeightsError(f"{checkpoint} is no {network.spec.backbone}: it lacks {shorten(lost)}")
    return _copy(network, {n: state[n] for n in own if n in state}, state, str(checkpoint), missing, ignored)


def _check_normalisation(own: Mapping[str, Tensor], state: Mapping[str, Tensor], source: str, backbone: str) -> None:
    """The most common mistake has its own message: IBN weights into a plain network, or the other way round."""
    wanted, given = (any(".IN." in name for name in names) for names in (own, state))
    if wanted and not given:
        raise WeightsError(
            f"{source} holds weights of a plain ResNet, without instance normalisation; {backbone} needs IBN-a weights "
            f'("imagenet" fetches {PUBLISHED["resnet50_ibn_a"].rsplit("/", 1)[1]}), or take the plain backbone'
        )
    if given and not wanted:
        raise WeightsError(
            f"{source} holds weights of an IBN-a network; {backbone} has no instance normalisation: take the backbone "
            f"{backbone}_ibn_a, or plain weights"
        )


def _copy(
    network: nn.Module,
    chosen: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    source: str,
    missing: list[str],
    ignored: tuple[str, ...],
) -> WeightReport:
    own = network.state_dict()
    for name, value in chosen.items():
        if value.shape != own[name].shape:
            hint = (
                "; the attention's kernel is the whole map: [14, 7] implies frames of 224x112 and last stride 1"
                if name == "attention_conv.weight"
                else ""
            )
            raise WeightsError(
                f"{source}: {name} is {list(value.shape)}, the network's is {list(own[name].shape)}{hint}"
            )
    with torch.no_grad():
        for name, value in chosen.items():
            own[name].copy_(value)
    unused = (*(name for name in state if name not in chosen), *ignored)
    return WeightReport(source, len(chosen), tuple(missing), unused)


def _download(url: str, console: Console | None) -> Path:
    """The file at a URL, from torch's hub folder where it was downloaded before."""
    name = Path(urlparse(url).path).name
    match = _HASH.search(name)
    # A name without a hash may stand for another file at another address.
    own = name if match else f"{hashlib.sha256(url.encode()).hexdigest()[:8]}-{name}"
    target = Path(torch.hub.get_dir()) / "checkpoints" / own
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    if console:
        console.print(f"downloading {url}", highlight=False, soft_wrap=True)
    try:
        torch.hub.download_url_to_file(
            url, str(target), match.group(1) if match else None, progress=console is not None
        )
    except (URLError, OSError, RuntimeError) as error:
        raise WeightsError(
            f"{url} cannot be downloaded ({error}): fetch it elsewhere and give the file (start.weights = FILE)"
        ) from None
    return target
