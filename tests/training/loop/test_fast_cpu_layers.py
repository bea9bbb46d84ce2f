"""The fast layers compute what the plain layers compute, and keep their names."""

import copy

import pytest
import torch
from torch import Tensor, nn

from model.network import NetworkSpec, build_network
from model.network.attention import AttentionConv
from model.network.backbone import IBN
from model.network.spec import AttentionForm
from training.loop.fast_cpu_layers import FastAttentionConv, FastIBN, use_fast_cpu_layers


def _gradients(module: nn.Module, x: Tensor, weights_of_outputs: Tensor) -> list[Tensor]:
    x = x.detach().requires_grad_()
    out = module(x)
    return [out.detach(), *torch.autograd.grad(out, [x, *module.parameters()], weights_of_outputs)]


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_fast_ibn_equals_ibn(memory_format: torch.memory_format) -> None:
    torch.manual_seed(5)
    plain = IBN(10).double()
    for parameter in plain.parameters():
        nn.init.normal_(parameter)
    fast = copy.deepcopy(plain)
    fast.__class__ = FastIBN
    for _ in range(2):
        x = (3 + 2 * torch.randn(4, 10, 6, 3, dtype=torch.float64)).contiguous(memory_format=memory_format)
        weights_of_outputs = torch.randn_like(x)
        for a, b in zip(_gradients(plain, x, weights_of_outputs), _gradients(fast, x, weights_of_outputs), strict=True):
            assert torch.allclose(a, b, rtol=1e-9, atol=1e-11)
    assert plain.state_dict().keys() == fast.state_dict().keys()
    for name, value in plain.state_dict().items():
        assert torch.allclose(value, fast.state_dict()[name]), name
    fast.load_state_dict(plain.state_dict())
    x = torch.randn(2, 10, 6, 3, dtype=torch.float64)
    assert torch.equal(plain.eval()(x), fast.eval()(x))


@pytest.mark.parametrize(
    ("backbone", "attention"), [("resnet18_ibn_a_x0_75", "pooled"), ("resnet50_ibn_a", "full_map")]
)
def test_network_with_fast_layers_trains_like_the_plain_network(backbone: str, attention: AttentionForm) -> None:
    torch.manual_seed(6)
    spec = NetworkSpec(
        backbone=backbone,
        attention=attention,
        attention_bias=1.0,
        frame_height=64,
        frame_width=32,
        clip_length=2,
        classes=5,
    )
    plain = build_network(spec).to(memory_format=torch.channels_last).double()
    fast = copy.deepcopy(plain)
    use_fast_cpu_layers(fast)
    kinds = {type(module) for module in fast.modules()}
    assert {FastIBN, FastAttentionConv} <= kinds
    assert not {IBN, AttentionConv} & kinds
    assert list(plain.state_dict()) == list(fast.state_dict())
    clips = torch.randn(4, 2, 3, 64, 32, dtype=torch.float64)
    trained = [parameter for parameter in plain.parameters() if parameter.requires_grad]
    for network in (plain, fast):
        network.train_forward(clips).logits.square().mean().backward()  # type: ignore[no-untyped-call]
    for (name, a), b in zip(plain.named_parameters(), fast.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None), name
        if a.grad is not None and b.grad is not None:
            assert torch.allclose(a.grad, b.grad, rtol=1e-5, atol=1e-10), name
    assert sum(parameter.grad is not None for parameter in trained) > 50
    for (name, one), other in zip(plain.state_dict().items(), fast.state_dict().values(), strict=True):
        assert torch.allclose(one, other, rtol=1e-8), name
