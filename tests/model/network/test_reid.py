import pytest
import torch
from torch import nn

from model.network import NetworkSpec, VideoReID, build_network
from model.network.attention import weight_frames
from model.network.backbone import BACKBONES, IBN
from model.network.reid import mirror_frames

LIGHT = NetworkSpec(
    backbone="resnet18_ibn_a_x0_75", attention="pooled", frame_height=64, frame_width=32, classes=5, clip_length=4
)


def light(**fields: object) -> VideoReID:
    return build_network(LIGHT.model_copy(update=fields)).eval()


def settle(network: VideoReID) -> None:
    """Give batch norms their own statistics, so that necks have an effect."""
    network.train()
    with torch.no_grad():
        for _ in range(3):
            network.train_forward(torch.randn(4, 4, 3, 64, 32))
    network.eval()


def outline(**fields: object) -> VideoReID:
    """Build a network of full size without memory for its weights."""
    with torch.device("meta"):
        return build_network(NetworkSpec.model_validate(fields))


def parameters(network: VideoReID) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def shapes(network: VideoReID) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in network.state_dict().items()}


@pytest.fixture(scope="module")
def not3d():
    torch.manual_seed(0)
    return build_network(NetworkSpec()).eval()


def test_not3d_has_the_size_of_the_paper(not3d):
    # Table II prints 290.58 MB of parameters; these are 290.578 MB in fp32.
    assert sum(p.numel() for p in not3d.parameters()) == 76_173_377


def test_not3d_has_the_published_names_and_shapes(not3d):
    state = {name: tuple(value.shape) for name, value in not3d.state_dict().items()}
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
    # Instance normalisation has no running statistics, and the classifier has no bias.
    assert "base.layer1.0.bn1.IN.running_mean" not in state
    assert "classifier.bias" not in state


def test_not3d_has_13_ibn_blocks_and_last_stride_1(not3d):
    assert sum(isinstance(module, IBN) for module in not3d.modules()) == 13
    with torch.inference_mode():
        assert not3d.base(torch.zeros(1, 3, 224, 112)).shape == (1, 2048, 14, 7)
    assert not not3d.bottleneck.bias.requires_grad


def test_full_map_attention_raises_for_another_frame_size(not3d):
    with torch.inference_mode(), pytest.raises(ValueError, match="224x112"):
        not3d(torch.zeros(1, 4, 3, 256, 128))


@pytest.mark.parametrize("backbone", sorted(BACKBONES))
def test_each_backbone_gives_an_embedding_for_each_clip(backbone):
    network = build_network(LIGHT.model_copy(update={"backbone": backbone})).eval()
    with torch.inference_mode():
        embedding = network(torch.randn(2, 4, 3, 64, 32))
    assert embedding.shape == (2, network.dimension)


def test_unknown_backbone_is_an_error_that_lists_the_known_ones():
    with pytest.raises(ValueError, match="resnet50_ibn_a"):
        build_network(LIGHT.model_copy(update={"backbone": "resnet51"}))


def test_plain_resnet50_has_the_names_of_torchvision():
    import torchvision

    theirs = {k: v.shape for k, v in torchvision.models.resnet50().state_dict().items() if not k.startswith("fc.")}
    assert {k: v.shape for k, v in BACKBONES["resnet50"]().state_dict().items()} == theirs


BASELINE = {"backbone": "resnet50", "last_stride": 2, "neck": "none", "classifier_bias": True}


