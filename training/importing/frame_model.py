"""A frame-level Re-ID model that somebody has already, as a bundle: frames of a clip are embedded alone and averaged.

OSNet, FastReID, ReIdentificationNet and their like are exported to ONNX, or to OpenVINO's IR, with one frame per row
and normalisation left to the caller. The bundle's graph takes uint8 RGB clips as every bundle's does: colour order and
normalisation come before the model, the mean over the clip's frames after it.
"""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from model.frames import PREPROCESSING_VERSION
from model.spec import BundleSpec, Preprocessing
from model.tracklet import normalise
from training.export.bundle_assembly import (
    ExportError,
    ExportReport,
    Reference,
    assemble_bundle,
    batches,
    refuse_occupied,
)
from training.export.reference_clips import draw_clips, read_clips

NOT_STATED = "not stated by whoever imported the model"

_CLIPS, _PEOPLE, _SEED = 48, 16, 1

RunFrames = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""The model as it came: normalised frames in its own layout and colour order to ``[F, D]`` or ``[F, D, 1, 1]``."""


@dataclass(frozen=True)
class FrameInput:
    """What a frame-level model expects of a frame ``x`` of uint8: ``(x / scale - mean) / std`` per channel.

    ``mean`` and ``std`` are in RGB order whatever the colour order is. With ``scale`` 255 values are in 0..1 before
    normalisation, with 1 in 0..255.
    """

    height: int
    width: int
    colour: Literal["rgb", "bgr"] = "rgb"
    layout: Literal["nchw", "nhwc"] = "nchw"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    scale: Literal[1, 255] = 255

    def __post_init__(self) -> None:
        """Raises :class:`ExportError` for a normalisation that no model has."""
        largest = 255 / self.scale
        if not all(0 <= value <= largest for value in self.mean):
            raise ExportError(
                f"mean {_list(self.mean)}: with scale {self.scale} the values of a frame are 0 to {largest:g}, "
                "and so are their means"
            )
        if not all(0 < value <= largest for value in self.std):
            raise ExportError(f"std {_list(self.std)}: with scale {self.scale} above 0 and at most {largest:g}")

    def prepare(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 RGB ``[F, H, W, 3]`` as the model wants them."""
        mean, std = np.array(self.mean, np.float32), np.array(self.std, np.float32)
        values = (frames.astype(np.float32) / self.scale - mean) / std
        values = values[..., ::-1] if self.colour == "bgr" else values
        return np.ascontiguousarray(values.transpose(0, 3, 1, 2) if self.layout == "nchw" else values, np.float32)

    def preprocessing(self) -> Preprocessing:
        """The same for a bundle's spec, in units of 0..1."""
        unit = self.scale / 255
        mean = (self.mean[0] * unit, self.mean[1] * unit, self.mean[2] * unit)
        std = (self.std[0] * unit, self.std[1] * unit, self.std[2] * unit)
        return Preprocessing(version=PREPROCESSING_VERSION, mean=mean, std=std)


@dataclass(frozen=True)
class FrameModel:
    """An opened model file."""

    kind: str
    """ "ONNX" or "OpenVINO IR" """
    expects: FrameInput
    run: RunFrames
    write: Callable[[BundleSpec, Path], None]
    """writes the clip-level network into a bundle's folder"""


