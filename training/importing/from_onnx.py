"""A frame-level ONNX model behind a bundle's input."""

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
from training.export.onnx_graph import drop_notes
from training.importing.frame_model import FrameInput, FrameModel, ImportOptions, first_line

_LOWEST_OPSET = 9
_PREFIX = "frame/"


def open_onnx(path: Path, options: ImportOptions) -> FrameModel:
    """Reads and checks an ONNX file; weights in files beside it are read with it.

    Raises:
        ExportError: damaged, no model of frames, or too old.
    """
    model = _read(path)
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs)
        raise ExportError(f"{path} has {len(inputs)} inputs ({names}): a frame-level model has one")
    output = _choose_output(path, [value.name for value in graph.output], options.output)
    expects = options.frame_input(_shape(inputs[0]), str(path))
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if opset < _LOWEST_OPSET:
        raise ExportError(f"{path} is of opset {opset}: export it again with {_LOWEST_OPSET} or later")
    element = inputs[0].type.tensor_type.elem_type
    if element not in (TensorProto.FLOAT, TensorProto.FLOAT16):
        raise ExportError(
            f"{path} takes {TensorProto.DataType.Name(element)}: the model before its own preprocessing takes floats"
        )
    session = _open_session(model.SerializeToString(), path)
    built_in = _batch_size(inputs[0])

    def run(frames: NDArray[np.float32]) -> NDArray[np.float32]:
        kind = np.float16 if element == TensorProto.FLOAT16 else np.float32
        # A model of a fixed batch size gets the frame that many times.
        batch = np.repeat(frames, built_in or 1, axis=0).astype(kind)
        try:
            (result,) = session.run([output], {inputs[0].name: batch})
        except ORT_ERRORS as error:
            raise ExportError(f"{path} does not run on one frame: {first_line(error)}") from None
        rows = np.asarray(result, np.float32)
        return rows[: len(frames)] if rows.ndim and len(rows) == built_in else rows

    def write(spec: BundleSpec, folder: Path) -> None:
        whole = _behind_clips(model, inputs[0].name, output, element, opset, expects, spec)
        try:
            onnx.checker.check_model(whole, full_check=True)
        except onnx.shape_inference.InferenceError as error:
            raise _frozen(path, error) from None
        except onnx.checker.ValidationError as error:
            raise ExportError(f"{path} cannot be put behind a bundle's input: {first_line(error)}") from None
        content = whole.SerializeToString()
        _check_batches(content, spec, path)
        (folder / ONNX_FILE).write_bytes(content)

    return FrameModel("ONNX", expects, run, write)


def _read(path: Path) -> onnx.ModelProto:
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except (DecodeError, onnx.checker.ValidationError, OSError, ValueError) as error:
        raise ExportError(f"{path} is no ONNX model, or not a whole one: {first_line(error)}") from None
    return model


def _open_session(model: bytes, path: Path) -> Any:
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(model, settings, providers=["CPUExecutionProvider"])
    except ORT_ERRORS as error:
        raise ExportError(f"ONNX Runtime does not run {path}: {first_line(error)}") from None


def _choose_output(path: Path, names: list[str], wanted: str | None) -> str:
    if wanted is not None and wanted not in names:
        raise ExportError(f"{path} has no output {wanted}; it has {', '.join(names)}")
    if wanted is None and len(names) != 1:
        raise ExportError(f"{path} has several outputs ({', '.join(names)}): name the embedding (--output)")
    return wanted or names[0]


def _batch_size(value: onnx.ValueInfoProto) -> int:
    """The first axis of an input, 0 where it is free."""
    return int(value.type.tensor_type.shape.dim[0].dim_value)


def _shape(value: onnx.ValueInfoProto) -> tuple[int | None, ...]:
    return tuple(axis.dim_value or None for axis in value.type.tensor_type.shape.dim)


def _behind_clips(
    model: onnx.ModelProto,
    source: str,
    output: str,
    element: int,
    opset: int,
    expects: FrameInput,
    spec: BundleSpec,
) -> onnx.ModelProto:
    """The model between a graph that prepares frames and one that averages over a clip's."""
    body = compose.add_prefix(_free_batch(model, source, output), _PREFIX)
    before, after = _before(expects, element), _after(spec, opset)
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
    whole = helper.make_model(graph, opset_imports=body.opset_import, ir_version=max(body.ir_version, 4))
    whole.functions.extend(body.functions)
    return whole


def _free_batch(model: onnx.ModelProto, source: str, output: str) -> onnx.ModelProto:
    """A copy whose first axis is free, without the shapes that were inferred for another, and without notes."""
    free = onnx.ModelProto()
    free.CopyFrom(model)
    drop_notes(free)
    graph = free.graph
    kept = [value for value in graph.input if value.name == source]
    if built_in := _batch_size(kept[0]):
        _free_reshapes(graph, built_in)
    del graph.input[:], graph.value_info[:]
    graph.input.extend(kept)
    kept = [value for value in graph.output if value.name == output]
    del graph.output[:]
    graph.output.extend(kept)
    return free


def _free_reshapes(graph: onnx.GraphProto, built_in: int) -> None:
    """A Reshape to ``[batch size, ...]`` keeps the first axis of what it reshapes instead: a 0 in its shape says so.

    Where the first axis was not the frames, the result is wrong; the bundle is compared with the model as it came.
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
        if len(shape) > 1 and shape[0] == built_in:
            name = f"free_shape_{number}"  # of its own: others may read the old one
            graph.initializer.append(numpy_helper.from_array(np.array([0, *shape[1:]], np.int64), name))
            node.input[1] = name


def _before(expects: FrameInput, element: int) -> onnx.GraphProto:
    """uint8 ``[N, T, H, W, 3]`` RGB to ``frames`` as the model wants them."""
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


def _after(spec: BundleSpec, opset: int) -> onnx.GraphProto:
    """``embedded [N * T, D, ...]`` to the clips' means ``[N, D]``."""
    constants: dict[str, NDArray[Any]] = {"clip_rows": np.array([-1, spec.clip_length, spec.dimension], np.int64)}
    nodes = [helper.make_node("Reshape", ["embedded", "clip_rows"], ["rows"])]
    # The axes of ReduceMean became an input in opset 18.
    if opset >= 18:
        constants["clip_axis"] = np.array([1], np.int64)
        nodes.append(helper.make_node("ReduceMean", ["rows", "clip_axis"], [OUTPUT_NAME], keepdims=0))
    else:
        nodes.append(helper.make_node("ReduceMean", ["rows"], [OUTPUT_NAME], axes=[1], keepdims=0))
    return helper.make_graph(
        nodes, "after", [], [], [numpy_helper.from_array(value, name) for name, value in constants.items()]
    )


def _check_batches(content: bytes, spec: BundleSpec, path: Path) -> None:
    """A batch size that the exporter froze into the model shows with two clips."""
    session = _open_session(content, path)
    try:
        (rows,) = session.run(None, {INPUT_NAME: np.zeros((2, *spec.clip_shape), np.uint8)})
    except ORT_ERRORS as error:
        raise _frozen(path, error) from None
    if rows.shape != (2, spec.dimension):
        raise _frozen(path, ValueError(f"two clips gave {list(rows.shape)}"))


def _frozen(path: Path, error: Exception) -> ExportError:
    return ExportError(
        f"{path} has its batch size built in: export it again with a dynamic first axis ({first_line(error)})"
    )
