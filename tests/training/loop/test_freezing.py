import copy

import pytest
import torch
from torch import nn

from model.network import NetworkSpec, build_network
from training.loop.freezing import FreezeSettings, freeze
from training.loop.precision_check import find_wrong_layer
from training.recipe import RecipeError, find_recipe, load_recipe

SETTINGS = FreezeSettings(blocks=3, statistics=True, depthwise=True)


@pytest.fixture
def network():
    torch.manual_seed(0)
    spec = NetworkSpec(
        backbone="efficientnet_lite0_ibn",
        last_stride=2,
        attention="mean",
        embedding=16,
        frame_height=64,
        frame_width=32,
        classes=5,
    )
    network = build_network(spec).to(memory_format=torch.channels_last)
    measure_statistics(network)
    return network


def measure_statistics(network):
    """Give BatchNorm the statistics of random clips, so that maps neither vanish nor explode."""
    layers = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    for layer in layers:
        layer.momentum = None
        layer.reset_running_stats()
    with torch.no_grad():
        network.train().train_forward(torch.randn(8, 1, 3, 64, 32))
    for layer in layers:
        layer.momentum = 0.1


def step(network, clips):
    network.train()
    output = network.train_forward(clips)
    (output.feature.square().mean() + output.logits.square().mean()).backward()
    return output


def test_fast_layers_compute_and_train_as_plain_ones(network):
    plain, fast = copy.deepcopy(network), network
    freeze(plain, SETTINGS, fast=False)
    freeze(fast, SETTINGS, fast=True)
    assert list(fast.state_dict()) == list(plain.state_dict())
    clips = torch.randn(4, 1, 3, 64, 32)
    one, other = step(fast, clips), step(plain, clips)
    torch.testing.assert_close(one.raw, other.raw, rtol=1e-2, atol=1e-3)
    for (name, ours), theirs in zip(fast.named_parameters(), plain.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None), name
        if ours.grad is not None:
            cosine = torch.cosine_similarity(ours.grad.flatten(), theirs.grad.flatten(), dim=0)
            assert cosine > 0.999, name
    fast.eval(), plain.eval()
    with torch.inference_mode():
        torch.testing.assert_close(fast(clips), plain(clips), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("fast", [True, False])
def test_kept_weights_do_not_change(network, fast):
    freeze(network, SETTINGS, fast=fast)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    optimiser = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1)
    step(network, torch.randn(4, 1, 3, 64, 32))
    optimiser.step()
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert {name for name in changed if name.startswith("base.")}
    for name in changed:
        if name.startswith("base."):
            assert not name.startswith(("base.stem", "base.blocks.0.", "base.blocks.1.", "base.blocks.2.")), name
            assert "depthwise" not in name, name
            assert not name.endswith(("running_mean", "running_var")), name


def test_folded_blocks_have_weights_that_are_loaded_later(network):
    other = copy.deepcopy(network)
    freeze(network, SETTINGS, fast=True)
    clips = torch.randn(2, 1, 3, 64, 32)
    first = network.train().train_forward(clips).raw
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.1)
    network.load_state_dict(other.state_dict())
    freeze(other, SETTINGS, fast=False)
    second = network.train_forward(clips).raw
    torch.testing.assert_close(second, other.train().train_forward(clips).raw, rtol=1e-2, atol=1e-2)
    assert not torch.allclose(first, second)


@pytest.mark.parametrize("last_stride", [1, 2])
def test_fast_layers_train_in_bf16(network, last_stride):
    clips = torch.randn(4, 1, 3, 64, 32)
    network = build_network(network.spec.model_copy(update={"last_stride": last_stride}))
    network.to(memory_format=torch.channels_last)
    freeze(network, SETTINGS, fast=True)
    assert find_wrong_layer(network, clips, torch.bfloat16) is None
    with torch.autocast("cpu", torch.bfloat16):
        step(network, clips)
    assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)


def test_other_backbones_and_too_many_blocks_are_errors(network):
    with pytest.raises(ValueError, match=r"blocks must be below 16 \(got 16\)"):
        freeze(network, FreezeSettings(blocks=16, statistics=True), fast=False)
    with pytest.raises(ValueError, match=r"needs freeze.statistics = true"):
        freeze(network, FreezeSettings(blocks=2), fast=False)
    other = build_network(NetworkSpec(backbone="resnet18", attention="mean"))
    with pytest.raises(ValueError, match=r"needs an efficientnet backbone \(got resnet18\)"):
        freeze(other, SETTINGS, fast=False)
    freeze(other, FreezeSettings(), fast=True)


def test_unknown_key_of_a_recipe_is_an_error():
    with pytest.raises(RecipeError, match=r"freeze.block: there is no such key"):
        load_recipe(find_recipe("unseen-sites"), {"freeze.block": "3"})
