"""A frame-level OpenVINO IR behind a bundle's input."""

from pathlib import Path
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray
from openvino import opset13 as ops

from model.bundle import INPUT_NAME, IR_FILES, OUTPUT_NAME
from model.engines.openvino_engine import preserve_signal_stack
from model.spec import BundleSpec
from training.export.bundle_assembly import ExportError
from training.importing.frame_model import FrameInput, FrameModel, ImportOptions, first_line

_FLOATS = (openvino.Type.f32, openvino.Type.f16)


def open_ir(path: Path, options: ImportOptions) -> FrameModel:
    """Reads and checks an IR: ``path`` is its ``.xml``, the ``.bin`` lies beside it.

    Raises:
        ExportError: damaged, without its weights, or no model of frames.
    """
    model = _read(path)
    if len(model.inputs) != 1:
        raise ExportError(f"{path} has {len(model.inputs)} inputs: a frame-level model has one")
    source = model.input(0)
    if source.get_element_type() not in _FLOATS:
        raise ExportError(
            f"{path} takes {source.get_element_type().get_type_name()}: the model before its own preprocessing takes "
            "floats"
        )
    shape = tuple(None if axis.is_dynamic else axis.get_length() for axis in source.get_partial_shape())
    expects = options.frame_input(shape, str(path))
    place = _choose_output(path, model, options.output)
    model.reshape({source: openvino.PartialShape([-1, *_frame_shape(expects)])})
    config: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}
    with preserve_signal_stack():
        compiled = openvino.Core().compile_model(model, "CPU", config)

    def run(frames: NDArray[np.float32]) -> NDArray[np.float32]:
        try:
            return np.asarray(compiled([frames])[compiled.output(place)], np.float32)
        except RuntimeError as error:
            raise ExportError(f"{path} does not run on one frame: {first_line(error)}") from None

    def write(spec: BundleSpec, folder: Path) -> None:
        try:
            whole = _behind_clips(_read(path), place, expects, spec)
        except RuntimeError as error:
            raise ExportError(
                f"{path} has its batch size built in: convert it again with a dynamic first axis ({first_line(error)})"
            ) from None
        openvino.save_model(whole, folder / IR_FILES[0], compress_to_fp16=False)

    return FrameModel("OpenVINO IR", expects, run, write)


def _read(path: Path) -> openvino.Model:
    with path.open("rb") as file:
        if b"<net" not in file.read(4096):  # OpenVINO would try its readers of every other format, noisily
            raise ExportError(f"{path} is no OpenVINO IR: it does not begin with <net>")
    weights = path.with_suffix(".bin")
    if not weights.is_file():
        raise ExportError(f"{weights} is missing: an IR is two files, and this one holds the weights")
    try:
        return openvino.Core().read_model(path)
    except RuntimeError as error:
        raise ExportError(f"{path} is no OpenVINO IR, or not a whole one: {first_line(error)}") from None


def _choose_output(path: Path, model: openvino.Model, wanted: str | None) -> int:
    names = [sorted(output.get_names()) for output in model.outputs]
    listed = ", ".join(name[0] if name else f"number {number}" for number, name in enumerate(names))
    if wanted is None:
        if len(names) != 1:
            raise ExportError(f"{path} has several outputs ({listed}): name the embedding (--output)")
        return 0
    for number, name in enumerate(names):
        if wanted in name:
            return number
    raise ExportError(f"{path} has no output {wanted}; it has {listed}")


def _frame_shape(expects: FrameInput) -> list[int]:
    size = [expects.height, expects.width]
    return [3, *size] if expects.layout == "nchw" else [*size, 3]


def _behind_clips(model: openvino.Model, place: int, expects: FrameInput, spec: BundleSpec) -> openvino.Model:
    """The model between nodes that prepare frames and nodes that average over a clip's."""
    source = model.input(0)
    element = source.get_element_type()
    model.reshape({source: openvino.PartialShape([-1, *_frame_shape(expects)])})
    clips = ops.parameter([-1, *spec.clip_shape], np.uint8, name=INPUT_NAME)
    node = ops.reshape(clips, np.array([-1, expects.height, expects.width, 3], np.int64), special_zero=False)
    mean, std = (np.array(each, np.float32) * expects.scale for each in (expects.mean, expects.std))
    node = ops.divide(ops.subtract(ops.convert(node, "f32"), mean), std)
    if expects.colour == "bgr":
        node = ops.gather(node, np.array([2, 1, 0], np.int64), np.int64(3))
    if expects.layout == "nchw":
        node = ops.transpose(node, np.array([0, 3, 1, 2], np.int64))
    if element != openvino.Type.f32:
        node = ops.convert(node, element.get_type_name())
    model.get_parameters()[0].output(0).replace(node.output(0))
    embedded = ops.convert(model.output(place).get_node().input_value(0), "f32")
    rows = ops.reshape(embedded, np.array([-1, spec.clip_length, spec.dimension], np.int64), special_zero=False)
    embeddings = ops.reduce_mean(rows, np.array([1], np.int64), keep_dims=False)
    clips.output(0).get_tensor().set_names({INPUT_NAME})
    embeddings.output(0).get_tensor().set_names({OUTPUT_NAME})
    whole = openvino.Model([ops.result(embeddings)], [clips], "clips")
    # OpenVINO numbers nodes by process, and the embedding space is a hash of the file.
    for number, operation in enumerate(whole.get_ordered_ops()):
        operation.set_friendly_name(f"{operation.get_type_name()}_{number}")
    return whole