class TestOtherSystems:
    """fantastic, its baseline and aas_rfu have the sizes and names of the published programs."""

    def test_fantastic_is_not3d_with_a_plain_backbone(self, not3d):
        network = outline(backbone="resnet50")
        state = shapes(network)
        assert (parameters(network), len(state)) == (76_173_377, 328)
        assert sum(name.startswith("base.") for name in state) == 318
        reference = shapes(not3d)
        assert {k: v for k, v in state.items() if not k.startswith("base.")} == {
            k: v for k, v in reference.items() if not k.startswith("base.")
        }

    def test_temporal_attention_baseline(self):
        network = outline(**BASELINE)
        state = shapes(network)
        assert (parameters(network), len(state)) == (39_469_746, 324)
        assert state["attention_conv.weight"] == (256, 2048, 7, 4)
        assert state["classifier.bias"] == (625,)
        assert not any(name.startswith("bottleneck") for name in state)

    @pytest.mark.parametrize("attention", ["mean", "max"])
    def test_pooling_over_time_has_a_backbone_and_a_classifier(self, attention):
        network = outline(attention=attention, **BASELINE)
        assert (parameters(network), len(network.state_dict())) == (23_508_032 + 2048 * 625 + 625, 320)

    def test_aas_rfu(self):
        network = outline(
            backbone="resnet50", attention="sta", embedding=512, frame_height=256, frame_width=128, feature="raw"
        )
        state = shapes(network)
        assert network.spec.map_size == (16, 8)
        assert parameters(network) == 23_508_032 + 2048 * 512 + 2 * 512 + 512 * 625
        assert {k: v for k, v in state.items() if not k.startswith("base.") and v} == {
            "embedding.weight": (512, 2048),
            "bottleneck.weight": (512,),
            "bottleneck.bias": (512,),
            "bottleneck.running_mean": (512,),
            "bottleneck.running_var": (512,),
            "classifier.weight": (625, 512),
        }

    @pytest.mark.parametrize("backbone", sorted(BACKBONES))
    def test_backbone_has_the_same_weights_with_both_last_strides(self, backbone):
        with torch.device("meta"):
            stride_1, stride_2 = BACKBONES[backbone](), BACKBONES[backbone](last_stride=2)
            assert stride_1(torch.zeros(2, 3, 224, 112)).shape[-2:] == (14, 7)
            assert stride_2(torch.zeros(2, 3, 224, 112)).shape[-2:] == (7, 4)
        assert {k: v.shape for k, v in stride_1.state_dict().items()} == {
            k: v.shape for k, v in stride_2.state_dict().items()
        }

    def test_last_stride_2_equals_resnet50_of_torchvision(self):
        import torchvision

        torch.manual_seed(0)
        ours = BACKBONES["resnet50"](last_stride=2).eval()
        theirs = torchvision.models.resnet50().eval()
        theirs.load_state_dict(ours.state_dict(), strict=False)
        theirs.fc = nn.Identity()
        frames = torch.randn(1, 3, 64, 32)
        with torch.inference_mode():
            torch.testing.assert_close(ours(frames).mean(dim=(2, 3)), theirs(frames))


@pytest.mark.parametrize("neck", ["bnneck", "batch_norm"])
def test_only_a_bnneck_has_a_fixed_bias(neck):
    network = light(neck=neck)
    assert network.bottleneck.weight.requires_grad
    assert network.bottleneck.bias.requires_grad == (neck == "batch_norm")


def test_more_stripes_than_rows_are_an_error():
    with pytest.raises(ValueError, match=r"stripes must be at most the rows of the map, 4 for 64 pixels \(got 5\)"):
        NetworkSpec(attention="sta", stripes=5, frame_height=64, frame_width=32)


def test_ibn_is_instance_norm_and_batch_norm():
    torch.manual_seed(1)
    layer, x = IBN(6).train(), torch.randn(4, 6, 5, 5)
    expected = torch.cat([nn.InstanceNorm2d(3)(x[:, :3]), nn.BatchNorm2d(3)(x[:, 3:])], dim=1)
    torch.testing.assert_close(layer(x), expected)


def test_frames_are_weighted_by_softmax_and_summed():
    features, logits = torch.randn(2, 4, 8), torch.tensor([[0.0, 1.0, 2.0, 3.0], [0.0, 0.0, 0.0, 0.0]])
    weights = torch.softmax(logits, dim=1)
    expected = torch.stack([sum(weights[n, t] * features[n, t] for t in range(4)) for n in range(2)])
    torch.testing.assert_close(weight_frames(features, logits), expected)


