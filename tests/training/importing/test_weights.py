import hashlib
import http.server
import threading
from functools import partial

import pytest
import torch
from torchvision.models import resnet18

from model.network import NetworkSpec, build_network
from tests.training.importing.test_third_party_weights import named_like_fantastic
from training.importing.weights import PUBLISHED, WeightsError, load_trunk, transfer_weights
from training.loop.checkpoint import Checkpoint, save_checkpoint

SMALL = {"frame_height": 64, "frame_width": 32, "attention_channels": 8, "classes": 5}
PLAIN = NetworkSpec(backbone="resnet18", **SMALL)
IBN = NetworkSpec(backbone="resnet18_ibn_a", **SMALL)


def trunk_of(network):
    return {name.removeprefix("base."): t for name, t in network.state_dict().items() if name.startswith("base.")}


@pytest.fixture(scope="module")
def plain_file(tmp_path_factory):
    """Weights in torchvision's names, classifier included."""
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.manual_seed(5)
    torch.save(resnet18().state_dict(), path)
    return path


def test_weights_of_torchvision_give_its_features(plain_file):
    network = build_network(PLAIN.model_copy(update={"last_stride": 2})).eval()
    before = network.classifier.weight.clone()
    report = load_trunk(network, str(plain_file))
    assert (report.missing, report.unused) == ((), ("fc.weight", "fc.bias"))
    assert "entries loaded" in str(report)
    assert torch.equal(network.classifier.weight, before)
    reference = resnet18()
    reference.load_state_dict(torch.load(plain_file, weights_only=True))
    reference.fc = torch.nn.Identity()
    frames = torch.randn(2, 3, 64, 32)
    with torch.inference_mode():
        torch.testing.assert_close(network.base(frames).mean((2, 3)), reference.eval()(frames), atol=1e-4, rtol=1e-4)


def test_ibn_weights_in_the_older_file_format_are_loaded(tmp_path):
    torch.manual_seed(1)
    source, network = build_network(IBN), build_network(IBN)
    old = {f"module.{n}": t for n, t in trunk_of(source).items() if not n.endswith("num_batches_tracked")}
    torch.save({"state_dict": old | {"module.fc.weight": torch.zeros(3)}, "epoch": 9}, tmp_path / "ibn.pth.tar")
    report = load_trunk(network, str(tmp_path / "ibn.pth.tar"))
    assert all(name.endswith("num_batches_tracked") for name in report.missing)
    assert all(torch.equal(t, trunk_of(network)[n]) for n, t in trunk_of(source).items())


def test_ibn_weights_for_a_plain_network_and_the_reverse_are_refused(plain_file, tmp_path):
    with pytest.raises(WeightsError, match=r"weights of a plain ResNet.*resnet18_ibn_a needs IBN-a weights"):
        load_trunk(build_network(IBN), str(plain_file))
    torch.save(trunk_of(build_network(IBN)), tmp_path / "ibn.pth")
    with pytest.raises(WeightsError, match="resnet18 has no instance normalisation"):
        load_trunk(build_network(PLAIN), str(tmp_path / "ibn.pth"))


def test_parts_that_are_missing_or_do_not_fit_are_named(plain_file, tmp_path):
    state = torch.load(plain_file, weights_only=True)
    torch.save({n: t for n, t in state.items() if not n.startswith("layer3.1")}, tmp_path / "less.pth")
    with pytest.raises(WeightsError, match=r"not a resnet18: base\.layer3\.1\.conv1\.weight.* and \d+ more missing"):
        load_trunk(build_network(PLAIN), str(tmp_path / "less.pth"))
    torch.save(state | {"conv1.weight": torch.zeros(64, 1, 7, 7)}, tmp_path / "grey.pth")
    with pytest.raises(WeightsError, match=r"base\.conv1\.weight is \[64, 1, 7, 7\], the network's is \[64, 3, 7, 7\]"):
        load_trunk(build_network(PLAIN), str(tmp_path / "grey.pth"))
    with pytest.raises(WeightsError, match="does not exist"):
        load_trunk(build_network(PLAIN), str(tmp_path / "nowhere.pth"))
    with pytest.raises(WeightsError, match="no published ImageNet weights of resnet18_ibn_a_x0_75"):
        load_trunk(build_network(NetworkSpec(backbone="resnet18_ibn_a_x0_75", **SMALL)), "imagenet")


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def served(tmp_path):
    """A web server's folder and address."""
    folder = tmp_path / "served"
    folder.mkdir()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_weights_are_downloaded_once_and_their_hash_is_checked(plain_file, served, tmp_path, monkeypatch):
    folder, address = served
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    content = plain_file.read_bytes()
    good = f"resnet18-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    for name in (good, "resnet18-00000000.pth"):
        (folder / name).write_bytes(content)
    network = build_network(PLAIN)
    monkeypatch.setitem(PUBLISHED, "resnet18", f"{address}/{good}")
    load_trunk(network, "imagenet")
    (folder / good).unlink()
    load_trunk(network, "imagenet")  # from the cache
    assert torch.equal(trunk_of(network)["conv1.weight"], torch.load(plain_file, weights_only=True)["conv1.weight"])
    with pytest.raises(WeightsError, match=r"invalid hash value.*give the file"):
        load_trunk(network, f"{address}/resnet18-00000000.pth")
    with pytest.raises(WeightsError, match=r"404.*give the file"):
        load_trunk(network, f"{address}/missing.pth")


def test_transfer_takes_trunk_and_attention_only(tmp_path):
    torch.manual_seed(2)
    source, network = build_network(IBN), build_network(IBN.model_copy(update={"classes": 9}))
    for parameter in (*source.bottleneck.parameters(), *source.classifier.parameters()):
        torch.nn.init.normal_(parameter)
    save_checkpoint(Checkpoint(IBN, source.state_dict()), tmp_path / "best.pt")
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    report = transfer_weights(network, tmp_path / "best.pt")
    for name, tensor in network.state_dict().items():
        taken = name.startswith(("base.", "attention_"))
        assert torch.equal(tensor, source.state_dict()[name] if taken else before[name]), name
    assert {name.partition(".")[0] for name in report.unused} == {"bottleneck", "classifier"}


def test_transfer_from_the_program_of_fantastic(tmp_path):
    source, network = build_network(PLAIN), build_network(PLAIN)
    torch.save({"state_dict": named_like_fantastic(source.state_dict())}, tmp_path / "fantastic.pth.tar")
    transfer_weights(network, tmp_path / "fantastic.pth.tar")
    assert torch.equal(network.attention_conv.weight, source.attention_conv.weight)


def test_attention_of_another_frame_size_is_refused(tmp_path):
    save_checkpoint(Checkpoint(IBN, build_network(IBN).state_dict()), tmp_path / "best.pt")
    larger = build_network(IBN.model_copy(update={"frame_height": 128}))
    with pytest.raises(WeightsError, match=r"attention_conv\.weight is .*\[14, 7\] implies 224x112 frames"):
        transfer_weights(larger, tmp_path / "best.pt")
