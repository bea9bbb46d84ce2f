"""Import a frame-level Re-ID model as a bundle: each frame of a clip is embedded alone, then the mean is taken.

Models such as OSNet, FastReID and ReIdentificationNet are exported to ONNX or OpenVINO IR with one frame per row, and
the caller normalises the frames. The bundle's graph takes uint8 RGB clips, as all bundles do: colour order and
normalisation are put before the model, the mean over the clip's frames after it.
"""

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from model.spec import BundleSpec
from model.tracklet import normalise
from training.export.bundle_assembly import ExportError, ExportResult, assemble_bundle, refuse_occupied
from training.export.reference import Reference, batches, choose_reference_clips
from training.importing.frame_model import FrameInput, FrameModel, ImportOptions


def import_frame_model(
    model: Path, out: Path, options: ImportOptions | None = None, *, crops: Path | None = None
) -> ExportResult:
    """Write a bundle of an ONNX file or of an OpenVINO IR to the new folder `out`.

    The bundle is compared with the original model, run frame by frame and averaged. A bundle of an IR runs on OpenVINO
    only, because an IR cannot be converted to ONNX faithfully.

    Args:
        model: an `.onnx` file, or an `.xml` with its `.bin` beside it
        out: a path that does not exist, or an empty folder
        options: facts that the file does not contain
        crops: the dataset or folder of tracklets for the comparison; by default drawn people

    Raises:
        ExportError: the model is not a frame-level model or cannot be wrapped; nothing is written.
        DatasetError, FrameError: `crops` cannot be read.
    """
    options = options or ImportOptions()
    refuse_occupied(out)
    if not 1 <= options.clip_length <= 256:
        raise ExportError(f"clip length {options.clip_length}: must be 1 to 256 frames")
    if not model.is_file():
        raise ExportError(f"{model} is not a file" if model.exists() else f"{model} does not exist")
    opened = _open(model, options)
    dimension = _dimension(opened, model)
    expects = opened.expects
    spec = BundleSpec(
        name=options.name or model.stem,
        architecture="A frame-level Re-ID model, imported; the frames of a clip are averaged",
        backbone="not stated",
        attention="mean",
        frame_height=expects.height,
        frame_width=expects.width,
        clip_length=options.clip_length,
        dimension=dimension,
        feature="raw",
        preprocessing=expects.preprocessing(),
        training_data=options.training_data,
        recipe={"imported": _describe(model, options, expects)},
        data_terms=options.data_terms,
        intended_use="Finding, for a human operator, tracklets that may show the same person.",
        not_for="Identifying people by name, or decisions about a person without a human's review.",
    )

    def embed(clips: NDArray[np.uint8]) -> NDArray[np.float32]:
        means = []
        for batch in batches(clips):
            frames = [_rows(opened.run(expects.prepare(frame[None])), model) for clip in batch for frame in clip]
            means.append(np.concatenate(frames).reshape(len(batch), spec.clip_length, -1).mean(axis=1))
        return normalise(np.concatenate(means))

    clips, shown = choose_reference_clips(spec, crops)
    reference = Reference(f"{model.name} frame by frame ({opened.kind}, fp32)", embed)
    return assemble_bundle(out, spec, lambda folder: opened.write(spec, folder), reference, clips=clips, crops=shown)


def _open(model: Path, options: ImportOptions) -> FrameModel:
    # Each of the two modules needs its own library.
    if model.suffix == ".xml":
        from training.importing.from_ir import open_ir

        return open_ir(model, options)
    from training.importing.from_onnx import open_onnx

    return open_onnx(model, options)


def _describe(model: Path, options: ImportOptions, expects: FrameInput) -> dict[str, JsonValue]:
    """Return the origin of the bundle and how its input was interpreted."""
    files = [model, model.with_suffix(".bin")] if model.suffix == ".xml" else [model]
    return {
        "sha256": {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files},
        "output": options.output,
        "colour": expects.colour,
        "layout": expects.layout,
        "scale": expects.scale,
        "mean": list(expects.mean),
        "std": list(expects.std),
    }


def _dimension(opened: FrameModel, model: Path) -> int:
    shape = (1, opened.expects.height, opened.expects.width, 3)
    grey = np.full(shape, 128, np.uint8)
    (embedding,) = _rows(opened.run(opened.expects.prepare(grey)), model)
    if not np.isfinite(embedding).all() or not embedding.any():
        found = "only zeros" if np.isfinite(embedding).all() else "numbers that are not finite"
        raise ExportError(f"{model} gives {found} for a grey frame: its weights are damaged, or it needs other input")
    return len(embedding)


def _rows(output: NDArray[np.float32], model: Path) -> NDArray[np.float32]:
    """Return the embedding `[1, D]` of one frame, without trailing axes of length 1."""
    if output.ndim < 2 or len(output) != 1 or output.shape[1] < 2 or output[0].size != output.shape[1]:
        raise ExportError(
            f"{model} gives {list(output.shape)} for one frame; an embedding is [1, D] or [1, D, 1, 1]. "
            "If the model has several outputs, name the embedding (--output)"
        )
    return output.reshape(1, -1)
