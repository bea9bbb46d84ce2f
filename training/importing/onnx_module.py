"""An ONNX network as a module of PyTorch, so that it can be fine-tuned, and run where ONNX Runtime has no GPU.

It has the operators of frame-level convolutional networks. Other operators, and forms of these that such networks do
not need, are refused by name. `open_module` compares the result with the golden vectors of a bundle.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional as F

from model.bundle import ONNX_FILE, Bundle
from model.engines.protocol import Engine
from model.engines.self_test import run_self_test
from training.export.bundle_assembly import ExportError

Attributes = dict[str, Any]
Operator = Callable[[Sequence[Any], Attributes], Tensor]

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)


class OnnxModule(nn.Module):
    """A network with one input and one output. Its matrices, kernels and biases are parameters.

    Args:
        path: the file

    Raises:
        ExportError: the network has an operator or a form of one that is not supported here.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._model = onnx.load(path)
        graph = self._model.graph
        _make_constants_initialisers(graph, path)
        values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        trained = _trained(graph.node, values)
        self.weights = nn.ParameterDict()
        # Names in the graph may hold characters that PyTorch refuses.
        self._names: dict[str, str] = {}
        # Integers, such as the shape of a Reshape, are known before the network runs.
        self._integers: dict[str, NDArray[np.int64]] = {}
        for number, (name, array) in enumerate(values.items()):
            if array.dtype.kind == "i":
                self._integers[name] = array.astype(np.int64)
                continue
            key = self._names[name] = f"w{number}"
            tensor = torch.from_numpy(np.array(array, np.float32))
            if name in trained:
                self.weights[key] = nn.Parameter(tensor)
            else:
                self.register_buffer(key, tensor)
        self._input = next(value.name for value in graph.input if value.name not in values)
        self._output = graph.output[0].name
        self._steps = [
            (_operator(node, path, self._integers), list(node.input), node.output[0], _attributes(node, path))
            for node in graph.node
        ]
        # What no later step reads is released after each step: else the memory of the whole network would be kept.
        last = {name: number for number, (_, inputs, _, _) in enumerate(self._steps) for name in inputs}
        self._released: list[list[str]] = [[] for _ in self._steps]
        for name, number in last.items():
            if name not in values and name not in ("", self._output):
                self._released[number].append(name)

    def forward(self, inputs: Tensor) -> Tensor:
        """Compute the output of the graph from its input; integers become floats first."""
        values: dict[str, Any] = {"": None, **self._integers, self._input: inputs.to(torch.float32)}
        del inputs
        for name, key in self._names.items():
            values[name] = self.weights[key] if key in self.weights else getattr(self, key)
        for (operator, names, output, attributes), released in zip(self._steps, self._released, strict=True):
            values[output] = operator([values[name] for name in names], attributes)
            for name in released:
                del values[name]
        result: Tensor = values[self._output]
        return result

    def save(self, path: Path) -> None:
        """Write the network with its present weights, each in the type that it has in the original file."""
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        for tensor in model.graph.initializer:
            key = self._names.get(tensor.name, "")
            if key in self.weights:
                kind = helper.tensor_dtype_to_np_dtype(tensor.data_type)
                array = self.weights[key].detach().cpu().numpy().astype(kind)
                tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
        onnx.save(model, path)


