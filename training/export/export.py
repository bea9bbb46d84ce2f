"""From a checkpoint to a bundle, which is written only if it computes what PyTorch computes."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from model.bundle import ONNX_FILE
from model.frames import PREPROCESSING_VERSION
from model.spec import Accuracy, BundleSpec, Preprocessing
from model.tracklet import normalise
from training.export.bundle_assembly import (
    ExportError,
    ExportReport,
    Reference,
    assemble_bundle,
    batches,
    refuse_occupied,
)
from training.export.onnx_graph import FrameNetwork, WeightError, WeightStorage, write_onnx
from training.export.reference_clips import draw_clips, read_clips
from training.loop.checkpoint import Checkpoint, load_checkpoint
from training.recipe import Recipe

ARCHITECTURE = "2D residual trunk, attention over a clip's frames, BNNeck (after Not 3D Re-ID, arXiv 2008.06318)"

_DRAWN_SEED, _DRAWN_PEOPLE = 1, 16
_MAX_CLIPS = 48


def export_bundle(
    checkpoint: Path,
    out: Path,
    *,
    crops: Path | None = None,
    weights: WeightStorage = "fp16",
    name: str | None = None,
) -> ExportReport:
    """Export a checkpoint as a bundle into the new folder ``out``.

    It is compared on ``crops`` (MARS, Market-1501, or any folder of tracklets), by default on the training data that
    the checkpoint names, where that is on this machine, else on drawn people; the report says on which. ``name`` is
    the model's, by default the recipe's.

    Raises:
        ExportError: ``out`` holds something, an engine is missing, or the bundle differs from PyTorch.
        CheckpointError, ValueError: from the checkpoint or the crops.
    """
    refuse_occupied(out)
    loaded = load_checkpoint(checkpoint)
    network = loaded.build()
    spec = describe_network(loaded, name, network.dimension)
    if crops is None and loaded.crops_source is not None and Path(loaded.crops_source).exists():
        crops = Path(loaded.crops_source)
    if crops is None:
        clips, shown = draw_clips(spec, people=_DRAWN_PEOPLE, seed=_DRAWN_SEED), "people drawn by the project"
    else:
        clips, shown = read_clips(crops, spec, limit=_MAX_CLIPS), crops.name
    return write_bundle(network, spec, out, clips=clips, crops=shown, weights=weights)


def describe_network(checkpoint: Checkpoint, name: str | None, dimension: int) -> BundleSpec:
    """Put what a checkpoint knows of its network into a bundle's words."""
    network = checkpoint.network_spec
    # The recipe as it was carried out: the number of classes comes with the data. Imported weights have none.
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
        preprocessing=Preprocessing(version=PREPROCESSING_VERSION, mean=network.mean, std=network.std),
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
) -> ExportReport:
    """Export ``network`` (normalised float clips ``[N, T, 3, H, W]`` to ``[N, D]``) and judge it on ``clips``.

    ``clips`` are uint8 ``[N, T, H, W, 3]``; ``crops`` says in words where they are from.

    Raises:
        ExportError: see :func:`export_bundle`.
    """
    frames = FrameNetwork(network, spec.preprocessing).eval()

    def write(folder: Path) -> None:
        try:
            write_onnx(frames, spec, folder / ONNX_FILE, weights=weights)
        except WeightError as error:
            raise ExportError(f"nothing was written: {error}") from error

    @torch.inference_mode()
    def embed(clips: NDArray[np.uint8]) -> NDArray[np.float32]:
        return normalise(np.concatenate([frames(torch.from_numpy(batch)).numpy() for batch in batches(clips)]))

    return assemble_bundle(out, spec, write, Reference("PyTorch in fp32", embed), clips=clips, crops=crops)
