import hashlib

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from model.bundle import Bundle, BundleError
from model.engines import EngineError, open_engine, self_test
from model.engines.self_test import run_self_test
from model.tracklet import normalise
from training.export.bundle_assembly import ExportError
from training.importing.frame_model import ImportOptions
from training.importing.to_bundle import import_frame_model

SIZE = (32, 16)


class Tiny(nn.Module):
    """A frame-level network in the shape of real ones."""

    def __init__(self, *, wide=True):
        super().__init__()
        torch.manual_seed(3)
        self.conv = nn.Conv2d(3, 8, 3, 2)
        self.wide = wide

    def forward(self, frames):
        pooled = torch.relu(self.conv(frames)).amax(dim=(2, 3), keepdim=True)
        return pooled if self.wide else pooled.flatten(1)


def export(path, network=None, *, dynamic=True, opset=18, size=SIZE):
    torch.onnx.export(
        (network or Tiny()).eval(),
        (torch.zeros(2 if dynamic else 1, 3, *size),),
        path,
        dynamo=True,
        verbose=False,
        input_names=["image"],
        output_names=["feature"],
        opset_version=opset,
        dynamic_shapes=({0: torch.export.Dim("batch")},) if dynamic else None,
    )
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return export(tmp_path_factory.mktemp("model") / "tiny.onnx")


def by_hand(model, clips, *, colour="rgb", scale=255, mean=ImportOptions.mean, std=ImportOptions.std):
    """The model, frame by frame, with preprocessing written out."""
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    rows = []
    for clip in clips:
        features = []
        for frame in clip:
            planes = [(frame[..., c] / scale - mean[c]) / std[c] for c in range(3)]
            planes = planes[::-1] if colour == "bgr" else planes
            (feature,) = session.run(None, {"image": np.stack(planes)[None].astype(np.float32)})
            features.append(feature.reshape(-1))
        rows.append(np.mean(features, axis=0))
    return normalise(np.stack(rows))


def clips_of(length, count=3):
    return np.random.default_rng(0).integers(0, 256, (count, length, *SIZE, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"colour": "bgr", "clip_length": 3},
        {"colour": "bgr", "scale": 1, "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)},
        {"scale": 1, "mean": (123.7, 116.3, 103.5), "std": (58.4, 57.1, 57.4), "clip_length": 1},
    ],
)
def test_bundle_computes_the_mean_of_the_model_over_frames(model, tmp_path, options):
    report = import_frame_model(model, tmp_path / "bundle", ImportOptions(**options))
    bundle = Bundle.load(tmp_path / "bundle")
    length = options.get("clip_length", 4)
    assert bundle.spec.clip_shape == (length, *SIZE, 3)
    assert (bundle.spec.dimension, bundle.spec.attention, bundle.spec.feature) == (8, "mean", "raw")
    clips = clips_of(length)
    expected = by_hand(model, clips, **{k: v for k, v in options.items() if k != "clip_length"})
    for name in ("onnxruntime", "openvino"):
        engine = open_engine(bundle, "cpu", engine=name)
        tolerance = 1e-4 if engine.precision == "f32" else 2e-2
        np.testing.assert_allclose(normalise(engine.embed(clips)), expected, atol=tolerance)
    assert report.differences[0].max_difference < 1e-4