class _ModuleEngine:
    """A module as an engine, for the self-test."""

    name, device, precision = "pytorch", "cpu", "f32"

    def __init__(self, module: OnnxModule) -> None:
        self._module = module

    def embed(self, clips: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            return np.asarray(self._module(torch.from_numpy(clips)).numpy())


def open_module(bundle: Path) -> OnnxModule:
    """Return the network of a bundle, on the CPU, after a comparison with its golden vectors.

    Raises:
        ExportError: the bundle is an OpenVINO IR, or has an operator that is not supported here.
        BundleError: the bundle cannot be read.
        SelfTestError: PyTorch computes other embeddings.
    """
    loaded = Bundle.load(bundle)
    if loaded.is_ir:
        raise ExportError(f"{bundle} is an OpenVINO IR, which PyTorch cannot run: give a bundle of ONNX")
    module = OnnxModule(bundle / ONNX_FILE)
    run_self_test(cast(Engine, _ModuleEngine(module)), loaded)
    return module


def _make_constants_initialisers(graph: onnx.GraphProto, path: Path) -> None:
    """Move the values of Constant nodes to the initialisers, so that there is one kind of stored values."""
    for node in [node for node in graph.node if node.op_type == "Constant"]:
        if node.attribute[0].name != "value":
            raise ExportError(f"{path}: Constant with {node.attribute[0].name} cannot be run in PyTorch")
        tensor = graph.initializer.add()
        tensor.CopyFrom(node.attribute[0].t)
        tensor.name = node.output[0]
        graph.node.remove(node)


def _trained(nodes: Sequence[onnx.NodeProto], values: dict[str, Any]) -> set[str]:
    """Return the initialisers that are weights: of layers, and what is added to their output."""
    trained = set()
    reshaped = {node.output[0]: node.input[0] for node in nodes if node.op_type == "Reshape"}
    layers = set()
    for node in nodes:
        if node.op_type in ("Conv", "Gemm", "MatMul"):
            layers.add(node.output[0])
            trained |= {name for name in node.input[1:] if name in values}
        elif node.op_type == "Add" and layers & set(node.input):
            trained |= {reshaped.get(name, name) for name in node.input} & set(values)
    return trained


def _attributes(node: onnx.NodeProto, path: Path) -> Attributes:
    found = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    refused = {
        "auto_pad": found.get("auto_pad", b"NOTSET") != b"NOTSET",
        "ceil_mode": bool(found.get("ceil_mode")),
        "dilations": node.op_type != "Conv" and set(found.get("dilations", [1])) != {1},
        "to": node.op_type == "Cast" and found["to"] not in _FLOATS,
    }
    for name, is_refused in refused.items():
        if is_refused:
            raise ExportError(f"{path}: {node.op_type} with this {name} cannot be run in PyTorch")
    if pads := found.get("pads"):
        half = len(pads) // 2
        if pads[:half] != pads[half:]:
            raise ExportError(f"{path}: {node.op_type} pads its two sides differently, which cannot be run in PyTorch")
        found["pads"] = list(pads[:half])
    return found


def _operator(node: onnx.NodeProto, path: Path, integers: dict[str, NDArray[np.int64]]) -> Operator:
    if node.op_type not in _OPERATORS:
        known = ", ".join(_OPERATORS)
        raise ExportError(f"{path}: the operator {node.op_type} cannot be run in PyTorch; known are {known}")
    second = node.input[1] if len(node.input) > 1 else ""
    if node.op_type in ("Reshape", "Gather") and (second not in integers or integers[second].ndim != 1):
        raise ExportError(f"{path}: {node.op_type} needs a list of integers in the file to be run in PyTorch")
    return _OPERATORS[node.op_type]


def _plain(function: Callable[..., Tensor]) -> Operator:
    """Return an operator without attributes."""
    return lambda inputs, _: function(*inputs)


def _conv(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    frames, weight, *bias = inputs
    return F.conv2d(
        frames,
        weight,
        bias[0] if bias else None,
        attributes.get("strides", 1),
        attributes.get("pads", 0),
        attributes.get("dilations", 1),
        attributes.get("group", 1),
    )


def _gemm(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    left, right, *added = inputs
    left = left.t() if attributes.get("transA") else left
    right = right.t() if attributes.get("transB") else right
    product: Tensor = attributes.get("alpha", 1.0) * (left @ right)
    return product if not added or added[0] is None else product + attributes.get("beta", 1.0) * added[0]


def _reshape(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    tensor, shape = inputs[0], inputs[1].tolist()
    if not attributes.get("allowzero"):
        shape = [tensor.shape[axis] if side == 0 else side for axis, side in enumerate(shape)]
    reshaped: Tensor = tensor.reshape(shape)
    return reshaped


def _flatten(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    rows = math.prod(inputs[0].shape[: attributes.get("axis", 1)])
    flat: Tensor = inputs[0].reshape(rows, -1)
    return flat


def _gather(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    chosen = torch.from_numpy(inputs[1]).to(inputs[0].device)
    gathered: Tensor = inputs[0].index_select(attributes.get("axis", 0), chosen)
    return gathered


def _reduce_mean(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    tensor, *given = inputs
    axes = attributes.get("axes") or (given[0].tolist() if given and given[0] is not None else range(tensor.ndim))
    mean: Tensor = tensor.mean(dim=list(axes), keepdim=bool(attributes.get("keepdims", 1)))
    return mean


def _max_pool(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    return F.max_pool2d(inputs[0], attributes["kernel_shape"], attributes.get("strides", 1), attributes.get("pads", 0))


def _average_pool(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    return F.avg_pool2d(
        inputs[0],
        attributes["kernel_shape"],
        attributes.get("strides", 1),
        attributes.get("pads", 0),
        count_include_pad=bool(attributes.get("count_include_pad", 0)),
    )


def _batch_norm(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    maps, weight, bias, mean, variance = inputs
    return F.batch_norm(maps, mean, variance, weight, bias, eps=attributes.get("epsilon", 1e-5))


def _instance_norm(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    maps, weight, bias = inputs
    return F.instance_norm(maps, weight=weight, bias=bias, eps=attributes.get("epsilon", 1e-5))


def _clip(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    limits = [*inputs[1:], None, None]
    low, high = (attributes.get(name, limits[at]) for at, name in enumerate(("min", "max")))
    tensor: Tensor = inputs[0]
    return tensor if low is None and high is None else torch.clamp(tensor, low, high)


def _transpose(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    order = attributes.get("perm", range(inputs[0].ndim)[::-1])
    transposed: Tensor = inputs[0].permute(list(order))
    return transposed


_OPERATORS: dict[str, Operator] = {
    "Add": _plain(torch.add),
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Cast": _plain(lambda tensor: tensor),  # between kinds of floats only
    "Clip": _clip,
    "Concat": lambda inputs, attributes: torch.cat(list(inputs), dim=attributes["axis"]),
    "Conv": _conv,
    "Div": _plain(torch.div),
    "Flatten": _flatten,
    "Gather": _gather,
    "Gemm": _gemm,
    "GlobalAveragePool": _plain(lambda maps: maps.mean(dim=(2, 3), keepdim=True)),
    "Identity": _plain(lambda tensor: tensor),
    "InstanceNormalization": _instance_norm,
    "MatMul": _plain(torch.matmul),
    "MaxPool": _max_pool,
    "Mul": _plain(torch.mul),
    "ReduceMean": _reduce_mean,
    "Relu": _plain(F.relu),
    "Reshape": _reshape,
    "Sigmoid": _plain(torch.sigmoid),
    "Sub": _plain(torch.sub),
    "Transpose": _transpose,
}
