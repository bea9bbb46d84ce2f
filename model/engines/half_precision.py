"""An ONNX network in half precision for GPUs: convolutions and matrix products in f16, sums and statistics in f32.

A GPU's tensor cores multiply in f16 and add in f32, several times faster than in f32. The operators in `_HALF` are
converted; all others stay in f32, in particular:

- The normalisation of pixels before the first convolution: 255 times a standard deviation would be rounded before it is
  used.
- `InstanceNormalization`: mean and variance of a full map. A sum of 56 x 112 squares is more than 65504, the largest
  number of f16, from a root mean square of 3.3 on. Its result is converted back to f16.
- `ReduceMean`, `ReduceSum`, `Softmax` and the operators after them: pooling, the attention's sum over time, and an L2
  norm. They are small, and each rounding there changes the embedding.

`BatchNormalization` of an f16 map becomes a product and a sum whose factors are computed in f64: its variances may be
too small for f16, the factors are not. Input and output keep their types.

Converters of libraries do not give equal results (tried on the bundled model with the tests of this module):
onnxconverter-common 1.16 refuses a network whose weights are stored in f16, and without that check its result does not
load. `onnxruntime.transformers.float16` 1.32, with the operators above in f32, differs from f32 by 4.6e-4 (this module:
2.0e-4), its result fails ONNX's type inference, keeps each `BatchNormalization` in f32 between two casts, and turns a
weight beyond 65504 into infinity without an error.
"""

import importlib
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from model.bundle import Bundle
from model.engines.protocol import EngineError

_HEAVY: Final = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_HALF: Final = _HEAVY | {
    *("Add", "Mul", "Relu", "LeakyRelu", "PRelu", "Sigmoid", "Clip", "MaxPool", "Concat", "Slice", "Split", "Pad"),
    *("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Expand", "Gather", "Dropout"),
}
_BACK_TO_HALF: Final = frozenset({"InstanceNormalization"})
_NO_FLOAT: Final = frozenset({"Shape", "Size", "ArgMax", "ArgMin", "Equal", "Greater", "Less", "NonZero", "Not", "And"})
_QUANTISED: Final = frozenset({"QuantizeLinear", "DequantizeLinear", "QLinearConv", "ConvInteger", "MatMulInteger"})


def convert_to_half(bundle: Bundle) -> bytes:
    """Return the bundle's network in half precision.

    The result is not cached: the bundled model is converted in 0.1 seconds.

    Raises:
        EngineError: the package onnx is missing, or the network has something that this conversion does not know.
        BundleError: the network was changed after the bundle was loaded.
    """
    onnx = _import_onnx()
    try:
        return _Converter(onnx, onnx.load_from_string(bundle.read_network()[0])).convert()
    except (OSError, ValueError, KeyError, IndexError, onnx.checker.ValidationError) as error:
        raise EngineError(f"{bundle.network_path}: cannot be converted to f16: {error}") from error


def _import_onnx() -> Any:
    try:
        # Imported by name, because only the extras `gpu` and `train` install the package.
        return importlib.import_module("onnx")
    except ImportError as error:
        raise EngineError(
            f"f16 on a GPU needs the package onnx ({error}), which the extra `gpu` installs: pip install 'not3d[gpu]'"
        ) from error


