"""Open a frame-level ONNX model and wrap it into a network of clips."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import TensorProto, compose, helper, numpy_helper

from model.bundle import INPUT_NAME, ONNX_FILE, OUTPUT_NAME
from model.engines.onnx_runtime import ORT_ERRORS
from model.spec import BundleSpec
from training.export.bundle_assembly import ExportError
from training.export.onnx_graph import drop_metadata
from training.importing.frame_model import FrameInput, FrameModel, ImportOptions, first_line, fixed_batch_error

_LOWEST_OPSET = 9
_PREFIX = "frame/"


def open_onnx(path: Path, options: ImportOptions) -> FrameModel:
    """Read and check an ONNX file and the weights in files beside it.

    Raises:
        ExportError: the file is damaged, is not a frame-level model, or has a too old opset.
    """
    model = _read(path)
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs)
        raise ExportError(f"{path} has {len(inputs)} inputs ({names}); a frame-level model has one")
    output = graph.output[options.choose_output([[value.name] for value in graph.output], str(path))].name
    expects = options.frame_input(_shape(inputs[0]), str(path))
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if opset < _LOWEST_OPSET:
        raise ExportError(f"{path} has opset {opset}: export it with opset {_LOWEST_OPSET} or later")
    element = inputs[0].type.tensor_type.elem_type
    if element not in (TensorProto.FLOAT, TensorProto.FLOAT16):
        raise ExportError(
            f"{path} takes {TensorProto.DataType.Name(element)}: export the model without preprocessing, so that it "
            "takes floats"
        )
    session = _open_session(model.SerializeToString(), path)
    fixed_batch = _batch_size(inputs[0])

    def run(frames: NDArray[np.float32]) -> NDArray[np.float32]:
        kind = np.float16 if element == TensorProto.FLOAT16 else np.float32
        # A model with a fixed batch size gets the frame that many times.
        batch = np.repeat(frames, fixed_batch or 1, axis=0).astype(kind)
        try:
            (result,) = session.run([output], {inputs[0].name: batch})
        except ORT_ERRORS as error:
            raise ExportError(f"{path} does not run on one frame: {first_line(error)}") from None
        rows = np.asarray(result, np.float32)
        return rows[: len(frames)] if rows.ndim and len(rows) == fixed_batch else rows

    def write(spec: BundleSpec, folder: Path) -> None:
        clip_model = _wrap(model, inputs[0].name, output, element, opset, expects, spec)
        try:
            onnx.checker.check_model(clip_model, full_check=True)
        except onnx.shape_inference.InferenceError as error:
            raise fixed_batch_error(path, error) from None
        except onnx.checker.ValidationError as error:
            raise ExportError(f"{path} cannot be wrapped into a network of clips: {first_line(error)}") from None
        content = clip_model.SerializeToString()
        _check_batches(content, spec, path)
        (folder / ONNX_FILE).write_bytes(content)

    return FrameModel("ONNX", expects, run, write)


def _read(path: Path) -> onnx.ModelProto:
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except (DecodeError, onnx.checker.ValidationError, OSError, ValueError) as error:
        raise ExportError(f"{path} is not an ONNX model, or is incomplete: {first_line(error)}") from None
    return model


def _open_session(model: bytes, path: Path) -> Any:
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(model, settings, providers=["CPUExecutionProvider"])
    except ORT_ERRORS as error:
        raise ExportError(f"ONNX Runtime does not run {path}: {first_line(error)}") from None


def _batch_size(value: onnx.ValueInfoProto) -> int:
    """Return the length of an input's first axis, 0 if it is not fixed."""
    return int(value.type.tensor_type.shape.dim[0].dim_value)


def _shape(value: onnx.ValueInfoProto) -> tuple[int | None, ...]:
    return tuple(axis.dim_value or None for axis in value.type.tensor_type.shape.dim)


def _wrap(
    model: onnx.ModelProto,
    source: str,
    output: str,
    element: int,
    opset: int,
    expects: FrameInput,
    spec: BundleSpec,
) -> onnx.ModelProto:
    """Put the model between a graph that prepares frames and one that takes the mean over a clip."""
    body = compose.add_prefix(_with_dynamic_batch(model, source, output), _PREFIX)
    before, after = _preparation(expects, element), _mean_over_clips(spec, opset)
    graph = helper.make_graph(
        [
            *before.node,
            helper.make_node("Identity", ["frames"], [_PREFIX + source]),
            *body.graph.node,
            helper.make_node("Cast", [_PREFIX + output], ["embedded"], to=TensorProto.FLOAT),
            *after.node,
        ],
        "clips",
        [helper.make_tensor_value_info(INPUT_NAME, TensorProto.UINT8, ["N", *spec.clip_shape])],
        [helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, ["N", spec.dimension])],
        [*before.initializer, *body.graph.initializer, *after.initializer],
    )
    wrapped = helper.make_model(graph, opset_imports=body.opset_import, ir_version=max(body.ir_version, 4))
    wrapped.functions.extend(body.functions)
    return wrapped


