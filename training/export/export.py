"""Export a checkpoint as a bundle, which is written only if it computes what PyTorch computes."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import nn

from model.bundle import ONNX_FILE
from model.frames import PREPROCESSING_VERSION
from model.spec import Accuracy, BundleSpec, Preprocessing
from model.tracklet import normalise
from training.export.bundle_assembly import ExportResult, assemble_bundle, refuse_occupied
from training.export.onnx_graph import FrameNetwork, WeightStorage, write_onnx
from training.export.reference import Reference, batches, choose_reference_clips
from training.loop.checkpoint import Checkpoint, CheckpointError, load_checkpoint
from training.loop.trained_weights import save_trained_weights
from training.recipe import Recipe

ARCHITECTURE = "2D backbone, attention over a clip's frames, BNNeck (after Not 3D Re-ID, arXiv 2008.06318)"


def export_bundle(
    checkpoint: Path,
    out: Path,
    *,
    crops: Path | None = None,
    weights: WeightStorage = "fp16",
    name: str | None = None,
) -> ExportResult:
    """Export a checkpoint as a bundle to the new folder `out`, with the weights from which training can start again.

    Args:
        checkpoint: a file of the trainer
        out: a path that does not exist, or an empty folder
        crops: the dataset or folder of tracklets for the comparison with PyTorch; by default the training data named by
            the checkpoint if it is on this machine, otherwise drawn people
        weights: how matrices and kernels are stored
        name: of the model; by default the recipe's

    Raises:
        ExportError: `out` is not empty, an engine is missing, or the bundle differs from PyTorch.
        CheckpointError, DatasetError, FrameError: the checkpoint or the crops cannot be read.
    """
    refuse_occupied(out)
    loaded = load_checkpoint(checkpoint)
    network = loaded.build()
    try:
        spec = describe_network(loaded, name, network.dimension)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise CheckpointError(f"{checkpoint} describes a model that no bundle can have: {faults}") from None
    if crops is None and loaded.crops_source is not None and Path(loaded.crops_source).exists():
        crops = Path(loaded.crops_source)
    clips, shown = choose_reference_clips(spec, crops)
    return write_bundle(network, spec, out, clips=clips, crops=shown, weights=weights, trainable=True)


def describe_network(checkpoint: Checkpoint, name: str | None, dimension: int) -> BundleSpec:
    """Return the bundle's spec of a checkpoint's network."""
    network = checkpoint.network_spec
    # The network as trained: its number of classes comes from the data. Imported weights have no recipe.
    recipe = Recipe.model_validate(checkpoint.recipe or {"name": "imported"}).model_copy(update={"network": network})
    return BundleSpec(
        name=name or recipe.name,
        architecture=ARCHITECTURE,
        backbone=network.backbone,
        attention=network.attention,
        frame_height=network.frame_height,
        frame_width=network.frame_width,
        clip_length=network.clip_length,
        dimension=dimension,
        feature=network.feature,
        clip_weights=network.clip_weights,
        preprocessing=Preprocessing(
            version=PREPROCESSING_VERSION, resampling=network.resampling, mean=network.mean, std=network.std
        ),
        training_data=checkpoint.training_data,
        recipe=recipe.model_dump(mode="json") if checkpoint.recipe else {},
        accuracy=tuple(Accuracy.model_validate(figures) for figures in checkpoint.accuracy),
        data_terms=checkpoint.data_terms,
        intended_use=recipe.card.intended_use,
        not_for=recipe.card.not_for,
    )


def write_bundle(
    network: nn.Module,
    spec: BundleSpec,
    out: Path,
    *,
    clips: NDArray[np.uint8],
    crops: str,
    weights: WeightStorage = "fp16",
    trainable: bool = False,
) -> ExportResult:
    """Export a network as a bundle and compare it with PyTorch.

    Args:
        network: normalised float clips `[N, T, 3, H, W]` to embeddings `[N, D]`
        spec: of the network
        out: a path that does not exist, or an empty folder
        clips: `uint8 [N, T, H, W, 3]` for the comparison
        crops: what the clips show, in words
        weights: how matrices and kernels are stored
        trainable: also write the weights from which training can start again

    Raises:
        ExportError: `out` is not empty, an engine is missing, or the bundle differs from PyTorch.
    """
    frames = FrameNetwork(network, spec.preprocessing).eval()

    def write(folder: Path) -> None:
        write_onnx(frames, spec, folder / ONNX_FILE, weights=weights)
        if trainable:
            save_trained_weights(network, folder)

    @torch.inference_mode()
    def embed(clips: NDArray[np.uint8]) -> NDArray[np.float32]:
        return normalise(np.concatenate([frames(torch.from_numpy(batch)).numpy() for batch in batches(clips)]))

    return assemble_bundle(out, spec, write, Reference("PyTorch in fp32", embed), clips=clips, crops=crops)
