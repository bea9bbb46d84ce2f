import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from model.bundle import BUNDLED, INPUT_NAME, OUTPUT_NAME, Bundle
from model.engines.half_precision import convert_to_half
from model.engines.protocol import EngineError
from tests.model.engines.networks import make_convolutional, make_quantised

FLOAT, FLOAT16 = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16


def run(network: bytes | Path, clips: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Unit embeddings on the CPU, which computes in f32 from operands rounded to f16."""
    session = onnxruntime.InferenceSession(network, providers=["CPUExecutionProvider"])
    (found,) = session.run([OUTPUT_NAME], {INPUT_NAME: clips})
    assert found.dtype == np.float32
    return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True))


def types_of(model: onnx.ModelProto) -> dict[str, int]:
    """The element type of every value, as ONNX's own inference finds it."""
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    values = [*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output]
    found = {value.name: value.type.tensor_type.elem_type for value in values}
    return found | {tensor.name: tensor.data_type for tensor in model.graph.initializer}


@pytest.fixture(scope="module")
def convolutional(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_convolutional(tmp_path_factory.mktemp("convolutional"))


@pytest.fixture(scope="module")
def bundled() -> Bundle:
    return Bundle.load(BUNDLED)


@pytest.mark.parametrize("name", ["convolutional", "bundled"])
def test_embeddings_are_those_of_f32(name: str, request: pytest.FixtureRequest) -> None:
    bundle: Bundle = request.getfixturevalue(name)
    golden = bundle.golden()

    found = run(convert_to_half(bundle), golden.clips)

    expected = run(bundle.network_path, golden.clips)
    assert 0 < np.abs(found - expected).max() < 2e-3  # the limit on a GPU is 1e-2
    assert (found * golden.embeddings).sum(axis=1).min() > 0.9999


@pytest.mark.parametrize("name", ["convolutional", "bundled"])
def test_products_are_in_f16_and_sums_in_f32(name: str, request: pytest.FixtureRequest) -> None:
    model = onnx.load_from_string(convert_to_half(request.getfixturevalue(name)))
    types = types_of(model)
    seen: Counter[str] = Counter()
    for node in model.graph.node:
        inputs = {types[value] for value in node.input if types.get(value) in {FLOAT, FLOAT16}}
        if node.op_type in {"Conv", "MatMul"}:
            assert inputs == {FLOAT16}, node.name
        if node.op_type in {"InstanceNormalization", "Softmax", "ReduceMean", "ReduceSum", "Sub", "Div"}:
            assert inputs == {FLOAT}, node.name
        seen[node.op_type] += 1
    assert {"InstanceNormalization", "Softmax", "Conv"} <= seen.keys()
    assert types[INPUT_NAME] == onnx.TensorProto.UINT8
    assert types[OUTPUT_NAME] == FLOAT


def test_variance_too_small_for_f16_is_kept(tmp_path: Path) -> None:
    bundle = make_convolutional(tmp_path / "tiny", variance=1e-9)  # f16 rounds it and its epsilon to zero
    golden = bundle.golden()

    assert np.abs(run(convert_to_half(bundle), golden.clips) - golden.embeddings).max() < 2e-3


def test_weight_beyond_f16_is_refused(tmp_path: Path) -> None:
    bundle = make_convolutional(tmp_path / "large", weight=1e6)

    with pytest.raises(EngineError, match=r"cannot be converted to f16: .*beyond 65504"):
        convert_to_half(bundle)


def test_quantised_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="quantised"):
        convert_to_half(make_quantised(tmp_path / "quantised"))


def test_without_onnx_the_extra_is_named(convolutional: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)

    with pytest.raises(EngineError, match=r"onnx.*not3d\[gpu\]"):
        convert_to_half(convolutional)