@dataclass(frozen=True)
class ImportOptions:
    """What the file of a model does not say; ``None`` where it should."""

    height: int | None = None
    width: int | None = None
    colour: Literal["rgb", "bgr"] = "rgb"
    mean: tuple[float, float, float] = FrameInput.mean
    std: tuple[float, float, float] = FrameInput.std
    scale: Literal[1, 255] = 255
    output: str | None = None
    """name of the embedding among several outputs"""
    clip_length: int = 4
    name: str | None = None
    training_data: str = NOT_STATED
    data_terms: str = NOT_STATED

    def frame_input(self, shape: tuple[int | None, ...], where: str) -> FrameInput:
        """The input of a model whose file gives it as ``shape`` (``None`` for an axis that is free).

        Raises:
            ExportError: no images go into it, or the size is not known, or another than was said.
        """
        if len(shape) != 4 or 3 not in (shape[1], shape[3]):
            raise ExportError(f"{where} takes {_show(shape)}: a frame-level model takes [N, 3, H, W] or [N, H, W, 3]")
        nchw = shape[1] == 3
        sizes = shape[2:] if nchw else shape[1:3]
        found = []
        for word, own, said in zip(("height", "width"), sizes, (self.height, self.width), strict=True):
            if own is not None and said not in (None, own):
                raise ExportError(f"{where} takes frames of {word} {own}, not {said}")
            if own is None and said is None:
                raise ExportError(f"{where} takes frames of any {word}: say which it was trained on (--{word})")
            found.append(own or said or 0)
        layout: Literal["nchw", "nhwc"] = "nchw" if nchw else "nhwc"
        return FrameInput(found[0], found[1], self.colour, layout, self.mean, self.std, self.scale)


def import_frame_model(
    model: Path, out: Path, options: ImportOptions | None = None, *, crops: Path | None = None
) -> ExportReport:
    """Makes a bundle of an ONNX file, or of an OpenVINO IR (``.xml`` with its ``.bin``), in the new folder ``out``.

    The bundle is compared with the model as it came, run frame by frame and averaged, on ``crops`` or on drawn people.
    A bundle of an IR runs on OpenVINO alone: there is no faithful way back from IR to ONNX.

    Raises:
        ExportError: no frame-level model, or one that cannot be put behind the bundle's input; nothing is written.
    """
    options = options or ImportOptions()
    refuse_occupied(out)
    if not 1 <= options.clip_length <= 256:
        raise ExportError(f"clip length {options.clip_length}: 1 to 256 frames")
    if not model.is_file():
        raise ExportError(f"{model} is no file" if model.exists() else f"{model} does not exist")
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

    if crops is None:
        clips, shown = draw_clips(spec, people=_PEOPLE, seed=_SEED), "people drawn by the project"
    else:
        clips, shown = read_clips(crops, spec, limit=_CLIPS), crops.name
    reference = Reference(f"{model.name} frame by frame ({opened.kind}, fp32)", embed)
    return assemble_bundle(out, spec, lambda folder: opened.write(spec, folder), reference, clips=clips, crops=shown)


def _describe(model: Path, options: ImportOptions, expects: FrameInput) -> dict[str, JsonValue]:
    """Where the bundle is from, and what was said of the model, for whoever asks later."""
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


def _open(model: Path, options: ImportOptions) -> FrameModel:
    # Each needs a library of its own, and the other's may be absent.
    if model.suffix == ".xml":
        from training.importing.from_ir import open_ir

        return open_ir(model, options)
    from training.importing.from_onnx import open_onnx

    return open_onnx(model, options)


def _dimension(opened: FrameModel, model: Path) -> int:
    shape = (1, opened.expects.height, opened.expects.width, 3)
    grey = np.full(shape, 128, np.uint8)
    return len(_rows(opened.run(opened.expects.prepare(grey)), model)[0])


def _rows(output: NDArray[np.float32], model: Path) -> NDArray[np.float32]:
    """``[F, D]``; trailing axes of length 1 go."""
    if output.ndim < 2 or len(output) != 1 or output.shape[1] < 2 or output[0].size != output.shape[1]:
        raise ExportError(
            f"{model} gives {list(output.shape)} for one frame: an embedding is [1, D] or [1, D, 1, 1]. "
            "With several outputs, name the embedding (--output)"
        )
    return output.reshape(1, -1)


def first_line(error: Exception) -> str:
    """The first line of a library's error that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not re.match(r"(Exception from|Check ') ?", line)]
    return next(iter(telling or lines), type(error).__name__)


def _list(values: tuple[float, ...]) -> str:
    return ",".join(f"{value:g}" for value in values)


def _show(shape: tuple[int | None, ...]) -> str:
    return f"[{', '.join('?' if side is None else str(side) for side in shape)}]"
