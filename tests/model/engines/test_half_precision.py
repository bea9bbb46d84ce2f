import os
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from model.bundle import BUNDLED, INPUT_NAME, OUTPUT_NAME, Bundle
from model.engines.half_precision import half_network
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

    found = run(half_network(bundle, None), golden.clips)

    expected = run(bundle.network_path, golden.clips)
    assert 0 < np.abs(found - expected).max() < 2e-3  # 1e-2 is promised; rounding operands alone takes little of it
    assert (found * golden.embeddings).sum(axis=1).min() > 0.9999


@pytest.mark.parametrize("name", ["convolutional", "bundled"])
def test_products_are_in_f16_and_sums_in_f32(name: str, request: pytest.FixtureRequest) -> None:
    model = onnx.load_from_string(half_network(request.getfixturevalue(name), None))
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
    bundle = make_convolutional(tmp_path / "tiny", variance=1e-9)  # f16 rounds it, and its epsilon, to nothing
    golden = bundle.golden()

    assert np.abs(run(half_network(bundle, None), golden.clips) - golden.embeddings).max() < 2e-3


def test_weight_beyond_f16_is_refused(tmp_path: Path) -> None:
    bundle = make_convolutional(tmp_path / "large", weight=1e6)

    with pytest.raises(EngineError, match=r"cannot be converted to f16: .*beyond 65504"):
        half_network(bundle, None)


def test_quantised_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="quantised"):
        half_network(make_quantised(tmp_path / "quantised"), None)


def test_without_onnx_the_extra_is_named(convolutional: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)

    with pytest.raises(EngineError, match=r"onnx.*not3d\[gpu\]"):
        half_network(convolutional, None)


class TestCache:
    def test_file_is_read_unchanged(self, convolutional: Bundle, tmp_path: Path) -> None:
        first = half_network(convolutional, tmp_path)
        (kept,) = tmp_path.iterdir()
        written = kept.stat().st_mtime_ns

        assert half_network(convolutional, tmp_path) == first == kept.read_bytes()
        assert kept.stat().st_mtime_ns == written

    def test_cached_file_is_used(self, convolutional: Bundle, tmp_path: Path) -> None:
        """Without converting again: the network need not be readable."""
        first = half_network(convolutional, tmp_path)
        gone = Bundle(convolutional.path, convolutional.spec, tmp_path / "gone.onnx", convolutional.embedding_space)

        assert half_network(gone, tmp_path) == first

    def test_another_network_has_another_file(self, convolutional: Bundle, tmp_path: Path) -> None:
        other = make_convolutional(tmp_path / "other", weight=0.3)
        cache = tmp_path / "cache"

        assert half_network(convolutional, cache) != half_network(other, cache)
        assert len(list(cache.iterdir())) == 2

    @pytest.mark.parametrize("damage", [b"", b"no network", None])
    def test_damaged_file_is_written_again(
        self, convolutional: Bundle, tmp_path: Path, damage: bytes | None, caplog: pytest.LogCaptureFixture
    ) -> None:
        first = half_network(convolutional, tmp_path)
        (kept,) = tmp_path.iterdir()
        kept.write_bytes(first[:-7] if damage is None else damage)

        assert half_network(convolutional, tmp_path) == first
        assert "is damaged and will be written again" in caplog.text
        assert [file.read_bytes() for file in tmp_path.iterdir()] == [first]

    def test_unwritable_folder_is_not_an_error(
        self, convolutional: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        blocked = tmp_path / "file"
        blocked.write_text("in the way")

        assert half_network(convolutional, blocked / "cache")
        assert "cannot be saved" in caplog.text

    def test_failed_write_leaves_no_file(
        self, convolutional: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(self: Path, target: Path) -> None:
            raise OSError(28, os.strerror(28))

        monkeypatch.setattr(Path, "replace", fail)

        assert half_network(convolutional, tmp_path)
        assert list(tmp_path.iterdir()) == []
