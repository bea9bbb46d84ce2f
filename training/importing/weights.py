"""Load the weights that training starts from: a trunk trained on ImageNet, or trunk and attention of a model."""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.error import URLError
from urllib.parse import urlparse

import torch
from rich.console import Console
from torch import Tensor

from model.network import VideoReID
from training.importing.efficient_weights import PACKAGES, packaged_weights
from training.importing.third_party_weights import LoadedWeights, WeightsError, is_usable, read_state_dict, shorten
from training.loop.checkpoint import CheckpointError, load_checkpoint

_TORCHVISION = "https://download.pytorch.org/models/"
_IBN_NET = "https://github.com/XingangPan/IBN-Net/releases/download/v1.0/"

PUBLISHED = {
    "resnet18": f"{_TORCHVISION}resnet18-f37072fd.pth",
    "resnet50": f"{_TORCHVISION}resnet50-0676ba61.pth",
    "resnet18_ibn_a": f"{_IBN_NET}resnet18_ibn_a-2f571257.pth",
    "resnet50_ibn_a": f"{_IBN_NET}resnet50_ibn_a-d9d0bb7b.pth",
}
"""ImageNet weights by backbone: IMAGENET1K_V1 of torchvision, as in fantastic, and those of IBN-Net's authors."""

_HASH = re.compile(r"-([0-9a-f]{8,})\.")
_TRANSFERRED = ("base.", "attention_conv.", "attention_tconv.")


def load_trunk(network: VideoReID, source: str, *, console: Console | None = None) -> LoadedWeights:
    """Load the trunk `network.base`; the other modules keep their weights.

    Args:
        network: with the backbone of the weights
        source: `imagenet` for `PUBLISHED` or, with an EfficientNet, for the weights in `PACKAGES`; a URL; or a file:
            weights of torchvision or IBN-Net, or a checkpoint of the program of not3d or fantastic. Downloads are kept
            in torch's hub folder (`TORCH_HOME`); a hash in the file's name is checked.
        console: prints a line before a download

    Raises:
        WeightsError: the weights cannot be read or downloaded, are of another network, or lack a part of the trunk.
    """
    backbone = network.spec.backbone
    if source == "imagenet" and backbone in PACKAGES:
        package, state = packaged_weights(backbone)
        return _copy(network, ("base.",), state, package, ())
    if source == "imagenet":
        if backbone not in PUBLISHED:
            raise WeightsError(
                f"there are no published ImageNet weights of {backbone}, only of "
                f"{', '.join(sorted((*PUBLISHED, *PACKAGES)))}. "
                'Give a file or URL, or start from random weights (start.weights = "none")'
            )
        source = PUBLISHED[backbone]
    path = _download(source, console) if urlparse(source).scheme in ("http", "https", "file") else Path(source)
    state, ignored = read_state_dict(path)
    return _copy(network, ("base.",), state, source, ignored)


def transfer_weights(network: VideoReID, checkpoint: Path) -> LoadedWeights:
    """Copy trunk and attention of a trained model, as not3d and fantastic do; neck and classifier keep their weights.

    Args:
        network: receives the weights
        checkpoint: of this project, or of the program of not3d or fantastic

    Raises:
        WeightsError: the file is not a checkpoint, or is of another network.
    """
    if not checkpoint.is_file():
        raise WeightsError(f"{checkpoint} does not exist")
    ignored: tuple[str, ...] = ()
    try:
        state = load_checkpoint(checkpoint).state_dict
    except CheckpointError:
        state, ignored = read_state_dict(checkpoint)
    return _copy(network, _TRANSFERRED, state, str(checkpoint), ignored)


def _check_normalisation(own: Mapping[str, Tensor], state: Mapping[str, Tensor], source: str, backbone: str) -> None:
    """Raise a separate message for the most common mistake: IBN weights for a plain network or the reverse."""
    wanted, given = (any(".IN." in name for name in names) for names in (own, state))
    if wanted and not given:
        raise WeightsError(
            f"{source} contains weights of a plain ResNet, without instance normalisation; {backbone} needs IBN-a "
            f'weights ("imagenet" fetches {PUBLISHED["resnet50_ibn_a"].rsplit("/", 1)[1]}), or use the plain backbone'
        )
    if given and not wanted:
        raise WeightsError(
            f"{source} contains weights of an IBN-a network; {backbone} has no instance normalisation: use the "
            f"backbone {backbone}_ibn_a, or plain weights"
        )


def _copy(
    network: VideoReID,
    prefixes: tuple[str, ...],
    state: Mapping[str, Tensor],
    source: str,
    ignored: tuple[str, ...],
) -> LoadedWeights:
    """Copy the entries with one of the prefixes; all of the trunk must be there."""
    backbone = network.spec.backbone
    own = {name: value for name, value in network.state_dict().items() if name.startswith(prefixes)}
    _check_normalisation(own, state, source, backbone)
    missing = [name for name in own if name not in state]
    if required := [n for n in missing if n.startswith("base.") and not n.endswith("num_batches_tracked")]:
        raise WeightsError(f"{source} is not a {backbone}: {shorten(required)} missing")
    chosen = {name: state[name] for name in own if name in state}
    for name, value in chosen.items():
        if value.shape != own[name].shape:
            hint = (
                "; the attention's kernel is the whole feature map: [14, 7] implies 224x112 frames and last stride 1"
                if name == "attention_conv.weight"
                else ""
            )
            raise WeightsError(
                f"{source}: {name} is {list(value.shape)}, the network's is {list(own[name].shape)}{hint}"
            )
    if odd := [name for name, value in chosen.items() if not is_usable(value)]:
        raise WeightsError(f"{source} has weights that are complex, or not finite: {shorten(odd)}")
    with torch.no_grad():
        for name, value in chosen.items():
            own[name].copy_(value)
    unused = (*(name for name in state if name not in chosen), *ignored)
    return LoadedWeights(source, len(chosen), tuple(missing), unused)


def _download(url: str, console: Console | None) -> Path:
    """Return the file of a URL, from torch's hub folder if it was downloaded before."""
    name = Path(urlparse(url).path).name
    match = _HASH.search(name)
    # Files at different addresses may have the same name if it contains no hash.
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