@pytest.mark.parametrize("attention", ["pooled", "full_map", "mean", "max", "sta"])
@pytest.mark.parametrize("embedding", [None, 16])
@pytest.mark.parametrize("neck", ["bnneck", "batch_norm", "none"])
def test_training_output_agrees_with_inference(attention, embedding, neck):
    torch.manual_seed(2)
    network = light(attention=attention, embedding=embedding, neck=neck)
    settle(network)
    clips = torch.randn(3, 4, 3, 64, 32)
    with torch.inference_mode():
        output = network.train_forward(clips, frames=True)
        torch.testing.assert_close(output.feature, network(clips))
        torch.testing.assert_close(output.feature, network.bottleneck(output.raw))
    assert output.feature.shape == output.raw.shape == (3, network.dimension)
    assert network.dimension == (embedding or network.base.channels)
    assert (output.feature is output.raw) == (neck == "none")
    assert output.logits.shape == (3, 5)
    assert output.frame_logits is not None
    assert output.frame_logits.shape == (12, 5)
    assert (output.attention is None) == (attention in ("mean", "max", "sta"))
    if output.attention is not None:
        assert output.attention.shape == (3, 4)
        assert (output.attention >= 0).all()


@pytest.mark.parametrize("attention", ["pooled", "full_map", "mean", "max", "sta"])
def test_equal_frames_have_equal_weights_and_the_logits_of_one_frame(attention):
    torch.manual_seed(5)
    network = light(attention=attention, attention_bias=1.0)
    settle(network)
    clips = torch.randn(2, 1, 3, 64, 32).expand(-1, 4, -1, -1, -1)
    with torch.inference_mode():
        output = network.train_forward(clips, frames=True)
        weights = network.frame_weights(clips)
    assert weights.shape == (2, 4)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(2))
    assert output.frame_logits is not None
    if attention in ("mean", "max", "sta"):  # others: the convolution over frames sees the ends of the clip
        torch.testing.assert_close(output.frame_logits, output.logits.repeat_interleave(4, dim=0))
    if attention in ("mean", "sta"):
        torch.testing.assert_close(weights, torch.full((2, 4), 0.25))


@pytest.mark.parametrize("attention", ["pooled", "full_map", "mean"])
def test_frame_weights_give_the_clip_feature(attention):
    torch.manual_seed(6)
    network = light(attention=attention, attention_bias=1.0)
    settle(network)
    clips = torch.randn(2, 4, 3, 64, 32)
    with torch.inference_mode():
        frames = network.base(clips.flatten(0, 1)).mean(dim=(2, 3)).unflatten(0, (2, 4))
        weights = network.frame_weights(clips)
        expected = (frames * weights.unsqueeze(2)).sum(dim=1)
        torch.testing.assert_close(network.train_forward(clips).raw, expected)


def test_maximum_pooling_takes_each_channel_from_its_strongest_frame():
    torch.manual_seed(7)
    network = light(attention="max")
    settle(network)
    clips = torch.randn(2, 4, 3, 64, 32)
    with torch.inference_mode():
        frames = network.base(clips.flatten(0, 1)).mean(dim=(2, 3)).unflatten(0, (2, 4))
        torch.testing.assert_close(network.train_forward(clips).raw, frames.max(dim=1).values)
        share = network.frame_weights(clips)
    counts = [[(frames[n].argmax(dim=0) == t).sum().item() for t in range(4)] for n in range(2)]
    torch.testing.assert_close(share, torch.tensor(counts) / network.dimension)
    assert share.unique().numel() > 2


def test_attention_depends_only_on_neighbouring_frames_of_its_clip():
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


def test_mirroring_network_sees_the_second_and_third_of_four_frames_mirrored():
    torch.manual_seed(0)
    plain, mirroring = light(attention="mean"), light(attention="mean", mirror=True)
    mirroring.load_state_dict(plain.state_dict())
    clips = torch.randn(2, 4, 3, 64, 32)
    turned = clips.clone()
    turned[:, 1:3] = clips[:, 1:3].flip(-1)
    with torch.inference_mode():
        torch.testing.assert_close(mirroring(clips), plain(turned))
        assert (mirroring(clips) - plain(clips)).abs().max() > 1e-4
        # Training draws mirrored frames itself.
        torch.testing.assert_close(mirroring.train_forward(clips).feature, plain.train_forward(clips).feature)


@pytest.mark.parametrize("frames", [1, 2])
def test_repeated_frames_are_seen_both_ways(frames):
    own = torch.randn(1, frames, 3, 8, 4)
    seen = mirror_frames(own[:, [position % frames for position in range(4)]])
    for position in range(frames):
        frame = own[0, position]
        assert sum(bool((other == frame).all()) for other in seen[0]) == 2 / frames
        assert sum(bool((other == frame.flip(-1)).all()) for other in seen[0]) == 2 / frames
