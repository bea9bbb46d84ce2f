"""Files that are not checkpoints, and the errors for them."""

import pytest
import torch

from model.network import NetworkSpec, build_network
from tests.training.networks import NARROW
from training.importing.third_party_weights import WeightsError, read_state_dict
from training.loop.checkpoint import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint


@pytest.mark.parametrize("content", [b"", b"# not a model", b"PK\x03\x04cut"])
def test_broken_file_gives_one_line_without_advice_to_read_it_unsafely(tmp_path, content):
    path = tmp_path / "best.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="is not a checkpoint") as failure:
        load_checkpoint(path)
    assert "\n" not in str(failure.value)
    assert "weights_only" not in str(failure.value)


@pytest.mark.parametrize(
    "content",
    [
        {"format": 1},
        {"format": 1, "network_spec": {}},
        {"format": 1, "network_spec": {"wings": 2}, "state_dict": {}},
        {"format": 1, "network_spec": {}, "state_dict": {}, "of a later version": 1},
    ],
)
def test_checkpoint_of_another_version_is_an_error_that_names_the_file(tmp_path, content):
    path = tmp_path / "best.pt"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"best\.pt is a checkpoint of another version"):
        load_checkpoint(path)


def test_other_pytorch_file_is_not_a_checkpoint(tmp_path):
    path = tmp_path / "weights.pt"
    torch.save({"conv1.weight": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="format 1"):
        load_checkpoint(path)


@pytest.mark.parametrize("content", [b"epoch,loss\n1,0.5\n", b"(", b"\x80\x02l", b"}u.", b"\x80\x02K\x01s."])
def test_text_and_odd_pickles_are_not_checkpoints(tmp_path, content):
    path = tmp_path / "log.csv"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="is not a checkpoint"):
        load_checkpoint(path)
    with pytest.raises(WeightsError, match="is not a file of PyTorch weights"):
        read_state_dict(path)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("[enforce fail at inline_container.cc:672]"), "the disk is full"),
        (OSError(28, "No space"), "No space"),
    ],
)
def test_checkpoint_on_a_full_disk_is_one_message_and_leaves_the_old_one(tmp_path, monkeypatch, error, reason):
    path = tmp_path / "last.pt"
    path.write_bytes(b"old")

    def full_disk(_content, file):
        file.write_bytes(b"ne")
        raise error

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(CheckpointError, match=rf"last\.pt cannot be written: {reason}"):
        save_checkpoint(Checkpoint(NetworkSpec(), {}), path)
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("last.pt", b"old")]


@pytest.mark.parametrize("change", [{"recipe": 3}, {"state_dict": []}, {"accuracy": {}}, {"progress": "none"}])
def test_checkpoint_whose_parts_have_other_types_is_an_error(tmp_path, change):
    path = tmp_path / "best.pt"
    save_checkpoint(Checkpoint(NetworkSpec(), {}), path)
    torch.save(torch.load(path, weights_only=True) | change, path)
    with pytest.raises(CheckpointError, match="another version"):
        load_checkpoint(path)


def test_network_is_not_built_from_weights_that_are_not_finite_or_an_unknown_backbone():
    spec = NetworkSpec(backbone=NARROW, attention="mean", frame_height=64, frame_width=32, classes=2)
    state = build_network(spec).state_dict()
    Checkpoint(spec, state).build()
    odd = state | {"base.conv1.weight": state["base.conv1.weight"] * torch.nan}
    with pytest.raises(CheckpointError, match=r"not finite, such as base\.conv1\.weight"):
        Checkpoint(spec, odd).build()
    with pytest.raises(CheckpointError, match="unknown backbone 'nothing'"):
        Checkpoint(spec.model_copy(update={"backbone": "nothing"}), state).build()
