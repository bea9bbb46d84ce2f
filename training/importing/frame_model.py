"""What the importers of ONNX and of OpenVINO IR share: the input of a frame-level model, options, an opened model."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from model.frames import PREPROCESSING_VERSION
from model.spec import BundleSpec, Preprocessing
from training.export.bundle_assembly import ExportError

_SHORTEST, _LONGEST = 8, 4096
"""Sides of frames in a bundle, in pixels; see `model.spec.Side`."""

NOT_STATED = "not stated at the import of the model"

RunFrames = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""The original model: normalised frames in its layout and colour order to `[F, D]` or `[F, D, 1, 1]`."""


@dataclass(frozen=True)
class FrameInput:
    """The input that a frame-level model expects for a frame `x` of uint8: `(x / scale - mean) / std` per channel.

    `mean` and `std` are in RGB order for both colour orders. Values before normalisation are 0 to 1 with `scale` 255,
    and 0 to 255 with `scale` 1.
    """

    height: int
    width: int
    colour: Literal["rgb", "bgr"] = "rgb"
    layout: Literal["nchw", "nhwc"] = "nchw"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    scale: Literal[1, 255] = 255

    def __post_init__(self) -> None:
        """Raise `ExportError` if mean or std is impossible with this scale."""
        largest = 255 / self.scale
        if not all(0 <= value <= largest for value in self.mean):
            raise ExportError(f"mean {_list(self.mean)}: with scale {self.scale} means must be 0 to {largest:g}")
        if not all(0 < value <= largest for value in self.std):
            raise ExportError(
                f"std {_list(self.std)}: with scale {self.scale} values must be above 0 and at most {largest:g}"
            )

    def prepare(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return frames `uint8 [F, H, W, 3]` in RGB as the model expects them."""
        mean, std = np.array(self.mean, np.float32), np.array(self.std, np.float32)
        values = (frames.astype(np.float32) / self.scale - mean) / std
        values = values[..., ::-1] if self.colour == "bgr" else values
        return np.ascontiguousarray(values.transpose(0, 3, 1, 2) if self.layout == "nchw" else values, np.float32)

    def preprocessing(self) -> Preprocessing:
        """Return mean and std for a bundle's spec, whose values are 0 to 1."""
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
    """writes the clip-level network to a bundle's folder"""


@dataclass(frozen=True)
class ImportOptions:
    """Facts that a model's file does not contain; height and width may be None if it does."""

    height: int | None = None
    width: int | None = None
    colour: Literal["rgb", "bgr"] = "rgb"
    mean: tuple[float, float, float] = FrameInput.mean
    std: tuple[float, float, float] = FrameInput.std
    scale: Literal[1, 255] = 255
    output: str | None = None
    """name of the embedding if the model has several outputs"""
    clip_length: int = 4
    name: str | None = None
    training_data: str = NOT_STATED
    data_terms: str = NOT_STATED

    def frame_input(self, shape: tuple[int | None, ...], model: str) -> FrameInput:
        """Return the input of a model.

        Args:
            shape: of the input in the file; None for an axis without a fixed length
            model: its path, for messages

        Raises:
            ExportError: the input is not images, or the frame size is unknown or contradicts the file.
        """
        if len(shape) != 4 or 3 not in (shape[1], shape[3]):
            raise ExportError(f"{model} takes {_show(shape)}; a frame-level model takes [N, 3, H, W] or [N, H, W, 3]")
        nchw = shape[1] == 3
        sizes = shape[2:] if nchw else shape[1:3]
        found = []
        for side, in_file, given in zip(("height", "width"), sizes, (self.height, self.width), strict=True):
            if in_file is not None and given not in (None, in_file):
                raise ExportError(f"{model} takes frames of {side} {in_file}, not {given}")
            if in_file is None and given is None:
                raise ExportError(f"{model} takes frames of any {side}: give the {side} of its training (--{side})")
            length = in_file or given or 0
            if not _SHORTEST <= length <= _LONGEST:
                raise ExportError(f"{model}: the {side} of a frame must be {_SHORTEST} to {_LONGEST} (got {length})")
            found.append(length)
        layout: Literal["nchw", "nhwc"] = "nchw" if nchw else "nhwc"
        return FrameInput(found[0], found[1], self.colour, layout, self.mean, self.std, self.scale)

    def choose_output(self, outputs: Sequence[Sequence[str]], model: str) -> int:
        """Return the number of the output that is the embedding.

        Args:
            outputs: the names of each output
            model: its path, for messages

        Raises:
            ExportError: there is no output, there are several and none was chosen, or the chosen one does not exist.
        """
        if not outputs:
            raise ExportError(f"{model} has no outputs; a frame-level model has one")
        listed = ", ".join(names[0] if names else f"number {number}" for number, names in enumerate(outputs))
        if self.output is None:
            if len(outputs) != 1:
                raise ExportError(f"{model} has several outputs ({listed}): name the embedding (--output)")
            return 0
        for number, names in enumerate(outputs):
            if self.output in names:
                return number
        raise ExportError(f"{model} has no output {self.output}; it has {listed}")


def fixed_batch_error(model: Path, error: Exception) -> ExportError:
    """Return the error for a model whose batch size cannot be changed."""
    return ExportError(f"{model} has a fixed batch size: export it with a dynamic first axis ({first_line(error)})")


def first_line(error: Exception) -> str:
    """Return the first informative line of a library's error."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    informative = [line for line in lines if not re.match(r"(Exception from|Check ') ?", line)]
    return next(iter(informative or lines), type(error).__name__)


def _list(values: tuple[float, ...]) -> str:
    return ",".join(f"{value:g}" for value in values)


def _show(shape: tuple[int | None, ...]) -> str:
    return f"[{', '.join('?' if side is None else str(side) for side in shape)}]"
