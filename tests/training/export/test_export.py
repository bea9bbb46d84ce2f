from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model.bundle import Bundle
from model.engines import EngineError, open_engine
from model.engines.self_test import run_self_test
from model.frames import PREPROCESSING_VERSION
from model.network import NetworkSpec, build_network
from model.spec import BundleSpec, Preprocessing
from model.tracklet import normalise
from training.datasets.synthetic.dataset import write_synthetic
from training.datasets.tracklet import DatasetError
from training.export import bundle_assembly
from training.export.bundle_assembly import MAX_DIFFERENCE, ExportError, ExportResult
from training.export.export import export_bundle, write_bundle
from training.export.onnx_graph import FrameNetwork
from training.export.reference import draw_clips
from training.loop.checkpoint import Checkpoint, CheckpointError, save_checkpoint
from training.recipe import Recipe

SPEC = BundleSpec(
    name="tiny",
    architecture="two convolutions",
    backbone="none",
    attention="mean",
    frame_height=64,
    frame_width=32,
    clip_length=2,
    dimension=24,
    feature="batch_normed",
    preprocessing=Preprocessing(version=PREPROCESSING_VERSION, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3)),
    training_data="none",
    recipe={},
    data_terms="none",
    intended_use="tests",
    not_for="anything else",
)