def test_bundle_of_an_ir_runs_on_openvino(model, tmp_path):
    openvino.save_model(openvino.convert_model(model), tmp_path / "tiny.xml", compress_to_fp16=False)
    for name in ("bundle", "again"):
        import_frame_model(tmp_path / "tiny.xml", tmp_path / name, ImportOptions(colour="bgr"))
    bundle = Bundle.load(tmp_path / "bundle")
    assert Bundle.load(tmp_path / "again").embedding_space == bundle.embedding_space
    assert (tmp_path / "bundle" / "model.bin").is_file()
    clips = clips_of(4)
    engine = open_engine(bundle, "cpu")
    assert engine.name == "openvino"
    run_self_test(engine, bundle)
    np.testing.assert_allclose(normalise(engine.embed(clips)), by_hand(model, clips, colour="bgr"), atol=2e-2)
    with pytest.raises(EngineError, match="only the engine openvino runs"):
        open_engine(bundle, "cpu", engine="onnxruntime")
    weights = (tmp_path / "bundle" / "model.bin").read_bytes()
    (tmp_path / "bundle" / "model.bin").write_bytes(bytes([weights[0] ^ 1]) + weights[1:])
    assert Bundle.load(tmp_path / "bundle").embedding_space != bundle.embedding_space
    (tmp_path / "bundle" / "model.bin").unlink()
    with pytest.raises(BundleError, match=r"model\.bin: the file is missing"):
        Bundle.load(tmp_path / "bundle")
    (tmp_path / "bundle" / "model.bin").write_bytes(weights)
    (tmp_path / "bundle" / "model.xml").write_text("<net version='11'>")
    with pytest.raises(EngineError, match=r"model\.xml: OpenVINO cannot compile it"):
        open_engine(Bundle.load(tmp_path / "bundle"), "cpu")


def test_frame_size_must_be_given_if_the_file_has_none(tmp_path):
    graph = helper.make_graph(
        [helper.make_node("GlobalAveragePool", ["x"], ["y"])],
        "any-size",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, "h", "w"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3, 1, 1])],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), tmp_path / "any.onnx"
    )
    with pytest.raises(ExportError, match=r"any height: give the height .*--height"):
        import_frame_model(tmp_path / "any.onnx", tmp_path / "out")
    import_frame_model(tmp_path / "any.onnx", tmp_path / "out", ImportOptions(height=40, width=24))
    assert Bundle.load(tmp_path / "out").spec.clip_shape == (4, 40, 24, 3)


def test_size_that_contradicts_the_file_is_refused(model, tmp_path):
    with pytest.raises(ExportError, match="frames of height 32, not 64"):
        import_frame_model(model, tmp_path / "out", ImportOptions(height=64))
    assert not (tmp_path / "out").exists()


class Heads(nn.Module):
    def forward(self, frames):
        return frames.mean(dim=(2, 3)), frames.amax(dim=(2, 3))


def test_one_of_several_outputs_must_be_named(tmp_path):
    path = tmp_path / "heads.onnx"
    torch.onnx.export(
        Heads().eval(), (torch.zeros(2, 3, *SIZE),), path, dynamo=True, verbose=False, input_names=["image"],
        output_names=["mean", "largest"], dynamic_shapes=({0: torch.export.Dim("batch")},), opset_version=18,
    )  # fmt: skip
    with pytest.raises(ExportError, match=r"several outputs \(mean, largest\)"):
        import_frame_model(path, tmp_path / "out")
    with pytest.raises(ExportError, match="no output logits; it has mean, largest"):
        import_frame_model(path, tmp_path / "out", ImportOptions(output="logits"))
    report = import_frame_model(path, tmp_path / "out", ImportOptions(output="mean"))
    assert report.differences[0].max_difference < 1e-4


class Detector(nn.Module):
    def forward(self, frames):
        return frames.flatten(2).transpose(1, 2)


def test_file_without_a_frame_level_model_is_refused(model, tmp_path):
    path = export(tmp_path / "detector.onnx", Detector())
    with pytest.raises(ExportError, match=r"gives \[1, 512, 3\] for one frame"):
        import_frame_model(path, tmp_path / "out")
    (tmp_path / "cut.onnx").write_bytes(model.read_bytes()[:400])
    with pytest.raises(ExportError, match="not an ONNX model, or is incomplete"):
        import_frame_model(tmp_path / "cut.onnx", tmp_path / "out")
    (tmp_path / "text.xml").write_text("<net/>")
    with pytest.raises(ExportError, match=r"text\.bin is missing"):
        import_frame_model(tmp_path / "text.xml", tmp_path / "out")
    (tmp_path / "text.bin").write_bytes(b"")
    with pytest.raises(ExportError, match="not an OpenVINO IR"):
        import_frame_model(tmp_path / "text.xml", tmp_path / "out")
    assert not (tmp_path / "out").exists()


