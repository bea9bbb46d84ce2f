"""A run in low precision starts only if it computes what fp32 computes."""

import pytest
import torch
from rich.console import Console
from torch import nn

from model.network import NetworkSpec, VideoReID, build_network
from tests.training.runs import assert_same_log, assert_same_state, run
from training.loop import precision_check
from training.loop import run as run_module
from training.loop.checkpoint import load_checkpoint
from training.loop.fast_cpu_layers import FastIBN, use_fast_cpu_layers
from training.loop.precision_check import _compare_layer, find_wrong_layer
from training.loop.run import LAST

SMALL = {
    "precision": "bf16",
    "batch.people": "2",
    "batch.tracklets": "1",
    "network.frame_height": "32",
    "network.clip_length": "2",
    "schedule.evaluate_every": "9",
    "losses.ranked_list": "0.0",
}


class WrongInLowPrecision(nn.Module):
    """Returns its input in fp32, and NaN or wrong numbers (also as the gradient) under autocast."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not torch.is_autocast_enabled("cpu"):
            return x
        if self.fault == "gradient":
            return x.detach() + x.flip(0).mul(-1) - x.flip(0).mul(-1).detach()
        return x * torch.nan if self.fault == "nan" else x.flip(0)


@pytest.fixture
def network() -> VideoReID:
    torch.manual_seed(1)
    spec = NetworkSpec(
        backbone="resnet18_x0_75", attention="pooled", attention_bias=1.0, frame_height=96, frame_width=48, classes=3
    )
    return build_network(spec)


@pytest.fixture
def clips() -> torch.Tensor:
    return torch.randn(4, 2, 3, 96, 48, generator=torch.Generator().manual_seed(2))


CORRECT = {
    "bundled": {"attention": "pooled", "attention_bias": 1.0, "backbone": "resnet18_ibn_a_x0_75"},
    "not3d": {"backbone": "resnet50_ibn_a"},
    "aas_rfu": {"attention": "sta", "embedding": 16, "neck": "batch_norm", "backbone": "resnet18"},
}


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", CORRECT)
def test_layers_of_correct_networks_are_within_the_tolerances(name, monkeypatch):
    torch.manual_seed(1)
    spec = NetworkSpec(frame_height=96, frame_width=48, classes=3, **CORRECT[name])
    network, clips = build_network(spec), torch.randn(4, 2, 3, 96, 48)
    use_fast_cpu_layers(network)
    compared = []

    def watch(*arguments):
        compared.append(_compare_layer(*arguments))
        return compared[-1]

    monkeypatch.setattr(precision_check, "_compare_layer", watch)
    assert find_wrong_layer(network, clips, torch.bfloat16) is None
    layers = {layer for layer, module in network.named_modules() if isinstance(module, nn.Conv2d | nn.Linear | FastIBN)}
    assert layers <= {difference.layer for difference in compared}
    assert 0 < max(difference.output for difference in compared) < 0.01
    assert 0 < max(difference.gradient for difference in compared) < 0.5


@pytest.mark.parametrize("fault", ["nan", "values", "gradient"])
def test_wrong_layer_is_found(network, clips, fault):
    network.base.layer3.append(WrongInLowPrecision(fault))
    wrong = find_wrong_layer(network, clips, torch.bfloat16)
    assert wrong.layer == "base.layer3.2"
    assert (wrong.output < 0.01) == (fault == "gradient")
    assert "base.layer3.2" in str(wrong)


def test_comparison_changes_neither_the_network_nor_random_numbers(network, clips):
    network.base.layer4.append(nn.Dropout(0.1))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    random = torch.get_rng_state()
    network.eval()
    assert find_wrong_layer(network, clips, torch.bfloat16) is None
    assert torch.equal(torch.get_rng_state(), random)
    assert not network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not any(module._forward_hooks for module in network.modules())


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("fault", ["nan", "values"])
def test_run_with_a_wrong_layer_trains_in_fp32_and_says_so(data, tmp_path, monkeypatch, capsys, fault):
    run(data, tmp_path / "fp32", 1, overrides=SMALL | {"precision": "fp32"})

    def build(spec):
        network = build_network(spec)
        network.base.layer4.append(WrongInLowPrecision(fault))
        return network

    monkeypatch.setattr(run_module, "build_network", build)
    for precision in ("bf16", "fp16"):
        out = tmp_path / precision
        run(data, out, 1, overrides=SMALL | {"precision": precision}, console=Console(width=400))
        said = capsys.readouterr().out
        assert f"{precision} gives wrong results on this machine for frames of 32x32" in said
        assert "layer base.layer4.2 differs from fp32" in said
        assert "This run trains in fp32." in said
        fp32, checkpoint = load_checkpoint(tmp_path / "fp32" / LAST), load_checkpoint(out / LAST)
        assert checkpoint.state_dict.keys() == fp32.state_dict.keys()
        assert all(torch.equal(value, fp32.state_dict[name]) for name, value in checkpoint.state_dict.items())


@pytest.mark.usefixtures("one_thread")
def test_check_does_not_change_a_healthy_bf16_run(data, tmp_path, monkeypatch, capsys):
    sizes = "[{from_epoch=1, height=32, width=32}, {from_epoch=2, height=64, width=32}]"
    overrides = SMALL | {"network.frame_height": "64", "resolutions": sizes}
    compared = []

    def watch(network, clips, dtype):
        compared.append(clips.shape[-2:])
        return find_wrong_layer(network, clips, dtype)

    monkeypatch.setattr(run_module, "find_wrong_layer", watch)
    run(data, tmp_path / "checked", 2, overrides=overrides, console=Console(width=400))
    assert compared == [(32, 32), (64, 32)]
    assert "wrong results" not in capsys.readouterr().out
    monkeypatch.setattr(run_module.Run, "check_precision", lambda _run: None)
    run(data, tmp_path / "unchecked", 2, overrides=overrides)
    assert_same_state(*(load_checkpoint(tmp_path / name / LAST) for name in ("checked", "unchecked")))
    assert_same_log(tmp_path / "checked", tmp_path / "unchecked")
