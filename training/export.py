"""From a checkpoint to a bundle, which is written only if it computes what PyTorch computes."""

import importlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from model.bundle import CARD_FILE, GOLDEN_FILE, ONNX_FILE, SPEC_FILE, Bundle, BundleError
from model.engines import Engine, EngineError, open_engine
from model.engines.choice import installed_engines
from model.engines.cpu_limit import available_cpus
from model.engines.self_test import SelfTestError, run_self_test
from model.frames import PREPROCESSING_VERSION
from model.spec import Accuracy, BundleSpec, Preprocessing
from model.tracklet import normalise
from training.checkpoint import Checkpoint, load_checkpoint
from training.export_clips import draw_clips, read_clips
from training.model_card import Difference, describe_bundle
from training.onnx_graph import FrameNetwork, WeightError, WeightStorage, write_onnx
from training.recipe import Recipe

__all__ = ["MAX_DIFFERENCE", "ExportError", "ExportReport", "export_bundle", "write_bundle"]

MAX_DIFFERENCE = 1e-3
"""Largest difference of any component of a unit-length embedding between the bundle and PyTorch in fp32."""

ARCHITECTURE = "2D residual trunk, attention over a clip's frames, BNNeck (after Not 3D Re-ID, arXiv 2008.06318)"

_GOLDEN_SEED, _GOLDEN_PEOPLE = 2020, 4
_DRAWN_SEED, _DRAWN_PEOPLE = 1, 16
_MAX_CLIPS = 48
_BATCH = 8

_LOG = logging.getLogger(__name__)


class ExportError(RuntimeError):
    """No bundle was written; the message says why."""


@dataclass(frozen=True)
class ExportReport:
    """What was written and how it was judged.

    ``crops`` says in words what the ``clips`` compared clips show; ``notes`` say which engines do not run it, and why.
    """

    path: Path
    embedding_space: str
    onnx_bytes: int
    crops: str
    clips: int
    differences: tuple[Difference, ...]
    notes: tuple[str, ...]


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
    _refuse_occupied(out)
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
    # The recipe as it was carried out: the number of classes comes with the data.
    recipe = Recipe.model_validate(checkpoint.recipe).model_copy(update={"network": network})
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
        recipe=recipe.model_dump(mode="json"),
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

    The bundle is made in a folder beside ``out`` and moved there at the end, so ``out`` is whole or absent. ``clips``
    are uint8 ``[N, T, H, W, 3]``; ``crops`` says in words where they are from.

    Raises:
        ExportError: see :func:`export_bundle`.
    """
    _refuse_occupied(out)
    scratch = out.parent / f".{out.name}.{os.getpid()}.partial"
    scratch.mkdir(parents=True)
    try:
        reference = FrameNetwork(network, spec.preprocessing).eval()
        bundle = _write_files(reference, spec, scratch, weights)
        differences, notes = _judge(bundle, reference, clips)
        (scratch / CARD_FILE).write_text(
            describe_bundle(bundle, f"{len(clips)} clips of {crops}", differences), encoding="utf-8"
        )
        scratch.replace(out)
    except (BundleError, EngineError, SelfTestError) as error:
        raise ExportError(f"nothing was written to {out}: {error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    size = (out / ONNX_FILE).stat().st_size
    return ExportReport(out, bundle.embedding_space, size, crops, len(clips), differences, notes)


def _refuse_occupied(out: Path) -> None:
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ExportError(f"{out} exists; a bundle is written to a new folder, so that no half of an old one remains")


def _write_files(reference: FrameNetwork, spec: BundleSpec, folder: Path, weights: WeightStorage) -> Bundle:
    golden = draw_clips(spec, people=_GOLDEN_PEOPLE, seed=_GOLDEN_SEED)
    np.savez_compressed(folder / GOLDEN_FILE, clips=golden, embeddings=_embed_in_torch(reference, golden))
    (folder / SPEC_FILE).write_text(json.dumps(spec.model_dump(mode="json"), indent=2) + "\n", encoding="utf-8")
    try:
        write_onnx(reference, spec, folder / ONNX_FILE, weights=weights)
    except WeightError as error:
        raise ExportError(f"nothing was written: {error}") from error
    return Bundle.load(folder)


def _judge(
    bundle: Bundle, reference: FrameNetwork, clips: NDArray[np.uint8]
) -> tuple[tuple[Difference, ...], tuple[str, ...]]:
    """Compare every installed CPU engine with PyTorch; ONNX Runtime in fp32 decides."""
    expected = _embed_in_torch(reference, clips)
    engine = open_engine(bundle, "cpu", engine="onnxruntime")
    difference = _measure(engine, clips, expected)
    if not difference.max_difference <= MAX_DIFFERENCE:  # NaN included
        raise ExportError(
            f"nothing was written: over {len(clips)} clips the bundle differs from PyTorch by up to "
            f"{difference.max_difference:.2g} in a component of a unit-length embedding (at most {MAX_DIFFERENCE:g}); "
            f"smallest cosine {difference.min_cosine:.6f}. Weights stored as fp32 differ less than as fp16"
        )
    run_self_test(engine, bundle)
    differences, notes = [difference], []
    for precision in ("f32", "bf16"):
        try:
            engine = _open_openvino(bundle, precision)
            differences.append(_measure(engine, clips, expected))
            run_self_test(engine, bundle)
        except (EngineError, SelfTestError) as error:
            notes.append(f"openvino in {precision}: {error}")
            _LOG.warning("%s", notes[-1])
    return tuple(differences), tuple(notes)


def _open_openvino(bundle: Bundle, precision: str) -> Engine:
    if "openvino" not in installed_engines():
        raise EngineError("OpenVINO is not installed")
    module = importlib.import_module("model.engines.openvino_engine")
    engine: Engine = module.OpenVinoEngine(bundle, threads=available_cpus(), precision=precision)
    return engine


def _measure(engine: Engine, clips: NDArray[np.uint8], expected: NDArray[np.float32]) -> Difference:
    found = normalise(np.concatenate([engine.embed(batch) for batch in _batches(clips)]))
    return Difference(
        engine.name,
        engine.precision,
        float(np.abs(found - expected).max()),
        float((found * expected).sum(axis=1).min()),
    )


@torch.inference_mode()
def _embed_in_torch(reference: FrameNetwork, clips: NDArray[np.uint8]) -> NDArray[np.float32]:
    return normalise(np.concatenate([reference(torch.from_numpy(batch)).numpy() for batch in _batches(clips)]))


def _batches(clips: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    """One clip alone, then batches: an axis that the export froze would show."""
    yield clips[:1]
    for start in range(1, len(clips), _BATCH):
        yield clips[start : start + _BATCH]