class Frozen(nn.Module):
    """The first axis of what is reshaped is not the frames."""

    def forward(self, frames):
        return frames.reshape(3, -1).mean(dim=1).reshape(1, 3)


def test_fixed_batch_size_is_refused_if_the_graph_depends_on_it(tmp_path):
    path = export(tmp_path / "frozen.onnx", Frozen(), dynamic=False)
    with pytest.raises(ExportError, match="fixed batch size"):
        import_frame_model(path, tmp_path / "out")


def test_fixed_batch_size_is_made_dynamic_if_nothing_depends_on_it(tmp_path):
    path = export(tmp_path / "one.onnx", dynamic=False)
    import_frame_model(path, tmp_path / "out")
    clips = clips_of(4)
    found = open_engine(Bundle.load(tmp_path / "out"), "cpu", engine="onnxruntime").embed(clips)
    np.testing.assert_allclose(normalise(found), by_hand(path, clips), atol=1e-4)


@pytest.mark.parametrize("batch", [1, 3])
def test_fixed_batch_size_in_reshapes_is_made_dynamic(tmp_path, batch):
    """As exporters write `x.view(x.size(0), -1)` of an example, once as an initialiser and once as a node."""
    weights = np.random.default_rng(1).standard_normal((6, 5)).astype(np.float32)
    nodes = [
        helper.make_node("AveragePool", ["x"], ["pooled"], kernel_shape=[16, 16], strides=[16, 16]),
        helper.make_node("Reshape", ["pooled", "flat"], ["rows"]),
        helper.make_node("MatMul", ["rows", "weights"], ["feature"]),
        helper.make_node("Constant", [], ["wide"], value=numpy_helper.from_array(np.array([batch, 5, 1, 1]))),
        helper.make_node("Reshape", ["feature", "wide"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "fixed",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, *SIZE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 5, 1, 1])],
        [numpy_helper.from_array(weights, "weights"), numpy_helper.from_array(np.array([batch, 6]), "flat")],
    )
    graph.node[0].doc_string = "/home/somebody/model.py"
    path = tmp_path / "fixed.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6), path)
    import_frame_model(path, tmp_path / "out")
    clips = clips_of(2)
    pixels = (clips / 255 - np.array(ImportOptions.mean)) / np.array(ImportOptions.std)
    pooled = pixels.reshape(3, 2, 2, 16, 16, 3).mean(axis=(1, 3, 4)).transpose(0, 2, 1).reshape(3, 6)
    bundle = Bundle.load(tmp_path / "out")
    found = open_engine(bundle, "cpu", engine="onnxruntime").embed(np.concatenate([clips, clips], axis=1))
    np.testing.assert_allclose(normalise(found), normalise((pooled @ weights).astype(np.float32)), atol=1e-4)
    assert b"somebody" not in bundle.network_path.read_bytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mean": (123.7, 116.3, 103.5)}, "mean 123.7,116.3,103.5: with scale 255 .* must be 0 to 1"),
        ({"std": (0.0, 0.2, 0.2)}, "std 0,0.2,0.2: .* above 0"),
        ({"mean": (0.5, 0.5, -0.5)}, "mean 0.5,0.5,-0.5"),
        ({"clip_length": 0}, "clip length 0"),
    ],
)
def test_impossible_options_are_refused(model, tmp_path, options, message):
    with pytest.raises(ExportError, match=message):
        import_frame_model(model, tmp_path / "out", ImportOptions(**options))
    assert not (tmp_path / "out").exists()


