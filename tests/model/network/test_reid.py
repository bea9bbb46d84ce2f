import pytest
import torch
from torch import nn

from model.network import NetworkSpec, build_network
from model.network.attention import weigh_frames
from model.network.backbone import BACKBONES, IBN

LIGHT = NetworkSpec(
    backbone="resnet18_ibn_a_x0_75", attention="pooled", frame_height=64, frame_width=32, classes=5, clip_length=4
)


@pytest.fixture(scope="module")
def system_a():
    torch.manual_seed(0)
    return build_network(NetworkSpec()).eval()


def test_system_a_has_the_papers_size(system_a):
    # Table II prints 290.58 MB of parameters; these are 290.578 MB in fp32.
    assert sum(p.numel() for p in system_a.parameters()) == 76_173_377


def test_system_a_has_the_published_names_and_shapes(system_a):
    state = {name: tuple(value.shape) for name, value in system_a.state_dict().items()}
    assert len(state) == 354
    assert sum(name.startswith("base.") for name in state) == 344
    expected = {
        "base.conv1.weight": (64, 3, 7, 7),
        "base.bn1.running_mean": (64,),
        "base.layer1.0.bn1.IN.weight": (32,),
        "base.layer1.0.bn1.BN.num_batches_tracked": (),
        "base.layer3.5.bn1.BN.running_var": (128,),
        "base.layer4.0.bn1.weight": (512,),
        "base.layer4.0.downsample.0.weight": (2048, 1024, 1, 1),
        "base.layer4.0.downsample.1.bias": (2048,),
        "attention_conv.weight": (256, 2048, 14, 7),
        "attention_conv.bias": (256,),
        "attention_tconv.weight": (1, 256, 3),
        "attention_tconv.bias": (1,),
        "bottleneck.running_var": (2048,),
        "classifier.weight": (625, 2048),
    }
    assert {name: state.get(name) for name in expected} == expected
    # Instance normalisation keeps no running statistics, and the classifier has no bias.
    assert "base.layer1.0.bn1.IN.running_mean" not in state
    assert "classifier.bias" not in state


def test_system_a_normalises_instances_in_13_blocks_and_keeps_the_last_stride(system_a):
    assert sum(isinstance(module, IBN) for module in system_a.modules()) == 13
    with torch.inference_mode():
        assert system_a.base(torch.zeros(1, 3, 224, 112)).shape == (1, 2048, 14, 7)
    assert not system_a.bottleneck.bias.requires_grad


def test_a_full_map_kernel_refuses_another_frame_size(system_a):
    with torch.inference_mode(), pytest.raises(ValueError, match="224x112"):
        system_a(torch.zeros(1, 4, 3, 256, 128))


@pytest.mark.parametrize("backbone", sorted(BACKBONES))
def test_every_backbone_gives_an_embedding_for_each_clip(backbone):
    network = build_network(LIGHT.model_copy(update={"backbone": backbone})).eval()
    with torch.inference_mode():
        embedding = network(torch.randn(2, 4, 3, 64, 32))
    assert embedding.shape == (2, network.dimension)


def test_an_unknown_backbone_is_an_error_that_lists_the_known():
    with pytest.raises(ValueError, match="resnet50_ibn_a"):
        build_network(LIGHT.model_copy(update={"backbone": "resnet51"}))


def test_plain_resnet50_has_torchvisions_names():
    import torchvision  # noqa: PLC0415 - slow to import, and only this test needs it

    theirs = {k: v.shape for k, v in torchvision.models.resnet50().state_dict().items() if not k.startswith("fc.")}
    assert {k: v.shape for k, v in BACKBONES["resnet50"]().state_dict().items()} == theirs


def test_ibn_is_instance_norm_beside_batch_norm():
    torch.manual_seed(1)
    layer, x = IBN(6).train(), torch.randn(4, 6, 5, 5)
    expected = torch.cat([nn.InstanceNorm2d(3)(x[:, :3]), nn.BatchNorm2d(3)(x[:, 3:])], dim=1)
    torch.testing.assert_close(layer(x), expected)


def test_frames_are_weighed_by_the_softmax_and_summed():
    features, logits = torch.randn(2, 4, 8), torch.tensor([[0.0, 1.0, 2.0, 3.0], [0.0, 0.0, 0.0, 0.0]])
    weights = torch.softmax(logits, dim=1)
    expected = torch.stack([sum(weights[n, t] * features[n, t] for t in range(4)) for n in range(2)])
    torch.testing.assert_close(weigh_frames(features, logits), expected)


@pytest.mark.parametrize("attention", ["pooled", "full_map", "mean"])
def test_training_output_agrees_with_inference(attention):
    torch.manual_seed(2)
    network = build_network(LIGHT.model_copy(update={"attention": attention})).eval()
    clips = torch.randn(3, 4, 3, 64, 32)
    with torch.inference_mode():
        output = network.train_forward(clips, frames=True)
        torch.testing.assert_close(output.feature, network(clips))
    assert output.logits.shape == (3, 5)
    assert output.frame_logits is not None
    assert output.frame_logits.shape == (12, 5)
    assert (output.attention is None) == (attention == "mean")
    if output.attention is not None:
        assert output.attention.shape == (3, 4)
        assert (output.attention >= 0).all()


def test_attention_sees_the_neighbouring_frames_of_its_own_clip_only():
    torch.manual_seed(3)
    network = build_network(LIGHT.model_copy(update={"attention_bias": 5.0})).eval()
    clips = torch.randn(2, 4, 3, 64, 32)
    changed = clips.clone()
    changed[0, 0] += 1.0
    with torch.inference_mode():
        before, after = network.train_forward(clips).attention, network.train_forward(changed).attention
    moved = (before - after).abs() > 1e-7
    assert moved[0, :2].all()
    assert not moved[0, 2:].any()  # a kernel of three frames
    assert not moved[1].any()


def test_raw_features_skip_the_neck():
    torch.manual_seed(4)
    network = build_network(LIGHT.model_copy(update={"feature": "raw"})).eval()
    network.bottleneck.running_mean.fill_(3.0)
    clips = torch.randn(1, 4, 3, 64, 32)
    with torch.inference_mode():
        torch.testing.assert_close(network(clips), network.train_forward(clips).raw)