def _with_dynamic_batch(model: onnx.ModelProto, source: str, output: str) -> onnx.ModelProto:
    """Return a copy with a dynamic first axis, without shapes inferred for a fixed one, and without metadata."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    drop_metadata(copy)
    graph = copy.graph
    kept = [value for value in graph.input if value.name == source]
    if fixed_batch := _batch_size(kept[0]):
        _make_reshapes_dynamic(graph, fixed_batch)
    del graph.input[:], graph.value_info[:]
    graph.input.extend(kept)
    kept = [value for value in graph.output if value.name == output]
    del graph.output[:]
    graph.output.extend(kept)
    return copy


def _make_reshapes_dynamic(graph: onnx.GraphProto, fixed_batch: int) -> None:
    """Let a Reshape to `[batch size, ...]` keep the first axis of its input: a 0 in its shape means this.

    If that axis is not the frames, the result is wrong; the comparison of the bundle with the model then shows it.
    """
    shapes = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            shapes[node.output[0]] = node.attribute[0].t
    for number, node in enumerate(graph.node):
        literal = any(attribute.name == "allowzero" and attribute.i for attribute in node.attribute)
        if node.op_type != "Reshape" or literal or node.input[1] not in shapes:
            continue
        shape = numpy_helper.to_array(shapes[node.input[1]])
        if len(shape) > 1 and shape[0] == fixed_batch:
            name = f"free_shape_{number}"  # a new one, since other nodes may read the old one
            graph.initializer.append(numpy_helper.from_array(np.array([0, *shape[1:]], np.int64), name))
            node.input[1] = name


def _preparation(expects: FrameInput, element: int) -> onnx.GraphProto:
    """Return the graph from clips `uint8 [N, T, H, W, 3]` in RGB to `frames` as the model expects them."""
    mean, std = (np.array(each, np.float32) * expects.scale for each in (expects.mean, expects.std))
    constants: dict[str, NDArray[Any]] = {
        "frame_shape": np.array([-1, expects.height, expects.width, 3], np.int64),
        "mean": mean,
        "std": std,
        "reversed": np.array([2, 1, 0], np.int64),
    }
    nodes = [
        helper.make_node("Reshape", [INPUT_NAME, "frame_shape"], ["bytes"]),
        helper.make_node("Cast", ["bytes"], ["values"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["values", "mean"], ["centred"]),
        helper.make_node("Div", ["centred", "std"], ["normalised"]),
    ]
    last = "normalised"
    if expects.colour == "bgr":
        nodes.append(helper.make_node("Gather", [last, "reversed"], ["swapped"], axis=3))
        last = "swapped"
    else:
        del constants["reversed"]
    if expects.layout == "nchw":
        nodes.append(helper.make_node("Transpose", [last], ["planes"], perm=[0, 3, 1, 2]))
        last = "planes"
    nodes.append(helper.make_node("Cast", [last], ["frames"], to=element))
    return helper.make_graph(
        nodes, "before", [], [], [numpy_helper.from_array(value, name) for name, value in constants.items()]
    )


def _mean_over_clips(spec: BundleSpec, opset: int) -> onnx.GraphProto:
    """Return the graph from `embedded [N * T, D, ...]` to the means over clips `[N, D]`."""
    constants: dict[str, NDArray[Any]] = {"clip_rows": np.array([-1, spec.clip_length, spec.dimension], np.int64)}
    nodes = [helper.make_node("Reshape", ["embedded", "clip_rows"], ["rows"])]
    # Since opset 18 the axes of ReduceMean are an input.
    if opset >= 18:
        constants["clip_axis"] = np.array([1], np.int64)
        nodes.append(helper.make_node("ReduceMean", ["rows", "clip_axis"], [OUTPUT_NAME], keepdims=0))
    else:
        nodes.append(helper.make_node("ReduceMean", ["rows"], [OUTPUT_NAME], axes=[1], keepdims=0))
    return helper.make_graph(
        nodes, "after", [], [], [numpy_helper.from_array(value, name) for name, value in constants.items()]
    )


def _check_batches(content: bytes, spec: BundleSpec, path: Path) -> None:
    """Run two clips, which fails if the model has a fixed batch size."""
    session = _open_session(content, path)
    try:
        (rows,) = session.run(None, {INPUT_NAME: np.zeros((2, *spec.clip_shape), np.uint8)})
    except ORT_ERRORS as error:
        raise fixed_batch_error(path, error) from None
    if rows.shape != (2, spec.dimension):
        raise fixed_batch_error(path, ValueError(f"two clips gave {list(rows.shape)}"))
