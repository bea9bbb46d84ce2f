"""Open a frame-level OpenVINO IR and wrap it into a network of clips."""

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
from training.importing.frame_model import FrameInput, FrameModel, ImportOptions, first_line, fixed_batch_error

_FLOATS = (openvino.Type.f32, openvino.Type.f16)


def open_ir(path: Path, options: ImportOptions) -> FrameModel:
    """Read and check an IR.

    Args:
        path: of its `.xml`; the `.bin` is beside it
        options: facts that the file does not contain

    Raises:
        ExportError: the IR is damaged, has no weights, or is not a frame-level model.
    """
    model = _read(path)
    if len(model.inputs) != 1:
        raise ExportError(f"{path} has {len(model.inputs)} inputs; a frame-level model has one")
    source = model.input(0)
    if source.get_element_type() not in _FLOATS:
        raise ExportError(
            f"{path} takes {source.get_element_type().get_type_name()}: convert the model without preprocessing, so "
            "that it takes floats"
        )
    shape = tuple(None if axis.is_dynamic else axis.get_length() for axis in source.get_partial_shape())
    expects = options.frame_input(shape, str(path))
    output = options.choose_output([sorted(output.get_names()) for output in model.outputs], str(path))
    model.reshape({source: openvino.PartialShape([-1, *_frame_shape(expects)])})
    config: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}
    with preserve_signal_stack():
        compiled = openvino.Core().compile_model(model, "CPU", config)

    def run(frames: NDArray[np.float32]) -> NDArray[np.float32]:
        try:
            return np.asarray(compiled([frames])[compiled.output(output)], np.float32)
        except RuntimeError as error:
            raise ExportError(f"{path} does not run on one frame: {first_line(error)}") from None

    def write(spec: BundleSpec, folder: Path) -> None:
        try:
            clip_model = _wrap(_read(path), output, expects, spec)
        except RuntimeError as error:
            raise fixed_batch_error(path, error) from None
        openvino.save_model(clip_model, folder / IR_FILES[0], compress_to_fp16=False)

    return FrameModel("OpenVINO IR", expects, run, write)


def _read(path: Path) -> openvino.Model:
    with path.open("rb") as file:
        if b"<net" not in file.read(4096):  # otherwise OpenVINO tries its readers of all other formats, with messages
            raise ExportError(f"{path} is not an OpenVINO IR: it does not begin with <net>")
    weights = path.with_suffix(".bin")
    if not weights.is_file():
        raise ExportError(f"{weights} is missing: an IR is two files, and this one contains the weights")
    try:
        return openvino.Core().read_model(path)
    except RuntimeError as error:
        raise ExportError(f"{path} is not an OpenVINO IR, or is incomplete: {first_line(error)}") from None


def _frame_shape(expects: FrameInput) -> list[int]:
    size = [expects.height, expects.width]
    return [3, *size] if expects.layout == "nchw" else [*size, 3]


def _wrap(model: openvino.Model, output: int, expects: FrameInput, spec: BundleSpec) -> openvino.Model:
    """Put the model between nodes that prepare frames and nodes that take the mean over a clip."""
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
    embedded = ops.convert(model.output(output).get_node().input_value(0), "f32")
    rows = ops.reshape(embedded, np.array([-1, spec.clip_length, spec.dimension], np.int64), special_zero=False)
    embeddings = ops.reduce_mean(rows, np.array([1], np.int64), keep_dims=False)
    clips.output(0).get_tensor().set_names({INPUT_NAME})
    embeddings.output(0).get_tensor().set_names({OUTPUT_NAME})
    wrapped = openvino.Model([ops.result(embeddings)], [clips], "clips")
    # OpenVINO numbers nodes per process, and the embedding space is a hash of the file: give nodes fixed names.
    for number, operation in enumerate(wrapped.get_ordered_ops()):
        operation.set_friendly_name(f"{operation.get_type_name()}_{number}")
    return wrapped
