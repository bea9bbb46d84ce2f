"""Small convolutional bundles to test precisions: the layers of a trained network, and values that f16 cannot hold."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from model.bundle import GOLDEN_FILE, INPUT_NAME, ONNX_FILE, OUTPUT_NAME, SPEC_FILE, Bundle
from tests.bundles import make_bundle

LENGTH, HEIGHT, WIDTH, CHANNELS, DIMENSION = 4, 16, 8, 8, 6


def make_convolutional(folder: Path, *, variance: float = 1.0, detour: float = 0.0, weight: float = 0.2) -> Bundle:
    """A bundle: convolution, half instance and half batch normalisation, pooling, attention over time.

    `variance` is the batch normalisation's; `detour` is added to the weights of the last product and taken off
    after it, so that f16, whose steps are large there, loses the weights; `weight` is the size of the convolution's.
    """
    make_bundle(folder, dimension=DIMENSION, clip_length=LENGTH, frame_size=(HEIGHT, WIDTH))
    model = _build(variance, detour, weight)
    onnx.checker.check_model(model)
    content = model.SerializeToString()
    (folder / ONNX_FILE).write_bytes(content)
    clips = np.random.default_rng(2).integers(0, 256, (3, LENGTH, HEIGHT, WIDTH, 3), dtype=np.uint8)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (embeddings,) = session.run(None, {INPUT_NAME: clips})
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    np.savez(folder / GOLDEN_FILE, clips=clips, embeddings=unit.astype(np.float32))
    spec = json.loads((folder / SPEC_FILE).read_text())
    (folder / SPEC_FILE).write_text(json.dumps(spec | {"name": "convolutional"}))
    return Bundle.load(folder)


def make_quantised(folder: Path) -> Bundle:
    """The same with 8 bits before its convolution, and golden vectors of f32."""
    bundle = make_convolutional(folder)
    model = onnx.load(bundle.network_path)
    model.graph.initializer.append(numpy_helper.from_array(np.float32(0.05), "step"))
    model.graph.initializer.append(numpy_helper.from_array(np.int8(0), "none"))
    place = next(index for index, node in enumerate(model.graph.node) if node.op_type == "Conv")
    model.graph.node[place].input[0] = "again"
    model.graph.node.insert(place, helper.make_node("DequantizeLinear", ["small", "step", "none"], ["again"]))
    model.graph.node.insert(place, helper.make_node("QuantizeLinear", ["planes", "step", "none"], ["small"]))
    onnx.checker.check_model(model)
    onnx.save(model, bundle.network_path)
    return Bundle.load(folder)


def _build(variance: float, detour: float, weight: float) -> onnx.ModelProto:
    rng = np.random.default_rng(1)
    half = CHANNELS // 2
    stored = (weight * rng.standard_normal((CHANNELS, 3, 3, 3))).astype(np.float32)
    constants: dict[str, NDArray[Any]] = {
        "frames": np.asarray([-1, HEIGHT, WIDTH, 3], np.int64),
        "scale": np.asarray([58.4, 57.1, 57.4], np.float32),
        "shift": np.asarray([123.7, 116.3, 103.5], np.float32),
        # As exported: weights that fit are stored in f16 and cast to f32.
        **({"weight.half": stored.astype(np.float16)} if weight < 1e3 else {"weight": stored}),
        "start": np.asarray([0], np.int64),
        "middle": np.asarray([half], np.int64),
        "end": np.asarray([CHANNELS], np.int64),
        "axis": np.asarray([1], np.int64),
        "one": np.asarray(rng.uniform(0.5, 2, half), np.float32),
        "zero": np.asarray(rng.standard_normal(half), np.float32),
        "variance": np.full(half, variance, np.float32),
        "detour": np.asarray([[detour] * DIMENSION], np.float32),
        "maps": np.asarray([2, 3], np.int64),
        "clips_again": np.asarray([-1, LENGTH, CHANNELS], np.int64),
        "score": rng.standard_normal((CHANNELS, 1)).astype(np.float32),
        "time": np.asarray([1], np.int64),
        "projection": (detour + rng.standard_normal((CHANNELS, DIMENSION))).astype(np.float32),
    }
    make = helper.make_node
    nodes = [
        make("Cast", ["weight.half"], ["weight"], to=TensorProto.FLOAT),
        make("Reshape", [INPUT_NAME, "frames"], ["flat"]),
        make("Cast", ["flat"], ["pixels"], to=TensorProto.FLOAT),
        make("Sub", ["pixels", "shift"], ["centred"]),
        make("Div", ["centred", "scale"], ["normal"]),
        make("Transpose", ["normal"], ["planes"], perm=[0, 3, 1, 2]),
        make("Conv", ["planes", "weight"], ["map"], pads=[1, 1, 1, 1]),
        make("Slice", ["map", "start", "middle", "axis"], ["first"]),
        make("Slice", ["map", "middle", "end", "axis"], ["second"]),
        make("InstanceNormalization", ["first", "one", "zero"], ["instance"]),
        make("BatchNormalization", ["second", "one", "zero", "zero", "variance"], ["batch"]),
        make("Concat", ["instance", "batch"], ["both"], axis=1),
        make("Relu", ["both"], ["active"]),
        make("ReduceMean", ["active", "maps"], ["pooled"], keepdims=0),
        make("Reshape", ["pooled", "clips_again"], ["sequence"]),
        make("MatMul", ["sequence", "score"], ["scores"]),
        make("Softmax", ["scores"], ["attention"], axis=1),
        make("Mul", ["sequence", "attention"], ["weighed"]),
        make("ReduceSum", ["weighed", "time"], ["clip"], keepdims=0),
        make("MatMul", ["clip", "projection"], ["away"]),
        make("ReduceSum", ["clip", "time"], ["sum"], keepdims=1),
        make("Mul", ["sum", "detour"], ["shifted"]),
        make("Sub", ["away", "shifted"], [OUTPUT_NAME]),
    ]
    if weight >= 1e3:
        del nodes[0]
    return helper.make_model(
        helper.make_graph(
            nodes,
            "convolutional",
            [helper.make_tensor_value_info(INPUT_NAME, TensorProto.UINT8, ["N", LENGTH, HEIGHT, WIDTH, 3])],
            [helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, ["N", DIMENSION])],
            [numpy_helper.from_array(value, name) for name, value in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=8,
    )