class _Converter:
    """Visits the nodes once, in order, and records the type in which each float value exists."""

    def __init__(self, onnx: Any, model: Any) -> None:
        self._onnx, self._model = onnx, model
        self._float, self._float16 = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
        self._weights: dict[str, Any] = {tensor.name: tensor for tensor in model.graph.initializer}
        self._stored_half: dict[str, str] = {}  # name of an f32 weight to the f16 weight that it is cast from
        self._half: dict[str, bool] = {}  # for each computed float value, whether it exists in f16
        self._casts: dict[tuple[str, bool], str] = {}
        self._nodes: list[Any] = []

    def convert(self) -> bytes:
        graph = self._model.graph
        for node in graph.node:
            self._convert(node)
        for output in graph.output:
            if output.type.tensor_type.elem_type == self._float and self._half.get(output.name, False):
                self._widen_output(output.name)
        del graph.node[:]
        graph.node.extend(self._nodes)
        used = {name for node in self._nodes for name in node.input}
        kept = [tensor for name, tensor in self._weights.items() if name in used]
        del graph.initializer[:]
        graph.initializer.extend(kept)
        del graph.value_info[:]
        self._onnx.checker.check_model(self._model)
        return bytes(self._model.SerializeToString())

    def _convert(self, node: Any) -> None:
        if node.op_type in _QUANTISED:
            raise ValueError(f"it is quantised ({node.op_type}); use the float network that it was made from")
        if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
            raise ValueError(f"{node.op_type} '{node.name}' contains a graph")
        if node.op_type == "Cast":
            self._convert_cast(node)
            return
        if node.op_type == "Constant":
            self._convert_constant(node)
            return
        computed = [name for name in node.input if name in self._half]
        heavy = node.op_type in _HEAVY and node.domain in {"", "ai.onnx"}
        all_half = bool(computed) and all(self._half[name] for name in computed)
        if node.op_type == "BatchNormalization" and all_half and len(node.output) == 1:
            self._rewrite_batch_norm(node)
            return
        in_half = heavy or (node.op_type in _HALF and all_half)
        for index, name in enumerate(node.input):
            node.input[index] = self._as(name, half=in_half)
        self._nodes.append(node)
        if node.op_type in _NO_FLOAT or not (computed or self._has_float_weight(node)):
            return
        for index, name in enumerate(node.output):
            self._half[name] = in_half
            if node.op_type in _BACK_TO_HALF and all_half:
                wide = f"{name}_f32"
                node.output[index] = wide
                self._half[wide], self._half[name] = False, True
                self._nodes.append(self._cast_node(wide, name, half=True))

    def _convert_cast(self, node: Any) -> None:
        target = next(attribute.i for attribute in node.attribute if attribute.name == "to")
        source, result = node.input[0], node.output[0]
        stored = self._weights.get(source)
        if stored is not None and stored.data_type == self._float16 and target == self._float:
            self._stored_half[result] = source
            return
        node.input[0] = self._as(source, half=self._half.get(source, False))
        self._nodes.append(node)
        if target == self._float:
            self._half[result] = False

    def _convert_constant(self, node: Any) -> None:
        value = next((attribute.t for attribute in node.attribute if attribute.name == "value"), None)
        if value is None:
            raise ValueError(f"Constant '{node.name}' is not a tensor")
        tensor = self._onnx.TensorProto()
        tensor.CopyFrom(value)
        tensor.name = node.output[0]
        self._weights[tensor.name] = tensor

    def _rewrite_batch_norm(self, node: Any) -> None:
        epsilon = next((attribute.f for attribute in node.attribute if attribute.name == "epsilon"), 1e-5)
        scale, shift, mean, variance = (self._values(name).astype(np.float64) for name in node.input[1:5])
        factor = scale / np.sqrt(variance + epsilon)
        offset = shift - mean * factor
        shape = (-1, *[1] * self._axes_after_channels(node.input[0]))
        product, result = f"{node.output[0]}_scaled", node.output[0]
        names = []
        for what, values in (("factor", factor), ("offset", offset)):
            name = f"{result}_{what}"
            self._weights[name] = self._onnx.numpy_helper.from_array(_to_half(values, name).reshape(shape), name)
            names.append(name)
        source = self._as(node.input[0], half=True)
        make_node = self._onnx.helper.make_node
        self._nodes.append(make_node("Mul", [source, names[0]], [product], name=product))
        self._nodes.append(make_node("Add", [product, names[1]], [result], name=result))
        self._half[product] = self._half[result] = True

    def _axes_after_channels(self, name: str) -> int:
        """Return the axes after the channels, as the convolution before it has them: 2 for maps, 1 for sequences."""
        sources = {output: node for node in self._nodes for output in node.output}
        while (source := sources.get(name)) is not None:
            if source.op_type == "Conv" and source.input[1] in self._weights:
                return len(self._weights[source.input[1]].dims) - 2
            if source.op_type in {
                "Conv",
                "Gemm",
                "Reshape",
                "Transpose",
                "Squeeze",
                "Unsqueeze",
                "Flatten",
                "MatMul",
            }:
                break
            name = source.input[0]
        raise ValueError(f"the shape that a BatchNormalization has at '{name}' is unknown")

    def _widen_output(self, name: str) -> None:
        half = f"{name}_f16"
        for node in self._nodes:
            for names in (node.input, node.output):
                for index, value in enumerate(names):
                    if value == name:
                        names[index] = half
        self._nodes.append(self._cast_node(half, name, half=False))

    def _as(self, name: str, *, half: bool) -> str:
        """Return the name of a value in the wanted type; add a cast or a weight if it does not exist yet."""
        if name in self._stored_half and half:
            return self._stored_half[name]
        is_weight = name in self._weights or name in self._stored_half
        if not is_weight and self._half.get(name, half) == half:
            return name
        if name in self._weights and (self._weights[name].data_type != self._float or not half):
            return name
        if (name, half) not in self._casts:
            wanted = f"{name}_{'f16' if half else 'f32'}"
            self._casts[name, half] = wanted
            if is_weight:
                values = self._values(name)
                stored = _to_half(values, name) if half else values.astype(np.float32)
                self._weights[wanted] = self._onnx.numpy_helper.from_array(stored, wanted)
            else:
                self._nodes.append(self._cast_node(name, wanted, half=half))
                self._half[wanted] = half
        return self._casts[name, half]

    def _has_float_weight(self, node: Any) -> bool:
        return any(
            name in self._weights and self._weights[name].data_type in {self._float, self._float16}
            for name in node.input
        )

    def _values(self, name: str) -> NDArray[Any]:
        return np.asarray(self._onnx.numpy_helper.to_array(self._weights[self._stored_half.get(name, name)]))

    def _cast_node(self, source: str, result: str, *, half: bool) -> Any:
        target = self._float16 if half else self._float
        return self._onnx.helper.make_node("Cast", [source], [result], to=target, name=f"{result}_cast")


def _to_half(values: NDArray[Any], name: str) -> NDArray[np.float16]:
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    if not np.isfinite(half).all():
        raise ValueError(f"'{name}' holds numbers beyond 65504, the largest number of f16")
    return half
