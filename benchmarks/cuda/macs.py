"""Multiplications of a network, counted in its ONNX graph."""

import math
from pathlib import Path

import onnx


def count_macs(network: Path) -> int:
    """Multiply-accumulates of the convolutions and matrix products for one clip; a GPU's peak counts two FLOPs each.

    Normalisation, activations and pooling are left out, as in every count of the kind: they are bound by memory.

    Raises:
        ValueError: the shape of a product is not known, or the network is quantised.
    """
    model = onnx.load(network)
    (clips,) = model.graph.input
    clips.type.tensor_type.shape.dim[0].dim_value = 1
    for output in model.graph.output:
        output.type.tensor_type.shape.dim[0].ClearField("dim_param")
    del model.graph.value_info[:]
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {tensor.name: list(tensor.dims) for tensor in inferred.initializer}
    for value in [*inferred.value_info, *inferred.input, *inferred.output]:
        dims = value.type.tensor_type.shape.dim
        if all(dim.HasField("dim_value") for dim in dims):
            shapes[value.name] = [dim.dim_value for dim in dims]
    return sum(_count(node, shapes) for node in inferred.node)


def _count(node: onnx.NodeProto, shapes: dict[str, list[int]]) -> int:
    try:
        if node.op_type == "Conv":
            return math.prod(shapes[node.output[0]]) * math.prod(shapes[node.input[1]][1:])
        if node.op_type == "MatMul":
            return math.prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]
        if node.op_type == "Gemm":
            transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
            return math.prod(shapes[node.output[0]]) * shapes[node.input[0]][0 if transposed else 1]
    except KeyError as error:
        raise ValueError(f"{node.op_type} '{node.name}': the shape of {error} is not known") from error
    if node.op_type in {"ConvTranspose", "QLinearConv", "ConvInteger", "MatMulInteger", "Einsum"}:
        raise ValueError(f"{node.op_type} '{node.name}' is not counted")
    return 0
