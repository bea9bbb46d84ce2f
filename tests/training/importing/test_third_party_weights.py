import io

import pytest
import torch
from rich.console import Console

from model.network import NetworkSpec, build_network
from training.importing.third_party_weights import WeightsError, import_checkpoint, recognise, rename

PILLOW = {"resampling": "pil-bicubic"}  # what the programs resize with
SMALL = {"frame_height": 64, "frame_width": 32, "attention_channels": 8, "classes": 5, **PILLOW}
NOT3D = NetworkSpec(**SMALL)
FANTASTIC = NetworkSpec(backbone="resnet50", **SMALL)
STAGES = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}


def named_like_fantastic(state):
    """Name weights as the program of fantastic does."""
    return {_name_in_fantastic(name): tensor for name, tensor in state.items()}


def _name_in_fantastic(name):
    first, *rest = name.split(".")
    if first == "base":
        return ".".join(("base", STAGES[rest[0]], *rest[1:]))
    modules = {"bottleneck": "classifier.bn", "classifier": "classifier.classifier"}
    return ".".join((modules.get(first, first), *rest))


@pytest.fixture(scope="module")
def states():
    torch.manual_seed(0)
    return {name: build_network(spec).state_dict() for name, spec in (("not3d", NOT3D), ("fantastic", FANTASTIC))}


def save(tmp_path, content):
    torch.save(content, tmp_path / "weights.pth.tar")
    return tmp_path / "weights.pth.tar"


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_unused_heads_in_weights_of_not3d_are_ignored(states, tmp_path):
    leftovers = {
        "localization.0.weight": torch.zeros(2),
        "fc_loc.0.bias": torch.zeros(2),
        "class_1.weight": torch.ones(2),
    }
    console = Console(file=io.StringIO(), width=200)
    checkpoint = import_checkpoint(save(tmp_path, states["not3d"] | leftovers), console=console)
    report = console.file.getvalue()
    assert "354 entries loaded" in report
    assert "not used: localization.0.weight, fc_loc.0.bias, class_1.weight" in report
    assert "missing in the file" not in report
    assert checkpoint.network_spec == NOT3D
    assert equal(checkpoint.build().state_dict(), states["not3d"])


def test_wrapped_and_prefixed_weights_of_fantastic_are_imported(states, tmp_path):
    third_party = {f"module.{name}": tensor for name, tensor in named_like_fantastic(states["fantastic"]).items()}
    assert "module.base.4.0.conv1.weight" in third_party
    assert "module.classifier.classifier.weight" in third_party
    checkpoint = import_checkpoint(save(tmp_path, {"state_dict": third_party}))
    assert checkpoint.network_spec == FANTASTIC
    assert equal(checkpoint.build().state_dict(), states["fantastic"])


def test_temporal_attention_baseline_is_imported(tmp_path):
    spec = NetworkSpec(
        backbone="resnet50", last_stride=2, neck="none", classifier_bias=True, attention_channels=8, classes=5, **PILLOW
    )
    state = build_network(spec).state_dict()
    assert state["attention_conv.weight"].shape == (8, 2048, 7, 4)
    checkpoint = import_checkpoint(save(tmp_path, named_like_fantastic(state) | {}))
    assert checkpoint.network_spec == spec


def test_files_without_batch_counters_are_imported(states, tmp_path):
    old = {name: tensor for name, tensor in states["not3d"].items() if not name.endswith("num_batches_tracked")}
    assert len(old) < len(states["not3d"])
    assert import_checkpoint(save(tmp_path, old)).build().state_dict().keys() == states["not3d"].keys()


def test_unsuitable_files_are_refused(states, tmp_path):
    with pytest.raises(WeightsError, match=r"attention_conv\.weight is missing"):
        import_checkpoint(save(tmp_path, {k: v for k, v in states["not3d"].items() if not k.startswith("attention")}))
    with pytest.raises(WeightsError, match="no state dict"):
        import_checkpoint(save(tmp_path, {"epoch": 3}))
    with pytest.raises(WeightsError, match="layer2"):
        import_checkpoint(save(tmp_path, {k: v for k, v in states["not3d"].items() if "layer2" not in k}))
    with pytest.raises(WeightsError, match="not a ResNet50"):
        recognise(build_network(NetworkSpec(backbone="resnet18", **SMALL)).state_dict())
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(WeightsError, match="not a file of PyTorch weights"):
        import_checkpoint(tmp_path / "text.pth")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("attention_conv.weight", torch.zeros(5), r"attention_conv\.weight is \[5\]"),
        ("classifier.weight", torch.tensor(1.0), r"classifier\.weight \[\]"),
        ("classifier.weight", torch.zeros(0, 2048), "classes: Input should be greater"),
        ("attention_conv.weight", torch.zeros(8, 2048, 1, 1), r"frame_height: .*full frames, such as \[14, 7\]"),
        ("attention_conv.weight", torch.zeros(1, 1, 300, 1), "frame_height: Input should be less"),
        ("base.conv1.weight", torch.zeros(64, 3, 7, 7, dtype=torch.complex64), r"not finite: base\.conv1\.weight"),
        ("base.bn1.weight", torch.full((64,), torch.nan), r"not finite: base\.bn1\.weight"),
    ],
)
def test_weights_of_an_impossible_form_are_refused_with_their_name(states, tmp_path, name, value, message):
    with pytest.raises(WeightsError, match=message):
        import_checkpoint(save(tmp_path, states["not3d"] | {name: value}))


class Evil:
    def __reduce__(self):
        return print, ("executed",)


def test_code_in_a_file_is_not_executed(tmp_path, capsys):
    with pytest.raises(WeightsError, match="not a file of PyTorch weights"):
        import_checkpoint(save(tmp_path, {"conv1.weight": Evil()}))
    assert "executed" not in capsys.readouterr().out


def test_trunk_alone_gets_its_prefix():
    renamed = rename(
        {"conv1.weight": torch.zeros(1), "layer1.0.bn1.IN.weight": torch.zeros(1), "fc.weight": torch.zeros(1)}
    )
    assert list(renamed) == ["base.conv1.weight", "base.layer1.0.bn1.IN.weight"]