class Tiny(nn.Module):
    """Convolution, batch norm, mean over space and time, batch norm: what a real network is made of."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, 24, 5, 4), nn.BatchNorm2d(24), nn.ReLU(), nn.Conv2d(24, 24, 3, 2))
        self.neck = nn.BatchNorm1d(24)

    def forward(self, clips: Tensor) -> Tensor:
        frames = self.trunk(clips.flatten(0, 1)).mean(dim=(2, 3))
        embeddings: Tensor = self.neck(frames.unflatten(0, (-1, clips.shape[1])).mean(dim=1))
        return embeddings


def with_statistics(network: nn.Module, forward: Callable[[Tensor], object], size: tuple[int, int]) -> nn.Module:
    """Give batch norms statistics other than 0 and 1, so that folding them matters."""
    network.train()
    with torch.no_grad():
        for _ in range(5):
            forward(torch.randn(4, 2, 3, *size) * 2 + 1)
    return network.eval()


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(3)
    tiny = Tiny()
    return with_statistics(tiny, tiny, (64, 32))


@pytest.fixture(scope="module")
def clips() -> NDArray[np.uint8]:
    return draw_clips(SPEC, people=5, seed=9)


@pytest.fixture(scope="module")
def written(network: nn.Module, clips: NDArray[np.uint8], tmp_path_factory: pytest.TempPathFactory) -> ExportResult:
    return write_bundle(network, SPEC, tmp_path_factory.mktemp("out") / "bundle", clips=clips, crops="drawn people")


def torch_embeddings(network: nn.Module, clips: NDArray[np.uint8]) -> NDArray[np.float32]:
    mean, std = (np.array(channels, np.float32) for channels in (SPEC.preprocessing.mean, SPEC.preprocessing.std))
    frames = (clips.astype(np.float32) / 255 - mean) / std
    with torch.inference_mode():
        return normalise(network(torch.from_numpy(frames).permute(0, 1, 4, 2, 3)).numpy())


def test_bundle_computes_what_pytorch_computes(
    written: ExportResult, network: nn.Module, clips: NDArray[np.uint8]
) -> None:
    bundle = Bundle.load(written.path)
    engine = open_engine(bundle, "cpu", engine="onnxruntime")

    assert bundle.spec == SPEC
    assert bundle.embedding_space == written.embedding_space
    for count in (1, 2, 5):
        found = normalise(engine.embed(clips[:count]))
        np.testing.assert_allclose(found, torch_embeddings(network, clips[:count]), atol=MAX_DIFFERENCE)


def test_golden_embeddings_of_drawn_people_are_those_of_pytorch(written: ExportResult, network: nn.Module) -> None:
    golden = Bundle.load(written.path).golden()

    np.testing.assert_allclose(golden.embeddings, torch_embeddings(network, golden.clips), atol=1e-5)
    assert len({clip.tobytes() for clip in golden.clips}) == len(golden.clips) == 4


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_each_engine_passes_the_self_test(written: ExportResult, name: str) -> None:
    bundle = Bundle.load(written.path)

    run_self_test(open_engine(bundle, "cpu", engine=name), bundle)  # type: ignore[arg-type]


def test_result_and_card_have_the_difference_of_each_engine(written: ExportResult) -> None:
    first, second = written.differences[:2]
    assert (first.engine, first.precision) == ("onnxruntime", "f32")
    assert (second.engine, second.precision) == ("openvino", "f32")
    assert max(first.max_difference, second.max_difference) <= MAX_DIFFERENCE
    assert len(written.differences) + len(written.notes) == 3, "bf16 is measured or has a note"
    assert (written.clips, written.crops) == (5, "drawn people")

    card = (written.path / "MODEL_CARD.md").read_text()
    assert "5 clips of drawn people" in card
    assert f"| onnxruntime | f32 | {first.max_difference:.1e} |" in card


def test_weights_are_stored_in_half_precision_and_batch_norms_folded(written: ExportResult) -> None:
    graph = onnx.load(written.path / "model.onnx").graph

    stored = {tensor.name: tensor for tensor in graph.initializer}
    assert all(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in stored.values() if len(tensor.dims) == 4)
    assert [node.op_type for node in graph.node].count("BatchNormalization") <= 1, "only the neck may remain"
    assert not any(node.metadata_props or node.doc_string for node in graph.node)


def test_same_network_gives_the_same_embedding_space(
    network: nn.Module, clips: NDArray[np.uint8], written: ExportResult, tmp_path: Path
) -> None:
    again = write_bundle(network, SPEC, tmp_path / "again", clips=clips[:1], crops="another clip")

    assert again.embedding_space == written.embedding_space


def test_fp32_weights_are_closer_and_larger(
    network: nn.Module, clips: NDArray[np.uint8], written: ExportResult, tmp_path: Path
) -> None:
    full = write_bundle(network, SPEC, tmp_path / "full", clips=clips, crops="drawn people", weights="fp32")

    assert full.differences[0].max_difference < written.differences[0].max_difference
    assert full.differences[0].max_difference < 1e-5
    assert full.network_bytes > written.network_bytes


class Drifting(nn.Module):
    """A network whose ONNX form computes something else."""

    def __init__(self, drift: float) -> None:
        super().__init__()
        self.tiny = with_statistics(tiny := Tiny(), tiny, (64, 32))
        self.drift = drift

    def forward(self, clips: Tensor) -> Tensor:
        embeddings: Tensor = self.tiny(clips)
        return embeddings + self.drift if torch.compiler.is_exporting() else embeddings


@pytest.mark.parametrize("drift", [0.05, float("nan")])
def test_bundle_that_differs_is_not_written(drift: float, clips: NDArray[np.uint8], tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"over 5 clips .* by up to \S+ .*at most 0\.001.*smallest cosine"):
        write_bundle(Drifting(drift), SPEC, tmp_path / "bundle", clips=clips, crops="drawn people")

    assert list(tmp_path.iterdir()) == []


def test_weight_too_large_for_half_precision_is_named(clips: NDArray[np.uint8], tmp_path: Path) -> None:
    tiny = with_statistics(tiny := Tiny(), tiny, (64, 32))
    with torch.no_grad():
        tiny.trunk[3].weight[0, 0, 0, 0] = 1e6  # type: ignore[index, union-attr]

    with pytest.raises(ExportError, match="does not fit into half precision"):
        write_bundle(tiny, SPEC, tmp_path / "bundle", clips=clips, crops="drawn people")
    assert list(tmp_path.iterdir()) == []


def test_spec_that_contradicts_the_network_is_refused(
    network: nn.Module, clips: NDArray[np.uint8], tmp_path: Path
) -> None:
    wrong = SPEC.model_copy(update={"dimension": 23})

    with pytest.raises(ExportError, match=r"golden\.npz|model\.onnx"):
        write_bundle(network, wrong, tmp_path / "bundle", clips=clips, crops="drawn people")
    assert list(tmp_path.iterdir()) == []


def test_missing_engine_leaves_nothing_written(
    network: nn.Module, clips: NDArray[np.uint8], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(*_: object, **__: object) -> None:
        raise EngineError("the engine 'onnxruntime' is not installed")

    monkeypatch.setattr(bundle_assembly, "open_engine", absent)

    with pytest.raises(ExportError, match=r"nothing was written.*not installed"):
        write_bundle(network, SPEC, tmp_path / "bundle", clips=clips, crops="drawn people")
    assert list(tmp_path.iterdir()) == []


def test_occupied_folder_is_not_changed(network: nn.Module, clips: NDArray[np.uint8], tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"precious")

    with pytest.raises(ExportError, match="exists"):
        write_bundle(network, SPEC, tmp_path, clips=clips, crops="drawn people")
    assert (tmp_path / "model.onnx").read_bytes() == b"precious"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    spec = NetworkSpec(
        backbone="resnet18_ibn_a", attention="pooled", frame_height=64, frame_width=32, clip_length=2, classes=3
    )
    network = build_network(spec)
    with_statistics(network, network.train_forward, (64, 32))
    folder = tmp_path_factory.mktemp("run")
    write_synthetic(folder / "people", people=2, cameras=2, frames=3, seed=4, size=(96, 48))
    recipe = Recipe(name="light", network=spec).model_dump()
    accuracy = {"dataset": "drawn", "protocol": "cosine", "people": 2, "queries": 2, "gallery": 2}
    save_checkpoint(
        Checkpoint(
            network_spec=spec,
            state_dict=network.state_dict(),
            recipe=recipe,
            training_data="Two drawn people.",
            data_terms="Free.",
            accuracy=[accuracy | {"rank1": 50.0, "map": 61.5}],
            crops_source=str(folder / "people"),
        ),
        folder / "best.pt",
    )
    return folder / "best.pt"


class TestCheckpoint:
    def test_training_data_on_this_machine_is_used_for_the_comparison(self, checkpoint: Path, tmp_path: Path) -> None:
        report = export_bundle(checkpoint, tmp_path / "deep" / "bundle")

        bundle = Bundle.load(report.path)
        assert (report.crops, report.clips) == ("people", 4)
        assert (bundle.spec.name, bundle.spec.dimension, bundle.spec.backbone) == ("light", 512, "resnet18_ibn_a")
        assert bundle.spec.recipe["name"] == "light"
        assert bundle.spec.accuracy[0].map == 61.5
        card = (report.path / "MODEL_CARD.md").read_text()
        assert "Two drawn people." in card
        assert "| drawn | cosine | 2 | 2 | 2 | 50.00 | 61.50 |" in card
        assert str(checkpoint.parent) not in card

    def test_missing_crops_are_an_error(self, checkpoint: Path, tmp_path: Path) -> None:
        with pytest.raises(DatasetError, match="nowhere does not exist"):
            export_bundle(checkpoint, tmp_path / "bundle", crops=tmp_path / "nowhere")

    def test_missing_checkpoint_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match="does not exist"):
            export_bundle(tmp_path / "none.pt", tmp_path / "bundle")

    def test_occupied_folder_is_refused_at_once(self, checkpoint: Path) -> None:
        with pytest.raises(ExportError, match="exists"):
            export_bundle(checkpoint, checkpoint.parent)


def test_drawn_people_replace_training_data_that_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, network: nn.Module
) -> None:
    spec = NetworkSpec(
        backbone="resnet18", attention="mean", frame_height=64, frame_width=32, clip_length=2, classes=3,
        mirror=True, clip_weights="frames",
    )  # fmt: skip
    path = tmp_path / "moved.pt"
    save_checkpoint(
        Checkpoint(
            network_spec=spec,
            state_dict=build_network(spec).state_dict(),
            recipe=Recipe(name="plain", network=spec).model_dump(),
            training_data="Data elsewhere.",
            data_terms="Unknown.",
            crops_source=str(tmp_path / "gone"),
        ),
        path,
    )

    report = export_bundle(path, tmp_path / "bundle", name="chosen")

    assert report.crops == "people drawn by the project"
    spec_of_bundle = Bundle.load(report.path).spec
    assert (spec_of_bundle.name, spec_of_bundle.clip_weights) == ("chosen", "frames")
    assert max(difference.max_difference for difference in report.differences[:2]) <= MAX_DIFFERENCE


def test_normalisation_is_that_of_training() -> None:
    passing = FrameNetwork(nn.Identity(), SPEC.preprocessing)
    clips = np.random.default_rng(0).integers(0, 256, (1, 2, 4, 4, 3), dtype=np.uint8)

    frames = passing(torch.from_numpy(clips)).numpy()

    red = (clips[..., 0] / 255 - 0.5) / 0.2
    np.testing.assert_allclose(frames[:, :, 0], red, atol=1e-5)
    assert frames.shape == (1, 2, 3, 4, 4)
