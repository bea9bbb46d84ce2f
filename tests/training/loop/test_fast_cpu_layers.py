"""The faster layers give what the plain ones give, and keep their names."""

import copy
from itertools import product

import pytest
import torch
from torch import Tensor, nn

from model.network import NetworkSpec, build_network
from model.network.attention import AttentionConv
from model.network.backbone import IBN
from model.network.spec import AttentionForm
from training.loop.fast_cpu_layers import FastAttentionConv, FastIBN, use_fast_cpu_layers
from training.loop.winograd import WinogradConv2d, pays, suits, winograd


def _gradients(module: nn.Module, x: Tensor, weighing: Tensor) -> list[Tensor]:
    x = x.detach().requires_grad_()
    out = module(x)
    return [out.detach(), *torch.autograd.grad(out, [x, *module.parameters()], weighing)]


@pytest.mark.parametrize(("height", "width"), [*product((3, 4), (1, 2)), (7, 5), (8, 4), (10, 5), (1, 1)])
def test_winograd_is_the_convolution(height: int, width: int) -> None:
    torch.manual_seed(3)
    x = torch.randn(3, 5, height, width, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(6, 5, 3, 3, dtype=torch.float64, requires_grad=True)
    plain = nn.functional.conv2d(x, weight, padding=1)
    fast = winograd(x, weight, torch.float64)
    weighing = torch.randn_like(plain)
    assert torch.allclose(plain, fast, rtol=0, atol=1e-12)
    for a, b in zip(
        torch.autograd.grad(plain, [x, weight], weighing), torch.autograd.grad(fast, [x, weight], weighing), strict=True
    ):
        assert torch.allclose(a, b, rtol=0, atol=1e-11)


def test_winograd_in_bfloat16_errs_as_little_as_it_says() -> None:
    torch.manual_seed(4)
    layer = nn.Conv2d(192, 192, 3, padding=1, bias=False)
    x = torch.randn(8, 192, 8, 4).relu()
    exact = _gradients(layer, x, weighing := torch.randn(8, 192, 8, 4))
    fast = copy.deepcopy(layer)
    fast.__class__ = WinogradConv2d
    errors = []
    for module in (layer, fast):
        with torch.autocast("cpu", torch.bfloat16):
            results = _gradients(module, x, weighing.bfloat16())
        errors.append([float((a.float() - b).norm() / b.norm()) for a, b in zip(results, exact, strict=True)])
    assert all(0 < error < 4e-3 for error in errors[0])
    assert all(direct != other and other < 3.6 * direct for direct, other in zip(errors[0], errors[1], strict=True)), (
        errors
    )


def test_winograd_only_where_it_pays() -> None:
    assert pays(torch.empty(384, 384, 3, 3), 8, 4)
    assert pays(torch.empty(512, 512, 3, 3), 14, 7)
    assert not pays(torch.empty(48, 48, 3, 3), 32, 16)
    assert not pays(torch.empty(96, 96, 3, 3), 16, 8)
    assert suits(nn.Conv2d(8, 8, 3, padding=1, bias=False))
    for other in (
        nn.Conv2d(8, 8, 3, 2, padding=1, bias=False),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.Conv2d(8, 8, 1, bias=False),
        nn.Conv2d(8, 8, 3, bias=False),
    ):
        assert not suits(other)


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_fast_ibn_is_ibn(memory_format: torch.memory_format) -> None:
    torch.manual_seed(5)
    plain = IBN(10).double()
    for parameter in plain.parameters():
        nn.init.normal_(parameter)
    fast = copy.deepcopy(plain)
    fast.__class__ = FastIBN
    for _ in range(2):
        x = (3 + 2 * torch.randn(4, 10, 6, 3, dtype=torch.float64)).contiguous(memory_format=memory_format)
        weighing = torch.randn_like(x)
        for a, b in zip(_gradients(plain, x, weighing), _gradients(fast, x, weighing), strict=True):
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
def test_a_quickened_network_trains_as_the_plain_one(backbone: str, attention: AttentionForm) -> None:
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
    use_fast_cpu_layers(fast, winograd=True)
    kinds = {type(module) for module in fast.modules()}
    assert {FastIBN, FastAttentionConv, WinogradConv2d} <= kinds
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
