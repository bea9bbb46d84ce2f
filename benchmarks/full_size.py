"""The paper's network with fresh weights, for speed measurements; needs the extra `train`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.peers import weights_of
from model.bundle import Bundle
from model.frames import PREPROCESSING_VERSION
from model.network import NetworkSpec, VideoReID, build_network
from model.spec import BundleSpec, Preprocessing
from training.batches.clips import Normalise
from training.export.export import ARCHITECTURE, write_bundle
from training.export.reference import draw_clips

_NONE = "none: fresh weights, for measuring speed only"


def write_full_size(out: Path) -> Bundle:
    """Write a bundle of ResNet50-IBN-a with full-map attention at 224x112 and meaningless embeddings."""
    spec = NetworkSpec()
    network = _with_statistics(build_network(spec))
    description = BundleSpec(
        name="full-size",
        architecture=ARCHITECTURE,
        backbone=spec.backbone,
        attention=spec.attention,
        frame_height=spec.frame_height,
        frame_width=spec.frame_width,
        clip_length=spec.clip_length,
        dimension=network.dimension,
        feature=spec.feature,
        preprocessing=Preprocessing(version=PREPROCESSING_VERSION, mean=spec.mean, std=spec.std),
        training_data=_NONE,
        recipe={},
        accuracy=(),
        data_terms=_NONE,
        intended_use=_NONE,
        not_for="anything else",
    )
    write_bundle(network, description, out, clips=draw_clips(description, people=4, seed=3), crops="drawn people")
    torch.save(network.state_dict(), weights_of(out))
    return Bundle.load(out)


def eager_network(bundle: Bundle) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    """Return a bundle's network in PyTorch eager mode and fp32.

    The recipe in the bundle says which network; without one it is that of `write_full_size`, with the same weights.
    Other bundles get fresh weights, which take the same time.
    """
    spec = bundle.spec
    recipe: dict[str, Any] = dict(spec.recipe or {})
    network = build_network(NetworkSpec.model_validate(recipe.get("network", {})))
    if weights_of(bundle.path).exists():
        network.load_state_dict(torch.load(weights_of(bundle.path), weights_only=True))
        network.eval()
    else:
        _with_statistics(network)
    normalise = Normalise(spec.preprocessing.mean, spec.preprocessing.std, torch.device("cpu"))

    def embed(clips: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            return np.asarray(network(normalise(torch.from_numpy(clips)).contiguous()).numpy())

    return embed


def _with_statistics(network: VideoReID) -> VideoReID:
    """Run a few batches in training mode. Without statistics, activations grow too large through 50 fresh layers."""
    torch.manual_seed(0)
    spec = network.spec
    network.train()
    with torch.no_grad():
        for _ in range(8):
            network(torch.randn(2, spec.clip_length, 3, spec.frame_height, spec.frame_width))
    return network.eval()