def test_bundle_records_its_origin(model, tmp_path):
    import_frame_model(model, tmp_path / "out", ImportOptions(colour="bgr"))
    spec = Bundle.load(tmp_path / "out").spec
    imported = spec.recipe["imported"]
    assert imported["sha256"] == {"tiny.onnx": hashlib.sha256(model.read_bytes()).hexdigest()}
    assert (imported["colour"], imported["layout"]) == ("bgr", "nchw")
    assert spec.training_data.startswith("not stated")


@pytest.fixture(scope="module")
def ir(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("ir") / "tiny.xml"
    openvino.save_model(openvino.convert_model(model), path, compress_to_fp16=False)
    return path


def test_damaged_ir_is_refused(ir, tmp_path):
    for file in (ir, ir.with_suffix(".bin")):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    bundle = import_frame_model(tmp_path / "tiny.xml", tmp_path / "bundle").path
    weights = bundle / "model.bin"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(EngineError, match=r"model\.xml: OpenVINO cannot compile it: .*Incorrect weights"):
        open_engine(Bundle.load(bundle), "cpu")
    weights = tmp_path / "tiny.bin"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(ExportError, match=r"is incomplete: Incorrect weights"):
        import_frame_model(tmp_path / "tiny.xml", tmp_path / "out")
    (tmp_path / "tiny.xml").write_text("<html/>")
    with pytest.raises(ExportError, match="does not begin with <net>"):
        import_frame_model(tmp_path / "tiny.xml", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_ir_that_fails_in_bf16_runs_in_f32(ir, tmp_path, monkeypatch):
    import_frame_model(ir, tmp_path / "bundle")
    monkeypatch.setitem(self_test.TOLERANCES, "bf16", self_test.Tolerance(max_difference=0, min_cosine=1))
    bundle = Bundle.load(tmp_path / "bundle")
    engine = open_engine(bundle)
    assert (engine.name, engine.precision) == ("openvino", "f32")
    run_self_test(engine, bundle)


def test_osnet_is_imported(shared_data, tmp_path):
    report = import_frame_model(
        shared_data / "peers" / "osnet_x0_25_msmt17.onnx", tmp_path / "osnet", crops=shared_data / "mini-mars"
    )
    assert report.clips == 32
    assert all(row.max_difference < 1e-4 for row in report.differences if row.precision == "f32")
    assert Bundle.load(tmp_path / "osnet").spec.dimension == 512


def write_linear(path, *, weight=1.0, outputs=("y",), sides=("h", "w")):
    """Write a model that gives the mean of each channel times a weight."""
    graph = helper.make_graph(
        [helper.make_node("GlobalAveragePool", ["x"], ["p"]), helper.make_node("Mul", ["p", "weight"], ["y"])],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, *sides])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3, 1, 1]) for name in outputs],
        [helper.make_tensor("weight", TensorProto.FLOAT, [1], [weight])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


@pytest.mark.parametrize(("weight", "found"), [(0.0, "only zeros"), (np.nan, "not finite"), (np.inf, "not finite")])
def test_model_without_usable_embeddings_is_refused_by_name(tmp_path, weight, found):
    model = write_linear(tmp_path / "odd.onnx", weight=weight, sides=SIZE)
    with pytest.raises(ExportError, match=rf"odd\.onnx gives .*{found}.* for a grey frame"):
        import_frame_model(model, tmp_path / "out")


def test_model_without_outputs_is_refused(tmp_path):
    with pytest.raises(ExportError, match="has no outputs"):
        import_frame_model(write_linear(tmp_path / "none.onnx", outputs=(), sides=SIZE), tmp_path / "out")


@pytest.mark.parametrize("height", [4, 5000, 100_000])
def test_frame_sizes_that_no_bundle_has_are_refused(tmp_path, height):
    with pytest.raises(ExportError, match=rf"height of a frame must be 8 to 4096 \(got {height}\)"):
        import_frame_model(
            write_linear(tmp_path / "any.onnx"), tmp_path / "out", ImportOptions(height=height, width=32)
        )
