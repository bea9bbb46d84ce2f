import pytest
import torch
from torch import nn
from torch.nn import functional as F

from model.network import NetworkSpec, build_network
from model.network.backbone import IBN
from model.network.trunks import TRUNKS

NAMES = ["efficientnet_lite0", "efficientnet_lite0_ibn"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("last_stride", "size"), [(1, (8, 4)), (2, (4, 2))])
def test_map_is_a_sixteenth_or_a_thirty_second_of_the_frame(name, last_stride, size):
    trunk = TRUNKS[name](last_stride=last_stride).eval()
    with torch.inference_mode():
        assert trunk(torch.zeros(1, 3, 128, 64)).shape == (1, trunk.channels, *size)


def test_parameters_are_as_many_as_published_without_the_classifier():
    trunk = TRUNKS["efficientnet_lite0"]()
    assert sum(p.numel() for p in trunk.parameters()) == 4_652_008 - 1280 * 1000 - 1000


def test_instance_normalisation_follows_the_first_five_blocks_only():
    trunk = TRUNKS["efficientnet_lite0_ibn"]()
    assert [isinstance(block.project_norm, IBN) for block in trunk.blocks] == [True] * 5 + [False] * 11
    assert all(norm.IN.eps == norm.BN.eps == 1e-3 for norm in trunk.modules() if isinstance(norm, IBN))


def test_same_padding_differs_from_ours_by_a_shift_of_the_frame():
    """A stride-2 layer of the published network pads right and bottom; ours sees the frame one pixel further on."""
    torch.manual_seed(0)
    layer = TRUNKS["efficientnet_lite0"]().stem
    frame = torch.rand(1, 3, 32, 32)
    published = F.conv2d(F.pad(frame, (0, 1, 0, 1)), layer.weight, stride=2)
    ours = layer(F.pad(frame, (1, 0, 1, 0)))[..., 1:, 1:]  # the frame moved by one pixel down and right
    torch.testing.assert_close(ours, published, rtol=1e-5, atol=1e-6)


def test_network_on_it_has_the_dimension_of_its_embedding():
    spec = NetworkSpec(backbone=NAMES[1], attention="pooled", embedding=512, frame_height=64, frame_width=32)
    network = build_network(spec).eval()
    with torch.inference_mode():
        assert network(torch.zeros(2, 4, 3, 64, 32)).shape == (2, 512)


def test_attention_can_start_as_the_mean_of_the_frames():
    spec = NetworkSpec(backbone=NAMES[0], attention="pooled", attention_start="mean", frame_height=64, frame_width=32)
    weights = build_network(spec).eval().frame_weights(torch.randn(1, 4, 3, 64, 32))
    torch.testing.assert_close(weights, torch.full((1, 4), 0.25))
    assert isinstance(build_network(spec).attention_tconv, nn.Conv1d)
