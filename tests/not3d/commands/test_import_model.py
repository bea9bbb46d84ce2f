import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from typer.testing import CliRunner

from model.bundle import Bundle
from model.errors import Not3dError
from model.network import NetworkSpec, build_network
from not3d.commands.app import app
from training.loop.checkpoint import load_checkpoint

RUN = CliRunner()


@pytest.fixture
def model(tmp_path):
    """The mean of each channel: as small as a frame-level model can be."""
    graph = helper.make_graph(
        [helper.make_node("GlobalAveragePool", ["x"], ["y"])],
        "mean",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 32, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3, 1, 1])],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), tmp_path / "mean.onnx"
    )
    return tmp_path / "mean.onnx"


def test_options_reach_the_bundle(model, tmp_path):
    options = [
        "--colour",
        "bgr",
        "--mean",
        "0,0,0",
        "--std",
        "1,1,1",
        "--scale",
        "1",
        "--clip-length",
        "2",
        "--name",
        "m",
    ]
    result = RUN.invoke(app, ["import", str(model), "--out", str(tmp_path / "out"), *options])
    assert result.exit_code == 0, result.output
    spec = Bundle.load(tmp_path / "out").spec
    assert (spec.name, spec.clip_length, spec.dimension) == ("m", 2, 3)
    assert spec.preprocessing.mean == (0, 0, 0)
    np.testing.assert_allclose(spec.preprocessing.std, 1 / 255)
    assert "mean.onnx frame by frame" in result.output.replace("\n", " ")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--colour", "grey"], "--colour must be rgb or bgr (got grey)"),
        (["--scale", "3"], "--scale must be 1 or 255 (got 3)"),
        (["--mean", "1,2"], "--mean must be three numbers with commas between them (got 1,2)"),
        (["--height", "64"], "frames of height 32, not 64"),
    ],
)
def test_invalid_options_are_refused(model, tmp_path, options, message):
    result = RUN.invoke(app, ["import", str(model), "--out", str(tmp_path / "out"), *options])
    assert isinstance(result.exception, Not3dError)
    assert message in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_a_published_checkpoint_becomes_one_of_ours(tmp_path):
    spec = NetworkSpec(backbone="resnet50", frame_height=64, frame_width=32, attention_channels=8, classes=3)
    torch.save({"state_dict": build_network(spec).state_dict()}, tmp_path / "published.pth.tar")
    out = tmp_path / "runs" / "imported.pt"
    result = RUN.invoke(app, ["import", str(tmp_path / "published.pth.tar"), "--out", str(out)])
    assert result.exit_code == 0, result.output
    # Such weights were trained on Pillow's pixels, which the bundle then gives them.
    assert load_checkpoint(out).network_spec == spec.model_copy(update={"resampling": "pil-bicubic"})
    again = RUN.invoke(app, ["import", str(tmp_path / "published.pth.tar"), "--out", str(out)])
    assert "exists" in str(again.exception)
    ours = RUN.invoke(app, ["import", str(out), "--out", str(tmp_path / "ours.pt")])
    assert "is already a checkpoint of this project" in str(ours.exception)
    bundle = RUN.invoke(app, ["export", str(out), "--out", str(tmp_path / "bundle")])
    assert bundle.exit_code == 0, bundle.output
    exported = Bundle.load(tmp_path / "bundle").spec
    assert (exported.recipe, exported.preprocessing.resampling) == ({}, "pil-bicubic")
    assert "resized with the pixels of Pillow's bicubic filter" in (tmp_path / "bundle" / "MODEL_CARD.md").read_text()


def test_a_file_is_known_by_its_content(model, tmp_path):
    model.rename(tmp_path / "model.dat")
    result = RUN.invoke(app, ["import", str(tmp_path / "model.dat"), "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    (tmp_path / "ir.xml").write_text("<net/>")
    (tmp_path / "ir.bin").write_bytes(b"")
    result = RUN.invoke(app, ["import", str(tmp_path / "ir.bin"), "--out", str(tmp_path / "other")])
    assert str(result.exception).endswith("ir.xml")
