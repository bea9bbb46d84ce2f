from pathlib import Path

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.onnx_signature import ELEMENT_FLOAT32, ELEMENT_UINT8, OnnxFileError, TensorSignature, read_signature
from tests.bundles import make_bundle


@pytest.fixture(scope="module")
def network_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundle"), dimension=16, clip_length=2) / "model.onnx"


def test_inputs_and_outputs_are_those_that_onnx_wrote(network_path: Path) -> None:
    signature = read_signature(network_path.read_bytes())

    assert signature.inputs == (TensorSignature("clips", ELEMENT_UINT8, ("N", 2, 64, 32, 3)),)
    assert signature.outputs == (TensorSignature("embeddings", ELEMENT_FLOAT32, ("N", 16)),)
    assert not signature.external_weights


def test_an_axis_without_length_or_name_is_dynamic(network_path: Path) -> None:
    model = onnx.load(network_path)
    model.graph.input[0].type.tensor_type.shape.dim[0].Clear()

    assert read_signature(model.SerializeToString()).inputs[0].shape[0] == "?"


def test_weights_in_other_files_are_seen(network_path: Path, tmp_path: Path) -> None:
    model = onnx.load(network_path)
    target = tmp_path / "model.onnx"
    onnx.save(model, target, save_as_external_data=True, location="weights", size_threshold=0)

    assert read_signature(target.read_bytes()).external_weights


def test_a_file_cut_anywhere_in_its_graph_is_refused(network_path: Path) -> None:
    data = network_path.read_bytes()
    graph_end = data.index(onnx.load(network_path).graph.SerializeToString()) + onnx.load(network_path).graph.ByteSize()

    for length in range(0, graph_end, 7):
        with pytest.raises(OnnxFileError):
            read_signature(data[:length])


@given(st.binary(max_size=200))
def test_random_bytes_never_break_the_reader(data: bytes) -> None:
    try:
        signature = read_signature(data)
    except OnnxFileError:
        return
    assert isinstance(signature.inputs, tuple)


def test_text_is_no_model() -> None:
    with pytest.raises(OnnxFileError):
        read_signature(b'{"not": "a model"}' * 50)
