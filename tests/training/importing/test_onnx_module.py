import shutil

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from model.bundle import ONNX_FILE
from model.engines.self_test import SelfTestError
from tests.training.teachers import SIZE, write_teacher
from training.export.bundle_assembly import ExportError
from training.importing.onnx_module import OnnxModule, open_module

FLOAT = TensorProto.FLOAT


def write(path, nodes, shape, constants=()):
    """A graph from `x` of this shape to `y`."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", FLOAT, shape)],
        [helper.make_tensor_value_info("y", FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


def run(path, x):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def floats(*shape, seed=1):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


node = helper.make_node
IMAGES, ROWS = (2, 4, 8, 6), (3, 4)
CASES = {
    "Conv": (
        [node("Conv", ["x", "w", "b"], ["y"], strides=[2, 1], pads=[1, 0, 1, 0])],
        IMAGES,
        [("w", floats(6, 4, 3, 3)), ("b", floats(6))],
    ),
    "Conv by channel": (
        [node("Conv", ["x", "w"], ["y"], group=4, dilations=[2, 2])],
        IMAGES,
        [("w", floats(4, 1, 3, 3))],
    ),
    "Gemm": (
        [node("Gemm", ["x", "w", "b"], ["y"], transB=1, alpha=0.5, beta=2.0)],
        ROWS,
        [("w", floats(5, 4)), ("b", floats(5))],
    ),
    "Gemm of a transposed matrix": ([node("Gemm", ["x", "w"], ["y"], transA=1)], ROWS, [("w", floats(3, 5))]),
    "MatMul": ([node("MatMul", ["x", "w"], ["y"])], ROWS, [("w", floats(4, 5))]),
    "BatchNormalization": (
        [node("BatchNormalization", ["x", "s", "b", "m", "v"], ["y"], epsilon=1e-3)],
        IMAGES,
        [("s", floats(4)), ("b", floats(4)), ("m", floats(4)), ("v", np.abs(floats(4)))],
    ),
    "InstanceNormalization": (
        [node("InstanceNormalization", ["x", "s", "b"], ["y"])],
        IMAGES,
        [("s", floats(4)), ("b", floats(4))],
    ),
    "MaxPool": ([node("MaxPool", ["x"], ["y"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])], IMAGES, []),
    "AveragePool": (
        [node("AveragePool", ["x"], ["y"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])],
        IMAGES,
        [],
    ),
    "AveragePool with its border": (
        [node("AveragePool", ["x"], ["y"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1)],
        IMAGES,
        [],
    ),
    "GlobalAveragePool": ([node("GlobalAveragePool", ["x"], ["y"])], IMAGES, []),
    "ReduceMean": ([node("ReduceMean", ["x"], ["y"], axes=[2, 3], keepdims=0)], IMAGES, []),
    "Clip": (
        [node("Clip", ["x", "low", "high"], ["y"])],
        IMAGES,
        [("low", np.float32(-0.5)), ("high", np.float32(0.5))],
    ),
    "Clip without a lower bound": ([node("Clip", ["x", "", "high"], ["y"])], IMAGES, [("high", np.float32(0.5))]),
    "Gather": ([node("Gather", ["x", "i"], ["y"], axis=1)], IMAGES, [("i", np.array([2, 0, 1], np.int64))]),
    "Concat": ([node("Concat", ["x", "x"], ["y"], axis=1)], IMAGES, []),
    "Flatten of two axes": ([node("Flatten", ["x"], ["y"], axis=2)], IMAGES, []),
    "Gemm without a bias": ([node("Gemm", ["x", "w", ""], ["y"])], ROWS, [("w", floats(4, 5))]),
    "ReduceMean of all axes": ([node("ReduceMean", ["x"], ["y"])], IMAGES, []),
    "Transpose without an order": ([node("Transpose", ["x"], ["y"])], IMAGES, []),
    "Clip without limits": ([node("Clip", ["x"], ["y"])], IMAGES, []),
    "Flatten": ([node("Flatten", ["x"], ["y"], axis=1)], IMAGES, []),
    "Reshape": ([node("Reshape", ["x", "shape"], ["y"])], IMAGES, [("shape", np.array([0, -1, 6], np.int64))]),
    "Transpose": ([node("Transpose", ["x"], ["y"], perm=[0, 2, 3, 1])], IMAGES, []),
    "Sigmoid": ([node("Sigmoid", ["x"], ["y"])], IMAGES, []),
    "Relu": ([node("Relu", ["x"], ["y"])], IMAGES, []),
    "Sub, Div, Mul, Add": (
        [
            node("Sub", ["x", "c"], ["a"]),
            node("Div", ["a", "c"], ["b"]),
            node("Mul", ["b", "a"], ["d"]),
            node("Add", ["d", "x"], ["y"]),
        ],
        ROWS,
        [("c", floats(4))],
    ),
    "Identity and Cast": ([node("Identity", ["x"], ["a"]), node("Cast", ["a"], ["y"], to=FLOAT)], ROWS, []),
    "Constant": (
        [node("Constant", [], ["c"], value=numpy_helper.from_array(floats(4))), node("Add", ["x", "c"], ["y"])],
        ROWS,
        [],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_operator_computes_what_onnx_runtime_does(name, tmp_path):
    nodes, shape, constants = CASES[name]
    path = write(tmp_path / "graph.onnx", nodes, shape, constants)
    x = floats(*shape, seed=2)
    with torch.no_grad():
        found = OnnxModule(path)(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(found, run(path, x), atol=1e-5)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return write_teacher(tmp_path_factory.mktemp("teacher"))


def test_a_trained_network_is_written_with_its_new_weights(teacher, tmp_path, rng):
    module = OnnxModule(teacher / ONNX_FILE)
    clips = rng.integers(0, 256, (3, 1, *SIZE, 3), dtype=np.uint8)
    before = run(teacher / ONNX_FILE, clips)
    np.testing.assert_allclose(module(torch.from_numpy(clips)).detach().numpy(), before, atol=1e-4)
    optimiser = torch.optim.SGD(module.parameters(), 0.01)
    module(torch.from_numpy(clips)).square().sum().backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in module.parameters())
    assert sum(weight.ndim == 1 for weight in module.parameters()) == 3, "the biases are trained"
    optimiser.step()
    module.save(tmp_path / "after.onnx")
    after = run(tmp_path / "after.onnx", clips)
    assert np.abs(after - before).max() > 1e-3
    np.testing.assert_allclose(module(torch.from_numpy(clips)).detach().numpy(), after, atol=1e-4)


def test_the_constants_of_normalisation_are_not_trained(teacher):
    names = {name for name, _ in OnnxModule(teacher / ONNX_FILE).named_buffers()}
    assert len(names) >= 2  # mean and standard deviation


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([node("Tanh", ["x"], ["y"])], "the operator Tanh cannot be run in PyTorch; known are Add"),
        ([node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], auto_pad="SAME_UPPER")], "MaxPool with this auto_pad"),
        ([node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], ceil_mode=1)], "MaxPool with this ceil_mode"),
        ([node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], dilations=[2, 2])], "MaxPool with this dilations"),
        ([node("Cast", ["x"], ["y"], to=TensorProto.INT32)], "Cast with this to"),
        ([node("Constant", [], ["c"], value_float=1.0), node("Add", ["x", "c"], ["y"])], "Constant with value_float"),
        (
            [
                node("Constant", [], ["i"], value=numpy_helper.from_array(np.array(1))),
                node("Gather", ["x", "i"], ["y"]),
            ],
            "Gather needs a list of integers",
        ),
        ([node("MaxPool", ["x"], ["y"], kernel_shape=[3, 3], pads=[0, 0, 1, 1])], "pads its two sides differently"),
    ],
)
def test_what_has_no_form_in_pytorch_is_refused_by_name(nodes, message, tmp_path):
    with pytest.raises(ExportError, match=message):
        OnnxModule(write(tmp_path / "graph.onnx", nodes, IMAGES))


def test_a_weight_that_is_a_constant_of_the_graph_is_written_too(tmp_path):
    weight = numpy_helper.from_array(floats(4, 5))
    nodes = [node("Constant", [], ["w"], value=weight), node("MatMul", ["x", "w"], ["y"])]
    module = OnnxModule(write(tmp_path / "graph.onnx", nodes, ROWS))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(2)
    module.save(tmp_path / "after.onnx")
    x = floats(*ROWS, seed=2)
    np.testing.assert_allclose(run(tmp_path / "after.onnx", x), 2 * run(tmp_path / "graph.onnx", x), rtol=1e-5)


def test_a_bundle_is_compared_with_its_golden_vectors(teacher, tmp_path):
    assert isinstance(open_module(teacher), OnnxModule)
    other = tmp_path / "other"
    shutil.copytree(teacher, other)
    module = OnnxModule(teacher / ONNX_FILE)
    with torch.no_grad():
        next(module.parameters()).mul_(-1)
    module.save(other / ONNX_FILE)
    with pytest.raises(SelfTestError):
        open_module(other)
