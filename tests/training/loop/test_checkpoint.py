"""Files that are not checkpoints, and the errors for them."""

import pytest
import torch

from training.loop.checkpoint import CheckpointError, load_checkpoint


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
