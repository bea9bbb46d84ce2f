"""The ONNX graph of each form of network computes what PyTorch computes, for any number of clips."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from model.bundle import INPUT_NAME
from model.frames import PREPROCESSING_VERSION
from model.network import NetworkSpec, build_network
from model.spec import BundleSpec, Preprocessing
from training.export.onnx_graph import FrameNetwork, write_onnx

LIGHT = {"backbone": "resnet18_x0_75", "frame_height": 64, "frame_width": 32, "clip_length": 3, "classes": 3}
BASELINE = {"last_stride": 2, "neck": "none", "classifier_bias": True}

FORMS = {
    "not3d and fantastic": {"attention_bias": 1.0},
    "temporal attention": BASELINE | {"attention_bias": 1.0},
    "average pooling": BASELINE | {"attention": "mean"},
    "maximum pooling": BASELINE | {"attention": "max"},
    "aas_rfu": {"attention": "sta", "embedding": 24, "feature": "raw"},
    "aas_rfu, uneven stripes": {"attention": "sta", "embedding": 24, "stripes": 3, "neck": "batch_norm"},
}


@pytest.mark.parametrize("form", FORMS)
def test_graph_computes_what_pytorch_computes(form: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    network = build_network(NetworkSpec.model_validate(LIGHT | FORMS[form]))
    with torch.no_grad():
        for _ in range(3):
            network.train_forward(torch.randn(4, 3, 3, 64, 32))
    spec = BundleSpec(
        name="tiny",
        architecture="a form of network",
        backbone=network.spec.backbone,
        attention=network.spec.attention,
        frame_height=64,
        frame_width=32,
        clip_length=3,
        dimension=network.dimension,
        feature=network.spec.feature,
        preprocessing=Preprocessing(version=PREPROCESSING_VERSION, mean=network.spec.mean, std=network.spec.std),
        training_data="none",
        recipe={},
        data_terms="none",
        intended_use="tests",
        not_for="anything else",
    )
    graph = FrameNetwork(network, spec.preprocessing).eval()
    write_onnx(graph, spec, tmp_path / "model.onnx", weights="fp32")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    clips = np.random.default_rng(2).integers(0, 256, (5, *spec.clip_shape), dtype=np.uint8)
    for count in (1, 5):
        with torch.inference_mode():
            expected = graph(torch.from_numpy(clips[:count])).numpy()
        assert expected.std() > 1e-2
        (found,) = session.run(None, {INPUT_NAME: clips[:count]})
        np.testing.assert_allclose(found, expected, atol=2e-5 * float(np.abs(expected).max()) + 1e-5)
