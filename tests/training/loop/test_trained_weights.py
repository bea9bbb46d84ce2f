import pytest
import torch

from model.network import NetworkSpec, build_network
from tests.training.networks import NARROW
from training.importing.third_party_weights import WeightsError
from training.loop.checkpoint import Checkpoint, save_checkpoint
from training.loop.trained_weights import load_trained_weights, save_trained_weights

SPEC = NetworkSpec(
    backbone=NARROW, attention="pooled", attention_channels=4, frame_height=64, frame_width=32, classes=3
)


@pytest.fixture(params=["checkpoint", "bundle"])
def start(request, tmp_path):
    """Return a function that stores a network as one of the two things that training can start from."""

    def store(spec, change=None):
        network = build_network(spec)
        if change:
            change(network)
        if request.param == "bundle":
            save_trained_weights(network, tmp_path)
            return tmp_path
        save_checkpoint(Checkpoint(spec, network.state_dict()), tmp_path / "best.pt")
        return tmp_path / "best.pt"

    return store


def load(path, **spec):
    return load_trained_weights(build_network(SPEC.model_copy(update=spec)), path, "")


def test_weights_of_the_same_network_are_loaded_except_the_classifier(start):
    loaded = load(start(SPEC), classes=7, frame_height=96)
    assert loaded.missing in ((), ("classifier.weight",))
    assert loaded.unused in ((), ("classifier.weight",))


@pytest.mark.parametrize(
    ("spec", "layer"), [({"attention": "mean"}, "attention_conv.weight"), ({"neck": "none"}, "bottleneck.weight")]
)
def test_weights_of_a_network_with_more_layers_are_refused(start, spec, layer):
    with pytest.raises(WeightsError, match=f"of another network than the recipe's: it has {layer}"):
        load(start(SPEC), **spec)


def test_neck_with_a_trained_bias_is_refused_where_the_bias_is_fixed_at_zero(start):
    def train_bias(network):
        with torch.no_grad():
            network.bottleneck.bias.fill_(0.5)

    path = start(SPEC.model_copy(update={"neck": "batch_norm"}), train_bias)
    load(path, neck="batch_norm")
    with pytest.raises(WeightsError, match="neck with a trained bias"):
        load(path)


def test_weights_that_are_not_finite_are_refused(start):
    def ruin(network):
        with torch.no_grad():
            network.base.conv1.weight[0] = torch.inf

    with pytest.raises(WeightsError, match=r"not finite: base\.conv1\.weight"):
        load(start(SPEC, ruin))
